// Quantizing rows of f32 into GGUF's block formats. Plain data only: instruction-set files include this header.
//
// The codes and scales of a block minimize sum_i importance_i (x_i - decoded_i)^2 as far as a search finds: scales are
// searched around the obvious ones, and each is refitted by weighted least squares. Every instruction set gives the same
// bytes: blocks are independent, sums have a fixed order, and a fused multiply-add is used only where it rounds nothing.
#pragma once

#include <cstddef>
#include <cstdint>

#include "math/element_type.hpp"

namespace quern {

/// Rows to quantize. x: [rows, cols] f32, finite; cols a multiple of the type's block. importance: [cols] weights >= 0 of
/// the columns' errors, of all rows; null: all equal. A block whose importances are all zero counts as one of equal ones.
/// out: rows * bytes_of(type, cols) bytes.
struct QuantizeRows {
  ElementType type = ElementType::q4_k;
  const float* x = nullptr;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  const float* importance = nullptr;
  std::byte* out = nullptr;
};

/// Quantizes one family of types; false for types that it does not know, and nothing is written then. Thread-safe, allocates
/// nothing. Values too large for a format's scale (f16) are brought to the largest that it can say.
using BlockQuantizer = bool (*)(const QuantizeRows& rows);

/// By family and instruction set; null where this build lacks the path. Only dispatch.cpp and tests call these. The caller
/// has checked that the processor has what `cpu_features.hpp` lists for the instruction set of that name.
/// F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, IQ4_XS, MXFP4:
BlockQuantizer block_quantizer_legacy_portable();
BlockQuantizer block_quantizer_legacy_avx2();
BlockQuantizer block_quantizer_legacy_avx512();
/// Q2_K, Q3_K, Q4_K, Q5_K, Q6_K:
BlockQuantizer block_quantizer_k_portable();
BlockQuantizer block_quantizer_k_avx2();
BlockQuantizer block_quantizer_k_avx512();

}  // namespace quern
