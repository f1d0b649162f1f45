#include "model/gguf_parser.hpp"

#include <fmt/format.h>

#include <limits>
#include <optional>

#include "model/gguf_values.hpp"

namespace quern::internal {
namespace {

// The smallest that an entry can be: a key of one byte with a number of one byte; a name of one byte without dimensions.
constexpr std::uint64_t kMinEntryBytes = 8 + 1 + 4 + 1;
constexpr std::uint64_t kMinTensorBytes = 8 + 1 + 4 + 4 + 8;

// Reads a file image from front to back. Every length is compared with the bytes that are left, never added to a position.
class Parser {
 public:
  Parser(std::span<const std::byte> bytes, const std::string& name) : bytes_(bytes), name_(name) {}
  Result<GgufPart> parse();

 private:
  [[nodiscard]] std::uint64_t left() const { return bytes_.size() - at_; }
  [[nodiscard]] const std::byte* here() const { return bytes_.data() + at_; }
  [[nodiscard]] tl::unexpected<Error> wrong(std::string_view sentence) const {
    return bad_input(fmt::format("{}: {}", name_, sentence));
  }

  // The next number. `what` names it for the message.
  template <class What>
  Result<std::uint64_t> number(GgufType type, const What& what);
  // A length and as many bytes, at most `cap`.
  template <class What>
  Result<std::string_view> string(std::uint64_t cap, const What& what);

  Result<void> header();
  Result<void> entry();
  Result<void> value(GgufValue& entry);
  Result<void> array(GgufValue& entry);
  Result<void> tokenizer_arrays() const;
  Result<void> tensor();
  Result<void> tensor_type(GgufTensor& tensor, std::uint32_t id) const;
  Result<void> place_tensors();
  Result<void> tensors_apart() const;

