// Rows of bf16 turned into operands of AMX tiles and back. Included only by attention_amx.cpp; everything has internal
// linkage.
//
// Interleaving two rows of 32 elements within 128-bit lanes (one cycle each way) leaves the pairs of columns 8 i + j in one
// tile and those of 8 i + 4 + j in the other (i, j = 0 .. 3): the "halves" of 32 columns. Sums over such operands have the
// same order of columns, and writing them out undoes it on the way.
#pragma once

#include "math/attention_amx_tiles-inl.hpp"
#include "math/attention_tasks-inl.hpp"

namespace quern {
namespace {

/// The column, of 32, that is number n of half p.
constexpr std::int64_t half_column(std::int64_t p, std::int64_t n) { return 8 * (n / 4) + 4 * p + n % 4; }

/// 32 elements of a row, zeros past its `valid` ones.
HWY_INLINE __m512i load_chunk(const void* row, std::int64_t valid) {
  if (valid >= 32) return _mm512_loadu_si512(row);
  return _mm512_maskz_loadu_epi16(static_cast<__mmask32>((1ULL << valid) - 1), row);
}
HWY_INLINE void store_chunk(bf16* row, std::int64_t valid, __m512i x) {
  if (valid >= 32) {
    _mm512_storeu_si512(row, x);
  } else {
    _mm512_mask_storeu_epi16(row, static_cast<__mmask32>((1ULL << valid) - 1), x);
  }
}

/// x[c] lane r = x[r] lane c, for 16 vectors of 16 dwords.
HWY_INLINE void transpose16(__m512i* x) {
  __m512i y[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 2) {
    y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
    y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
  }
  // x[4 i + j]: columns j, 4 + j, 8 + j, 12 + j (one a lane) of rows 4 i .. 4 i + 3.
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
    x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
    x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
    x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512i a = _mm512_shuffle_i32x4(x[j], x[4 + j], 0x88);  // lanes 0, 2
    const __m512i b = _mm512_shuffle_i32x4(x[j], x[4 + j], 0xDD);  // lanes 1, 3
    const __m512i c = _mm512_shuffle_i32x4(x[8 + j], x[12 + j], 0x88);
    const __m512i d = _mm512_shuffle_i32x4(x[8 + j], x[12 + j], 0xDD);
    y[j] = _mm512_shuffle_i32x4(a, c, 0x88);
    y[8 + j] = _mm512_shuffle_i32x4(a, c, 0xDD);
    y[4 + j] = _mm512_shuffle_i32x4(b, d, 0x88);
    y[12 + j] = _mm512_shuffle_i32x4(b, d, 0xDD);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) x[i] = y[i];
}

/// Rows as right operand of products over their elements: to [head / 2][16 rows], zeros past `count` rows. `row(r)` points
/// to row r.
template <class Row>
HWY_INLINE void pack_transposed(const Row& row, std::int64_t count, std::int64_t head_dim, std::uint32_t* to) {
  for (std::int64_t c = 0; c < head_dim; c += 32) {
    __m512i x[16];
    if (count >= 16 && c + 32 <= head_dim) {
#pragma GCC unroll 16
      for (int r = 0; r < 16; ++r) x[r] = _mm512_loadu_si512(row(r) + c);
    } else {
      for (int r = 0; r < 16; ++r) x[r] = r < count ? load_chunk(row(r) + c, head_dim - c) : _mm512_setzero_si512();
    }
    transpose16(x);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) _mm512_storeu_si512(to + (c / 2 + i) * kTileRows, x[i]);
  }
}

