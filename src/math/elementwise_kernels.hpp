// Row-wise and element-wise operations: function types and the table that each instruction set fills.
//
// Conventions. T is float or bf16 (storage; arithmetic is f32, stores round to nearest even). "Residual" streams and the
// gradients that flow along them are f32; operands of products are T. Strides are in elements. Rows may be 0; any column
// count works. Kernels are serial, allocate nothing, and give each row the same bits whatever rows share the call.
// Gradient outputs marked (+=) are accumulated in row order.
#pragma once

#include <cstddef>
#include <cstdint>

#include "math/element_type.hpp"

namespace quern {

/// Where a dropout mask comes from: Philox4x32-10 (Salmon et al., SC 2011, "Parallel random numbers: as easy as 1, 2, 3").
/// Element (row, col) of the mask takes 16-bit lane (col mod 8) of the block with counter {col / 8, row, site, step} and key
/// `seed`, and is dropped when that lane < round(probability * 65536); kept values are multiplied by
/// 65536 / (65536 - threshold). So bits depend on nothing but these numbers. probability 0 means no dropout.
struct DropoutMask {
  float probability = 0.0F;
  std::uint64_t seed = 0;
  std::uint32_t step = 0;  ///< micro-batch number since the start of training
  std::uint32_t site = 0;  ///< which operation: layer * 4 + {0 attention, 1 attention output, 2 feed-forward}, or embedding
  std::uint32_t first_row = 0;  ///< mask row of the call's row 0
};

/// Which elements of a head RoPE pairs.
enum class RopePairing : std::uint8_t {
  adjacent,  ///< (v[2i], v[2i+1]): "NORM" in GGUF terms
  halves     ///< (v[i], v[i + rotated/2]): "NEOX"
};

/// The backward pass of an activation or a gated unit: dpre from dout. Where `act` is given, the forward result is computed
/// once more beside it, from pre as it was stored.
template <class T>
struct ActivationBackward {
  Activation activation = Activation::none;
  const float* dout = nullptr;  ///< [rows, cols]
  std::int64_t dout_stride = 0;
  const T* pre = nullptr;  ///< [rows, cols]; of a gated unit [rows, 2 cols]: gate, then up
  std::int64_t pre_stride = 0;
  T* dpre = nullptr;  ///< as pre
  std::int64_t dpre_stride = 0;
  T* dpre_kept = nullptr;  ///< dpre once more, or null: for later, so written past the caches where that can be
  T* act = nullptr;        ///< [rows, cols], or null; may be pre's memory (of a gated unit: the gate's)
  std::int64_t act_stride = 0;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
};

/// How a product with an activation ends: pre = sum + bias and out = activation(sum + bias), each rounded to T once.
template <class T>
struct ActivationEpilogue {
  Activation activation = Activation::none;
  const float* sum = nullptr;  ///< [rows, cols]
  std::int64_t sum_stride = 0;
  const float* bias = nullptr;  ///< [cols], or null
  T* pre = nullptr;             ///< or null
  std::int64_t pre_stride = 0;
  bool stream_pre = false;  ///< pre may be written past the caches, for it is not read soon
  T* out = nullptr;
  std::int64_t out_stride = 0;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
};

/// Logits whose maximum is found before their exponentials are summed. A row's bits depend on it, not on how its columns
/// were cut.
inline constexpr std::int64_t kCrossEntropyBlock = 1024;

/// A row's softmax while its columns pass by; starts like this.
struct CrossEntropyRow {
  float shift = 0.0F;         ///< what exponentials count from
  float target_logit = 0.0F;  ///< capped
  float target_slope = 1.0F;  ///< of the soft cap there
  double sum = 0.0;           ///< of exp(logit - shift) so far
};

/// Columns first_col .. first_col + cols - 1 of some rows of logits; those before were passed by already. first_col is a
/// multiple of kCrossEntropyBlock, and so is cols unless these are the last. Rows with row_scale 0 are masked: nothing of
/// theirs is read or written. soft_cap > 0: the logits are not yet capped, l' = cap * tanh(l / cap) is applied here.
template <class T>
struct CrossEntropyColumns {
  const float* logits = nullptr;  ///< [rows, cols]
  std::int64_t logits_stride = 0;
  std::int64_t rows = 0;
  std::int64_t first_col = 0;
  std::int64_t cols = 0;
  const std::int32_t* target = nullptr;  ///< [rows]
  const float* row_scale = nullptr;      ///< [rows]
  float soft_cap = 0.0F;
  CrossEntropyRow* row = nullptr;  ///< [rows] (+=)
  /// exp(logit - shift), times the soft cap's derivative: column first_col of [rows, vocab], of which the columns before
  /// hold what earlier calls left (and are changed where the shift is). Null where only losses are wanted.
  T* exponentials = nullptr;
  std::int64_t exponentials_stride = 0;
};

/// Operations whose activations are stored as T.
template <class T>
struct ElementwiseKernelsFor {
  /// y = x / sqrt(mean(x^2) + eps) * weight (Zhang & Sennrich 2019). x f32 [rows, cols]; y T; rstd [rows] (nullable)
  /// receives 1/sqrt(mean(x^2) + eps).
  void (*rms_norm_forward)(const float* x, std::int64_t x_stride, const float* weight, float eps, T* y,
                           std::int64_t y_stride, float* rstd, std::int64_t rows, std::int64_t cols);
  /// The same from and to T: per-head QK norm. `x` and `y` may be the same memory.
  void (*head_norm_forward)(const T* x, std::int64_t x_stride, const float* weight, float eps, T* y, std::int64_t y_stride,
                            float* rstd, std::int64_t rows, std::int64_t cols);
  /// Backward of head_norm_forward: dx = T, dweight [cols] (+=). `dy` and `dx` may be the same memory.
  void (*head_norm_backward)(const T* dy, std::int64_t dy_stride, const T* x, std::int64_t x_stride, const float* weight,
                             const float* rstd, T* dx, std::int64_t dx_stride, float* dweight, std::int64_t rows,
                             std::int64_t cols);
  /// y = (x - mean) / sqrt(var + eps) * weight + bias (Ba et al. 2016); bias may be null. mean, rstd [rows] (nullable).
  void (*layer_norm_forward)(const float* x, std::int64_t x_stride, const float* weight, const float* bias, float eps, T* y,
                             std::int64_t y_stride, float* mean, float* rstd, std::int64_t rows, std::int64_t cols);

