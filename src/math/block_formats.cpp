#include "math/block_formats.hpp"

#include <algorithm>
#include <array>
#include <cassert>
#include <limits>

namespace quern {
namespace {

constexpr BlockFormat number(ElementType type, std::string_view name, std::int64_t bytes) {
  return {.type = type, .name = name, .block_elements = 1, .block_bytes = bytes, .quantized = false};
}

constexpr BlockFormat blocks(ElementType type, std::string_view name, std::int64_t elements, std::int64_t bytes) {
  return {.type = type, .name = name, .block_elements = elements, .block_bytes = bytes, .quantized = true};
}

// Sizes are sums of the fields that docs/block-formats.md lists.
constexpr std::array kFormats = {
    number(ElementType::f32, "F32", 4),
    number(ElementType::f16, "F16", 2),
    blocks(ElementType::q4_0, "Q4_0", 32, 2 + 16),
    blocks(ElementType::q4_1, "Q4_1", 32, 2 + 2 + 16),
    blocks(ElementType::q5_0, "Q5_0", 32, 2 + 4 + 16),
    blocks(ElementType::q5_1, "Q5_1", 32, 2 + 2 + 4 + 16),
    blocks(ElementType::q8_0, "Q8_0", 32, 2 + 32),
    blocks(ElementType::q2_k, "Q2_K", 256, 16 + 64 + 2 + 2),
    blocks(ElementType::q3_k, "Q3_K", 256, 32 + 64 + 12 + 2),
    blocks(ElementType::q4_k, "Q4_K", 256, 2 + 2 + 12 + 128),
    blocks(ElementType::q5_k, "Q5_K", 256, 2 + 2 + 12 + 32 + 128),
    blocks(ElementType::q6_k, "Q6_K", 256, 128 + 64 + 16 + 2),
    blocks(ElementType::iq2_xxs, "IQ2_XXS", 256, 2 + 64),
    blocks(ElementType::iq2_xs, "IQ2_XS", 256, 2 + 64 + 8),
    blocks(ElementType::iq3_xxs, "IQ3_XXS", 256, 2 + 64 + 32),
    blocks(ElementType::iq1_s, "IQ1_S", 256, 2 + 32 + 16),
    blocks(ElementType::iq4_nl, "IQ4_NL", 32, 2 + 16),
    blocks(ElementType::iq3_s, "IQ3_S", 256, 2 + 64 + 8 + 32 + 4),
    blocks(ElementType::iq2_s, "IQ2_S", 256, 2 + 64 + 8 + 8),
    blocks(ElementType::iq4_xs, "IQ4_XS", 256, 2 + 2 + 4 + 128),
    number(ElementType::i8, "I8", 1),
    number(ElementType::i16, "I16", 2),
    number(ElementType::i32, "I32", 4),
    number(ElementType::i64, "I64", 8),
    number(ElementType::f64, "F64", 8),
    blocks(ElementType::iq1_m, "IQ1_M", 256, 32 + 16 + 8),
    number(ElementType::bf16, "BF16", 2),
    blocks(ElementType::tq1_0, "TQ1_0", 256, 48 + 4 + 2),
    blocks(ElementType::tq2_0, "TQ2_0", 256, 64 + 2),
    blocks(ElementType::mxfp4, "MXFP4", 32, 1 + 16),
};

/// Place of each id in kFormats; -1 where there is no such format.
constexpr std::size_t kIds = static_cast<std::size_t>(ElementType::mxfp4) + 1;
constexpr std::array<std::int8_t, kIds> kPlaces = [] {
  std::array<std::int8_t, kIds> places{};
  for (std::int8_t& place : places) place = -1;
  for (std::size_t i = 0; i < kFormats.size(); ++i) {
    places[static_cast<std::size_t>(kFormats[i].type)] = static_cast<std::int8_t>(i);
  }
  return places;
}();

constexpr char upper(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; }

}  // namespace

std::span<const BlockFormat> block_formats() { return kFormats; }

const BlockFormat& block_format(ElementType type) {
  const BlockFormat* const format = find_block_format(static_cast<std::uint32_t>(type));
  assert(format != nullptr && "every ElementType has a format");
  return *format;
}

const BlockFormat* find_block_format(std::uint32_t gguf_id) {
  if (gguf_id >= kIds || kPlaces[gguf_id] < 0) return nullptr;
  return &kFormats[static_cast<std::size_t>(kPlaces[gguf_id])];
}

const BlockFormat* find_block_format(std::string_view name) {
  const auto same = [name](const BlockFormat& format) {
    return std::equal(name.begin(), name.end(), format.name.begin(), format.name.end(),
                      [](char a, char b) { return upper(a) == b; });
  };
  const auto* const found = std::find_if(kFormats.begin(), kFormats.end(), same);
  return found == kFormats.end() ? nullptr : found;
}

std::optional<std::size_t> bytes_of(ElementType type, std::int64_t elements) {
  const BlockFormat& format = block_format(type);
  if (elements < 0 || elements % format.block_elements != 0) return std::nullopt;
  const auto blocks = static_cast<std::uint64_t>(elements / format.block_elements);
  const auto block_bytes = static_cast<std::uint64_t>(format.block_bytes);
  if (blocks > std::numeric_limits<std::size_t>::max() / block_bytes) return std::nullopt;
  return static_cast<std::size_t>(blocks * block_bytes);
}

}  // namespace quern
