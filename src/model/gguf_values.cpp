#include "model/gguf_values.hpp"

#include <fmt/format.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "model/utf8.hpp"

namespace quern {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are read as they lie in the file");

struct TypeRow {
  std::string_view name;
  std::size_t bytes;
};
constexpr std::array<TypeRow, 13> kTypes = {{{"u8", 1},
                                             {"i8", 1},
                                             {"u16", 2},
                                             {"i16", 2},
                                             {"u32", 4},
                                             {"i32", 4},
                                             {"f32", 4},
                                             {"bool", 1},
                                             {"string", 0},
                                             {"array", 0},
                                             {"u64", 8},
                                             {"i64", 8},
                                             {"f64", 8}}};

template <class T>
T load(const std::byte* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

}  // namespace

std::string_view to_word(GgufType type) { return kTypes[static_cast<std::size_t>(type)].name; }

namespace internal {

std::optional<GgufType> gguf_type(std::uint32_t id) {
  if (id >= kTypes.size()) return std::nullopt;
  return static_cast<GgufType>(id);
}

std::size_t number_bytes(GgufType type) { return kTypes[static_cast<std::size_t>(type)].bytes; }

GgufNumber read_number(GgufType type, const std::byte* bytes) {
  switch (type) {
    case GgufType::u8:
      return std::int64_t{load<std::uint8_t>(bytes)};
    case GgufType::i8:
      return std::int64_t{load<std::int8_t>(bytes)};
    case GgufType::u16:
      return std::int64_t{load<std::uint16_t>(bytes)};
    case GgufType::i16:
      return std::int64_t{load<std::int16_t>(bytes)};
    case GgufType::u32:
      return std::int64_t{load<std::uint32_t>(bytes)};
    case GgufType::i32:
      return std::int64_t{load<std::int32_t>(bytes)};
    case GgufType::f32:
      return double{load<float>(bytes)};
    case GgufType::boolean:
      return bytes[0] != std::byte{0};
    case GgufType::u64: {
      const auto value = load<std::uint64_t>(bytes);
      if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) return value;
      return static_cast<std::int64_t>(value);
    }
    case GgufType::i64:
      return load<std::int64_t>(bytes);
    case GgufType::f64:
      return load<double>(bytes);
    case GgufType::string:
    case GgufType::array:
      break;
  }
  return std::int64_t{0};
}

GgufNumber element_of(const GgufArray& array, std::int64_t index) {
  return read_number(array.type, array.bytes.data() + static_cast<std::size_t>(index) * number_bytes(array.type));
}

std::string shown(std::string_view text, std::size_t max_bytes) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    if (at >= max_bytes) return out + "...";
    const Utf8Step step = utf8_step(text, at);
    // C0 and C1 controls command terminals, bidirectional and zero-width ones disguise text.
    const bool control = step.code_point < 0x20 || (step.code_point >= 0x7F && step.code_point < 0xA0) ||
                         (step.code_point >= 0x200B && step.code_point <= 0x200F) ||
                         (step.code_point >= 0x2028 && step.code_point <= 0x202E) ||
                         (step.code_point >= 0x2066 && step.code_point <= 0x2069) || step.code_point == 0xFEFF;
    for (std::size_t i = 0; i < step.bytes; ++i) {
      const char byte = text[at + i];
      if (!control) {
        out += byte;
      } else if (byte == '\n') {
        out += "\\n";
      } else if (byte == '\t') {
        out += "\\t";
      } else {
        out += fmt::format("\\x{:02X}", static_cast<unsigned char>(byte));
      }
    }
    at += step.bytes;
  }
  return out;
}

std::string described(const GgufValue& value) {
  const std::string_view type = to_word(value.type);
  if (const auto* integer = std::get_if<std::int64_t>(&value.value)) return fmt::format("{} {}", type, *integer);
  if (const auto* large = std::get_if<std::uint64_t>(&value.value)) return fmt::format("{} {}", type, *large);
  if (const auto* real = std::get_if<double>(&value.value)) return fmt::format("{} {}", type, *real);
  if (const auto* truth = std::get_if<bool>(&value.value)) return fmt::format("{} {}", type, *truth);
  if (const auto* array = std::get_if<GgufArray>(&value.value)) {
    return fmt::format("an array of {} {}", array->count, to_word(array->type));
  }
  return fmt::format("the string '{}'", shown(std::get<std::string_view>(value.value)));
}

}  // namespace internal
}  // namespace quern