  /// out = activation(pre), element by element.
  void (*activation_forward)(Activation activation, const T* pre, std::int64_t pre_stride, T* out, std::int64_t out_stride,
                             std::int64_t rows, std::int64_t cols);
  void (*activation_epilogue)(const ActivationEpilogue<T>& epilogue);
  /// dpre = dout * activation'(pre).
  void (*activation_backward)(const ActivationBackward<T>& backward);
  /// out [rows, width] = activation(gate) * up, where a row of gate_up is gate [width] then up [width] (Shazeer 2020).
  void (*gated_forward)(Activation activation, const T* gate_up, std::int64_t gate_up_stride, T* out,
                        std::int64_t out_stride, std::int64_t rows, std::int64_t width);
  /// out [rows, width] = g sigmoid(1.702 g) (u + 1), g = min(gate, 7), u = clamp(up, -7, 7) (GPT-OSS).
  void (*clamped_swiglu_forward)(const T* gate_up, std::int64_t gate_up_stride, T* out, std::int64_t out_stride,
                                 std::int64_t rows, std::int64_t width);
  void (*gated_backward)(const ActivationBackward<T>& backward);
  /// Backward of clamped_swiglu_forward: gradients of clamped values are 0 beyond the clamps.
  void (*clamped_swiglu_backward)(const ActivationBackward<T>& backward);

  /// Rotates `rotated` leading elements of each of `heads` heads of each row, in place (Su et al. 2021): pair i of row r by
  /// the angle whose cosine and sine stand at cos_sin[positions[r] * rotated + i] and [... + rotated/2 + i].
  /// `inverse` rotates back (the backward pass). Head h of row r starts at x + r * row_stride + h * head_stride.
  void (*rope)(T* x, std::int64_t row_stride, std::int64_t head_stride, std::int64_t rows, std::int64_t heads,
               std::int64_t rotated, RopePairing pairing, const float* cos_sin, const std::int32_t* positions, bool inverse);

  /// Softmax cross-entropy, some columns of the logits at a time; then cross_entropy_loss() (cross_entropy.hpp) of each row
  /// and, for gradients, the next.
  void (*cross_entropy_columns)(const CrossEntropyColumns<T>& columns);
  /// Makes the exponentials [rows, vocab] the gradients of the losses with respect to the logits, apart from a factor for
  /// each row: (softmax - onehot) * row_scale[r] = factor[r] * exponentials. Rows with row_scale 0: factor 0 and zeros.
  void (*cross_entropy_targets)(const CrossEntropyRow* row, const std::int32_t* target, const float* row_scale,
                                T* exponentials, std::int64_t exponentials_stride, float* factor, std::int64_t rows,
                                std::int64_t vocab);
  /// y = factor[r] * x, rows of T; y may be x.
  void (*scale_rows)(const T* x, std::int64_t x_stride, const float* factor, T* y, std::int64_t y_stride, std::int64_t rows,
                     std::int64_t cols);

