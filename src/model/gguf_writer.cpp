#include "model/gguf_writer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <unordered_set>
#include <utility>

#include "math/block_formats.hpp"
#include "model/atomic_file.hpp"
#include "model/gguf_parser.hpp"
#include "model/gguf_values.hpp"
#include "model/tensor_checksums.hpp"

namespace quern {
namespace {

constexpr std::uint32_t kVersion = 3;
// Small pieces are gathered up to this many bytes: large enough that system calls do not count.
constexpr std::size_t kBufferBytes = std::size_t{1} << 20;

struct Declared {
  std::string name;
  ElementType type;
  std::vector<std::int64_t> shape;
  std::size_t bytes = 0;
  std::size_t offset = 0;
};

template <class T>
void append_number(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void append_text(std::string& out, std::string_view text) {
  append_number(out, std::uint64_t{text.size()});
  out += text;
}

// The smallest and largest value of an integer type, within int64.
std::pair<std::int64_t, std::int64_t> range_of(GgufType type) {
  const auto limits = [](auto zero) {
    using T = decltype(zero);
    return std::pair<std::int64_t, std::int64_t>(std::numeric_limits<T>::min(), std::numeric_limits<T>::max());
  };
  switch (type) {
    case GgufType::u8:
      return limits(std::uint8_t{});
    case GgufType::i8:
      return limits(std::int8_t{});
    case GgufType::u16:
      return limits(std::uint16_t{});
    case GgufType::i16:
      return limits(std::int16_t{});
    case GgufType::u32:
      return limits(std::uint32_t{});
    case GgufType::i32:
      return limits(std::int32_t{});
    case GgufType::u64:
      return {0, std::numeric_limits<std::int64_t>::max()};
    case GgufType::i64:
      return limits(std::int64_t{});
    default:
      return {0, -1};  // holds nothing
  }
}

}  // namespace

struct GgufWriter::State {
  AtomicFile file;
  std::size_t alignment;
  std::string mistake;  // the first
  std::string entries;
  std::uint64_t entry_count = 0;
  std::unordered_set<std::string> keys, names;
  std::vector<Declared> tensors;
  std::size_t data_bytes = 0;  // of all tensors, with the padding between them
  bool began = false;
  std::string buffer;          // bytes on their way to the file
  std::size_t current = 0;     // tensor that is being written
  std::size_t in_tensor = 0;   // its bytes so far
  std::optional<Sha256> hash;  // of the current tensor, where checksums are asked for
  std::vector<std::string> hashes;
  std::size_t checksums_at = 0;  // where the lines begin: in the entries, then in the file

  State(AtomicFile target, const Options& options) : file(std::move(target)), alignment(options.alignment) {
    if (options.checksums) hash.emplace();
  }