/// 32 rows as right operand of products over rows: to [head / 32][16 pairs][32], halves of 32 elements side by side; panels
/// of 32 elements are `panel` dwords apart. Zeros past `count` rows.
template <class Row>
HWY_INLINE void pack_pairs(const Row& row, std::int64_t count, std::int64_t head_dim, std::uint32_t* to,
                           std::int64_t panel) {
  for (std::int64_t c = 0; c < head_dim; c += 32, to += panel) {
    for (std::int64_t r = 0; r < 32; r += 2) {
      const __m512i even = r < count ? load_chunk(row(r) + c, head_dim - c) : _mm512_setzero_si512();
      const __m512i odd = r + 1 < count ? load_chunk(row(r + 1) + c, head_dim - c) : _mm512_setzero_si512();
      _mm512_storeu_si512(to + r / 2 * 32, _mm512_unpacklo_epi16(even, odd));
      _mm512_storeu_si512(to + r / 2 * 32 + 16, _mm512_unpackhi_epi16(even, odd));
    }
  }
}

/// A block of 64 keys (or values) as left operand of products over keys: to [head][64 keys], zeros past `count`.
inline void pack_keys_transposed(const std::uint16_t* from, std::int64_t stride, std::int64_t count, std::int64_t head_dim,
                                 std::uint16_t* to) {
  for (std::int64_t c = 0; c < head_dim; c += 32) {
    for (std::int64_t k = 0; k < kKeyBlock; k += 32) {
      __m512i lower[16];
      __m512i upper[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        const std::int64_t key = k + 2 * i;
        const std::uint16_t* row = from + key * stride + c;
        const __m512i even = key < count ? load_chunk(row, head_dim - c) : _mm512_setzero_si512();
        const __m512i odd = key + 1 < count ? load_chunk(row + stride, head_dim - c) : _mm512_setzero_si512();
        lower[i] = _mm512_unpacklo_epi16(even, odd);
        upper[i] = _mm512_unpackhi_epi16(even, odd);
      }
      transpose16(lower);
      transpose16(upper);
#pragma GCC unroll 16
      for (int n = 0; n < 16; ++n) {
        _mm512_storeu_si512(to + (c + half_column(0, n)) * kKeyBlock + k, lower[n]);
        _mm512_storeu_si512(to + (c + half_column(1, n)) * kKeyBlock + k, upper[n]);
      }
    }
  }
}

/// bf16 of x0 in the lower half, of x1 in the upper.
HWY_INLINE __m512i rounded(VF x0, VF x1) { return (__m512i)_mm512_cvtne2ps_pbh(x1.raw, x0.raw); }

/// Rows of another format, rounded to bf16.
template <class Block>
void round_rows(const KvRows& from, std::int64_t count, std::int64_t head_dim, std::int64_t head, std::uint16_t* to) {
  for (std::int64_t k = 0; k < count; ++k, to += head) {
    const std::byte* row = from.data + k * from.stride;
    std::int64_t c = 0;
    for (; c + kKvBlock <= head_dim; c += kKvBlock) {
      const Block block(row, c);
      _mm512_storeu_si512(to + c, rounded(block.load(0), block.load(kLanes)));
    }
    if constexpr (Block::kNumbers) {
      const Block rest(row, 0);
      for (; c < head_dim; ++c) to[c] = static_cast<std::uint16_t>(rounded_bits(rest.element(c)) >> 16);
    }
    for (; c < head; ++c) to[c] = 0;
  }
}

/// A block of keys or values in bf16, as left operand of products over their elements: to [64, head], zeros past `count`.
inline void pack_keys(const KvRows& from, std::int64_t count, std::int64_t head_dim, std::int64_t head, std::uint16_t* to) {
  switch (from.type) {
    case ElementType::bf16:
      for (std::int64_t k = 0; k < count; ++k) {
        const std::uint16_t* row = reinterpret_cast<const std::uint16_t*>(from.data + k * from.stride);
        for (std::int64_t c = 0; c < head_dim; c += 32) {
          _mm512_storeu_si512(to + k * head + c, load_chunk(row + c, head_dim - c));
        }
      }
      break;
    case ElementType::f32:
      round_rows<F32Block>(from, count, head_dim, head, to);
      break;
    case ElementType::f16:
      round_rows<F16Block>(from, count, head_dim, head, to);
      break;
    case ElementType::q8_0:
      round_rows<Q8Block>(from, count, head_dim, head, to);
      break;
    default:
      round_rows<Q4Block>(from, count, head_dim, head, to);
      break;
  }
  for (std::int64_t i = count * head; i < kKeyBlock * head; i += 32) _mm512_storeu_si512(to + i, _mm512_setzero_si512());
}

