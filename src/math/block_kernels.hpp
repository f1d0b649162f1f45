// Kernels over GGUF's block formats: decoding rows, int8 activations, and dot products between the two. Plain data only:
// instruction-set files include this header.
//
// Decoding is exact: every instruction set gives the same f32 values (no fused multiply-add where a format's value is a
// product and a difference), which are those of ggml's reference decoders.
#pragma once

#include <cstddef>
#include <cstdint>

#include "math/element_type.hpp"

namespace quern {

/// Elements that share one scale in an int8 activation row.
inline constexpr std::int64_t kActivationBlock = 32;

/// Blocks of activations whose largest magnitude is below this become zero: its reciprocal would overflow. 2^-100.
inline constexpr float kSmallestActivation = 0x1p-100F;

/// A row of n activations (n a multiple of kActivationBlock) as int8: x[i] ~ scales[i / 32] * values[i], where scale =
/// max|x| / 127 of the block and values are x * (127 / max|x|) rounded to nearest (ties to even). Every instruction set
/// gives the same bits.
struct ActivationRow {
  std::int8_t* values = nullptr;  ///< [n], aligned to 64
  float* scales = nullptr;        ///< [n / 32]
  std::int16_t* sums = nullptr;   ///< [n / 16] sums of 16 consecutive values each, which minima are applied with
};

/// Dot products of weight rows with activation rows: out[t * out_stride + r] = sum over i of W[r][i] * x[t][i].
///
/// Order of the sums. Products are summed exactly, in integers, over the 32 or 16 elements that share their scales; such a
/// sum is multiplied in f32 by (weight scale * activation scale) and added to one of a fixed number of f32 partial sums, in
/// the order of the blocks; the partial sums are added in a fixed order at the end. So an element's bits depend on the
/// instruction set, and on neither `rows`, `tokens` nor its place among them; instruction sets differ by f32 rounding only.
struct BlockDot {
  ElementType type = ElementType::q4_0;
  const std::byte* weight = nullptr;  ///< row r at weight + r * row_bytes; no alignment
  std::size_t row_bytes = 0;
  std::int64_t rows = 0;
  std::int64_t cols = 0;     ///< elements of a row
  bool interleaved = false;  ///< weight is interleaved (block_interleave.hpp) by interleave_rows; rows is their multiple
  const ActivationRow* x = nullptr;
  std::int64_t tokens = 0;
  float* out = nullptr;
  std::int64_t out_stride = 0;
  /// Rows of the same length that this thread likely reads next: they are fetched; or null.
  const std::byte* ahead = nullptr;
  bool fetches = true;  ///< false: what is read next, within these rows too, is left to hardware prefetchers
};

/// Rows of a weight decoded into one panel (matmul_kernels.hpp) of the instruction set's f32 or bf16 products.
struct BlockPanel {
  ElementType type = ElementType::q4_0;
  const std::byte* weight = nullptr;  ///< row r at weight + r * row_bytes; no alignment
  std::size_t row_bytes = 0;
  std::int64_t rows = 0;       ///< 1 .. panel_cols; those that are missing become zeros
  std::int64_t cols = 0;       ///< elements of each row, whole blocks
  bool interleaved = false;    ///< as in BlockDot; rows then is panel_cols or half of it, cols ends a slab or the rows
  std::byte* panel = nullptr;  ///< [cols, panel_cols], aligned to 64 bytes
};

struct BlockKernels {
  const char* name = nullptr;
  /// Decodes `elements` consecutive elements (whole blocks) of any float or quantized type into f32 (block_decode.hpp).
  void (*decode)(ElementType type, const void* blocks, std::int64_t elements, float* out) = nullptr;
  /// Quantizes a row of n values. NaN and infinity make the block's scale NaN, so that they are not lost.
  void (*quantize_activations)(const float* x, std::int64_t n, const ActivationRow& out) = nullptr;
  /// Whether dot() takes weights of this type.
  bool (*has_dot)(ElementType type) = nullptr;
  void (*dot)(const BlockDot& dot) = nullptr;
  /// Rows that lie interleaved in the weights that `interleaved` speaks of; 0: there are none.
  int interleave_rows = 0;
  /// Decodes weights of the types that dot() takes as `decode`, for f32 products. Null where there is no such kernel.
  void (*decode_floats)(const BlockPanel& panel) = nullptr;
  /// The same rounded to bf16, to nearest even; what would be subnormal becomes 0. Null where nothing multiplies pairs.
  void (*decode_pairs)(const BlockPanel& panel) = nullptr;
  /// out[t * out_stride + r] = W[r] . x[t] in f32 for F32, F16 and BF16 weights; x rows of `cols` f32 at stride x_stride.
  void (*float_dot)(ElementType type, const std::byte* weight, std::size_t row_bytes, std::int64_t rows, std::int64_t cols,
                    const float* x, std::int64_t x_stride, std::int64_t tokens, float* out,
                    std::int64_t out_stride) = nullptr;
};

/// Tables by instruction set, without `decode`, which dispatch.cpp adds; null where this build lacks the path. Only
/// dispatch.cpp calls these.
const BlockKernels* block_kernels_portable();
const BlockKernels* block_kernels_avx2();
const BlockKernels* block_kernels_avx512();
const BlockKernels* block_kernels_avx512_vnni();

}  // namespace quern
