// GGUF's block formats for tests: a plain decoder in double, one element at a time, written from the formats' description
// (docs/block-formats.md), and a maker of random blocks. Shares nothing with the kernels but the grids of the IQ formats.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "math/element_type.hpp"

namespace quern {

/// The values of every whole block of `bytes`, exact: the double holds each without rounding, and rounding it to f32 gives
/// what a decoder must give. Float and block-quantized types.
[[nodiscard]] std::vector<double> decode_reference(ElementType type, std::span<const std::byte> bytes);

/// `elements` (whole blocks) elements of random codes with finite scales of both signs, so that values are of order 1; one
/// block in sixteen has a zero or subnormal scale. Numbers of float types are normally distributed (F64: rounded to f32).
/// The same seed gives the same bytes.
[[nodiscard]] std::vector<std::byte> random_blocks(ElementType type, std::int64_t elements, std::uint32_t seed);

}  // namespace quern