  std::span<const std::byte> bytes_;
  const std::string& name_;
  std::size_t at_ = 0;
  std::uint64_t entries_ = 0, tensors_ = 0, strings_ = 0;
  std::vector<std::uint64_t> offsets_;  // of tensors, from the start of the data
  GgufPart part_;
};

template <class What>
Result<std::uint64_t> Parser::number(GgufType type, const What& what) {
  const std::size_t bytes = number_bytes(type);
  if (left() < bytes) {
    return wrong(fmt::format("expected {} ({} bytes) at byte {}, found the end of the file", what(), bytes, at_));
  }
  const GgufNumber value = read_number(type, here());
  at_ += bytes;
  if (const auto* large = std::get_if<std::uint64_t>(&value)) return *large;
  return static_cast<std::uint64_t>(std::get<std::int64_t>(value));
}

template <class What>
Result<std::string_view> Parser::string(std::uint64_t cap, const What& what) {
  const auto length = number(GgufType::u64, [&] { return fmt::format("the length of {}", what()); });
  if (!length) return tl::make_unexpected(length.error());
  if (*length > left()) {
    return wrong(fmt::format("{} at byte {} has a length of {} bytes, but {} are left in the file", what(), at_ - 8, *length,
                             left()));
  }
  if (*length > cap) {
    return wrong(fmt::format("{} at byte {} has a length of {} bytes, expected at most {}", what(), at_ - 8, *length, cap));
  }
  const std::string_view text(reinterpret_cast<const char*>(here()), static_cast<std::size_t>(*length));
  at_ += text.size();
  return text;
}

Result<void> Parser::header() {
  if (bytes_.size() < 24) {
    return wrong(fmt::format("expected a GGUF file, found {} bytes, fewer than its header of 24", bytes_.size()));
  }
  const std::string_view magic(reinterpret_cast<const char*>(here()), 4);
  if (magic != "GGUF") return wrong(fmt::format("expected a GGUF file (magic 'GGUF'), found '{}'", shown(magic)));
  at_ = 4;
  const std::uint64_t version = *number(GgufType::u32, [] { return "the version"; });
  if ((version & 0xFFFF) == 0 && version != 0) {
    return wrong("the file is big-endian, expected a little-endian one; convert it with a tool that swaps its byte order");
  }
  if (version != 2 && version != 3) return wrong(fmt::format("expected GGUF version 2 or 3, found {}", version));
  part_.version = static_cast<std::uint32_t>(version);
  tensors_ = *number(GgufType::u64, [] { return "the number of tensors"; });
  entries_ = *number(GgufType::u64, [] { return "the number of metadata entries"; });
  const auto check = [&](std::uint64_t count, std::uint64_t cap, std::uint64_t bytes,
                         std::string_view what) -> Result<void> {
    if (count > cap) return wrong(fmt::format("expected at most {} {}, found {}", cap, what, count));
    if (count > left() / bytes) {
      return wrong(fmt::format("{} {} do not fit into the {} bytes of the file", count, what, bytes_.size()));
    }
    return {};
  };
  if (auto ok = check(entries_, kMaxGgufEntries, kMinEntryBytes, "metadata entries"); !ok) return ok;
  return check(tensors_, kMaxGgufTensors, kMinTensorBytes, "tensors");
}

Result<void> Parser::entry() {
  GgufValue entry;
  const auto key = string(kMaxGgufKeyBytes, [&] { return fmt::format("the key of entry {}", part_.metadata.size()); });
  if (!key) return tl::make_unexpected(key.error());
  if (key->empty()) return wrong(fmt::format("the key of entry {} is empty", part_.metadata.size()));
  entry.key = *key;
  const auto what = [&] { return fmt::format("the value type of key '{}'", shown(*key)); };
  const auto id = number(GgufType::u32, what);
  if (!id) return tl::make_unexpected(id.error());
  const auto type = gguf_type(static_cast<std::uint32_t>(*id));
  if (!type) return wrong(fmt::format("{}: expected 0 to 12, found {}", what(), *id));
  entry.type = *type;
  if (auto read = value(entry); !read) return read;
  part_.metadata.push_back(std::move(entry));
  return {};
}

Result<void> Parser::value(GgufValue& entry) {
  const auto what = [&] { return fmt::format("the value of key '{}'", shown(entry.key)); };
  if (entry.type == GgufType::array) return array(entry);
  if (entry.type == GgufType::string) {
    const auto text = string(kMaxGgufStringBytes, what);
    if (!text) return tl::make_unexpected(text.error());
    entry.value = *text;
    return {};
  }
  const std::size_t bytes = number_bytes(entry.type);
  if (left() < bytes) {
    return wrong(fmt::format("expected {} ({} bytes) at byte {}, found the end of the file", what(), bytes, at_));
  }
  if (entry.type == GgufType::boolean && *here() > std::byte{1}) {
    return wrong(fmt::format("{}: expected a bool of 0 or 1, found {}", what(), std::to_integer<int>(*here())));
  }
  const GgufNumber number = read_number(entry.type, here());
  std::visit([&](auto plain) { entry.value = plain; }, number);
  at_ += bytes;
  return {};
}

Result<void> Parser::array(GgufValue& entry) {
  const auto what = [&] { return fmt::format("the array of key '{}'", shown(entry.key)); };
  const auto id = number(GgufType::u32, [&] { return fmt::format("the element type of {}", what()); });
  if (!id) return tl::make_unexpected(id.error());
  const auto type = gguf_type(static_cast<std::uint32_t>(*id));
  if (!type) return wrong(fmt::format("{}: expected an element type of 0 to 12, found {}", what(), *id));
  if (*type == GgufType::array) return wrong(fmt::format("{} is nested, expected elements that are no arrays", what()));
  const auto count = number(GgufType::u64, [&] { return fmt::format("the length of {}", what()); });
  if (!count) return tl::make_unexpected(count.error());
  const bool strings = *type == GgufType::string;
  const std::uint64_t element_bytes = strings ? 8 : number_bytes(*type);  // of a string at least its length
  if (*count > left() / element_bytes) {
    return wrong(fmt::format("{} has {} elements of {}, which do not fit into the {} bytes that are left", what(), *count,
                             to_word(*type), left()));
  }
  if (*count > kMaxGgufElements) {
    return wrong(fmt::format("{} has {} elements, expected at most {}", what(), *count, kMaxGgufElements));
  }
  GgufArray array{.type = *type, .count = static_cast<std::int64_t>(*count), .bytes = {}, .strings = {}};
  if (strings) {
    strings_ += *count;
    if (strings_ > kMaxGgufStrings) {
      return wrong(
          fmt::format("{} brings the strings in arrays to {}, expected at most {}", what(), strings_, kMaxGgufStrings));
    }
    array.strings.reserve(static_cast<std::size_t>(*count));
    for (std::uint64_t i = 0; i < *count; ++i) {
      const auto text = string(kMaxGgufStringBytes, [&] { return fmt::format("element {} of {}", i, what()); });
      if (!text) return tl::make_unexpected(text.error());
      array.strings.push_back(*text);
    }
  } else {
    array.bytes = {here(), static_cast<std::size_t>(*count * element_bytes)};
    at_ += array.bytes.size();
    if (*type == GgufType::boolean) {
      const auto odd = std::find_if(array.bytes.begin(), array.bytes.end(), [](std::byte b) { return b > std::byte{1}; });
      if (odd != array.bytes.end()) {
        return wrong(fmt::format("element {} of {}: expected a bool of 0 or 1, found {}", odd - array.bytes.begin(), what(),
                                 std::to_integer<int>(*odd)));
      }
    }
  }
  entry.value = std::move(array);
  return {};
}

// The arrays of a vocabulary run in parallel: whoever indexes one by a token of another relies on it.
Result<void> Parser::tokenizer_arrays() const {
  struct Rule {
    std::string_view key;
    GgufType type;
    bool per_token;
  };
  constexpr Rule kRules[] = {{"tokenizer.ggml.tokens", GgufType::string, true},
                             {"tokenizer.ggml.scores", GgufType::f32, true},
                             {"tokenizer.ggml.token_type", GgufType::i32, true},
                             {"tokenizer.ggml.merges", GgufType::string, false}};
  std::optional<std::int64_t> tokens;
  for (const Rule& rule : kRules) {
    const GgufValue* const value = part_.find(rule.key);
    if (value == nullptr) continue;
    const auto* const array = std::get_if<GgufArray>(&value->value);
    const bool wide = array != nullptr && rule.type == GgufType::i32 && array->type == GgufType::u32;  // some writers'
    if (array == nullptr || (array->type != rule.type && !wide)) {
      return wrong(
          fmt::format("key '{}': expected an array of {}, found {}", rule.key, to_word(rule.type), described(*value)));
    }
    if (!rule.per_token) continue;
    if (tokens && *tokens != array->count) {
      return wrong(
          fmt::format("key '{}': expected {} elements, one for each token, found {}", rule.key, *tokens, array->count));
    }
    if (!tokens) tokens = array->count;
  }
  return {};
}

Result<void> Parser::tensor() {
  GgufTensor tensor;
  const auto name = string(kMaxGgufNameBytes, [&] { return fmt::format("the name of tensor {}", part_.tensors.size()); });
  if (!name) return tl::make_unexpected(name.error());
  if (name->empty()) return wrong(fmt::format("the name of tensor {} is empty", part_.tensors.size()));
  tensor.name = *name;
  const auto what = [&](std::string_view field) { return fmt::format("{} of tensor '{}'", field, shown(*name)); };
  const auto dimensions = number(GgufType::u32, [&] { return what("the number of dimensions"); });
  if (!dimensions) return tl::make_unexpected(dimensions.error());
  if (*dimensions > 4) return wrong(fmt::format("{}: expected at most 4, found {}", what("the dimensions"), *dimensions));
  tensor.dimensions = static_cast<int>(*dimensions);
  std::int64_t elements = 1;
  for (std::size_t i = 0; i < *dimensions; ++i) {
    const auto size = number(GgufType::u64, [&] { return what("a dimension"); });
    if (!size) return tl::make_unexpected(size.error());
    const auto extent = static_cast<std::int64_t>(*size);
    if (extent < 1)
      return wrong(fmt::format("{}: expected at least 1, found {}", what(fmt::format("dimension {}", i)), extent));
    if (__builtin_mul_overflow(elements, extent, &elements)) {
      return wrong(fmt::format("{}: the number of elements overflows 64 bits", what("the shape")));
    }
    tensor.shape[i] = extent;
  }
  const auto id = number(GgufType::u32, [&] { return what("the type"); });
  if (!id) return tl::make_unexpected(id.error());
  if (auto typed = tensor_type(tensor, static_cast<std::uint32_t>(*id)); !typed) return typed;
  const auto offset = number(GgufType::u64, [&] { return what("the offset"); });
  if (!offset) return tl::make_unexpected(offset.error());
  offsets_.push_back(*offset);
  part_.tensors.push_back(tensor);
  return {};
}

Result<void> Parser::tensor_type(GgufTensor& tensor, std::uint32_t id) const {
  const BlockFormat* const format = find_block_format(id);
  if (format == nullptr) {
    const bool activations = id == 9 || id == 15;
    const bool removed = id == 4 || id == 5 || (id >= 31 && id <= 33) || (id >= 36 && id <= 38);
    return wrong(fmt::format("tensor '{}': type id {} is {}", shown(tensor.name), id,
                             activations ? "for activations, not for weights"
                             : removed   ? "one that the format no longer has"
                                         : "none that this build knows"));
  }
  tensor.type = format->type;
  if (tensor.shape[0] % format->block_elements != 0) {
    return wrong(fmt::format("tensor '{}': expected rows of a multiple of {} elements for {}, found {}", shown(tensor.name),
                             format->block_elements, format->name, tensor.shape[0]));
  }
  const auto bytes = bytes_of(tensor.type, tensor.elements());
  if (!bytes) return wrong(fmt::format("tensor '{}': its size in bytes overflows 64 bits", shown(tensor.name)));
  tensor.bytes = *bytes;
  return {};
}

Result<void> Parser::place_tensors() {
  if (part_.tensors.empty()) return {};
  // at_ is within the file and the alignment at most 2^20: no overflow.
  const std::uint64_t data_start = (at_ + part_.alignment - 1) / part_.alignment * part_.alignment;
  for (std::size_t i = 0; i < part_.tensors.size(); ++i) {
    GgufTensor& tensor = part_.tensors[i];
    const std::uint64_t offset = offsets_[i];
    if (offset % part_.alignment != 0) {
      return wrong(fmt::format("tensor '{}': expected an offset that is a multiple of the alignment {}, found {}",
                               shown(tensor.name), part_.alignment, offset));
    }
    const std::uint64_t room = data_start < bytes_.size() ? bytes_.size() - data_start : 0;
    if (tensor.bytes > room || offset > room - tensor.bytes) {
      return wrong(
          fmt::format("tensor '{}': {} bytes at offset {} reach beyond the {} bytes of tensor data in the file; it may "
                      "be cut short",
                      shown(tensor.name), tensor.bytes, offset, room));
    }
    tensor.data = bytes_.data() + data_start + offset;
  }
  return tensors_apart();
}

Result<void> Parser::tensors_apart() const {
  std::vector<std::uint32_t> order(offsets_.size());
  std::iota(order.begin(), order.end(), 0U);
  std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) { return offsets_[a] < offsets_[b]; });
  for (std::size_t i = 1; i < order.size(); ++i) {
    const GgufTensor& before = part_.tensors[order[i - 1]];
    if (offsets_[order[i]] - offsets_[order[i - 1]] < before.bytes) {
      return wrong(fmt::format("tensors '{}' and '{}' overlap", shown(before.name), shown(part_.tensors[order[i]].name)));
    }
  }
  return {};
}