  void wrong(std::string sentence) {
    if (mistake.empty()) mistake = fmt::format("{}: {}", file.path(), sentence);
  }
  // Begins an entry; false where the key cannot be taken.
  bool begin_entry(std::string_view key, GgufType type);
  bool begin_array(std::string_view key, GgufType type, std::size_t count);
  template <class T>
  void add_numbers(std::string_view key, GgufType type, std::span<const T> values);
  template <class Text>
  void add_texts(std::string_view key, std::span<const Text> values);
  [[nodiscard]] Result<void> put(std::string_view bytes);
  [[nodiscard]] Result<void> flush();
  // The elements of the checksums' array as the file has them; before the data are written with digits of 0.
  [[nodiscard]] std::string checksum_lines() const;
};

std::string GgufWriter::State::checksum_lines() const {
  std::string lines;
  const std::string none(kSha256Digits, '0');
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const Declared& tensor = tensors[i];
    append_text(lines, checksum_line(i < hashes.size() ? hashes[i] : none, tensor.type, tensor.shape, tensor.name));
  }
  return lines;
}

bool GgufWriter::State::begin_entry(std::string_view key, GgufType type) {
  if (key.empty() || key.size() > internal::kMaxGgufKeyBytes) {
    wrong(fmt::format("expected a key of 1 to {} bytes, found one of {}", internal::kMaxGgufKeyBytes, key.size()));
    return false;
  }
  if (began) {
    wrong(fmt::format("key '{}' comes after the data have begun", internal::shown(key)));
    return false;
  }
  if (key == "general.alignment" || !keys.emplace(key).second) {
    wrong(fmt::format("key '{}' is there already", internal::shown(key)));
    return false;
  }
  append_text(entries, key);
  append_number(entries, static_cast<std::uint32_t>(type));
  ++entry_count;
  return true;
}

bool GgufWriter::State::begin_array(std::string_view key, GgufType type, std::size_t count) {
  if (!begin_entry(key, GgufType::array)) return false;
  append_number(entries, static_cast<std::uint32_t>(type));
  append_number(entries, std::uint64_t{count});
  return true;
}

template <class T>
void GgufWriter::State::add_numbers(std::string_view key, GgufType type, std::span<const T> values) {
  if (!begin_array(key, type, values.size())) return;
  entries.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
}

template <class Text>
void GgufWriter::State::add_texts(std::string_view key, std::span<const Text> values) {
  if (!begin_array(key, GgufType::string, values.size())) return;
  for (const Text& value : values) append_text(entries, value);
}

Result<void> GgufWriter::State::flush() {
  auto written = file.write(buffer);
  buffer.clear();
  return written;
}

Result<void> GgufWriter::State::put(std::string_view bytes) {
  if (buffer.size() + bytes.size() > kBufferBytes) {
    if (auto flushed = flush(); !flushed) return flushed;
  }
  if (bytes.size() > kBufferBytes) return file.write(bytes);
  buffer += bytes;
  return {};
}

Result<GgufWriter> GgufWriter::create(const std::string& path, const Options& options) {
  const std::size_t at = options.alignment;
  if (at < std::size_t{internal::kMinGgufAlignment} || at > std::size_t{internal::kMaxGgufAlignment} ||
      (at & (at - 1)) != 0) {
    return bad_input(fmt::format("{}: expected an alignment that is a power of two from {} to {}, found {}", path,
                                 internal::kMinGgufAlignment, internal::kMaxGgufAlignment, at));
  }
  auto file = AtomicFile::create(path);
  if (!file) return tl::make_unexpected(file.error());
  auto state = std::make_unique<State>(std::move(*file), options);
  if (at != internal::kDefaultGgufAlignment) {
    append_text(state->entries, "general.alignment");
    append_number(state->entries, static_cast<std::uint32_t>(GgufType::u32));
    append_number(state->entries, static_cast<std::uint32_t>(at));
    state->entry_count = 1;
  }
  return GgufWriter(std::move(state));
}

GgufWriter::GgufWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}
GgufWriter::GgufWriter(GgufWriter&&) noexcept = default;
GgufWriter& GgufWriter::operator=(GgufWriter&&) noexcept = default;
GgufWriter::~GgufWriter() = default;

void GgufWriter::add_integer(std::string_view key, GgufType type, std::int64_t value) {
  const auto [least, most] = range_of(type);
  if (value < least || value > most) {
    return state_->wrong(fmt::format("key '{}': {} is no {}", internal::shown(key), value, to_word(type)));
  }
  if (!state_->begin_entry(key, type)) return;
  // Little-endian two's complement: the low bytes are the value.
  state_->entries.append(reinterpret_cast<const char*>(&value), internal::number_bytes(type));
}

void GgufWriter::add_f32(std::string_view key, float value) {
  if (state_->begin_entry(key, GgufType::f32)) append_number(state_->entries, value);
}

void GgufWriter::add_bool(std::string_view key, bool value) {
  if (state_->begin_entry(key, GgufType::boolean)) state_->entries += value ? '\1' : '\0';
}

