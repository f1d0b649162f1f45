// C = A B, task by task: walks each task's blocks and handles every edge, so that kernels see whole steps and whole panels.
//
// Within a task the reduction runs in pieces (blocking.depth). For each piece, each tile of A (first-level cache) meets
// every panel of the task's columns (streamed from second-level cache). Sums of unfinished tiles wait in f32, in the output
// itself where that is what will be stored, else in scratch; so cutting the reduction does not change a bit.
#include "math/matmul_product_internal.hpp"

#include <algorithm>
#include <cassert>

#include "math/aligned_buffer.hpp"
#include "math/block_formats.hpp"
#include "math/block_interleave.hpp"
#include "math/matmul_blocking.hpp"
#include "math/matmul_fetch_internal.hpp"
#include "math/matmul_front_internal.hpp"
#include "math/matmul_plain_internal.hpp"

namespace quern::internal {
namespace {

/// Copied tiles of A have rows this many bytes longer than needed, so that rows do not share cache sets.
constexpr std::int64_t kRowPadBytes = 64;

/// Rows of sums that wait for the next piece of the reduction are this many floats longer than needed, for the same reason.
constexpr std::int64_t kSumPad = 16;

/// Packs the piece [k0, k0 + k) of columns [col, col + cols) of a plain weight.
void pack_plain(const Backend& backend, const ProductKernels& kernels, const RightSide& b, std::int64_t k0, std::int64_t k,
                std::int64_t col, std::int64_t cols, float* widened, void* panel) {
  const Weight& w = *b.weight;
  const std::int64_t first_row = b.transposed ? col : k0;
  const std::int64_t first_col = b.transposed ? k0 : col;
  MatmulBlock block{.data = nullptr, .stride = w.cols, .rows = b.transposed ? cols : k, .cols = b.transposed ? k : cols};
  const void* data = b.pack();
  const BlockKernels& blocks = *backend.kernels->blocks;
  const auto decode_panel = kernels.operand == ElementType::bf16 ? blocks.decode_pairs : blocks.decode_floats;
  if (b.transposed && decode_panel != nullptr && blocks.has_dot(w.type)) {
    const BlockFormat& format = block_format(w.type);
    const std::int64_t stride = w.cols / format.block_elements * format.block_bytes;
    const bool interleaved = w.layout == WeightLayout::interleaved;
    const std::int64_t before =
        (interleaved ? blocks.interleave_rows : 1) * (k0 / format.block_elements * format.block_bytes);
    decode_panel({.type = w.type,
                  .weight = at(data, col * stride + before),
                  .row_bytes = static_cast<std::size_t>(stride),
                  .rows = cols,
                  .cols = k,
                  .interleaved = interleaved,
                  .panel = static_cast<std::byte*>(panel)});
    return;
  }
  assert(w.layout == WeightLayout::plain);
  if (w.type == ElementType::f32) {
    block.data = static_cast<const float*>(data) + first_row * w.cols + first_col;
  } else {
    decode_part(backend, w.type, data, w.cols, {.row = first_row, .rows = block.rows, .col = first_col, .cols = block.cols},
                widened);
    block.data = widened;
    block.stride = block.cols;
  }
  (b.transposed ? kernels.pack_weight_transposed : kernels.pack_weight_rows)(block, round_up(k, kernels.step), panel);
}

/// Whether tiles of A are better copied than read in place: rows whose starts share cache sets, or (matrix tiles) that
/// straddle cache lines, when the tile is read often enough to pay.
bool worth_copying(const ProductKernels& kernels, const ConstMatrix& a, std::int64_t panels) {
  if (panels < 4) return false;
  const std::int64_t bytes = operand_bytes(kernels.operand);
  const bool shares_sets = (a.row_stride * bytes) % (kernels.fetches ? 4096 : 2048) == 0;
  const bool straddles =
      kernels.step * bytes == 64 && ((a.row_stride * bytes) % 64 != 0 || reinterpret_cast<std::uintptr_t>(a.data) % 64 != 0);
  return shares_sets || straddles;
}

/// A tile of A, f32 rows [rows, k], as bf16 with zeros up to padded_k.
void narrow_rows(const MatmulKernels& matmul, const MatmulBlock& source, std::int64_t padded_k, void* out,
                 std::int64_t out_stride) {
  matmul.store({.tile = static_cast<const float*>(source.data),
                .tile_stride = source.stride,
                .rows = source.rows,
                .cols = source.cols,
                .out = out,
                .out_stride = out_stride,
                .out_type = ElementType::bf16});
  for (std::int64_t r = 0; r < source.rows; ++r) {
    bf16* row = static_cast<bf16*>(out) + r * out_stride;
    std::fill(row + source.cols, row + padded_k, bf16{0});
  }
}

/// Part of a packed weight: k elements of `panels` panels, the first of which starts at `panel`.
struct NextPanels {
  const std::byte* panel = nullptr;
  std::int64_t panels = 0;
  std::int64_t k = 0;
};

}  // namespace

std::int64_t product_scratch_bytes(const ProductKernels& kernels, std::int64_t n, std::int64_t task_rows) {
  const std::int64_t bytes = operand_bytes(kernels.operand);
  const std::int64_t depth =
      round_up(std::min(n, std::max({kernels.max_whole_depth, kernels.max_decoded_depth, max_gradient_depth(kernels)})),
               kernels.step);
  const std::int64_t cols = round_up(n, kernels.panel_cols);
  const std::int64_t panel_bytes = depth * kernels.panel_cols * bytes;
  const std::int64_t pack_bytes =
      kernels.tiles_per_pack * (depth / kernels.step * kernels.packed_a_step_stride + kernels.packed_a_gap) * bytes;
  const std::int64_t a = std::max(pack_bytes, kernels.tile_rows * (depth * bytes + kRowPadBytes));
  const std::int64_t b = std::max(panel_bytes, std::min(kernels.max_b_bytes, depth * cols * bytes));
  const std::int64_t widened = panel_bytes * 4 / bytes;
  const std::int64_t tile = kernels.tile_rows * kernels.panel_cols * 4;
  const std::int64_t sum_rows = round_up(n, kernels.tile_rows);
  const std::int64_t sums =
      std::max(tile, std::min(kMaxDecodedSumBytes, sum_rows * cols * 4) + std::min(sum_rows, task_rows) * kSumPad * 4);
  return a + b + widened + sums + tile + 5 * static_cast<std::int64_t>(kBufferAlignment);
}

std::int64_t narrowed_row_elements(const ProductKernels& kernels, std::int64_t k) {
  return round_up(k, kernels.step) + kRowPadBytes / operand_bytes(kernels.operand);
}

void product(Exec& exec, ComputeType compute, const ConstMatrix& a, const RightSide& b, const MutableMatrix& out,
             const Epilogue& epilogue) {
  const MatmulKernels& matmul = *exec.backend.kernels->matmul;
  const ProductKernels& kernels = product_kernels(exec.backend, compute);
  const std::int64_t k_total = a.cols;
  // A plain weight's pieces of the reduction are whole blocks.
  const bool plain = b.weight->layout != WeightLayout::packed;
  const std::int64_t depth_unit = !plain || !b.transposed ? 1
                                  : b.weight->layout == WeightLayout::interleaved
                                      ? kInterleavedColumns
                                      : block_format(b.weight->type).block_elements;
  const std::int64_t panel_cols = kernels.panel_cols;
  const std::int64_t bytes = operand_bytes(kernels.operand);
  const std::int64_t a_bytes = operand_bytes(a.type);
  const std::int64_t out_bytes = operand_bytes(out.type);
  const bool converts = a.type != kernels.operand;
  const bool narrows = a.type == ElementType::f32 && kernels.operand == ElementType::bf16;
  const bool copies = converts || worth_copying(kernels, a, ceil_divide(out.cols, panel_cols));
  const Blocking blocking = choose_blocking(
      kernels, out.rows, out.cols, k_total,
      {.depth_unit = depth_unit, .packed_b = !plain, .copied_a = copies, .block_rows = exec.backend.blocks.block_rows},
      exec.member.count() > 1);
  const std::int64_t block_cols = blocking.panels_per_block * panel_cols;

  ScratchCutter scratch(exec.scratch);
  const bool keeps_sums = blocking.depths > 1;
  const std::int64_t sum_stride = keeps_sums ? block_cols + kSumPad : panel_cols;
  auto* sums = reinterpret_cast<float*>(
      scratch.take(4 * (keeps_sums ? blocking.tiles_per_block : 1) * kernels.tile_rows * sum_stride));
  const std::int64_t copy_stride = blocking.depth + kRowPadBytes / bytes;
  void* copied_a = scratch.take(kernels.tile_rows * copy_stride * bytes);
  void* packed_b = plain ? scratch.take(block_cols * blocking.depth * bytes) : nullptr;
  auto* widened = plain ? reinterpret_cast<float*>(scratch.take(blocking.depth * panel_cols * 4)) : nullptr;

  const TileFinisher finish(exec.backend, out, epilogue);
  const bool in_place = finish.trivial();
  const std::int64_t padded_k = round_up(k_total, kernels.step);

  // Rows that many blocks of columns read are narrowed once, where scratch has room for them.
  const std::int64_t narrowed_stride = narrowed_row_elements(kernels, k_total);
  const std::int64_t narrowed_bytes = blocking.tiles_per_block * kernels.tile_rows * narrowed_stride * bytes;
  std::byte* const narrowed =
      narrows && blocking.col_blocks > 1 && scratch.holds(narrowed_bytes) ? scratch.take(narrowed_bytes) : nullptr;
  std::int64_t narrowed_row = -1;  // the first of those that are there

  // What this thread reads after a piece of a task, as far as it can know: threads take about as many tasks in turns.
  const auto next_panels = [&](std::int64_t task, std::int64_t piece) -> NextPanels {
    const std::int64_t next_task = piece + 1 < blocking.depths ? task : task + exec.member.count();
    if (next_task >= blocking.tasks()) return {};
    const std::int64_t next_k0 = piece + 1 < blocking.depths ? (piece + 1) * blocking.depth : 0;
    const std::int64_t first = next_task / blocking.row_blocks * blocking.panels_per_block;
    return {.panel = at(b.pack(), (first * padded_k + next_k0) * panel_cols * bytes),
            .panels = std::min(blocking.panels_per_block, ceil_divide(out.cols, panel_cols) - first),
            .k = std::min(blocking.depth, k_total - next_k0)};
  };

  exec.member.for_each(blocking.tasks(), [&](std::int64_t task) {
    const std::int64_t row_begin = (task % blocking.row_blocks) * blocking.tiles_per_block * kernels.tile_rows;
    const std::int64_t row_end = std::min(out.rows, row_begin + blocking.tiles_per_block * kernels.tile_rows);
    const std::int64_t col_begin = (task / blocking.row_blocks) * block_cols;
    const std::int64_t col_end = std::min(out.cols, col_begin + block_cols);
    const std::int64_t panels = ceil_divide(col_end - col_begin, panel_cols);
    const std::int64_t row_tiles = ceil_divide(row_end - row_begin, kernels.tile_rows);
    if (narrowed != nullptr && narrowed_row != row_begin) {
      narrow_rows(matmul,
                  {.data = at(a.data, row_begin * a.row_stride * a_bytes),
                   .stride = a.row_stride,
                   .rows = row_end - row_begin,
                   .cols = k_total},
                  padded_k, narrowed, narrowed_stride);
      narrowed_row = row_begin;
    }
    matmul.begin();
    for (std::int64_t piece = 0; piece < blocking.depths; ++piece) {
      const std::int64_t k0 = piece * blocking.depth;
      const std::int64_t k = std::min(blocking.depth, k_total - k0);
      const std::int64_t steps = ceil_divide(k, kernels.step);
      const std::byte* panel = nullptr;
      std::int64_t panel_bytes = 0;
      if (plain) {
        panel_bytes = blocking.depth * panel_cols * bytes;
        for (std::int64_t p = 0; p < panels; ++p) {
          const std::int64_t col = col_begin + p * panel_cols;
          pack_plain(exec.backend, kernels, b, k0, k, col, std::min(panel_cols, col_end - col), widened,
                     at(packed_b, p * panel_bytes));
        }
        panel = at(static_cast<const void*>(packed_b), 0);
      } else {
        panel_bytes = padded_k * panel_cols * bytes;
        panel = at(b.pack(), (col_begin / panel_cols) * panel_bytes + k0 * panel_cols * bytes);
      }
      // (With one tile of rows there is no pass that memory would otherwise rest in.)
      const NextPanels next = plain || row_tiles < 2 ? NextPanels{} : next_panels(task, piece);
      for (std::int64_t row = row_begin; row < row_end; row += kernels.tile_rows) {
        MatmulTile tile{.steps = steps, .rows = std::min(kernels.tile_rows, row_end - row), .add = piece > 0};
        const void* a_rows = at(a.data, (row * a.row_stride + k0) * a_bytes);
        if (narrowed != nullptr) {
          tile.a = at(static_cast<const void*>(narrowed), ((row - row_begin) * narrowed_stride + k0) * bytes);
          tile.a_row_stride = narrowed_stride;
        } else if (copies || k % kernels.step != 0) {
          const MatmulBlock source{.data = a_rows, .stride = a.row_stride, .rows = tile.rows, .cols = k};
          if (narrows) {
            narrow_rows(matmul, source, steps * kernels.step, copied_a, copy_stride);
          } else {
            kernels.copy_a(source, steps * kernels.step, copied_a, copy_stride);
          }
          tile.a = copied_a;
          tile.a_row_stride = copy_stride;
        } else {
          tile.a = a_rows;
          tile.a_row_stride = a.row_stride;
        }
        tile.a_step_stride = kernels.step;
        const std::int64_t next_rows = std::min(kernels.tile_rows, row_end - row - tile.rows);
        for (std::int64_t p = 0; p < panels; ++p) {
          const std::int64_t col = col_begin + p * panel_cols;
          const std::int64_t cols = std::min(panel_cols, col_end - col);
          const bool direct = in_place && cols == panel_cols;
          if (direct) {
            tile.c = static_cast<float*>(out.data) + row * out.row_stride + col;
            tile.c_stride = out.row_stride;
          } else {
            tile.c = sums + (keeps_sums ? (row - row_begin) * sum_stride + p * panel_cols : 0);
            tile.c_stride = sum_stride;
          }
          tile.b = panel + p * panel_bytes;
          tile.half = 2 * cols <= panel_cols;
          if (kernels.fetches) {
            // The next tile of A; the next piece of B, a share per tile; and the next call's C.
            const auto out_tile = [&](std::int64_t tile_row, std::int64_t tile_col, std::int64_t rows) {
              return fetch_block(at(static_cast<const void*>(out.data), (tile_row * out.row_stride + tile_col) * out_bytes),
                                 out.row_stride * out_bytes, rows, std::min(panel_cols, col_end - tile_col) * out_bytes);
            };
            tile.fetch_a = fetch_columns(at(a_rows, tile.rows * a.row_stride * a_bytes), a.row_stride * a_bytes, next_rows,
                                         k * a_bytes, p, panels);
            if (in_place || piece + 1 == blocking.depths) {
              tile.fetch_c = p + 1 < panels ? out_tile(row, col + panel_cols, tile.rows)
                                            : out_tile(row + tile.rows, col_begin, next_rows);
            }
          }
          if (kernels.fetches_stores && piece + 1 == blocking.depths) {
            tile.fetch_in = finish.reads(row, tile.rows, col, cols);
            tile.fetch_out = finish.writes(row, tile.rows, col, cols);
          }
          if (p < next.panels) {
            tile.fetch_b = fetch_run(at(next.panel, p * panel_bytes), next.k * panel_cols * bytes,
                                     (row - row_begin) / kernels.tile_rows, row_tiles);
          } else {
            tile.fetch_b = {};
          }
          kernels.tile(tile);
          if (!direct && piece + 1 == blocking.depths) {
            finish(tile.c, tile.c_stride, row, tile.rows, col, cols);
          }
        }
      }
    }
    matmul.end();
  });
}

}  // namespace quern::internal
