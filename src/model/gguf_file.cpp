#include "model/gguf_file.hpp"

#include <fmt/format.h>

#include "model/gguf_mapping.hpp"
#include "model/gguf_parser.hpp"
#include "model/gguf_values.hpp"

namespace quern {

using internal::GgufPart;
using internal::GgufSplit;
using internal::MappedFile;
using internal::parse_gguf;
using internal::shown;

struct GgufFile::State {
  std::string name;
  std::vector<MappedFile> mappings;  // one a part; none for an image in memory
  std::size_t bytes = 0;
  GgufPart model;  // the first part's metadata, all parts' tensors
};

namespace {

// "DIR/NAME-00002-of-00003.gguf" taken apart.
struct PartName {
  std::string prefix;  // "DIR/NAME"
  std::int64_t number = 0, count = 0;
};

std::optional<PartName> part_name(const std::filesystem::path& path) {
  const std::string text = path.string();
  constexpr std::string_view kPattern = "-NNNNN-of-NNNNN.gguf";
  if (text.size() < kPattern.size()) return std::nullopt;
  PartName name;
  name.prefix = text.substr(0, text.size() - kPattern.size());
  for (std::size_t i = 0; i < kPattern.size(); ++i) {
    const char c = text[name.prefix.size() + i];
    if (kPattern[i] != 'N') {
      if (c != kPattern[i]) return std::nullopt;
      continue;
    }
    if (c < '0' || c > '9') return std::nullopt;
    std::int64_t& value = i < 6 ? name.number : name.count;
    value = value * 10 + (c - '0');
  }
  return name;
}

std::string path_of_part(const PartName& name, std::int64_t number) {
  return fmt::format("{}-{:05}-of-{:05}.gguf", name.prefix, number, name.count);
}

struct OpenPart {
  MappedFile mapping;
  GgufPart part;
  GgufSplit split;
};

Result<OpenPart> open_part(const std::filesystem::path& path) {
  OpenPart open;
  auto mapping = MappedFile::open(path);
  if (!mapping) return tl::make_unexpected(mapping.error());
  open.mapping = std::move(*mapping);
  auto part = parse_gguf(open.mapping.bytes(), path.string());
  if (!part) return tl::make_unexpected(part.error());
  open.part = std::move(*part);
  const auto split = split_of(open.part, path.string());
  if (!split) return tl::make_unexpected(split.error());
  open.split = *split;
  return open;
}

}  // namespace

Result<GgufFile> GgufFile::open(const std::filesystem::path& path) {
  auto state = std::make_unique<State>();
  state->name = path.string();
  auto first = open_part(path);
  if (!first) return tl::make_unexpected(first.error());
  const GgufSplit split = first->split;
  if (split.count == 1) {
    state->bytes = first->mapping.bytes().size();
    state->mappings.push_back(std::move(first->mapping));
    state->model = std::move(first->part);
    return GgufFile(std::move(state));
  }
  const auto name = part_name(path);
  if (!name || name->count != split.count || name->number != split.number + 1) {
    return bad_input(
        fmt::format("{0}: it is part {1} of {2} of a split model, expected a name that ends in "
                    "-{1:05}-of-{2:05}.gguf, by which the other parts are found",
                    state->name, split.number + 1, split.count));
  }
  GgufPart& model = state->model;
  for (std::int64_t number = 0; number < split.count; ++number) {
    const std::filesystem::path part_path = path_of_part(*name, number + 1);
    std::error_code ignored;
    if (!std::filesystem::exists(part_path, ignored)) {
      return bad_input(
          fmt::format("{}: the model has {} parts, of which {} is missing", state->name, split.count, part_path.string()));
    }
    auto part = open_part(part_path);
    if (!part) return tl::make_unexpected(part.error());
    const GgufSplit& found = part->split;
    if (found.count != split.count || found.number != number || found.tensors != split.tensors) {
      return bad_input(fmt::format(
          "{}: expected part {} of {} with {} tensors in all (as {} says), found part {} of {} with {}", part_path.string(),
          number + 1, split.count, split.tensors, state->name, found.number + 1, found.count, found.tensors));
    }
    state->bytes += part->mapping.bytes().size();
    state->mappings.push_back(std::move(part->mapping));
    for (GgufTensor& tensor : part->part.tensors) tensor.part = static_cast<int>(number);
    if (number == 0) {
      model = std::move(part->part);
    } else {
      model.tensors.insert(model.tensors.end(), part->part.tensors.begin(), part->part.tensors.end());
    }
    if (static_cast<std::int64_t>(model.tensors.size()) > split.tensors) break;
  }
  if (static_cast<std::int64_t>(model.tensors.size()) != split.tensors) {
    return bad_input(fmt::format("{}: key 'split.tensors.count': expected the number of tensors in all parts, {}, found {}",
                                 state->name, model.tensors.size(), split.tensors));
  }
  model.name_order = internal::order_by(model.tensors, &GgufTensor::name);
  if (const auto* twice = internal::find_duplicate(model.tensors, model.name_order, &GgufTensor::name)) {
    return bad_input(fmt::format("{}: tensor '{}' occurs in two parts", state->name, shown(twice->name)));
  }
  return GgufFile(std::move(state));
}

Result<GgufFile> GgufFile::parse(std::span<const std::byte> bytes, std::string name) {
  auto part = parse_gguf(bytes, name);
  if (!part) return tl::make_unexpected(part.error());
  const auto split = split_of(*part, name);
  if (!split) return tl::make_unexpected(split.error());
  if (split->count != 1) {
    return bad_input(
        fmt::format("{}: expected a whole model in memory, found part {} of {}", name, split->number + 1, split->count));
  }
  auto state = std::make_unique<State>();
  state->name = std::move(name);
  state->bytes = bytes.size();
  state->model = std::move(*part);
  return GgufFile(std::move(state));
}

GgufFile GgufFile::of_tensors(std::vector<GgufTensor> tensors, std::string name) {
  auto state = std::make_unique<State>();
  state->name = std::move(name);
  for (const GgufTensor& tensor : tensors) state->bytes += tensor.bytes;
  state->model.version = 3;
  state->model.tensors = std::move(tensors);
  state->model.name_order = internal::order_by(state->model.tensors, &GgufTensor::name);
  return GgufFile(std::move(state));
}

GgufFile::GgufFile(std::unique_ptr<State> state) : state_(std::move(state)) {}
GgufFile::GgufFile(GgufFile&&) noexcept = default;
GgufFile& GgufFile::operator=(GgufFile&&) noexcept = default;
GgufFile::~GgufFile() = default;

const std::string& GgufFile::name() const { return state_->name; }
std::uint32_t GgufFile::version() const { return state_->model.version; }
std::size_t GgufFile::alignment() const { return state_->model.alignment; }
std::size_t GgufFile::file_bytes() const { return state_->bytes; }
int GgufFile::parts() const { return state_->mappings.empty() ? 1 : static_cast<int>(state_->mappings.size()); }

std::span<const GgufValue> GgufFile::metadata() const { return state_->model.metadata; }
const GgufValue* GgufFile::find(std::string_view key) const { return state_->model.find(key); }

std::span<const GgufTensor> GgufFile::tensors() const { return state_->model.tensors; }
const GgufTensor* GgufFile::find_tensor(std::string_view name) const {
  return internal::find_by(state_->model.tensors, state_->model.name_order, &GgufTensor::name, name);
}

void GgufFile::will_need(const GgufTensor& tensor) const {
  if (state_->mappings.empty()) return;
  state_->mappings[static_cast<std::size_t>(tensor.part)].will_need({tensor.data, tensor.bytes});
}

void GgufFile::release(const GgufTensor& tensor) const {
  if (state_->mappings.empty()) return;
  state_->mappings[static_cast<std::size_t>(tensor.part)].release({tensor.data, tensor.bytes});
}

}  // namespace quern