void GgufWriter::add_string(std::string_view key, std::string_view value) {
  if (state_->begin_entry(key, GgufType::string)) append_text(state_->entries, value);
}

void GgufWriter::add_strings(std::string_view key, std::span<const std::string_view> values) {
  state_->add_texts(key, values);
}
void GgufWriter::add_strings(std::string_view key, std::span<const std::string> values) { state_->add_texts(key, values); }

void GgufWriter::add_u32s(std::string_view key, std::span<const std::uint32_t> values) {
  state_->add_numbers(key, GgufType::u32, values);
}
void GgufWriter::add_i32s(std::string_view key, std::span<const std::int32_t> values) {
  state_->add_numbers(key, GgufType::i32, values);
}
void GgufWriter::add_f32s(std::string_view key, std::span<const float> values) {
  state_->add_numbers(key, GgufType::f32, values);
}

void GgufWriter::add_bools(std::string_view key, const std::vector<bool>& values) {
  if (!state_->begin_array(key, GgufType::boolean, values.size())) return;
  for (const bool value : values) state_->entries += value ? '\1' : '\0';
}

void GgufWriter::add(const GgufValue& entry) {
  if (entry.key == "general.alignment" || entry.key == kChecksumKey || entry.key.starts_with("split.")) return;
  if (const auto* array = std::get_if<GgufArray>(&entry.value)) {
    if (array->type == GgufType::string) return add_strings(entry.key, std::span<const std::string_view>(array->strings));
    if (!state_->begin_array(entry.key, array->type, static_cast<std::size_t>(array->count))) return;
    state_->entries.append(reinterpret_cast<const char*>(array->bytes.data()), array->bytes.size());
    return;
  }
  if (const auto* text = std::get_if<std::string_view>(&entry.value)) return add_string(entry.key, *text);
  if (const auto* truth = std::get_if<bool>(&entry.value)) return add_bool(entry.key, *truth);
  if (const auto* integer = std::get_if<std::int64_t>(&entry.value)) return add_integer(entry.key, entry.type, *integer);
  if (!state_->begin_entry(entry.key, entry.type)) return;
  if (const auto* large = std::get_if<std::uint64_t>(&entry.value)) {
    append_number(state_->entries, *large);
  } else if (entry.type == GgufType::f32) {
    append_number(state_->entries, static_cast<float>(std::get<double>(entry.value)));
  } else {
    append_number(state_->entries, std::get<double>(entry.value));
  }
}

void GgufWriter::declare_tensor(std::string_view name, ElementType type, std::span<const std::int64_t> shape) {
  const std::string shown = internal::shown(name);
  if (name.empty() || name.size() > internal::kMaxGgufNameBytes) {
    return state_->wrong(fmt::format("tensor '{}': expected a name of 1 to {} bytes", shown, internal::kMaxGgufNameBytes));
  }
  if (state_->began) return state_->wrong(fmt::format("tensor '{}' comes after the data have begun", shown));
  if (!state_->names.emplace(name).second) return state_->wrong(fmt::format("tensor '{}' is there already", shown));
  if (shape.empty() || shape.size() > 4) {
    return state_->wrong(fmt::format("tensor '{}': expected 1 to 4 dimensions, found {}", shown, shape.size()));
  }
  std::int64_t elements = 1;
  for (const std::int64_t size : shape) {
    if (size < 1 || __builtin_mul_overflow(elements, size, &elements)) {
      return state_->wrong(fmt::format("tensor '{}': expected sizes of at least 1 whose product fits 64 bits", shown));
    }
  }
  const BlockFormat& format = block_format(type);
  const auto bytes = bytes_of(type, elements);
  if (shape[0] % format.block_elements != 0 || !bytes) {
    return state_->wrong(fmt::format("tensor '{}': expected rows of a multiple of {} elements for {}, found {}", shown,
                                     format.block_elements, format.name, shape[0]));
  }
  Declared tensor{std::string(name), type, {shape.begin(), shape.end()}, *bytes, state_->data_bytes};
  std::size_t end = 0;
  if (__builtin_add_overflow(state_->data_bytes, *bytes, &end) || end > std::numeric_limits<std::int64_t>::max() / 2) {
    return state_->wrong(fmt::format("tensor '{}': the file would exceed 2^62 bytes", shown));
  }
  state_->data_bytes = (end + state_->alignment - 1) / state_->alignment * state_->alignment;
  state_->tensors.push_back(std::move(tensor));
}

