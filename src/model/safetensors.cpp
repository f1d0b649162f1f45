#include "model/safetensors.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>
#include <system_error>
#include <unordered_set>

#include "model/gguf_values.hpp"
#include "model/json_document.hpp"
#include "model/safetensors_header.hpp"

namespace quern {

namespace {

using internal::shown;

/// As the format's own reader has it; the largest published ones have some megabytes.
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;
constexpr std::size_t kMaxIndexBytes = std::size_t{1} << 27;
constexpr std::size_t kLengthBytes = 8;

struct DtypeRow {
  std::string_view word;
  std::int64_t bytes;
};
constexpr std::array kDtypes{
    DtypeRow{"BOOL", 1},    DtypeRow{"U8", 1},      DtypeRow{"I8", 1},  DtypeRow{"F8_E4M3", 1},
    DtypeRow{"F8_E5M2", 1}, DtypeRow{"F8_E8M0", 1}, DtypeRow{"I16", 2}, DtypeRow{"U16", 2},
    DtypeRow{"F16", 2},     DtypeRow{"BF16", 2},    DtypeRow{"I32", 4}, DtypeRow{"U32", 4},
    DtypeRow{"F32", 4},     DtypeRow{"F64", 8},     DtypeRow{"I64", 8}, DtypeRow{"U64", 8},
};

std::string shape_text(const std::vector<std::int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

/// Bytes of a tensor by its shape and dtype; nothing where they overflow.
std::optional<std::uint64_t> shape_bytes(const std::vector<std::int64_t>& shape, std::int64_t element_bytes) {
  std::int64_t bytes = element_bytes;
  for (const std::int64_t size : shape) {
    if (__builtin_mul_overflow(bytes, size, &bytes)) return {};
  }
  return static_cast<std::uint64_t>(bytes);
}

Result<void> check_entry(const internal::SafetensorsHeaderEntry& entry, std::uint64_t data_bytes, const std::string& where) {
  const auto element = safetensors_dtype_bytes(entry.dtype);
  const std::string subject = fmt::format("{}: tensor {}", where, shown(entry.name));
  if (!element) return bad_input(fmt::format("{}: dtype \"{}\" is not known", subject, shown(entry.dtype)));
  if (entry.begin > entry.end || entry.end > data_bytes) {
    return bad_input(fmt::format("{}: data_offsets [{}, {}] are not inside the file's {} bytes of data", subject,
                                 entry.begin, entry.end, data_bytes));
  }
  const auto bytes = shape_bytes(entry.shape, *element);
  if (!bytes) return bad_input(fmt::format("{}: the shape {} has too many bytes", subject, shape_text(entry.shape)));
  if (*bytes != entry.end - entry.begin) {
    return bad_input(fmt::format("{}: {} {} takes {} bytes, but data_offsets [{}, {}] hold {}", subject, entry.dtype,
                                 shape_text(entry.shape), *bytes, entry.begin, entry.end, entry.end - entry.begin));
  }
  return {};
}

}  // namespace

std::optional<std::int64_t> safetensors_dtype_bytes(std::string_view dtype) {
  const auto row = std::find_if(kDtypes.begin(), kDtypes.end(), [&](const DtypeRow& r) { return r.word == dtype; });
  if (row == kDtypes.end()) return {};
  return row->bytes;
}

Result<SafetensorsFile> SafetensorsFile::parse(std::span<const std::byte> image, std::string name) {
  if (image.size() < kLengthBytes) {
    return bad_input(fmt::format("{}: too short for a safetensors file: {} bytes", name, image.size()));
  }
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, image.data(), kLengthBytes);
  if (header_bytes > kMaxHeaderBytes) {
    return bad_input(
        fmt::format("{}: the header's length must be at most {} bytes, found {}", name, kMaxHeaderBytes, header_bytes));
  }
  if (header_bytes > image.size() - kLengthBytes) {
    return bad_input(
        fmt::format("{}: the header's length is {} bytes, but only {} follow: the file is truncated or no "
                    "safetensors file",
                    name, header_bytes, image.size() - kLengthBytes));
  }
  const std::string_view text(reinterpret_cast<const char*>(image.data()) + kLengthBytes,
                              static_cast<std::size_t>(header_bytes));
  auto header = internal::parse_safetensors_header(text, name);
  if (!header) return tl::make_unexpected(header.error());
  const std::span<const std::byte> data = image.subspan(kLengthBytes + static_cast<std::size_t>(header_bytes));