// Results that are zero or denormal become +0 (the conversion flushes, adding 0 takes the sign): tiles flush sums, vectors
// do not, and which tiles a row visits past its own keys may depend on its neighbours.

/// Writes 16 rows of bf16 from sums^T [head][16 rows] * factor [row]: row(n) takes lane n, for n with exists(n).
template <class Row, class Exists>
HWY_INLINE void write_transposed(const float* sums, __m512 factor, std::int64_t head_dim, const Row& row,
                                 const Exists& exists) {
  // Pairs of elements side by side: both halves of a conversion, interleaved.
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                         20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  for (std::int64_t c = 0; c < head_dim; c += 32) {
    __m512i x[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      const float* pair = sums + (c + 2 * i) * kTileRows;
      const VF even{_mm512_fmadd_ps(_mm512_loadu_ps(pair), factor, _mm512_setzero_ps())};
      const VF odd{_mm512_fmadd_ps(_mm512_loadu_ps(pair + kTileRows), factor, _mm512_setzero_ps())};
      x[i] = _mm512_permutexvar_epi16(order, rounded(even, odd));
    }
    transpose16(x);
#pragma GCC unroll 16
    for (int n = 0; n < 16; ++n) {
      if (exists(n)) store_chunk(row(n) + c, head_dim - c, x[n]);
    }
  }
}

/// Writes a row of bf16 from sums [head] in order of halves, times `factor`.
HWY_INLINE void write_halves(const float* sums, std::int64_t head_dim, float factor, bf16* to) {
  const __m512 f = _mm512_set1_ps(factor);
  // Element 8 i + 4 p + j is word 16 p + 4 i + j of both halves.
  const __m512i order = _mm512_set_epi16(31, 30, 29, 28, 15, 14, 13, 12, 27, 26, 25, 24, 11, 10, 9, 8, 23, 22, 21, 20, 7, 6,
                                         5, 4, 19, 18, 17, 16, 3, 2, 1, 0);
  for (std::int64_t c = 0; c < head_dim; c += 32) {
    const VF lower{_mm512_fmadd_ps(_mm512_loadu_ps(sums + c), f, _mm512_setzero_ps())};
    const VF upper{_mm512_fmadd_ps(_mm512_loadu_ps(sums + c + 16), f, _mm512_setzero_ps())};
    store_chunk(to + c, head_dim - c, _mm512_permutexvar_epi16(order, rounded(lower, upper)));
  }
}

/// sums[r] = sum of a(r)[c] * b(r)[c] for 16 rows, 0 past `count`, in an order that depends on head_dim alone.
template <class RowA, class RowB>
HWY_INLINE void dot_rows(const RowA& a, const RowB& b, std::int64_t count, std::int64_t head_dim, float* sums) {
  __m512i x[16];
#pragma GCC unroll 16
  for (int r = 0; r < 16; ++r) {
    __m512 sum = _mm512_setzero_ps();
    for (std::int64_t c = 0; r < count && c < head_dim; c += 32) {
      sum =
          _mm512_dpbf16_ps(sum, (__m512bh)load_chunk(a(r) + c, head_dim - c), (__m512bh)load_chunk(b(r) + c, head_dim - c));
    }
    x[r] = _mm512_castps_si512(sum);
  }
  transpose16(x);
  __m512 y[16];
  for (int i = 0; i < 16; ++i) y[i] = _mm512_castsi512_ps(x[i]);
#pragma GCC unroll 4
  for (int step = 8; step > 0; step /= 2) {
    for (int i = 0; i < step; ++i) y[i] = _mm512_add_ps(y[i], y[i + step]);
  }
  _mm512_storeu_ps(sums, y[0]);
}

}  // namespace
}  // namespace quern
