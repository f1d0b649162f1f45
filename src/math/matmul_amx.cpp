// bf16 products on AMX tiles (TDPBF16PS: 16 x 16 sums, 32 products each). f32 products are AVX-512's, packs those of
// VDPBF16PS: a tile of B is sixteen pairs of rows of a panel's half, read with the panel's stride.

// False alarms inside GCC 12's intrinsics.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "math/matmul_kernels.hpp"

// In this order: the kernels are written over Lanes.
#include "math/matmul_lanes_avx512-inl.hpp"
//
#include "math/matmul_tile-inl.hpp"
//
#include "math/matmul_pairs_avx512-inl.hpp"

namespace quern {
namespace {

constexpr std::int64_t kStep = 32;  // bf16 per tile row: 64 bytes
constexpr std::int64_t kTile = 16;  // rows of a tile, and f32 columns of one
constexpr std::int64_t kRows = 32;  // 2 x 2 tiles of C: four loads for four products, and it takes all eight registers
constexpr std::int64_t kBRowBytes = kPairPanel * 4;
constexpr std::int64_t kBStepBytes = kTile * kBRowBytes;

/// Registers: 0..3 C (row tile, column tile) = (0,0) (0,1) (1,0) (1,1); 4, 5 A; 6, 7 B.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

constexpr TileConfig make_config(std::int64_t upper_rows, std::int64_t lower_rows) {
  TileConfig config;
  config.rows[0] = config.rows[1] = config.rows[4] = static_cast<std::uint8_t>(upper_rows);
  config.rows[2] = config.rows[3] = config.rows[5] = static_cast<std::uint8_t>(lower_rows);
  return config;
}

constexpr TileConfig kFullTiles = make_config(kTile, kTile);

// The compiler does not know that tile instructions read and write memory.
inline void memory_fence() { asm volatile("" ::: "memory"); }

void begin() { _tile_loadconfig(&kFullTiles); }
void end() { _tile_release(); }

/// How far ahead the panel is fetched from second- into first-level cache; two is no better, four is worse.
constexpr std::int64_t kAhead = 1;
/// Eight cache lines into first-level cache.
inline void prefetch_lines(const char* p) {
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) _mm_prefetch(p + 64 * i, _MM_HINT_T0);
}

/// Side work for one of `steps` steps. Matrix products run by themselves for some 16 cycles each: what vector units do
/// between them costs little, what they do after a tile is waited for.
inline std::int64_t side_work_per_step(const MatmulTile& t) {
  return t.side == nullptr || t.steps == 0 ? 0 : (t.side->end - t.side->next + t.steps - 1) / t.steps;
}
inline void do_side_work(SideWork* side, std::int64_t slices) {
  for (; slices > 0 && side->next < side->end; --slices) side->run(side->context, side->next++);
}

/// Rows 17 .. 32.
void tile_2x2(const MatmulTile& t) {
  const std::int64_t slices = side_work_per_step(t);
  const std::int64_t c_bytes = t.c_stride * 4;
  float* lower = t.c + kTile * t.c_stride;
  if (t.add) {
    _tile_loadd(0, t.c, c_bytes);
    _tile_loadd(1, t.c + kTile, c_bytes);
    _tile_loadd(2, lower, c_bytes);
    _tile_loadd(3, lower + kTile, c_bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  const std::int64_t a_bytes = t.a_row_stride * 2;
  const std::int64_t a_step_bytes = t.a_step_stride * 2;
  const char* a = static_cast<const char*>(t.a);
  const char* b = static_cast<const char*>(t.b);
  for (std::int64_t s = 0; s < t.steps; ++s) {
    const char* ahead = b + kAhead * kBStepBytes;
    _tile_loadd(6, b, kBRowBytes);
    prefetch_lines(ahead);
    _tile_loadd(4, a, a_bytes);
    _tile_dpbf16ps(0, 4, 6);
    prefetch_lines(ahead + 512);
    _tile_loadd(7, b + 64, kBRowBytes);
    _tile_dpbf16ps(1, 4, 7);
    prefetch_lines(ahead + 1024);
    _tile_loadd(5, a + kTile * a_bytes, a_bytes);
    _tile_dpbf16ps(2, 5, 6);
    prefetch_lines(ahead + 1536);
    _tile_dpbf16ps(3, 5, 7);
    a += a_step_bytes;
    b += kBStepBytes;
    do_side_work(t.side, slices);
  }
  _tile_stored(0, t.c, c_bytes);
  _tile_stored(1, t.c + kTile, c_bytes);
  _tile_stored(2, lower, c_bytes);
  _tile_stored(3, lower + kTile, c_bytes);
}

/// Rows 1 .. 16.
void tile_1x2(const MatmulTile& t) {
  const std::int64_t c_bytes = t.c_stride * 4;
  if (t.add) {
    _tile_loadd(0, t.c, c_bytes);
    _tile_loadd(1, t.c + kTile, c_bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
  }
  const char* a = static_cast<const char*>(t.a);
  const char* b = static_cast<const char*>(t.b);
  for (std::int64_t s = 0; s < t.steps; ++s) {
    _tile_loadd(4, a, t.a_row_stride * 2);
    _tile_loadd(6, b, kBRowBytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b + 64, kBRowBytes);
    _tile_dpbf16ps(1, 4, 7);
    a += t.a_step_stride * 2;
    b += kBStepBytes;
  }
  _tile_stored(0, t.c, c_bytes);
  _tile_stored(1, t.c + kTile, c_bytes);
}

/// Tiles of fewer rows are configured as such, so that no row past the last is read, computed or written.
void amx_tile(const MatmulTile& t) {
  memory_fence();
  if (t.rows == kRows) {
    tile_2x2(t);
  } else {
    const TileConfig edge = t.rows > kTile ? make_config(kTile, t.rows - kTile) : make_config(t.rows, t.rows);
    _tile_loadconfig(&edge);
    if (t.rows > kTile) {
      tile_2x2(t);
    } else {
      tile_1x2(t);
    }
    _tile_loadconfig(&kFullTiles);
  }
  memory_fence();
}

/// [k, cols <= 32] transposed into [padded_k / 32][32 rows][32]: tiles of A.
void pack_a(const MatmulBlock& source, std::int64_t padded_k, void* out) {
  auto* to = static_cast<std::uint16_t*>(out);
  const __mmask32 cols = low_bits32(source.cols);
  for (std::int64_t k = 0; k < padded_k; k += kStep, to += kRows * kStep) {
    __m512i upper[16];
    __m512i lower[16];
    for (int p = 0; p < 16; ++p) {
      const RowPair pair = interleave(load_row(source, k + 2 * p, cols), load_row(source, k + 2 * p + 1, cols));
      upper[p] = pair.low;
      lower[p] = pair.high;
    }
    transpose16(upper);
    for (int i = 0; i < 16; ++i) _mm512_storeu_si512(to + i * kStep, upper[i]);
    if (source.cols > kTile) {
      transpose16(lower);
      for (int i = 0; i < 16; ++i) _mm512_storeu_si512(to + (kTile + i) * kStep, lower[i]);
    }
  }
}

constexpr double kTileFlops = 2.0 * kTile * kTile * kStep;

double register_loop(std::int64_t iterations) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (std::int64_t n = 0; n < iterations; ++n) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  return static_cast<double>(iterations) * 32.0 * kTileFlops;
}

/// Four steps of 2 x 2 tiles over 8 KiB of A and 8 KiB of B.
double l1_loop(std::int64_t iterations, void* l1) {
  memory_fence();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (std::int64_t n = 0; n < iterations; ++n) {
    const char* a = static_cast<const char*>(l1);
    const char* b = a + 8192;
    for (int s = 0; s < 4; ++s, a += 2048, b += 2048) {
      _tile_loadd(6, b, kBRowBytes);
      _tile_loadd(4, a, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, b + 64, kBRowBytes);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, a + 1024, 64);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  return static_cast<double>(iterations) * 16.0 * kTileFlops;
}

constexpr MatmulKernels make_kernels() {
  MatmulKernels kernels;
  kernels.name = "amx";
  kernels.f32 = f32_operand_products<float, false, 14, 2>();  // as in matmul_avx512.cpp
  kernels.b16 = pair_operand_packs();
  kernels.store = store;
  kernels.begin = begin;
  kernels.end = end;
  ProductKernels& p = kernels.b16;
  p.tile_rows = kRows;
  p.step = kStep;
  p.packed_a_row_stride = kStep;
  p.packed_a_step_stride = kRows * kStep;
  p.tile = amx_tile;
  p.interleaves = true;
  p.pack_a = pack_a;
  p.register_loop = register_loop;
  p.l1_loop = l1_loop;
  return kernels;
}

}  // namespace

const MatmulKernels* matmul_kernels_amx() {
  static constexpr MatmulKernels kKernels = make_kernels();
  return &kKernels;
}

}  // namespace quern