Result<GgufPart> Parser::parse() {
  if (auto ok = header(); !ok) return tl::make_unexpected(ok.error());
  part_.metadata.reserve(static_cast<std::size_t>(entries_));
  for (std::uint64_t i = 0; i < entries_; ++i) {
    if (auto ok = entry(); !ok) return tl::make_unexpected(ok.error());
  }
  part_.key_order = order_by(part_.metadata, &GgufValue::key);
  if (const auto* twice = find_duplicate(part_.metadata, part_.key_order, &GgufValue::key)) {
    return wrong(fmt::format("key '{}' occurs twice", shown(twice->key)));
  }
  if (const GgufValue* const value = part_.find("general.alignment")) {
    const auto* const alignment = std::get_if<std::int64_t>(&value->value);
    if (alignment == nullptr || *alignment < kMinGgufAlignment || *alignment > kMaxGgufAlignment ||
        (*alignment & (*alignment - 1)) != 0) {
      return wrong(fmt::format("key 'general.alignment': expected a power of two from {} to {}, found {}", kMinGgufAlignment,
                               kMaxGgufAlignment, described(*value)));
    }
    part_.alignment = static_cast<std::size_t>(*alignment);
  }
  if (auto ok = tokenizer_arrays(); !ok) return tl::make_unexpected(ok.error());
  // Again, now that the metadata are behind: what is left bounds the descriptors.
  if (tensors_ > left() / kMinTensorBytes) {
    return wrong(fmt::format("{} tensors do not fit into the {} bytes after the metadata", tensors_, left()));
  }
  part_.tensors.reserve(static_cast<std::size_t>(tensors_));
  for (std::uint64_t i = 0; i < tensors_; ++i) {
    if (auto ok = tensor(); !ok) return tl::make_unexpected(ok.error());
  }
  part_.name_order = order_by(part_.tensors, &GgufTensor::name);
  if (const auto* twice = find_duplicate(part_.tensors, part_.name_order, &GgufTensor::name)) {
    return wrong(fmt::format("tensor '{}' occurs twice", shown(twice->name)));
  }
  if (auto ok = place_tensors(); !ok) return tl::make_unexpected(ok.error());
  return std::move(part_);
}

}  // namespace