  void (*from_f32)(const float* x, std::int64_t x_stride, T* y, std::int64_t y_stride, std::int64_t rows, std::int64_t cols);
  void (*to_f32)(const T* x, std::int64_t x_stride, float* y, std::int64_t y_stride, std::int64_t rows, std::int64_t cols);

  /// dy = T(dout * mask * scale): the gradient that enters a branch behind dropout. probability 0: plain conversion.
  void (*dropout_backward)(const float* dout, std::int64_t dout_stride, T* dy, std::int64_t dy_stride, std::int64_t rows,
                           std::int64_t cols, const DropoutMask& mask);
};

/// One step of AdamW (Loshchilov & Hutter 2019), decoupled decay: w -= lr * decay * w; then w -= lr * m^ / (sqrt(v^) + eps).
struct AdamWStep {
  float learning_rate = 0.0F;
  float beta1 = 0.9F;
  float beta2 = 0.95F;
  float eps = 1e-8F;
  float weight_decay = 0.0F;
  float bias_correction1 = 1.0F;  ///< 1 - beta1^step
  float bias_correction2 = 1.0F;  ///< 1 - beta2^step
  float gradient_scale = 1.0F;    ///< from clipping: multiplies each gradient
};

struct ElementwiseKernels {
  const char* name;
  ElementwiseKernelsFor<float> f32;
  ElementwiseKernelsFor<bf16> b16;

  /// Backward of rms_norm_forward: dx (+=) f32, dweight [cols] (+=). dy f32.
  void (*rms_norm_backward)(const float* dy, std::int64_t dy_stride, const float* x, std::int64_t x_stride,
                            const float* weight, const float* rstd, float* dx, std::int64_t dx_stride, float* dweight,
                            std::int64_t rows, std::int64_t cols);
  /// Backward of layer_norm_forward: dx (+=), dweight (+=), dbias (+=, nullable).
  void (*layer_norm_backward)(const float* dy, std::int64_t dy_stride, const float* x, std::int64_t x_stride,
                              const float* weight, const float* mean, const float* rstd, float* dx, std::int64_t dx_stride,
                              float* dweight, float* dbias, std::int64_t rows, std::int64_t cols);

  /// x[r] = scale * table[tokens[r]] + position_table[positions[r]] (position_table may be null), then dropout.
  void (*embedding_forward)(const float* table, const std::int32_t* tokens, const float* position_table,
                            const std::int32_t* positions, float scale, float* x, std::int64_t x_stride, std::int64_t rows,
                            std::int64_t cols, const DropoutMask& mask);

  /// out = x * mask * scale + residual, f32; residual may be null or equal out; x may equal out.
  void (*dropout_add)(const float* x, std::int64_t x_stride, const float* residual, std::int64_t residual_stride, float* out,
                      std::int64_t out_stride, std::int64_t rows, std::int64_t cols, const DropoutMask& mask);

  /// y += x
  void (*add)(const float* x, float* y, std::int64_t count);
  /// sum of x[i]^2 in double, in a fixed order.
  double (*sum_of_squares)(const float* x, std::int64_t count);
  /// Softmax of each row of x in place, with temperature: exp(x/temperature - max) / sum. -inf entries give 0.
  void (*softmax)(float* x, std::int64_t stride, float temperature, std::int64_t rows, std::int64_t cols);
  void (*adamw)(float* w, const float* gradient, float* m, float* v, std::int64_t count, const AdamWStep& step);
  /// Momentum with Nesterov's look-ahead: m = momentum * m + g, then direction = momentum * m + g, where g is
  /// gradient_scale * gradient. `direction` may be none of the others.
  void (*nesterov)(const float* gradient, float gradient_scale, float momentum, float* m, float* direction,
                   std::int64_t count);
  /// y = a * x + b * y; y is not read where b is 0, and may be x.
  void (*axpby)(float a, const float* x, float b, float* y, std::int64_t count);
};

/// Tables by instruction set; null where this build lacks the path. Only dispatch.cpp and tests call these.
const ElementwiseKernels* elementwise_kernels_portable();
const ElementwiseKernels* elementwise_kernels_avx2();
const ElementwiseKernels* elementwise_kernels_avx512();
const ElementwiseKernels* elementwise_kernels_avx512_vnni();

}  // namespace quern
