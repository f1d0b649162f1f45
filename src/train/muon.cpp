#include "train/muon.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "math/aligned_buffer.hpp"
#include "math/number_formats.hpp"

namespace quern {

namespace {

constexpr float kA = 3.4445F, kB = -4.7750F, kC = 2.0315F;

/// Below this Frobenius norm a matrix counts as zero: 1 / norm would not be finite in f32.
constexpr double kLeastNorm = 1e-30;

/// Rows of X that a thread takes at a time outside products.
constexpr std::int64_t kRowsPerTask = 32;

template <class T>
inline constexpr ElementType kTypeOf = ElementType::f32;
template <>
inline constexpr ElementType kTypeOf<bf16> = ElementType::bf16;

float to_float(float x) { return x; }
float to_float(bf16 x) { return float_from_bf16(x); }
void from_float(float x, float& out) { out = x; }
void from_float(float x, bf16& out) { out = bf16_from_float(x); }

/// out [cols, rows] = in [rows, cols]^T, for columns first .. first + count - 1 of `in`.
template <class In, class Out>
void transpose_columns(const In* in, std::int64_t rows, std::int64_t cols, std::int64_t first, std::int64_t count,
                       Out* out) {
  constexpr std::int64_t kTile = 16;  // a line of f32: what is read and written of a tile stays in first-level cache
  for (std::int64_t r0 = 0; r0 < rows; r0 += kTile) {
    const std::int64_t r1 = std::min(r0 + kTile, rows);
    for (std::int64_t c = first; c < first + count; ++c) {
      for (std::int64_t r = r0; r < r1; ++r) from_float(to_float(in[r * cols + c]), out[c * rows + r]);
    }
  }
}

/// Hands out parts of the working memory.
class Cutter {
 public:
  /// Null: only counts.
  explicit Cutter(std::byte* memory) : memory_(memory) {}
  template <class U>
  U* take(std::size_t elements) {
    auto* part = memory_ == nullptr ? nullptr : reinterpret_cast<U*>(memory_ + bytes_);
    bytes_ += (elements * sizeof(U) + kBufferAlignment - 1) / kBufferAlignment * kBufferAlignment;
    return part;
  }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

 private:
  std::byte* memory_;
  std::size_t bytes_ = 0;
};

/// X, in two copies that take turns, and the small square matrices.
template <class T>
struct Work {
  T* x = nullptr;             ///< [tall, side]
  T* next = nullptr;          ///< [tall, side]
  float* square = nullptr;    ///< [side, side]: A, then b A + c A^2, then that plus a on the diagonal
  T* factor = nullptr;        ///< [side, side]: c A + b
  std::byte* pack = nullptr;  ///< of what `square` held last
  double* squares = nullptr;  ///< sums of squares by task

