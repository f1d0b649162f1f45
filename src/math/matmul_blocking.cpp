#include "math/matmul_blocking.hpp"

#include <algorithm>

namespace quern::internal {
namespace {

/// The piece of the reduction: pieces of nearly equal length, whole steps and units (both powers of two) each.
void choose_depth(const ProductKernels& kernels, std::int64_t k, std::int64_t most, std::int64_t unit, Blocking& blocking) {
  unit = std::max(unit, kernels.step);
  blocking.depths = std::max<std::int64_t>(1, ceil_divide(k, most / unit * unit));
  blocking.depth = std::max(unit, round_up(ceil_divide(k, blocking.depths), unit));
  blocking.depths = std::max<std::int64_t>(1, ceil_divide(k, blocking.depth));
}

}  // namespace

Blocking choose_blocking(const ProductKernels& kernels, std::int64_t rows, std::int64_t cols, std::int64_t k,
                         const OperandPlaces& places, bool shared) {
  Blocking b;
  if (rows <= 0 || cols <= 0) return b;
  const std::int64_t most_depth = !places.packed_b && kernels.max_decoded_depth > 0 ? kernels.max_decoded_depth
                                  : k <= kernels.max_whole_depth                    ? kernels.max_whole_depth
                                                                                    : kernels.max_depth;
  choose_depth(kernels, k, most_depth, places.depth_unit, b);
  const std::int64_t tiles = ceil_divide(rows, kernels.tile_rows);
  const std::int64_t panels = ceil_divide(cols, kernels.panel_cols);
  const std::int64_t panel_bytes = b.depth * kernels.panel_cols * operand_bytes(kernels.operand);
  const std::int64_t most_rows = places.block_rows > 0 ? places.block_rows : places.packed_b ? kMaxRows : kMaxDecodedRows;
  const std::int64_t most_sum_bytes = places.packed_b ? kMaxSumBytes : kMaxDecodedSumBytes;
  std::int64_t most_tiles = std::max<std::int64_t>(1, most_rows / kernels.tile_rows);
  const bool fetched = places.packed_b && kernels.max_fetched_b_bytes > 0;
  const std::int64_t most_bytes = fetched ? kernels.max_fetched_b_bytes : kernels.max_b_bytes;
  std::int64_t most_panels = std::max<std::int64_t>(1, most_bytes / panel_bytes);
  if (fetched && places.copied_a) most_panels = std::max(most_panels, kMinPanelsPerCopy);
  if (b.depths > 1) {
    const std::int64_t sum_rows = std::min(most_rows, tiles * kernels.tile_rows);
    most_panels = std::clamp<std::int64_t>(most_sum_bytes / (sum_rows * 4 * kernels.panel_cols), 1, most_panels);
  }
  for (;;) {
    b.tiles_per_block = even_share(tiles, most_tiles);
    b.panels_per_block = even_share(panels, most_panels);
    b.row_blocks = ceil_divide(tiles, b.tiles_per_block);
    b.col_blocks = ceil_divide(panels, b.panels_per_block);
    const std::int64_t task_rows = std::max<std::int64_t>(16, std::min(rows, b.tiles_per_block * kernels.tile_rows));
    const std::int64_t work = task_rows * b.panels_per_block * kernels.panel_cols * std::max<std::int64_t>(k, 1);
    if (!shared || b.tasks() >= kEnoughTasks || work < 2 * kMinTaskWork) return b;
    // Blocks that are decoded first are decoded again for each block of rows.
    const bool cuts_panels = !places.packed_b && b.panels_per_block > kMinDecodedPanels;
    if (b.tiles_per_block > 2 && !cuts_panels) {
      most_tiles = (b.tiles_per_block + 1) / 2;
    } else if (b.panels_per_block > 1) {
      most_panels = (b.panels_per_block + 1) / 2;
    } else {
      return b;
    }
  }
}

GradientBlocking choose_gradient_blocking(const ProductKernels& kernels, std::int64_t rows, std::int64_t cols,
                                          std::int64_t k) {
  Blocking depth;
  choose_depth(kernels, k, max_gradient_depth(kernels), 1, depth);
  GradientBlocking b;
  b.depth = depth.depth;
  b.depths = depth.depths;
  b.row_tiles = ceil_divide(rows, kernels.tile_rows);
  // With no columns of x there is no dW, but there is a bias.
  const std::int64_t panels = std::max<std::int64_t>(1, ceil_divide(cols, kernels.panel_cols));
  const std::int64_t panel_bytes = b.depth * kernels.panel_cols * operand_bytes(kernels.operand);
  std::int64_t most_panels = std::max<std::int64_t>(1, kernels.max_b_bytes / panel_bytes);
  for (;;) {
    b.panels_per_block = even_share(panels, most_panels);
    b.col_blocks = ceil_divide(panels, b.panels_per_block);
    if (b.row_tiles * b.col_blocks >= kEnoughTasks || b.panels_per_block < 8) break;
    most_panels = (b.panels_per_block + 1) / 2;
  }
  const std::int64_t tile_bytes = kernels.tile_rows * b.panels_per_block * kernels.panel_cols * 4;
  b.tiles_per_strip = std::max<std::int64_t>(
      1, (kernels.max_gradient_bytes > 0 ? kernels.max_gradient_bytes : kMaxGradientBytes) / tile_bytes);
  return b;
}

}  // namespace quern::internal