Result<void> GgufWriter::begin_data() {
  if (!state_->mistake.empty()) return bad_input(state_->mistake);
  if (state_->began) return bad_input(fmt::format("{}: the data have begun already", state_->file.path()));
  if (state_->hash) {
    if (!state_->begin_array(kChecksumKey, GgufType::string, state_->tensors.size())) return bad_input(state_->mistake);
    state_->checksums_at = state_->entries.size();
    state_->entries += state_->checksum_lines();
  }
  std::string head = "GGUF";
  append_number(head, kVersion);
  append_number(head, std::uint64_t{state_->tensors.size()});
  append_number(head, state_->entry_count);
  state_->checksums_at += head.size();
  head += state_->entries;
  for (const Declared& tensor : state_->tensors) {
    append_text(head, tensor.name);
    append_number(head, static_cast<std::uint32_t>(tensor.shape.size()));
    for (const std::int64_t size : tensor.shape) append_number(head, size);
    append_number(head, static_cast<std::uint32_t>(tensor.type));
    append_number(head, std::uint64_t{tensor.offset});
  }
  const std::size_t at = state_->alignment;
  head.resize((head.size() + at - 1) / at * at, '\0');
  state_->began = true;
  return state_->put(head);
}

std::size_t GgufWriter::left_in_tensor() const {
  if (state_->current == state_->tensors.size()) return 0;
  return state_->tensors[state_->current].bytes - state_->in_tensor;
}

Result<void> GgufWriter::write(std::span<const std::byte> data) {
  State& state = *state_;
  if (data.empty()) return {};
  if (!state.mistake.empty()) return bad_input(state.mistake);
  if (!state.began) return bad_input(fmt::format("{}: data before begin_data()", state.file.path()));
  if (data.size() > left_in_tensor()) {
    if (state.current == state.tensors.size()) {
      return bad_input(fmt::format("{}: {} bytes of data after the last tensor", state.file.path(), data.size()));
    }
    return bad_input(fmt::format("{}: tensor '{}': expected at most {} more bytes, found {}", state.file.path(),
                                 internal::shown(state.tensors[state.current].name), left_in_tensor(), data.size()));
  }
  if (auto put = state.put({reinterpret_cast<const char*>(data.data()), data.size()}); !put) return put;
  if (state.hash) state.hash->update(data);
  state.in_tensor += data.size();
  const Declared& tensor = state.tensors[state.current];
  if (state.in_tensor < tensor.bytes) return {};
  const std::size_t over = tensor.bytes % state.alignment;
  if (state.hash) state.hashes.push_back(state.hash->finish());
  state.in_tensor = 0;
  ++state.current;
  return over == 0 ? Result<void>() : state.put(std::string(state.alignment - over, '\0'));
}

Result<void> GgufWriter::finish() {
  State& state = *state_;
  if (!state.mistake.empty()) return bad_input(state.mistake);
  if (!state.began) {
    if (auto began = begin_data(); !began) return began;
  }
  if (state.current < state.tensors.size()) {
    return bad_input(fmt::format("{}: tensor '{}': {} bytes of its data are missing", state.file.path(),
                                 internal::shown(state.tensors[state.current].name), left_in_tensor()));
  }
  if (auto flushed = state.flush(); !flushed) return flushed;
  if (state.hash) {
    if (auto patched = state.file.write_at(state.checksums_at, state.checksum_lines()); !patched) return patched;
  }
  return state.file.commit();
}

}  // namespace quern
