// MXFP4 as Hugging Face's GPT-OSS files have it (blocks and scales apart, consecutive elements in a byte), and as GGUF has
// it.
#pragma once

#include <cstddef>

namespace quern::internal {

inline constexpr std::size_t kMxfp4BlockElements = 32;
inline constexpr std::size_t kMxfp4PackedBytes = 16;  ///< of a block's elements, in both orders
inline constexpr std::size_t kMxfp4BlockBytes = 17;   ///< GGUF: the scale, then the elements

/// One block into GGUF's order: `packed` holds elements 2j (low nibble) and 2j + 1 in byte j; `out` gets the scale, then
/// elements j (low) and j + 16 in byte j. Values are moved, none changes.
inline void mxfp4_to_gguf(const std::byte* packed, std::byte scale, std::byte* out) {
  const auto element = [&](std::size_t i) { return (packed[i / 2] >> (i % 2 == 0 ? 0 : 4)) & std::byte{15}; };
  out[0] = scale;
  for (std::size_t j = 0; j < kMxfp4PackedBytes; ++j) out[1 + j] = element(j) | (element(j + kMxfp4PackedBytes) << 4);
}

/// The reverse: `block` of 17 bytes into 16 of elements and the scale.
inline void mxfp4_from_gguf(const std::byte* block, std::byte* packed, std::byte* scale) {
  const auto element = [&](std::size_t i) {
    return (block[1 + i % kMxfp4PackedBytes] >> (i < kMxfp4PackedBytes ? 0 : 4)) & std::byte{15};
  };
  *scale = block[0];
  for (std::size_t j = 0; j < kMxfp4PackedBytes; ++j) packed[j] = element(2 * j) | (element(2 * j + 1) << 4);
}

}  // namespace quern::internal
