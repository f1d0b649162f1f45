// The one matmul front: y = x W^T, dx = dy W and dW = dy^T x for every weight type and layout, with fused epilogues.
//
// Numerics. Sums are f32 (bf16 products are exact in f32 before they are added). Each output element is summed in an order
// that depends only on the reduction's length and the instruction set: not on the number of threads or rows, not on
// which rows share a call, not on how the caller cuts rows. So a row of a batch has the same bits as that row alone. (Fast
// products with a file's weights promise this for up to kFastRows rows: WeightPrecision.)
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "math/element_type.hpp"
#include "math/exec.hpp"

namespace quern {

/// How a weight's elements lie in memory.
enum class WeightLayout : std::uint8_t {
  plain,        ///< [rows, cols] row-major, as in a file
  interleaved,  ///< a file's blocks with rows interleaved (block_interleave.hpp) for the instruction set; y = x W^T only
  packed  ///< the private pack of the instruction set that made it, once for y = x W^T and (optionally) once for dx = dy W
};

/// How products y = x W^T of f32 rows with a plain weight (a file's f32, f16, bf16 or blocks) are computed.
enum class WeightPrecision : std::uint8_t {
  /// Every element is decoded to f32, exactly, and f32 products are formed: the bits of the same weight decoded and packed.
  f32,
  /// Blocks against int8 activations (block_kernels.hpp) where the format has such dot products, with AMX and in portable
  /// code up to kFastRows rows; floats against f32 up to as many; other formats are decoded to f32. Where rows are more: f32
  /// weights as in `f32`; others, and x, are rounded to bf16 where the instruction set multiplies that. The Eigen backend
  /// computes all this in f32.
  fast
};

/// In fast mode, up to this many rows of x get the same bits each as that row alone.
inline constexpr std::int64_t kFastRows = 32;

/// A weight matrix W [rows, cols] = [outputs, inputs]. A view: whoever made the memory owns it. A plain one's data need no
/// alignment beyond its numbers', its rows follow each other without gaps, and cols is a whole number of its format's
/// blocks. Of an interleaved one, rows is a multiple of kWeightRowUnit.
struct Weight {
  ElementType type = ElementType::f32;
  WeightLayout layout = WeightLayout::plain;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  const void* forward = nullptr;   ///< plain data, or the pack for y = x W^T
  const void* backward = nullptr;  ///< the pack for dx = dy W; null where only forward is used. Plain: same as forward
  WeightPrecision precision = WeightPrecision::f32;
};

/// Bytes of one orientation's pack of a [rows, cols] weight in `compute` type; multiple of kBufferAlignment.
struct PackedWeightBytes {
  std::size_t forward = 0;
  std::size_t backward = 0;
};
[[nodiscard]] PackedWeightBytes packed_weight_bytes(const Backend& backend, ComputeType compute, std::int64_t rows,
                                                    std::int64_t cols);

/// Converts and packs W (f32, row-major [rows, cols], contiguous) for products in `compute` type. `forward` and `backward`
/// (nullable) have the sizes that packed_weight_bytes states and are
/// aligned to kBufferAlignment. SPMD. Conversion to bf16 rounds to nearest even. With the
/// Eigen backend the "pack" is a plain row-major copy in the compute type's precision. `stream` writes past the caches: for
/// packs that are not read soon.
Weight pack_weight(Exec& exec, ComputeType compute, const float* w, std::int64_t rows, std::int64_t cols, void* forward,
                   void* backward, bool stream = true);

/// Parts of a weight that are packed or multiplied apart start at multiples of this many rows.
inline constexpr std::int64_t kWeightRowUnit = 32;

/// The part of pack_weight that rows first .. first + count - 1 of W are, on one thread. `first` is a multiple of
/// kWeightRowUnit, and so is count unless these are the last rows. `forward` and `backward` (nullable) are the whole packs.
void pack_weight_part(const Backend& backend, ComputeType compute, const float* w, std::int64_t rows, std::int64_t cols,
                      std::int64_t first, std::int64_t count, void* forward, void* backward, bool stream = true);

/// Whether rows of W, a plain weight, can be interleaved for this backend.
[[nodiscard]] bool can_interleave(const Backend& backend, const Weight& w);
/// Interleaves rows first .. first + rows - 1 of W into `out`, as large as the whole of W, on one thread. Both are multiples
/// of kWeightRowUnit.
void interleave_weight_part(const Backend& backend, const Weight& w, std::int64_t first, std::int64_t rows, std::byte* out);

/// Rows first .. first + rows - 1 of W, for products y = x W^T only: a view of the same memory. `first` is a multiple of
/// kWeightRowUnit.
[[nodiscard]] Weight weight_rows(const Backend& backend, const Weight& w, std::int64_t first, std::int64_t rows);

/// A row-major matrix that a product reads: element (r, c) at data + r * row_stride + c.
struct ConstMatrix {
  const void* data = nullptr;
  ElementType type = ElementType::f32;  ///< f32 or bf16; must be bf16 where the weight was packed for bf16
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t row_stride = 0;  ///< elements, >= cols
};

/// A row-major matrix that a product writes; f32 or bf16 (rounded to nearest even from the f32 sum and epilogue).
struct MutableMatrix {
  void* data = nullptr;
  ElementType type = ElementType::f32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t row_stride = 0;
};

/// What is done to each sum before it is stored: out = activation(sum + bias) + residual, in f32. `pre_activation`
/// additionally receives sum + bias in the output's type; the activation is computed from the f32 sum, not from that copy.
/// Where the instruction set converts to bf16 in hardware (avx512_vnni, amx), subnormals become zero.
struct Epilogue {
  const float* bias = nullptr;  ///< [out.cols]
  Activation activation = Activation::none;
  void* pre_activation = nullptr;  ///< [rows, out.cols] in out.type, or null
  std::int64_t pre_activation_stride = 0;
  bool stream_pre_activation = false;  ///< it is not read soon, so it may be written past the caches
  const float* residual = nullptr;     ///< f32 [rows, out.cols], or null; may be the output itself (to accumulate, which
                                       ///< Backend::fused does not separate)
  std::int64_t residual_stride = 0;
  /// Where not null, the end of a backward pass: out = sum * activation'(activation_input), and nothing of the above but
  /// `activation` applies. [rows, out.cols] in out.type: what the forward pass kept as pre_activation.
  const void* activation_input = nullptr;
  std::int64_t activation_input_stride = 0;
  /// With activation_input: receives activation(activation_input); [rows, out.cols] in out.type, or null. May be
  /// activation_input's own memory.
  void* activation_output = nullptr;
  std::int64_t activation_output_stride = 0;
  void* kept_output = nullptr;  ///< with activation_input: out once more, of the same stride, past the caches; or null
};

/// Scratch that any product of these kinds with M <= max_rows, N, K <= max_cols needs per thread.
[[nodiscard]] std::size_t matmul_scratch_bytes(const Backend& backend, std::int64_t max_rows, std::int64_t max_cols);

/// What the same products with plain weights can use besides, x [max_rows, <= max_inputs] being f32: it is then narrowed to
/// bf16 once, and not for each block of columns. Changes no bit.
[[nodiscard]] std::size_t narrowing_scratch_bytes(const Backend& backend, std::int64_t max_rows, std::int64_t max_inputs);

/// Row `row` of a plain weight as f32: out [w.cols], exactly.
void decode_row(const Backend& backend, const Weight& w, std::int64_t row, float* out);

/// y [M, N] = epilogue(x [M, K] W^T), W [N, K]. SPMD: rows and columns are shared among the team's members.
void matmul_forward(Exec& exec, const ConstMatrix& x, const Weight& w, const MutableMatrix& y,
                    const Epilogue& epilogue = {});

/// One of several products y = epilogue(x W^T). Epilogues of a forward pass only.
struct ForwardPart {
  ConstMatrix x;
  Weight weight;
  MutableMatrix y;
  Epilogue epilogue{};
};

/// Products that do not read each other's results, as matmul_forward computes them, bit for bit. Where x has few rows, rows
/// of all weights are handed out together, so that threads wait for each other once (one by one where Backend::fused is
/// false). SPMD.
void matmul_forward_parts(Exec& exec, std::span<const ForwardPart> parts);

/// dx [M, K] = epilogue(dy [M, N] W), W [N, K]. SPMD.
void matmul_backward_input(Exec& exec, const ConstMatrix& dy, const Weight& w, const MutableMatrix& dx,
                           const Epilogue& epilogue = {});

/// dW [N, K] (+)= dy [M, N]^T x [M, K], f32, contiguous rows; dbias [N] (nullable) (+)= column sums of dy. dy and x have the
/// same type. SPMD over tiles of dW: the reduction over M runs in a fixed order whatever the thread count.
void matmul_backward_weight(Exec& exec, const ConstMatrix& dy, const ConstMatrix& x, float* dw, float* dbias,
                            bool accumulate);

}  // namespace quern
