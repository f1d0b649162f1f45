// The front: packs weights and chooses how a product is computed.
#include "math/matmul.hpp"

#include <algorithm>
#include <cassert>

#include "math/aligned_buffer.hpp"
#include "math/block_formats.hpp"
#include "math/matmul_blocking.hpp"
#include "math/matmul_eigen.hpp"
#include "math/matmul_front_internal.hpp"
#include "math/matmul_plain_internal.hpp"
#include "math/matmul_product_internal.hpp"
#include "math/matmul_separate_internal.hpp"

namespace quern {
namespace {

using internal::at;
using internal::ceil_divide;
using internal::compute_of;
using internal::kMaxDecodedRows;
using internal::operand_bytes;
using internal::product_kernels;
using internal::round_up;

/// The most rows of a task.
std::int64_t most_task_rows(const Backend& backend) { return std::max(kMaxDecodedRows, backend.blocks.block_rows); }

}  // namespace

PackedWeightBytes packed_weight_bytes(const Backend& backend, ComputeType compute, std::int64_t rows, std::int64_t cols) {
  if (backend.eigen) {
    const std::int64_t bytes = rows * cols * (compute == ComputeType::bf16 ? 2 : 4);
    return {.forward = static_cast<std::size_t>(round_up(bytes, kBufferAlignment)), .backward = 0};
  }
  const ProductKernels& kernels = product_kernels(backend, compute);
  const auto bytes = [&](std::int64_t outputs, std::int64_t k) {
    const std::int64_t size =
        round_up(outputs, kernels.panel_cols) * round_up(k, kernels.step) * operand_bytes(kernels.operand);
    return static_cast<std::size_t>(round_up(size, kBufferAlignment));
  };
  return {.forward = bytes(rows, cols), .backward = bytes(cols, rows)};
}

Weight pack_weight(Exec& exec, ComputeType compute, const float* w, std::int64_t rows, std::int64_t cols, void* forward,
                   void* backward, bool stream) {
  Weight weight{.type = compute == ComputeType::bf16 ? ElementType::bf16 : ElementType::f32,
                .layout = WeightLayout::packed,
                .rows = rows,
                .cols = cols,
                .forward = forward,
                .backward = backward};
  if (exec.backend.eigen) {
    weight.layout = WeightLayout::plain;
    weight.backward = forward;
  }
  exec.member.for_each(ceil_divide(rows, kWeightRowUnit), [&](std::int64_t unit) {
    const std::int64_t first = unit * kWeightRowUnit;
    pack_weight_part(exec.backend, compute, w, rows, cols, first, std::min(kWeightRowUnit, rows - first), forward, backward,
                     stream);
  });
  return weight;
}

void pack_weight_part(const Backend& backend, ComputeType compute, const float* w, std::int64_t rows, std::int64_t cols,
                      std::int64_t first, std::int64_t count, void* forward, void* backward, bool stream) {
  assert(first % kWeightRowUnit == 0 && first + count <= rows);
  if (backend.eigen) {
    internal::eigen_copy_rows(compute, w, cols, first, count, forward);
    return;
  }
  const ProductKernels& kernels = product_kernels(backend, compute);
  assert(kWeightRowUnit % kernels.panel_cols == 0 && kWeightRowUnit % kernels.step == 0);
  const std::int64_t bytes = operand_bytes(kernels.operand);
  const std::int64_t panel_cols = kernels.panel_cols;
  for (std::int64_t row = first; forward != nullptr && row < first + count; row += panel_cols) {
    kernels.pack_weight_transposed({.data = w + row * cols,
                                    .stride = cols,
                                    .rows = std::min(panel_cols, first + count - row),
                                    .cols = cols,
                                    .stream = stream},
                                   round_up(cols, kernels.step), at(forward, row * round_up(cols, kernels.step) * bytes));
  }
  for (std::int64_t col = 0; backward != nullptr && col < cols; col += panel_cols) {
    kernels.pack_weight_rows({.data = w + first * cols + col,
                              .stride = cols,
                              .rows = count,
                              .cols = std::min(panel_cols, cols - col),
                              .stream = stream},
                             round_up(count, kernels.step),
                             at(backward, (col * round_up(rows, kernels.step) + first * panel_cols) * bytes));
  }
}

Weight weight_rows(const Backend& backend, const Weight& w, std::int64_t first, std::int64_t rows) {
  assert(first % kWeightRowUnit == 0 && first + rows <= w.rows);
  std::int64_t bytes = 0;
  if (w.layout == WeightLayout::packed) {
    const ProductKernels& kernels = product_kernels(backend, compute_of(w.type));
    assert(kWeightRowUnit % kernels.panel_cols == 0);
    bytes = first * round_up(w.cols, kernels.step) * operand_bytes(kernels.operand);
  } else {
    const BlockFormat& format = block_format(w.type);
    bytes = first * (w.cols / format.block_elements) * static_cast<std::int64_t>(format.block_bytes);
  }
  Weight part = w;
  part.rows = rows;
  part.forward = at(w.forward, bytes);
  part.backward = nullptr;
  return part;
}

std::size_t matmul_scratch_bytes(const Backend& backend, std::int64_t max_rows, std::int64_t max_cols) {
  if (backend.eigen) return 0;
  const std::int64_t n = std::max<std::int64_t>({max_rows, max_cols, 1});
  const MatmulKernels& matmul = *backend.kernels->matmul;
  const std::int64_t rows = most_task_rows(backend);
  const std::int64_t bytes =
      std::max({internal::product_scratch_bytes(matmul.f32, n, rows), internal::product_scratch_bytes(matmul.b16, n, rows),
                internal::dot_scratch_bytes(max_rows, max_cols)});
  return static_cast<std::size_t>(round_up(bytes, kBufferAlignment));
}

std::size_t narrowing_scratch_bytes(const Backend& backend, std::int64_t max_rows, std::int64_t max_inputs) {
  const ProductKernels& kernels = backend.kernels->matmul->b16;
  if (backend.eigen || kernels.operand != ElementType::bf16) return 0;
  const std::int64_t rows = round_up(std::min(max_rows, most_task_rows(backend)), kernels.tile_rows);
  const std::int64_t bytes = rows * internal::narrowed_row_elements(kernels, max_inputs) * operand_bytes(kernels.operand);
  return static_cast<std::size_t>(round_up(bytes, kBufferAlignment));
}

void matmul_forward(Exec& exec, const ConstMatrix& x, const Weight& w, const MutableMatrix& y, const Epilogue& epilogue) {
  assert(x.cols == w.cols && y.cols == w.rows && y.rows == x.rows);
  if (internal::ends_apart(exec.backend, y, epilogue)) {
    matmul_forward(exec, x, w, y);
    internal::separate_epilogue(exec, y, epilogue);
  } else if (exec.backend.eigen) {
    internal::eigen_forward(exec, x, w, y, epilogue);
  } else if (internal::takes_dot(exec.backend, x, w)) {
    internal::dot_forward(exec, x, w, y, epilogue);
  } else {
    // Many rows of f32 over a file's 16-bit or block-quantized weight, where speed is wanted and bf16 has it.
    const bool narrow = w.layout != WeightLayout::packed && w.precision == WeightPrecision::fast &&
                        w.type != ElementType::f32 && x.rows > kFastRows &&
                        exec.backend.kernels->matmul->b16.operand == ElementType::bf16;
    const ComputeType compute = narrow ? ComputeType::bf16 : compute_of(x.type);
    internal::product(exec, compute, x, {.weight = &w, .transposed = true}, y, epilogue);
  }
}

void matmul_backward_input(Exec& exec, const ConstMatrix& dy, const Weight& w, const MutableMatrix& dx,
                           const Epilogue& epilogue) {
  assert(dy.cols == w.rows && dx.cols == w.cols && dx.rows == dy.rows);
  if (internal::ends_apart(exec.backend, dx, epilogue)) {
    matmul_backward_input(exec, dy, w, dx);
    internal::separate_epilogue(exec, dx, epilogue);
  } else if (exec.backend.eigen) {
    internal::eigen_backward_input(exec, dy, w, dx, epilogue);
  } else {
    internal::product(exec, compute_of(dy.type), dy, {.weight = &w, .transposed = false}, dx, epilogue);
  }
}

}  // namespace quern