const GgufValue* GgufPart::find(std::string_view key) const { return find_by(metadata, key_order, &GgufValue::key, key); }

Result<GgufPart> parse_gguf(std::span<const std::byte> bytes, const std::string& name) {
  return Parser(bytes, name).parse();
}

Result<GgufSplit> split_of(const GgufPart& part, const std::string& name) {
  GgufSplit split;
  if (part.find("split.count") == nullptr) return split;
  const auto read = [&](std::string_view key, std::int64_t min, std::int64_t max, std::int64_t& out) -> Result<void> {
    const GgufValue* const value = part.find(key);
    if (value == nullptr)
      return bad_input(fmt::format("{}: key '{}' is missing, which parts of a split model have", name, key));
    const auto* const integer = std::get_if<std::int64_t>(&value->value);
    if (integer == nullptr || *integer < min || *integer > max) {
      return bad_input(
          fmt::format("{}: key '{}': expected an integer from {} to {}, found {}", name, key, min, max, described(*value)));
    }
    out = *integer;
    return {};
  };
  if (auto ok = read("split.count", 0, 65535, split.count); !ok) return tl::make_unexpected(ok.error());
  if (split.count <= 1) return GgufSplit{};  // writers put 0 or 1 into files that are whole
  if (auto ok = read("split.no", 0, split.count - 1, split.number); !ok) return tl::make_unexpected(ok.error());
  const auto all = static_cast<std::int64_t>(kMaxGgufTensors);
  if (auto ok = read("split.tensors.count", 0, all, split.tensors); !ok) return tl::make_unexpected(ok.error());
  return split;
}

}  // namespace quern::internal
