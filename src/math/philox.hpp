// Counter-based random numbers: the same bits for the same counter and key, whatever was drawn before and by whom.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "math/elementwise_kernels.hpp"

namespace quern {

using PhiloxBlock = std::array<std::uint32_t, 4>;

/// Philox4x32-10 (Salmon, Moraes, Dror & Shaw, SC 2011, "Parallel random numbers: as easy as 1, 2, 3"): 128 random bits that
/// `counter` and `key` determine. Blocks of different counters are independent for every practical purpose.
[[nodiscard]] PhiloxBlock philox4x32_10(const PhiloxBlock& counter, const std::array<std::uint32_t, 2>& key);

/// A number in [0, 1) from the upper 24 bits of `word`: every multiple of 2^-24 is equally likely.
[[nodiscard]] constexpr float uniform_from_word(std::uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24F; }

/// One sequence of random numbers of a seed: `purpose` and `stream` keep it apart from every other sequence of that seed,
/// dropout included as long as `purpose` is not a dropout site.
struct RandomStream {
  std::uint64_t seed = 0;
  std::uint32_t purpose = 0;
  std::uint32_t stream = 0;

  /// Words 4 * index .. 4 * index + 3 of the sequence: the block with counter {index low, index high, purpose, stream}.
  [[nodiscard]] PhiloxBlock block(std::uint64_t index) const;
};

/// out[i] = low + (high - low) * u with u in [0, 1) from word `first + i` of the stream.
void fill_uniform(std::span<float> out, float low, float high, const RandomStream& stream, std::uint64_t first = 0);

/// out[i] = mean + stddev * z, z standard normal (Box & Muller 1958, in double): block (first + i) / 2 gives the pair of
/// elements with that index. So a tensor may be filled in parts, on any threads. Bits follow the C library's log, sin and
/// cos.
void fill_normal(std::span<float> out, float mean, float stddev, const RandomStream& stream, std::uint64_t first = 0);

/// DropoutMask, element by element: what the kernels compute for many at once.
/// round(probability * 65536): 16-bit lanes below it are dropped.
[[nodiscard]] std::uint32_t dropout_threshold(const DropoutMask& mask);
/// 65536 / (65536 - threshold), the factor of kept values; 0 where everything is dropped.
[[nodiscard]] float dropout_scale(const DropoutMask& mask);
/// Whether column `col` of the call's row `row` (mask row first_row + row) is kept.
[[nodiscard]] bool dropout_keeps(const DropoutMask& mask, std::uint32_t row, std::uint32_t col);

}  // namespace quern
