// Products of AMX tiles for attention: TDPBF16PS multiplies 16 x 32 by 32 x 16 bf16 into 16 x 16 f32.
//
// Left operands are row-major bf16 [m, k]; right operands hold pairs of k side by side, [k / 2][n][2]. Included only by
// attention_amx.cpp; everything has internal linkage.
#pragma once

#include <hwy/highway.h>
#include <immintrin.h>

#include <cstdint>

namespace quern {
namespace {

constexpr std::int64_t kTileRows = 16;   ///< rows of a tile, and f32 columns of one
constexpr std::int64_t kTileDepth = 32;  ///< bf16 in a tile's row
constexpr std::int64_t kTileBytes = 64;  ///< of a row

struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

void begin_tiles() {
  static constexpr TileConfig kConfig;
  _tile_loadconfig(&kConfig);
}
void end_tiles() { _tile_release(); }

/// The tile instructions are opaque to the compiler: vector stores to operands must be done before them, and loads of their
/// results must come after.
HWY_INLINE void order_memory() { asm volatile("" ::: "memory"); }

/// C [m, 16] (+)= A [m, k] B [k, 16]; m in tiles of 16, k in chunks of 32. A: rows a_stride elements apart; B: contiguous;
/// C: contiguous. Up to four sums at a time.
HWY_INLINE void multiply_column(std::int64_t tiles, std::int64_t chunks, const std::uint16_t* a, std::int64_t a_stride,
                                const std::uint32_t* b, float* c, bool accumulate) {
  constexpr std::int64_t kFloats = kTileRows * kTileRows;
  order_memory();
  const std::int64_t a_bytes = a_stride * 2;
  const std::int64_t a_tile = kTileRows * a_stride;
  for (; tiles >= 4; tiles -= 4, a += 4 * a_tile, c += 4 * kFloats) {
    if (accumulate) {
      _tile_loadd(0, c, kTileBytes);
      _tile_loadd(1, c + kFloats, kTileBytes);
      _tile_loadd(2, c + 2 * kFloats, kTileBytes);
      _tile_loadd(3, c + 3 * kFloats, kTileBytes);
    } else {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    }
    for (std::int64_t k = 0; k < chunks; ++k) {
      const std::uint16_t* left = a + k * kTileDepth;
      _tile_loadd(4, b + k * kFloats, kTileBytes);
      _tile_loadd(5, left, a_bytes);
      _tile_dpbf16ps(0, 5, 4);
      _tile_loadd(6, left + a_tile, a_bytes);
      _tile_dpbf16ps(1, 6, 4);
      _tile_loadd(7, left + 2 * a_tile, a_bytes);
      _tile_dpbf16ps(2, 7, 4);
      _tile_loadd(5, left + 3 * a_tile, a_bytes);
      _tile_dpbf16ps(3, 5, 4);
    }
    _tile_stored(0, c, kTileBytes);
    _tile_stored(1, c + kFloats, kTileBytes);
    _tile_stored(2, c + 2 * kFloats, kTileBytes);
    _tile_stored(3, c + 3 * kFloats, kTileBytes);
  }
  if (tiles >= 2) {
    if (accumulate) {
      _tile_loadd(0, c, kTileBytes);
      _tile_loadd(1, c + kFloats, kTileBytes);
    } else {
      _tile_zero(0);
      _tile_zero(1);
    }
    for (std::int64_t k = 0; k < chunks; ++k) {
      const std::uint16_t* left = a + k * kTileDepth;
      _tile_loadd(4, b + k * kFloats, kTileBytes);
      _tile_loadd(5, left, a_bytes);
      _tile_dpbf16ps(0, 5, 4);
      _tile_loadd(6, left + a_tile, a_bytes);
      _tile_dpbf16ps(1, 6, 4);
    }
    _tile_stored(0, c, kTileBytes);
    _tile_stored(1, c + kFloats, kTileBytes);
    tiles -= 2;
    a += 2 * a_tile;
    c += 2 * kFloats;
  }
  if (tiles == 1) {
    if (accumulate) {
      _tile_loadd(0, c, kTileBytes);
    } else {
      _tile_zero(0);
    }
    for (std::int64_t k = 0; k < chunks; ++k) {
      _tile_loadd(4, b + k * kFloats, kTileBytes);
      _tile_loadd(5, a + k * kTileDepth, a_bytes);
      _tile_dpbf16ps(0, 5, 4);
    }
    _tile_stored(0, c, kTileBytes);
  }
}

/// C [32, 32] (+)= A [32, k] B [k, 32], k in chunks of 32: a long chain in four sums. B: pairs of k, 32 dwords apart.
HWY_INLINE void multiply_square(std::int64_t chunks, const std::uint16_t* a, std::int64_t a_stride, const std::uint32_t* b,
                                float* c, std::int64_t c_stride, bool accumulate) {
  order_memory();
  const std::int64_t a_bytes = a_stride * 2;
  const std::int64_t b_bytes = 2 * kTileBytes;
  const std::int64_t c_bytes = c_stride * 4;
  float* lower = c + kTileRows * c_stride;
  if (accumulate) {
    _tile_loadd(0, c, c_bytes);
    _tile_loadd(1, c + kTileRows, c_bytes);
    _tile_loadd(2, lower, c_bytes);
    _tile_loadd(3, lower + kTileRows, c_bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (std::int64_t k = 0; k < chunks; ++k, a += kTileDepth, b += kTileRows * 32) {
    _tile_loadd(6, b, b_bytes);
    _tile_loadd(4, a, a_bytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b + kTileRows, b_bytes);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a + kTileRows * a_stride, a_bytes);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, c_bytes);
  _tile_stored(1, c + kTileRows, c_bytes);
  _tile_stored(2, lower, c_bytes);
  _tile_stored(3, lower + kTileRows, c_bytes);
}

}  // namespace
}  // namespace quern
