// dW = dy^T x: the weight's gradient, in strips of its rows by blocks of its columns, over all tokens.
#include <algorithm>
#include <cassert>

#include "math/matmul.hpp"
#include "math/matmul_blocking.hpp"
#include "math/matmul_eigen.hpp"
#include "math/matmul_fetch_internal.hpp"
#include "math/matmul_front_internal.hpp"

namespace quern {
namespace {

using internal::at;
using internal::ceil_divide;
using internal::compute_of;
using internal::GradientBlocking;
using internal::operand_bytes;
using internal::product_kernels;
using internal::ScratchCutter;

/// dW reads panels in place from rows of up to this many bytes. Re-measure with matmul_peers_bench.
constexpr std::int64_t kMaxInPlaceRowBytes = 1024;

}  // namespace

void matmul_backward_weight(Exec& exec, const ConstMatrix& dy, const ConstMatrix& x, float* dw, float* dbias,
                            bool accumulate) {
  assert(dy.rows == x.rows && dy.type == x.type);
  if (exec.backend.eigen) {
    internal::eigen_backward_weight(exec, dy, x, dw, dbias, accumulate);
    return;
  }
  const MatmulKernels& matmul = *exec.backend.kernels->matmul;
  const ProductKernels& kernels = product_kernels(exec.backend, compute_of(x.type));
  const std::int64_t tokens = x.rows;
  const std::int64_t element_bytes = operand_bytes(x.type);
  const std::int64_t bytes = operand_bytes(kernels.operand);
  const std::int64_t panel_cols = kernels.panel_cols;
  const GradientBlocking blocking = internal::choose_gradient_blocking(kernels, dy.cols, x.cols, tokens);
  const std::int64_t tile_rows = kernels.tile_rows;

  ScratchCutter scratch(exec.scratch);
  auto* edge = reinterpret_cast<float*>(scratch.take(tile_rows * panel_cols * 4));
  const std::int64_t pack_rows = kernels.tiles_per_pack * tile_rows;
  const auto packed_tile_bytes = [&](std::int64_t steps) {
    return (steps * kernels.packed_a_step_stride + kernels.packed_a_gap) * bytes;
  };
  void* packed_a = scratch.take(kernels.tiles_per_pack * packed_tile_bytes(blocking.depth / kernels.step));
  std::byte* packed_b = scratch.take(blocking.panels_per_block * blocking.depth * panel_cols * bytes);

  // Rows [row_begin, row_end) by one block of columns, over all tokens.
  const auto strip = [&](std::int64_t row_begin, std::int64_t row_end, std::int64_t col_block) {
    const std::int64_t col_begin = col_block * blocking.panels_per_block * panel_cols;
    const std::int64_t col_end = std::min(x.cols, col_begin + blocking.panels_per_block * panel_cols);
    const std::int64_t panels = ceil_divide(col_end - col_begin, panel_cols);
    // Whole panels of x are read where they lie if its rows are short. (Rows of longer ones share cache sets.)
    const bool in_place = kernels.strides_b && x.row_stride * element_bytes <= kMaxInPlaceRowBytes &&
                          x.row_stride * element_bytes % 64 == 0 && reinterpret_cast<std::uintptr_t>(x.data) % 64 == 0;
    const std::int64_t in_place_panels = in_place ? (col_end - col_begin) / panel_cols : 0;
    const bool sums_bias = dbias != nullptr && col_block == 0;
    if (sums_bias && !accumulate) std::fill(dbias + row_begin, dbias + row_end, 0.0F);
    for (std::int64_t piece = 0; piece < blocking.depths; ++piece) {
      const std::int64_t k0 = piece * blocking.depth;
      const std::int64_t k = std::min(blocking.depth, tokens - k0);
      const std::int64_t steps = ceil_divide(k, kernels.step);
      const std::int64_t panel_bytes = steps * kernels.step * panel_cols * bytes;
      for (std::int64_t p = in_place_panels; p < panels; p += kernels.panels_per_pack) {
        const std::int64_t col = col_begin + p * panel_cols;
        kernels.pack_b({.data = at(x.data, (k0 * x.row_stride + col) * element_bytes),
                        .stride = x.row_stride,
                        .rows = k,
                        .cols = std::min(kernels.panels_per_pack * panel_cols, col_end - col)},
                       steps * kernels.step, packed_b + p * panel_bytes);
      }
      const std::byte* dy_block = at(dy.data, (k0 * dy.row_stride + row_begin) * element_bytes);
      for (std::int64_t row = row_begin; row < row_end; row += tile_rows) {
        const std::int64_t packed = (row - row_begin) % pack_rows;
        if (packed == 0) {
          kernels.pack_a({.data = dy_block + (row - row_begin) * element_bytes,
                          .stride = dy.row_stride,
                          .rows = k,
                          .cols = std::min(pack_rows, row_end - row)},
                         steps * kernels.step, packed_a);
        }
        MatmulTile tile{.a = at(packed_a, packed / tile_rows * packed_tile_bytes(steps)),
                        .a_row_stride = kernels.packed_a_row_stride,
                        .a_step_stride = kernels.packed_a_step_stride,
                        .steps = steps,
                        .rows = std::min(tile_rows, row_end - row),
                        .add = accumulate || piece > 0};
        // What is packed next, a share of its rows per call until then.
        const std::int64_t pack_row = row - packed;
        const std::int64_t calls = ceil_divide(std::min(pack_rows, row_end - pack_row), tile_rows) * panels;
        const bool next_piece = pack_row + pack_rows >= row_end;
        const std::int64_t fetch_row = next_piece ? row_begin : pack_row + pack_rows;
        const std::int64_t fetch_k0 = next_piece ? k0 + k : k0;
        const std::int64_t fetch_k = std::min(k, tokens - fetch_k0);
        for (std::int64_t p = 0; p < panels; ++p) {
          const std::int64_t col = col_begin + p * panel_cols;
          const std::int64_t cols = std::min(panel_cols, col_end - col);
          float* c = dw + row * x.cols + col;
          const bool in_place_panel = p < in_place_panels;
          tile.b = in_place_panel ? at(x.data, (k0 * x.row_stride + col) * element_bytes) : packed_b + p * panel_bytes;
          tile.b_step_stride = in_place_panel ? x.row_stride : 0;
          tile.half = 2 * cols <= panel_cols;
          if (kernels.fetches) {
            const std::int64_t call = packed / tile_rows * panels + p;
            const std::int64_t first = fetch_k * call / calls;
            tile.fetch_a = internal::fetch_block(
                at(dy.data, ((fetch_k0 + first) * dy.row_stride + fetch_row) * element_bytes), dy.row_stride * element_bytes,
                fetch_k * (call + 1) / calls - first, std::min(pack_rows, row_end - fetch_row) * element_bytes);
            tile.fetch_c = p + 1 < panels
                               ? internal::fetch_block(c + panel_cols, x.cols * 4, tile.rows,
                                                       std::min(panel_cols, col_end - col - panel_cols) * 4)
                               : internal::fetch_block(dw + (row + tile.rows) * x.cols + col_begin, x.cols * 4,
                                                       std::min(tile_rows, row_end - row - tile.rows), panel_cols * 4);
          }
          if (cols == panel_cols) {
            tile.c = c;
            tile.c_stride = x.cols;
            kernels.tile(tile);
            continue;
          }
          tile.c = edge;
          tile.c_stride = panel_cols;
          if (tile.add) {
            for (std::int64_t r = 0; r < tile.rows; ++r) std::copy_n(c + r * x.cols, cols, edge + r * panel_cols);
          }
          kernels.tile(tile);
          matmul.store(
              {.tile = edge, .tile_stride = panel_cols, .rows = tile.rows, .cols = cols, .out = c, .out_stride = x.cols});
        }
      }
      if (sums_bias) {  // last, when dy's block is in cache
        kernels.column_sums({.data = dy_block, .stride = dy.row_stride, .rows = k, .cols = row_end - row_begin},
                            dbias + row_begin);
      }
    }
  };

  // Each member takes an equal share of the tiles' rows, counted down the first block of columns, then the next: then its
  // panels are packed once for all its rows. (Handing tiles out one by one would pack them again for each.)
  const std::int64_t items = blocking.row_tiles * blocking.col_blocks;
  const std::int64_t last = items * (exec.member.index() + 1) / exec.member.count();
  std::int64_t item = items * exec.member.index() / exec.member.count();
  matmul.begin();
  while (item < last) {
    const std::int64_t first_tile = item % blocking.row_tiles;
    const std::int64_t left = std::min(last - item, blocking.row_tiles - first_tile);
    const std::int64_t tiles = internal::even_share(left, blocking.tiles_per_strip);
    strip(first_tile * tile_rows, std::min(dy.cols, (first_tile + tiles) * tile_rows), item / blocking.row_tiles);
    item += tiles;
  }
  matmul.end();
  exec.member.barrier();
}

}  // namespace quern
