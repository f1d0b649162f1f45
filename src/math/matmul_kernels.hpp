// Matrix-product kernels: the table that each instruction set fills. Plain data only: instruction-set files include this
// header. The front (matmul*.cpp) partitions the work, chooses blocks and handles edges; kernels see whole steps and panels.
//
// A product C = A B is cut into tiles of at most tile_rows rows by one panel of panel_cols columns. The reduction runs in
// steps of `step` elements. An element of C is one chain of f32 additions (one per step, in order), so its bits depend on
// neither the tile it lies in nor where the chain is cut and stored in between.
//
// A panel holds element (k, j) of B at ((k / pair) * panel_cols + j) * pair + k % pair, where pair is 2 for operands of type
// bf16 and 1 for f32; k is padded with zeros to whole steps, j to panel_cols.
#pragma once

#include <cstddef>
#include <cstdint>

#include "math/element_type.hpp"

namespace quern {

/// Cache lines that a call fetches for later calls: `rows` rows of `lines` lines each, `stride` bytes apart.
struct MatmulFetch {
  const void* data = nullptr;
  std::int64_t stride = 0;
  std::int64_t rows = 0;
  std::int64_t lines = 0;
};

/// One tile: C [rows, panel_cols] = A [rows, steps * step] B, or += where `add`.
struct MatmulTile {
  const void* a = nullptr;         ///< operand type
  std::int64_t a_row_stride = 0;   ///< elements from a row to the next
  std::int64_t a_step_stride = 0;  ///< elements from a step to the next; inside a step elements are contiguous
  const void* b = nullptr;         ///< the panel, at the first step
  std::int64_t b_step_stride = 0;  ///< elements from a step to the next; 0: those of a panel follow each other
  std::int64_t steps = 0;          ///< 0: C = 0, or unchanged where `add`
  float* c = nullptr;              ///< all panel_cols columns of each row are written
  std::int64_t c_stride = 0;
  std::int64_t rows = 0;  ///< 1 .. tile_rows
  bool add = false;
  bool half = false;  ///< only the panel's first half matters: the rest of C need not be written
  /// Fetched a row at a time, spread over the steps: many at once would keep the tile's own loads waiting.
  MatmulFetch fetch_c = {};    ///< into first-level cache, to be written
  MatmulFetch fetch_a = {};    ///< into second-level cache
  MatmulFetch fetch_b = {};    ///< into second-level cache, or not at all
  MatmulFetch fetch_in = {};   ///< into second-level cache: what storing the finished tile will read,
  MatmulFetch fetch_out = {};  ///< and what it will write
};

/// Writes out = tile + bias + residual (each of the latter two only where given) in f32 or, rounded to nearest even, in
/// bf16.
struct MatmulStore {
  const float* tile = nullptr;
  std::int64_t tile_stride = 0;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  const float* bias = nullptr;
  const float* residual = nullptr;  ///< may be `out`
  std::int64_t residual_stride = 0;
  void* out = nullptr;  ///< may be `tile` where out_type is f32
  std::int64_t out_stride = 0;
  ElementType out_type = ElementType::f32;
};

/// A strided block to be packed or converted.
struct MatmulBlock {
  const void* data = nullptr;
  std::int64_t stride = 0;  ///< elements from a row to the next
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  bool stream = false;  ///< packs of weights: may be written past the caches, for they are not read soon
};

/// Products of one compute type. "Activations" below are of that type (float or bf16); the operand type is what the tile
/// kernel reads, which is f32 where the instruction set has no bf16 products.
struct ProductKernels {
  ElementType operand = ElementType::f32;
  std::int64_t tile_rows = 0;
  std::int64_t panel_cols = 0;
  std::int64_t step = 0;
  std::int64_t packed_a_row_stride = 0;  ///< how pack_a lays a tile out
  std::int64_t packed_a_step_stride = 0;
  std::int64_t packed_a_gap = 0;  ///< elements between two tiles of a pack

