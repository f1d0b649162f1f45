// Plain weights: decoding their parts, and products of few rows with their blocks as they are.
#include <algorithm>
#include <array>
#include <cassert>

#include "math/block_formats.hpp"
#include "math/block_interleave.hpp"
#include "math/cpu_features.hpp"
#include "math/matmul_front_internal.hpp"
#include "math/matmul_plain_internal.hpp"

namespace quern {
namespace internal {
namespace {

/// Most elements of a block.
constexpr std::int64_t kMaxBlock = 256;

/// Tasks take BlockSizes::task_bytes of weights. Their rows are a multiple of 16, so that threads write whole cache lines of
/// an aligned output.
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

std::int64_t task_rows(std::int64_t task_bytes, std::int64_t bytes_per_row) {
  const std::int64_t fit = task_bytes / std::max<std::int64_t>(bytes_per_row, 1) / kTaskRowUnit * kTaskRowUnit;
  return std::clamp(fit, kTaskRowUnit, kMaxTaskRows);
}

bool same_rows(const ConstMatrix& a, const ConstMatrix& b) {
  return a.data == b.data && a.rows == b.rows && a.cols == b.cols && a.row_stride == b.row_stride;
}

/// Bytes of scratch for the sums of a task.
std::int64_t sum_bytes(std::int64_t rows) { return round_up(4 * rows * kMaxTaskRows, kBufferAlignment); }

/// Bytes of scratch for the activations of a part, unless the part before has quantized the same.
std::int64_t part_bytes(const ForwardPart& part) {
  return is_float(part.weight.type) ? 0 : part.x.rows * activation_row_bytes(part.x.cols);
}

/// Whether hardware prefetchers alone bring the next rows. Zen 4 does so for Q8_0, whose bytes are read in order with hardly
/// anything between: 51 GB/s with two threads where fetches leave 40 (block_dot_bench, memory giving 65), 0.96 instead of
/// 0.89 of plain reads where it gives 37. Other formats lose by it, and other processors have not been measured.
bool left_to_hardware(const Weight& w, std::int64_t tokens) {
  static const bool follows = cpu_features().vendor == "AuthenticAMD";
  return follows && tokens == 1 && w.layout == WeightLayout::interleaved && w.type == ElementType::q8_0;
}

/// Tasks of one part, counted on from those of the parts before.
struct PartTasks {
  std::int64_t first = 0;
  std::int64_t rows_per_task = 0;
  const ActivationRow* quantized = nullptr;
};

/// Most parts that are computed together.
constexpr std::size_t kMaxParts = 32;

/// Parts whose rows of x are at most kFastRows in all, handed out together, so that members wait for each other once.
void dot_together(Exec& exec, std::span<const ForwardPart> parts) {
  const BlockKernels& blocks = *exec.backend.kernels->blocks;
  ScratchCutter scratch(exec.scratch);
  std::int64_t most_rows = 0;
  for (const ForwardPart& part : parts) most_rows = std::max(most_rows, part.x.rows);
  auto* sums = reinterpret_cast<float*>(scratch.take(sum_bytes(most_rows)));
  std::array<ActivationRow, kFastRows> quantized;
  std::size_t used = 0;
  std::array<PartTasks, kMaxParts + 1> tasks;
  for (std::size_t p = 0; p < parts.size(); ++p) {
    const ForwardPart& part = parts[p];
    tasks[p].rows_per_task = task_rows(exec.backend.blocks.task_bytes, row_bytes(part.weight.type, part.weight.cols));
    tasks[p + 1].first = tasks[p].first + ceil_divide(part.weight.rows, tasks[p].rows_per_task);
    if (is_float(part.weight.type)) continue;
    if (p > 0 && tasks[p - 1].quantized != nullptr && same_rows(part.x, parts[p - 1].x)) {
      tasks[p].quantized = tasks[p - 1].quantized;
      continue;
    }
    tasks[p].quantized = &quantized[used];
    for (std::int64_t t = 0; t < part.x.rows; ++t) {
      ActivationRow& to = quantized[used++];
      to.values = reinterpret_cast<std::int8_t*>(scratch.take(part.x.cols));
      to.scales = reinterpret_cast<float*>(scratch.take(part.x.cols / kActivationBlock * 4));
      to.sums = reinterpret_cast<std::int16_t*>(scratch.take(part.x.cols / 16 * 2));
      blocks.quantize_activations(static_cast<const float*>(part.x.data) + t * part.x.row_stride, part.x.cols, to);
    }
  }
  const std::int64_t all = tasks[parts.size()].first;
  const auto part_of = [&](std::int64_t task) {
    std::size_t p = 0;
    while (task >= tasks[p + 1].first) ++p;
    return p;
  };
  const auto weight_of = [&](std::int64_t task) -> const std::byte* {
    if (task >= all) return nullptr;
    const std::size_t p = part_of(task);
    const Weight& w = parts[p].weight;
    return static_cast<const std::byte*>(w.forward) +
           (task - tasks[p].first) * tasks[p].rows_per_task * row_bytes(w.type, w.cols);
  };
  exec.member.for_each_ahead(all, [&](std::int64_t task, std::int64_t next) {
    const std::size_t p = part_of(task);
    const ForwardPart& part = parts[p];
    const Weight& w = part.weight;
    const std::int64_t first = (task - tasks[p].first) * tasks[p].rows_per_task;
    const std::int64_t rows = std::min(tasks[p].rows_per_task, w.rows - first);
    const std::int64_t bytes = row_bytes(w.type, w.cols);
    const TileFinisher finish(exec.backend, part.y, part.epilogue);
    float* out = sums;
    std::int64_t out_stride = rows;
    if (finish.trivial()) {
      out = static_cast<float*>(part.y.data) + first;
      out_stride = part.y.row_stride;
    }
    if (tasks[p].quantized != nullptr) {
      blocks.dot({.type = w.type,
                  .weight = weight_of(task),
                  .row_bytes = static_cast<std::size_t>(bytes),
                  .rows = rows,
                  .cols = w.cols,
                  .interleaved = w.layout == WeightLayout::interleaved,
                  .x = tasks[p].quantized,
                  .tokens = part.x.rows,
                  .out = out,
                  .out_stride = out_stride,
                  .ahead = weight_of(next),
                  .fetches = !left_to_hardware(w, part.x.rows)});
    } else {
      blocks.float_dot(w.type, weight_of(task), static_cast<std::size_t>(bytes), rows, w.cols,
                       static_cast<const float*>(part.x.data), part.x.row_stride, part.x.rows, out, out_stride);
    }
    if (!finish.trivial()) finish(sums, rows, 0, part.x.rows, first, rows);
  });
}

/// Rows [row, row + rows) of a product.
ForwardPart rows_of_part(const ForwardPart& whole, std::int64_t row, std::int64_t rows) {
  ForwardPart part = whole;
  const std::int64_t out_bytes = operand_bytes(whole.y.type);
  part.x.data = static_cast<const float*>(whole.x.data) + row * whole.x.row_stride;
  part.x.rows = rows;
  part.y.data = at(whole.y.data, row * whole.y.row_stride * out_bytes);
  part.y.rows = rows;
  if (part.epilogue.pre_activation != nullptr) {
    part.epilogue.pre_activation = at(whole.epilogue.pre_activation, row * whole.epilogue.pre_activation_stride * out_bytes);
  }
  if (part.epilogue.residual != nullptr) part.epilogue.residual += row * whole.epilogue.residual_stride;
  return part;
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
  if (w.layout == WeightLayout::packed || w.precision != WeightPrecision::fast || x.type != ElementType::f32) return false;
  if (is_float(w.type)) return x.rows <= kFastRows;
  if (!backend.kernels->blocks->has_dot(w.type)) return false;
  // Of vector instructions those for integers multiply fastest; only tiles of bf16 pay for decoding weights first.
  const bool vectors = backend.kernels->isa != Isa::amx && backend.kernels->isa != Isa::portable;
  return vectors || x.rows <= kFastRows;
}

std::int64_t dot_scratch_bytes(std::int64_t max_rows, std::int64_t max_cols) {
  const std::int64_t cols = round_up(std::max<std::int64_t>(max_cols, 1), kMaxBlock);
  const std::int64_t rows = std::clamp<std::int64_t>(max_rows, 1, kFastRows);
  const std::int64_t one = activation_row_bytes(cols);
  return std::min(rows * one, std::max(one, kMaxActivationBytes)) + 4 * rows * kMaxTaskRows;
}

void dot_forward(Exec& exec, const ConstMatrix& x, const Weight& w, const MutableMatrix& y, const Epilogue& epilogue) {
  const ForwardPart whole{.x = x, .weight = w, .y = y, .epilogue = epilogue};
  const std::int64_t at_once = is_float(w.type) ? kFastRows : rows_at_once(x.rows, x.cols);
  for (std::int64_t row = 0; row < x.rows; row += at_once) {
    const ForwardPart part = rows_of_part(whole, row, std::min(at_once, x.rows - row));
    dot_together(exec, {&part, 1});
  }
}

}  // namespace internal

void matmul_forward_parts(Exec& exec, std::span<const ForwardPart> parts) {
  const auto scratch = static_cast<std::int64_t>(exec.scratch.size());
  while (!parts.empty()) {
    // As many as can be computed together.
    std::size_t count = 0;
    std::int64_t rows = 0;
    std::int64_t most_rows = 0;
    std::int64_t bytes = 0;
    for (; count < std::min(parts.size(), internal::kMaxParts); ++count) {
      const ForwardPart& part = parts[count];
      if (exec.backend.eigen || !exec.backend.fused || !internal::takes_dot(exec.backend, part.x, part.weight)) break;
      if (count == 0 || !internal::same_rows(part.x, parts[count - 1].x)) {
        rows += part.x.rows;
        bytes += internal::part_bytes(part);
      }
      most_rows = std::max(most_rows, part.x.rows);
      if (rows > kFastRows || bytes + internal::sum_bytes(most_rows) > scratch) break;
    }
    if (count < 2) {
      matmul_forward(exec, parts[0].x, parts[0].weight, parts[0].y, parts[0].epilogue);
      parts = parts.subspan(1);
      continue;
    }
    internal::dot_together(exec, parts.first(count));
    parts = parts.subspan(count);
  }
}

bool can_interleave(const Backend& backend, const Weight& w) {
  return !backend.eigen && w.layout == WeightLayout::plain && backend.kernels->blocks->interleave_rows > 0 &&
         backend.kernels->blocks->has_dot(w.type) && can_interleave(w.type) && w.rows % kWeightRowUnit == 0;
}

void interleave_weight_part(const Backend& backend, const Weight& w, std::int64_t first, std::int64_t rows, std::byte* out) {
  assert(first % kWeightRowUnit == 0 && rows % kWeightRowUnit == 0 && first + rows <= w.rows);
  const int unit = backend.kernels->blocks->interleave_rows;
  const std::int64_t bytes = internal::row_bytes(w.type, w.cols);
  for (std::int64_t row = first; row < first + rows; row += unit) {
    interleave_rows(w.type, unit, static_cast<const std::byte*>(w.forward) + row * bytes, w.cols, out + row * bytes);
  }
}

void decode_row(const Backend& backend, const Weight& w, std::int64_t row, float* out) {
  assert(w.layout == WeightLayout::plain && row >= 0 && row < w.rows);
  internal::decode_part(backend, w.type, w.forward, w.cols, {.row = row, .rows = 1, .col = 0, .cols = w.cols}, out);
}

}  // namespace quern