  for (const internal::SafetensorsHeaderEntry& entry : header->tensors) {
    if (auto ok = check_entry(entry, data.size(), name); !ok) return tl::make_unexpected(ok.error());
  }
  std::sort(header->tensors.begin(), header->tensors.end(), [](const auto& a, const auto& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;  // empty tensors first
  });
  SafetensorsFile file;
  std::uint64_t covered = 0;
  for (internal::SafetensorsHeaderEntry& entry : header->tensors) {
    if (entry.begin != covered) {
      const bool overlaps = entry.begin < covered;
      return bad_input(fmt::format("{}: tensor {}: its data begin at {}, {} {}", name, shown(entry.name), entry.begin,
                                   overlaps ? "inside another tensor's data, which end at" : "leaving a hole after",
                                   covered));
    }
    covered = entry.end;
    file.index_.emplace(entry.name, file.tensors_.size());
    file.tensors_.push_back(
        {std::move(entry.name), std::move(entry.dtype), std::move(entry.shape),
         data.subspan(static_cast<std::size_t>(entry.begin), static_cast<std::size_t>(entry.end - entry.begin))});
  }
  if (covered != data.size()) {
    return bad_input(fmt::format("{}: {} bytes follow the last tensor's data", name, data.size() - covered));
  }
  file.name_ = std::move(name);
  file.metadata_ = std::move(header->metadata);
  return file;
}

Result<SafetensorsFile> SafetensorsFile::open(const std::string& path) {
  auto mapping = internal::MappedFile::open(path);
  if (!mapping) return tl::make_unexpected(mapping.error());
  auto file = parse(mapping->bytes(), path);
  if (file) file->mapping_ = std::move(*mapping);
  return file;
}

const SafetensorsTensor* SafetensorsFile::find(std::string_view tensor) const {
  const auto at = index_.find(std::string(tensor));
  return at == index_.end() ? nullptr : &tensors_[at->second];
}

void SafetensorsFile::release(std::span<const std::byte> part) const {
  if (!mapping_.bytes().empty()) mapping_.release(part);
}

namespace {

/// Shards by the index: file names in order of first mention, and each tensor's.
struct ShardIndex {
  std::vector<std::string> files;
  std::unordered_map<std::string, std::size_t> file_of;
};

Result<ShardIndex> read_index(const std::string& path) {
  auto text = read_whole_file(path, kMaxIndexBytes);
  if (!text) return tl::make_unexpected(text.error());
  auto json = internal::parse_json_document(*text, path);
  if (!json) return tl::make_unexpected(json.error());
  const auto map = json->find("weight_map");
  if (map == json->end() || !map->is_object()) {
    return bad_input(fmt::format("{}: key weight_map must be an object, found {}", path,
                                 map == json->end() ? "none" : internal::json_kind(*map)));
  }
  ShardIndex index;
  std::unordered_map<std::string, std::size_t> number_of;
  for (const auto& item : map->items()) {
    if (!item.value().is_string()) {
      return bad_input(fmt::format("{}: weight_map: tensor {} must have a file's name, found {}", path, shown(item.key()),
                                   internal::json_kind(item.value())));
    }
    const auto& file = item.value().get_ref<const std::string&>();
    const bool plain = !file.empty() && file != "." && file != ".." && file.find('/') == std::string::npos &&
                       file.find('\\') == std::string::npos && file.find('\0') == std::string::npos;
    if (!plain) {
      return bad_input(fmt::format("{}: weight_map: tensor {} is said to be in \"{}\", which is not a file of this folder",
                                   path, shown(item.key()), shown(file)));
    }
    const auto [at, is_new] = number_of.emplace(file, index.files.size());
    if (is_new) index.files.push_back(file);
    index.file_of.emplace(item.key(), at->second);
  }
  if (index.files.empty()) return bad_input(fmt::format("{}: weight_map names no tensor", path));
  return index;
}

/// Every tensor of every shard is where the index says, and every tensor of the index is there.
Result<void> check_index(const ShardIndex& index, const std::vector<std::unique_ptr<SafetensorsFile>>& files,
                         const std::string& path) {
  std::unordered_map<std::string_view, std::size_t> seen;
  for (std::size_t i = 0; i < files.size(); ++i) {
    for (const SafetensorsTensor& tensor : files[i]->tensors()) {
      const auto [at, is_new] = seen.emplace(tensor.name, i);
      if (!is_new) {
        return bad_input(fmt::format("{}: tensor {} is there twice: also in {}", files[i]->name(), shown(tensor.name),
                                     index.files[at->second]));
      }
      const auto said = index.file_of.find(tensor.name);
      if (said == index.file_of.end()) {
        return bad_input(fmt::format("{}: tensor {} of {} is not in weight_map", path, shown(tensor.name), index.files[i]));
      }
      if (said->second != i) {
        return bad_input(fmt::format("{}: weight_map says that tensor {} is in {}, found it in {}", path, shown(tensor.name),
                                     index.files[said->second], index.files[i]));
      }
    }
  }
  for (const auto& [name, file] : index.file_of) {
    if (!seen.contains(name)) {
      return bad_input(fmt::format("{}: weight_map says that tensor {} is in {}, which does not have it", path, shown(name),
                                   index.files[file]));
    }
  }
  return {};
}

}  // namespace

Result<SafetensorsFolder> SafetensorsFolder::open(const std::string& folder) {
  const std::filesystem::path base(folder);
  const std::filesystem::path index_path = base / "model.safetensors.index.json";
  std::error_code error;
  SafetensorsFolder opened;
  opened.path_ = folder;
  if (std::filesystem::exists(base / "model.safetensors", error) || !std::filesystem::exists(index_path, error)) {
    if (!std::filesystem::exists(base / "model.safetensors", error)) {
      const bool torch = std::filesystem::exists(base / "pytorch_model.bin", error) ||
                         std::filesystem::exists(base / "pytorch_model.bin.index.json", error);
      return bad_input(fmt::format("{}: neither model.safetensors nor model.safetensors.index.json is in this folder{}",
                                   folder, torch ? " (pytorch_model.bin holds Python pickles, which are not read)" : ""));
    }
    auto file = SafetensorsFile::open((base / "model.safetensors").string());
    if (!file) return tl::make_unexpected(file.error());
    opened.files_.push_back(std::make_unique<SafetensorsFile>(std::move(*file)));
    return opened;
  }
  const auto index = read_index(index_path.string());
  if (!index) return tl::make_unexpected(index.error());
  for (const std::string& name : index->files) {
    if (!std::filesystem::exists(base / name, error)) {
      return bad_input(fmt::format("{}: shard {} is missing", index_path.string(), shown(name)));
    }
    auto file = SafetensorsFile::open((base / name).string());
    if (!file) return tl::make_unexpected(file.error());
    opened.files_.push_back(std::make_unique<SafetensorsFile>(std::move(*file)));
  }
  if (auto ok = check_index(*index, opened.files_, index_path.string()); !ok) return tl::make_unexpected(ok.error());
  return opened;
}

SafetensorsFolder::Entry SafetensorsFolder::find(std::string_view tensor) const {
  for (const auto& file : files_) {
    if (const SafetensorsTensor* found = file->find(tensor)) return {file.get(), found};
  }
  return {};
}

Result<SafetensorsWriter> SafetensorsWriter::create(const std::string& path,
                                                    const std::vector<SafetensorsDeclaration>& tensors) {
  std::string text = R"({"__metadata__":{"format":"pt"})";
  std::unordered_set<std::string_view> names{"__metadata__"};
  std::uint64_t offset = 0;
  for (const SafetensorsDeclaration& tensor : tensors) {
    const auto element = safetensors_dtype_bytes(tensor.dtype);
    if (!element) {
      return bad_input(
          fmt::format("{}: tensor {}: dtype \"{}\" is not known", path, shown(tensor.name), shown(tensor.dtype)));
    }
    const auto bytes = shape_bytes(tensor.shape, *element);
    std::uint64_t end = 0;
    if (!bytes || __builtin_add_overflow(offset, *bytes, &end)) {
      return bad_input(
          fmt::format("{}: tensor {}: the shape {} has too many bytes", path, shown(tensor.name), shape_text(tensor.shape)));
    }
    if (!names.insert(tensor.name).second) {
      return bad_input(fmt::format("{}: tensor {} is there already", path, shown(tensor.name)));
    }
    text += fmt::format(R"(,{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                        nlohmann::json(tensor.name).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace),
                        tensor.dtype, fmt::join(tensor.shape, ","), offset, end);
    offset = end;
  }
  text += '}';
  text.resize((text.size() + 7) / 8 * 8, ' ');  // data begin at a multiple of 8
  auto file = AtomicFile::create(path);
  if (!file) return tl::make_unexpected(file.error());
  const auto length = static_cast<std::uint64_t>(text.size());
  if (auto ok = file->write({reinterpret_cast<const char*>(&length), sizeof length}); !ok) {
    return tl::make_unexpected(ok.error());
  }
  if (auto ok = file->write(text); !ok) return tl::make_unexpected(ok.error());
  return SafetensorsWriter(std::move(*file), static_cast<std::size_t>(offset));
}

Result<void> SafetensorsWriter::write(std::span<const std::byte> data) {
  if (data.size() > missing_) {
    return bad_input(fmt::format("{}: {} bytes of data beyond the last tensor", file_.path(), data.size() - missing_));
  }
  missing_ -= data.size();
  return file_.write({reinterpret_cast<const char*>(data.data()), data.size()});
}

Result<void> SafetensorsWriter::finish() {
  if (missing_ > 0) return bad_input(fmt::format("{}: {} bytes of data are missing", file_.path(), missing_));
  return file_.commit();
}

}  // namespace quern
