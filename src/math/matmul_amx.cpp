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

/// Spreads a fetch into second-level cache over a tile's steps.
class Fetcher {
 public:
  Fetcher(const MatmulFetch& fetch, std::int64_t steps)
      : row_(static_cast<const char*>(fetch.data)),
        stride_(fetch.stride),
        left_(fetch.rows),
        lines_(fetch.lines),
        per_step_(steps > 0 ? (fetch.rows + steps - 1) / steps : 0) {}
  void step() {
    for (std::int64_t i = 0; i < per_step_ && left_ > 0; ++i, --left_, row_ += stride_) {
      for (std::int64_t line = 0; line < lines_; ++line) _mm_prefetch(row_ + 64 * line, _MM_HINT_T1);
    }
  }

 private:
  const char* row_;
  std::int64_t stride_, left_, lines_, per_step_;
};

/// How far ahead a panel is fetched from second- into first-level cache; two is no better, four is worse.
constexpr std::int64_t kAhead = 1;
/// Eight cache lines into first-level cache.
inline void prefetch_lines(const char* p) {
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) _mm_prefetch(p + 64 * i, _MM_HINT_T0);
}

/// Rows 17 .. 32. A fetch too many costs 4 %, even if it is empty; so there are forms with and without `fetch_out`.
template <bool kFetchesOut>
void tile_2x2(const MatmulTile& t) {
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
  Fetcher stored(kFetchesOut || t.fetch_in.rows > 0 ? t.fetch_in : t.fetch_out, t.steps);
  Fetcher next_b(t.fetch_b, t.steps);
  Fetcher out(t.fetch_out, t.steps);
  for (std::int64_t s = 0; s < t.steps; ++s) {
    const char* ahead = b + kAhead * kBStepBytes;
    _tile_loadd(6, b, kBRowBytes);
    stored.step();
    if constexpr (kFetchesOut) out.step();
    next_b.step();
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
  const bool fetches_out = t.fetch_in.rows > 0 && t.fetch_out.rows > 0;
  if (t.rows == kRows) {
    fetches_out ? tile_2x2<true>(t) : tile_2x2<false>(t);
  } else {
    const TileConfig edge = t.rows > kTile ? make_config(kTile, t.rows - kTile) : make_config(t.rows, t.rows);
    _tile_loadconfig(&edge);
    if (t.rows > kTile) {
      tile_2x2<true>(t);
    } else {
      tile_1x2(t);
    }
    _tile_loadconfig(&kFullTiles);
  }
  memory_fence();
}

/// Columns of dy are packed four tiles at once: runs of 256 bytes, of which memory reads more in a given time than of 64.
constexpr std::int64_t kAmxTilesPerPack = 4;

/// [k, cols <= 128] transposed into up to four of [padded_k / 32][32 rows][32]: tiles of A.
void pack_a(const MatmulBlock& source, std::int64_t padded_k, void* out) {
  auto* first = static_cast<std::uint16_t*>(out);
  for (std::int64_t k = 0; k < padded_k; k += kStep, first += kRows * kStep) {
    std::uint16_t* to = first;
    for (std::int64_t begin = 0; begin < source.cols; begin += kRows, to += kRows * padded_k) {
      const MatmulBlock tile{.data = static_cast<const std::uint16_t*>(source.data) + begin,
                             .stride = source.stride,
                             .rows = source.rows,
                             .cols = source.cols - begin};
      const __mmask32 cols = low_bits32(tile.cols);
      __m512i upper[16];
      __m512i lower[16];
      for (int p = 0; p < 16; ++p) {
        const RowPair pair = interleave(load_row(tile, k + 2 * p, cols), load_row(tile, k + 2 * p + 1, cols));
        upper[p] = pair.low;
        lower[p] = pair.high;
      }
      transpose16(upper);
      for (int i = 0; i < 16; ++i) _mm512_storeu_si512(to + i * kStep, upper[i]);
      if (tile.cols > kTile) {
        transpose16(lower);
        for (int i = 0; i < 16; ++i) _mm512_storeu_si512(to + (kTile + i) * kStep, lower[i]);
      }
    }
  }
}

constexpr double kTileFlops = 2.0 * kTile * kTile * kStep;

/// bf16 numbers in +-[1, 2) with every bit of the mantissa in use: multiplying zeros or constants takes less power, and runs
/// at a clock that real products never see.
void fill_operands(void* out, std::int64_t count) {
  auto* to = static_cast<std::uint16_t*>(out);
  std::uint32_t state = 1;
  for (std::int64_t i = 0; i < count; ++i) {
    state = state * 1664525U + 1013904223U;
    to[i] = static_cast<std::uint16_t>(0x3F80U | (state >> 24 & 0x7FU) | (state >> 16 & 0x8000U));
  }
}

double register_loop(std::int64_t iterations) {
  alignas(64) std::uint16_t operands[4 * kTile * kStep];
  fill_operands(operands, 4 * kTile * kStep);
  memory_fence();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, operands, 64);
  _tile_loadd(5, operands + kTile * kStep, 64);
  _tile_loadd(6, operands + 2 * kTile * kStep, 64);
  _tile_loadd(7, operands + 3 * kTile * kStep, 64);
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
  fill_operands(l1, 8192);
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

/// The same with bytes: a tile has as many bytes, which are twice as many numbers.
double int8_l1_loop(std::int64_t iterations, void* l1) {
  fill_operands(l1, 8192);
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
      _tile_dpbusd(0, 4, 6);
      _tile_loadd(7, b + 64, kBRowBytes);
      _tile_dpbusd(1, 4, 7);
      _tile_loadd(5, a + 1024, 64);
      _tile_dpbusd(2, 5, 6);
      _tile_dpbusd(3, 5, 7);
    }
  }
  return static_cast<double>(iterations) * 16.0 * 2.0 * kTileFlops;
}

constexpr MatmulKernels make_kernels() {
  MatmulKernels kernels;
  kernels.name = "amx";
  kernels.f32 = f32_operand_products<float, false, 14, 2>();  // as in matmul_avx512.cpp
  kernels.b16 = pair_operand_packs();
  kernels.store = store;
  kernels.int8_l1_loop = int8_l1_loop;
  kernels.begin = begin;
  kernels.end = end;
  ProductKernels& p = kernels.b16;
  p.tile_rows = kRows;
  p.step = kStep;
  p.packed_a_row_stride = kStep;
  p.packed_a_step_stride = kRows * kStep;
  p.tile = amx_tile;
  p.fetches_stores = true;
  p.max_depth = 256;
  p.max_decoded_depth = 2048;
  p.max_fetched_b_bytes = 128 * 1024;
  p.max_gradient_depth = 320;
  p.pack_a = pack_a;
  p.tiles_per_pack = kAmxTilesPerPack;
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