  Work(Cutter& cutter, const Backend& backend, ComputeType compute, std::int64_t tall, std::int64_t side) {
    const auto elements = static_cast<std::size_t>(tall * side);
    const auto side_elements = static_cast<std::size_t>(side * side);
    x = cutter.take<T>(elements);
    next = cutter.take<T>(elements);
    square = cutter.take<float>(side_elements);
    factor = cutter.take<T>(side_elements);
    pack = cutter.take<std::byte>(packed_weight_bytes(backend, compute, side, side).forward);
    squares = cutter.take<double>(static_cast<std::size_t>((tall + kRowsPerTask - 1) / kRowsPerTask));
  }
};

/// task(first, count) on pieces of 0 .. rows-1.
template <class Task>
void for_rows(Exec& exec, std::int64_t rows, Task&& task) {
  exec.member.for_each((rows + kRowsPerTask - 1) / kRowsPerTask,
                       [&](std::int64_t i) { task(i * kRowsPerTask, std::min(kRowsPerTask, rows - i * kRowsPerTask)); });
}

const ElementwiseKernelsFor<float>& kernels_of(const ElementwiseKernels& kernels, const float* /*type*/) {
  return kernels.f32;
}
const ElementwiseKernelsFor<bf16>& kernels_of(const ElementwiseKernels& kernels, const bf16* /*type*/) {
  return kernels.b16;
}

template <class T>
void iterate(Exec& exec, ComputeType compute, std::int64_t steps, Work<T>& work, std::int64_t tall, std::int64_t side) {
  const ElementwiseKernels& all = *exec.backend.kernels->elementwise;
  const ElementwiseKernelsFor<T>& kernels = kernels_of(all, work.x);
  const auto matrix = [&](T* data, std::int64_t rows) { return ConstMatrix{data, kTypeOf<T>, rows, side, side}; };
  // square = `a` * square + diagonal * I
  const auto scale_and_shift = [&](float a, float diagonal) {
    for_rows(exec, side, [&](std::int64_t first, std::int64_t count) {
      float* rows = work.square + first * side;
      if (a != 1.0F) all.axpby(a, rows, 0.0F, rows, count * side);
      for (std::int64_t r = 0; r < count; ++r) rows[r * side + first + r] += diagonal;
      kernels.from_f32(rows, side, work.factor + first * side, side, count, side);
    });
  };
  const auto pack = [&] { return pack_weight(exec, compute, work.square, side, side, work.pack, nullptr, false); };
  for (std::int64_t i = 0; i < steps; ++i) {
    matmul_backward_weight(exec, matrix(work.x, tall), matrix(work.x, tall), work.square, nullptr, false);
    const Weight a = pack();
    scale_and_shift(kC, kB);
    // (c A + b) A^T, and A is symmetric.
    matmul_forward(exec, matrix(work.factor, side), a, {work.square, ElementType::f32, side, side, side});
    scale_and_shift(1.0F, kA);
    const Weight b = pack();
    matmul_forward(exec, matrix(work.x, tall), b, {work.next, kTypeOf<T>, tall, side, side});
    std::swap(work.x, work.next);
  }
}

template <class T>
void orthogonalize(Exec& exec, ComputeType compute, std::int64_t steps, float* x, std::int64_t rows, std::int64_t cols,
                   std::byte* memory) {
  const ElementwiseKernels& all = *exec.backend.kernels->elementwise;
  const std::int64_t tall = std::max(rows, cols);
  const std::int64_t side = std::min(rows, cols);
  Cutter cutter(memory);
  Work<T> work(cutter, exec.backend, compute, tall, side);

  // In pieces of `tall`, which are as many whatever the shape: of rows, or of as many elements.
  const std::int64_t piece = kRowsPerTask * side;
  const std::int64_t pieces = (rows * cols + piece - 1) / piece;
  exec.member.for_each(pieces, [&](std::int64_t i) {
    work.squares[i] = all.sum_of_squares(x + i * piece, std::min(piece, rows * cols - i * piece));
  });
  double sum = 0.0;
  for (std::int64_t i = 0; i < pieces; ++i) sum += work.squares[i];  // every member in the same order
  const double norm = std::sqrt(sum);
  const float scale = norm < kLeastNorm ? 0.0F : static_cast<float>(1.0 / norm);
  exec.member.for_each(pieces, [&](std::int64_t i) {
    all.axpby(scale, x + i * piece, 0.0F, x + i * piece, std::min(piece, rows * cols - i * piece));
  });

  const ElementwiseKernelsFor<T>& kernels = kernels_of(all, work.x);
  const bool transposed = rows < cols;
  for_rows(exec, tall, [&](std::int64_t first, std::int64_t count) {
    if (transposed) {
      transpose_columns(x, rows, cols, first, count, work.x);
    } else {
      kernels.from_f32(x + first * side, side, work.x + first * side, side, count, side);
    }
  });
  iterate(exec, compute, steps, work, tall, side);
  for_rows(exec, rows, [&](std::int64_t first, std::int64_t count) {
    if (transposed) {
      transpose_columns(work.x, tall, side, first, count, x);
    } else {
      kernels.to_f32(work.x + first * side, side, x + first * side, side, count, side);
    }
  });
}

}  // namespace

std::vector<MuonMatrix> muon_matrices(const ModelConfig& config, const ParameterLayout& layout) {
  std::vector<MuonMatrix> matrices;
  const auto add = [&](int index, std::int64_t first_row, std::int64_t rows) {
    const Parameter& parameter = layout.parameters[static_cast<std::size_t>(index)];
    matrices.push_back({index, parameter.offset + first_row * parameter.cols, rows, parameter.cols});
  };
  const auto add_equal_parts = [&](int index, std::int64_t parts) {
    if (index < 0) return;
    const std::int64_t rows = layout.parameters[static_cast<std::size_t>(index)].rows / parts;
    for (std::int64_t part = 0; part < parts; ++part) add(index, part * rows, rows);
  };
  for (const LayerParameters& layer : layout.layers) {
    add(layer.qkv, 0, config.query_width());
    add(layer.qkv, config.query_width(), config.kv_width());
    add(layer.qkv, config.query_width() + config.kv_width(), config.kv_width());
    add_equal_parts(layer.attention_out, 1);
    add_equal_parts(layer.mlp_in, config.gated() ? 2 : 1);
    add_equal_parts(layer.mlp_out, 1);
    add_equal_parts(layer.expert_in, 2 * config.experts);
    add_equal_parts(layer.expert_out, config.experts);
  }
  return matrices;
}

float muon_scale(std::int64_t rows, std::int64_t cols) {
  return static_cast<float>(std::sqrt(std::max(1.0, static_cast<double>(rows) / static_cast<double>(cols))));
}

std::size_t newton_schulz_bytes(const Backend& backend, ComputeType compute, std::int64_t rows, std::int64_t cols) {
  Cutter cutter(nullptr);
  if (compute == ComputeType::bf16) {
    (void)Work<bf16>(cutter, backend, compute, std::max(rows, cols), std::min(rows, cols));
  } else {
    (void)Work<float>(cutter, backend, compute, std::max(rows, cols), std::min(rows, cols));
  }
  return cutter.bytes();
}

std::size_t newton_schulz_scratch_bytes(const Backend& backend, std::int64_t rows, std::int64_t cols) {
  return matmul_scratch_bytes(backend, std::max(rows, cols), std::min(rows, cols));
}

void newton_schulz(Exec& exec, ComputeType compute, std::int64_t steps, float* x, std::int64_t rows, std::int64_t cols,
                   std::byte* memory) {
  if (compute == ComputeType::bf16) {
    orthogonalize<bf16>(exec, compute, steps, x, rows, cols, memory);
  } else {
    orthogonalize<float>(exec, compute, steps, x, rows, cols, memory);
  }
  const auto tall = static_cast<double>(std::max(rows, cols));
  const auto side = static_cast<double>(std::min(rows, cols));
  mark(exec, Operation::newton_schulz, StepPhase::update, -1,
       {static_cast<double>(steps) * (4.0 * tall * side * side + 2.0 * side * side * side),
        4.0 * tall * side * sizeof(float)});
}

}  // namespace quern
