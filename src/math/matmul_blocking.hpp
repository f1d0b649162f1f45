// How a product is cut into tasks and blocks. The reduction's pieces follow from shape and kernel only.
#pragma once

#include <cstddef>
#include <cstdint>

#include "math/matmul_kernels.hpp"

namespace quern::internal {

/// dW's pieces of the reduction, in elements, where the kernels do not say. Re-measure with matmul_bench.
inline constexpr std::int64_t kMaxGradientDepth = 512;
/// Most bytes of sums that wait for the next piece of the reduction: with ProductKernels::max_b_bytes of B, some half of a
/// 2 MiB second-level cache.
inline constexpr std::int64_t kMaxSumBytes = 512 * 1024;
/// The same for dW, where panels are packed again for each strip of sums.
inline constexpr std::int64_t kMaxGradientBytes = 1280 * 1024;
/// Fewest panels of a block where tiles of A are copied for each. Re-measure with matmul_bench.
inline constexpr std::int64_t kMinPanelsPerCopy = 12;
/// Most rows per task, unless BlockSizes::block_rows says: B is then read from memory once per 256 rows.
inline constexpr std::int64_t kMaxRows = 256;
/// The same of blocks that must be decoded and packed first, which costs as much as some 250 rows' products; and most bytes
/// of their sums.
inline constexpr std::int64_t kMaxDecodedRows = 512;
inline constexpr std::int64_t kMaxDecodedSumBytes = 1024 * 1024;
/// For the sake of enough tasks, blocks of fewer of these panels are rather cut between rows.
inline constexpr std::int64_t kMinDecodedPanels = 4;
/// Tasks smaller than this many multiply-adds (counting at least 16 rows, for rows are padded or memory-bound below) are not
/// cut further for the sake of balance; and there is no need for more than kEnoughTasks.
inline constexpr std::int64_t kMinTaskWork = std::int64_t{1} << 20;
inline constexpr std::int64_t kEnoughTasks = 16;

/// Tasks are (row block, column block) pairs; within a task the reduction runs in pieces of `depth`.
struct Blocking {
  std::int64_t tiles_per_block = 1;   ///< tiles of tile_rows rows
  std::int64_t panels_per_block = 1;  ///< panels of panel_cols columns
  std::int64_t depth = 1;             ///< multiple of step
  std::int64_t row_blocks = 0;
  std::int64_t col_blocks = 0;
  std::int64_t depths = 1;  ///< pieces of the reduction, at least 1
  [[nodiscard]] std::int64_t tasks() const { return row_blocks * col_blocks; }
};

/// How a product's operands lie.
struct OperandPlaces {
  std::int64_t depth_unit = 1;  ///< pieces of the reduction start at its multiples (a power of two up to max_depth)
  bool packed_b = true;         ///< panels of B are there: the kernels may fetch those of the next block
  bool copied_a = false;        ///< each tile of A is copied once for each block of columns and piece of the reduction
  std::int64_t block_rows = 0;  ///< most rows per task; 0: kMaxRows or kMaxDecodedRows
};

/// y = x W^T and dx = dy W: C [rows, cols] over a reduction of length k. `shared`: more than one thread takes tasks, so
/// there must be enough of them (how a product is cut into tasks changes no bit).
[[nodiscard]] Blocking choose_blocking(const ProductKernels& kernels, std::int64_t rows, std::int64_t cols, std::int64_t k,
                                       const OperandPlaces& places, bool shared);

/// dW = dy^T x, C [rows, cols] over k tokens: strips of row tiles by blocks of columns. Panels of x are packed once per
/// strip, tiles of dy once per block of columns; the strip's sums stay in second-level cache between pieces of the
/// reduction.
struct GradientBlocking {
  std::int64_t panels_per_block = 1;
  std::int64_t tiles_per_strip = 1;  ///< at most; the front cuts strips shorter where a thread's share ends
  std::int64_t depth = 1;
  std::int64_t depths = 1;
  std::int64_t row_tiles = 0;
  std::int64_t col_blocks = 0;
};
[[nodiscard]] constexpr std::int64_t max_gradient_depth(const ProductKernels& kernels) {
  return kernels.max_gradient_depth > 0 ? kernels.max_gradient_depth : kMaxGradientDepth;
}
[[nodiscard]] GradientBlocking choose_gradient_blocking(const ProductKernels& kernels, std::int64_t rows, std::int64_t cols,
                                                        std::int64_t k);

[[nodiscard]] constexpr std::int64_t ceil_divide(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
[[nodiscard]] constexpr std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_divide(a, b) * b; }
/// Blocks of nearly equal size: the largest of as many as `most` of `count` each would take.
[[nodiscard]] constexpr std::int64_t even_share(std::int64_t count, std::int64_t most) {
  return ceil_divide(count, ceil_divide(count, most));
}
[[nodiscard]] constexpr std::int64_t operand_bytes(ElementType type) { return type == ElementType::f32 ? 4 : 2; }

}  // namespace quern::internal