  void (*tile)(const MatmulTile& tile) = nullptr;
  bool strides_b = false;       ///< `tile` knows b_step_stride, so that panels of activations need no packing
  bool fetches = false;         ///< `tile` does what fetch_a and fetch_c say
  bool fetches_stores = false;  ///< `tile` does what fetch_in and fetch_out say
  /// Most bytes of B that a task reads again for each of its tiles of A: a quarter of a 2 MiB second-level cache. Where more
  /// pays, it is because A is then read fewer times. Re-measure with matmul_bench.
  std::int64_t max_b_bytes = 512 * 1024;
  /// The same where B lies packed and `tile` fetches the next task's from memory (fetch_b): the less, the more evenly that
  /// is spread over the tiles, and the more room is left for what A and C need. 0: max_b_bytes.
  std::int64_t max_fetched_b_bytes = 0;
  /// Reductions up to max_whole_depth are not cut, longer ones into pieces of at most max_depth: of a tile of A (32 rows of
  /// bf16 or 14 of f32), a panel streaming past it and the tile's sums, first-level cache (48 KiB) should keep the first.
  std::int64_t max_whole_depth = 384;
  std::int64_t max_depth = 384;
  /// The same where B must be decoded first: its blocks of many rows go through their sums once per piece. 0: as above.
  std::int64_t max_decoded_depth = 0;
  /// dW: the longest piece of the reduction, and most bytes of sums that are gone through before the next piece; 0: what
  /// matmul_blocking.hpp says.
  std::int64_t max_gradient_depth = 0;
  std::int64_t max_gradient_bytes = 0;

  /// Weights, f32 (rounded to bf16 first where that is the compute type), into one panel of `padded_k` >= k elements depth,
  /// aligned to 64 bytes.
  /// pack_weight_rows: source [k, cols <= panel_cols]. pack_weight_transposed: source [cols, k].
  void (*pack_weight_rows)(const MatmulBlock& source, std::int64_t padded_k, void* panel) = nullptr;
  void (*pack_weight_transposed)(const MatmulBlock& source, std::int64_t padded_k, void* panel) = nullptr;
  /// Activations [k, cols <= panels_per_pack * panel_cols] into panels of padded_k rows that follow each other.
  void (*pack_b)(const MatmulBlock& source, std::int64_t padded_k, void* panels) = nullptr;
  std::int64_t panels_per_pack = 1;
  /// Activations [k, cols <= tiles_per_pack * tile_rows] transposed into tiles of A, packed_a_gap apart: row i of a tile is
  /// column i of its part of the source. Rows past cols are undefined; k is padded with zeros.
  void (*pack_a)(const MatmulBlock& source, std::int64_t padded_k, void* tiles) = nullptr;
  /// Several tiles at once read more of each row, and a row of a wide matrix is a page of its own.
  std::int64_t tiles_per_pack = 1;
  /// Activations [rows, cols] to operand type, row-major with `out_stride` >= padded_cols; columns cols .. padded_cols are
  /// 0.
  void (*copy_a)(const MatmulBlock& source, std::int64_t padded_cols, void* out, std::int64_t out_stride) = nullptr;
  /// sums[j] += sum of column j of the activations [rows, cols]; the block is summed in row order, then added.
  void (*column_sums)(const MatmulBlock& source, float* sums) = nullptr;

  /// Runs register-only multiply-adds at full throughput; returns the floating-point operations done (about `iterations`
  /// times some thousands). Between begin() and end().
  double (*register_loop)(std::int64_t iterations) = nullptr;
  /// The same with tiles fed from a block of 16 KiB (l1), in the pattern of `tile`; null where there are no matrix tiles.
  double (*l1_loop)(std::int64_t iterations, void* l1) = nullptr;
};

/// Matrix products of one instruction set.
struct MatmulKernels {
  const char* name = nullptr;
  ProductKernels f32;
  ProductKernels b16;
  void (*store)(const MatmulStore& store) = nullptr;
  /// As ProductKernels::l1_loop, with tiles of 8-bit integers; null where there are none.
  double (*int8_l1_loop)(std::int64_t iterations, void* l1) = nullptr;
  /// Bracket each task (a sequence of calls on one thread): load and release the tile configuration where there is one.
  void (*begin)() = nullptr;
  void (*end)() = nullptr;
};

/// Tables by instruction set; null where this build lacks the path. Only dispatch.cpp and tests call these.
const MatmulKernels* matmul_kernels_portable();
const MatmulKernels* matmul_kernels_avx2();
const MatmulKernels* matmul_kernels_avx512();
const MatmulKernels* matmul_kernels_avx512_vnni();
const MatmulKernels* matmul_kernels_amx();

}  // namespace quern
