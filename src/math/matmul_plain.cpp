// Plain weights: decoding their parts, and products of few rows with their blocks as they are.
#include <algorithm>
#include <array>
#include <cassert>

#include "math/block_formats.hpp"
#include "math/matmul_front_internal.hpp"
#include "math/matmul_plain_internal.hpp"

namespace quern {
namespace internal {
namespace {

/// Most elements of a block.
constexpr std::int64_t kMaxBlock = 256;

/// Bytes of weights per task: long enough for hardware prefetchers and against the cost of handing out tasks (some 6 us at
/// 10 GB/s), short enough for an even end among threads. Rows per task are a multiple of 16, so that threads write whole
/// cache lines of an aligned output.
constexpr std::int64_t kTaskBytes = 64 * 1024;
constexpr std::int64_t kMaxTaskRows = 256;
constexpr std::int64_t kTaskRowUnit = 16;

/// Most bytes of quantized activations that are kept per thread, unless one row takes more: 32 rows of 52,000 columns.
constexpr std::int64_t kMaxActivationBytes = 2 * 1024 * 1024;

bool is_float(ElementType type) { return type == ElementType::f32 || type == ElementType::f16 || type == ElementType::bf16; }

std::int64_t row_bytes(ElementType type, std::int64_t cols) {
  const BlockFormat& format = block_format(type);
  assert(cols % format.block_elements == 0 && "a row is whole blocks");
  return cols / format.block_elements * format.block_bytes;
}

/// Bytes of one quantized row of x, each of its arrays aligned.
std::int64_t activation_row_bytes(std::int64_t cols) {
  return round_up(cols, kBufferAlignment) + round_up(cols / kActivationBlock * 4, kBufferAlignment) +
         round_up(cols / 16 * 2, kBufferAlignment);
}

/// Rows of x that are quantized, and multiplied, at once.
std::int64_t rows_at_once(std::int64_t rows, std::int64_t cols) {
  const std::int64_t fit = kMaxActivationBytes / std::max<std::int64_t>(activation_row_bytes(cols), 1);
  return std::clamp<std::int64_t>(std::min(rows, kFastRows), 1, std::max<std::int64_t>(fit, 1));
}

std::int64_t task_rows(std::int64_t bytes_per_row) {
  const std::int64_t fit = kTaskBytes / std::max<std::int64_t>(bytes_per_row, 1) / kTaskRowUnit * kTaskRowUnit;
  return std::clamp(fit, kTaskRowUnit, kMaxTaskRows);
}

/// Rows [row, row + x.rows) of the output, with scratch for their activations and for a task's sums.
void dot_rows(Exec& exec, const ConstMatrix& x, const Weight& w, const MutableMatrix& y, const Epilogue& epilogue,
              std::int64_t row) {
  const BlockKernels& blocks = *exec.backend.kernels->blocks;
  const bool quantizes = !is_float(w.type);
  ScratchCutter scratch(exec.scratch);
  const std::int64_t sum_floats = std::min(x.rows, kFastRows) * kMaxTaskRows;
  auto* sums = reinterpret_cast<float*>(scratch.take(4 * sum_floats));
  std::array<ActivationRow, kFastRows> quantized;
  if (quantizes) {
    for (std::int64_t t = 0; t < x.rows; ++t) {
      ActivationRow& to = quantized[static_cast<std::size_t>(t)];
      to.values = reinterpret_cast<std::int8_t*>(scratch.take(x.cols));
      to.scales = reinterpret_cast<float*>(scratch.take(x.cols / kActivationBlock * 4));
      to.sums = reinterpret_cast<std::int16_t*>(scratch.take(x.cols / 16 * 2));
      blocks.quantize_activations(static_cast<const float*>(x.data) + t * x.row_stride, x.cols, to);
    }
  }
  const TileFinisher finish(exec.backend, y, epilogue);
  const std::int64_t bytes = row_bytes(w.type, w.cols);
  const std::int64_t rows_per_task = task_rows(bytes);
  const auto* weight = static_cast<const std::byte*>(w.forward);
  exec.member.for_each(ceil_divide(w.rows, rows_per_task), [&](std::int64_t task) {
    const std::int64_t first = task * rows_per_task;
    const std::int64_t rows = std::min(rows_per_task, w.rows - first);
    float* out = sums;
    std::int64_t out_stride = rows;
    if (finish.trivial()) {
      out = static_cast<float*>(y.data) + row * y.row_stride + first;
      out_stride = y.row_stride;
    }
    if (quantizes) {
      blocks.dot({.type = w.type,
                  .weight = weight + first * bytes,
                  .row_bytes = static_cast<std::size_t>(bytes),
                  .rows = rows,
                  .cols = w.cols,
                  .x = quantized.data(),
                  .tokens = x.rows,
                  .out = out,
                  .out_stride = out_stride});
    } else {
      blocks.float_dot(w.type, weight + first * bytes, static_cast<std::size_t>(bytes), rows, w.cols,
                       static_cast<const float*>(x.data), x.row_stride, x.rows, out, out_stride);
    }
    if (!finish.trivial()) finish(sums, rows, row, x.rows, first, rows);
  });
}

}  // namespace

void decode_part(const Backend& backend, ElementType type, const void* data, std::int64_t weight_cols,
                 const MatrixPart& part, float* out) {
  const auto decode = backend.kernels->blocks->decode;
  const BlockFormat& format = block_format(type);
  const std::int64_t unit = format.block_elements;
  const std::int64_t stride = row_bytes(type, weight_cols);
  for (std::int64_t r = 0; r < part.rows; ++r, out += part.cols) {
    const auto* row = static_cast<const std::byte*>(data) + (part.row + r) * stride;
    if (part.col % unit == 0 && part.cols % unit == 0) {
      decode(type, row + part.col / unit * format.block_bytes, part.cols, out);
      continue;
    }
    for (std::int64_t col = part.col; col < part.col + part.cols;) {
      alignas(64) float block[kMaxBlock];
      const std::int64_t number = col / unit;
      const std::int64_t end = std::min(part.col + part.cols, (number + 1) * unit);
      decode(type, row + number * format.block_bytes, unit, block);
      std::copy(block + (col - number * unit), block + (end - number * unit), out + (col - part.col));
      col = end;
    }
  }
}

bool takes_dot(const Backend& backend, const ConstMatrix& x, const Weight& w) {
  return w.layout == WeightLayout::plain && w.precision == WeightPrecision::fast && x.type == ElementType::f32 &&
         x.rows <= kFastRows && (is_float(w.type) || backend.kernels->blocks->has_dot(w.type));
}

std::int64_t dot_scratch_bytes(std::int64_t max_rows, std::int64_t max_cols) {
  const std::int64_t cols = round_up(std::max<std::int64_t>(max_cols, 1), kMaxBlock);
  const std::int64_t rows = std::clamp<std::int64_t>(max_rows, 1, kFastRows);
  const std::int64_t one = activation_row_bytes(cols);
  return std::min(rows * one, std::max(one, kMaxActivationBytes)) + 4 * rows * kMaxTaskRows;
}

void dot_forward(Exec& exec, const ConstMatrix& x, const Weight& w, const MutableMatrix& y, const Epilogue& epilogue) {
  const std::int64_t at_once = is_float(w.type) ? kFastRows : rows_at_once(x.rows, x.cols);
  for (std::int64_t row = 0; row < x.rows; row += at_once) {
    ConstMatrix rows = x;
    rows.data = static_cast<const float*>(x.data) + row * x.row_stride;
    rows.rows = std::min(at_once, x.rows - row);
    dot_rows(exec, rows, w, y, epilogue, row);
  }
}

}  // namespace internal

void decode_row(const Backend& backend, const Weight& w, std::int64_t row, float* out) {
  assert(w.layout == WeightLayout::plain && row >= 0 && row < w.rows);
  internal::decode_part(backend, w.type, w.forward, w.cols, {.row = row, .rows = 1, .col = 0, .cols = w.cols}, out);
}

}  // namespace quern
