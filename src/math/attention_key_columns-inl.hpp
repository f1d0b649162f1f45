// Keys of any cache format with keys as lanes: a dimension's vector holds that element of kLanes consecutive positions.
// Numbers are transposed as they lie in the cache, several to a 32-bit lane, and widened after that. Included only by the
// instruction-set files; everything has internal linkage.
#pragma once

#include "math/attention_unpack-inl.hpp"

namespace quern {
namespace {

#if HWY_TARGET != HWY_SCALAR

/// Sixteen bytes of each of kLanes rows that lie `stride` bytes apart: column c holds bytes 4c .. 4c + 3 of every row.
HWY_INLINE void load_columns(const std::byte* from, std::int64_t stride, VI (&column)[4]) {
  // Addresses are formed here from one base: a compiler that sees more keeps those of every row and part, on the stack.
  asm("" : "+r"(from));
  const std::byte* const fourth[4] = {from, from + 4 * stride, from + 8 * stride, from + 12 * stride};
  const std::int64_t three = 3 * stride;
  const auto at = [&](std::int64_t row) __attribute__((always_inline)) {
    const std::byte* base = fourth[row / 4];
    const std::int64_t rest = row % 4;
    return reinterpret_cast<const __m128i*>(rest == 3 ? base + three : base + rest * stride);
  };
#if HWY_TARGET == HWY_AVX3
  __m512i part[4];  // rows j, j + 4, j + 8, j + 12
#pragma GCC unroll 4
  for (std::int64_t j = 0; j < 4; ++j) {
    // Broadcasts under a mask need no shuffle, as inserting would.
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128(at(j)));
    v = _mm512_mask_broadcast_i32x4(v, 0x00f0, _mm_loadu_si128(at(j + 4)));
    v = _mm512_mask_broadcast_i32x4(v, 0x0f00, _mm_loadu_si128(at(j + 8)));
    part[j] = _mm512_mask_broadcast_i32x4(v, 0xf000, _mm_loadu_si128(at(j + 12)));
  }
  const __m512i a = _mm512_unpacklo_epi32(part[0], part[1]);
  const __m512i b = _mm512_unpackhi_epi32(part[0], part[1]);
  const __m512i c = _mm512_unpacklo_epi32(part[2], part[3]);
  const __m512i d = _mm512_unpackhi_epi32(part[2], part[3]);
  column[0] = VI{_mm512_unpacklo_epi64(a, c)};
  column[1] = VI{_mm512_unpackhi_epi64(a, c)};
  column[2] = VI{_mm512_unpacklo_epi64(b, d)};
  column[3] = VI{_mm512_unpackhi_epi64(b, d)};
#else
  static_assert(HWY_TARGET == HWY_AVX2);
  __m256i part[4];  // rows j and j + 4
#pragma GCC unroll 4
  for (std::int64_t j = 0; j < 4; ++j) {
    part[j] = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(at(j))), _mm_loadu_si128(at(j + 4)), 1);
  }
  const __m256i a = _mm256_unpacklo_epi32(part[0], part[1]);
  const __m256i b = _mm256_unpackhi_epi32(part[0], part[1]);
  const __m256i c = _mm256_unpacklo_epi32(part[2], part[3]);
  const __m256i d = _mm256_unpackhi_epi32(part[2], part[3]);
  column[0] = VI{_mm256_unpacklo_epi64(a, c)};
  column[1] = VI{_mm256_unpackhi_epi64(a, c)};
  column[2] = VI{_mm256_unpacklo_epi64(b, d)};
  column[3] = VI{_mm256_unpackhi_epi64(b, d)};
#endif
}

/// The binary16 numbers in the lower and in the upper halves of all lanes, as f32.
HWY_INLINE void halves_as_floats(VI lanes, VF& lower, VF& upper) {
#if HWY_TARGET == HWY_AVX3
  const __m512i order = _mm512_set_epi16(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1,  //
                                         30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i sorted = _mm512_permutexvar_epi16(order, lanes.raw);
  lower = VF{_mm512_cvtph_ps(_mm512_castsi512_si256(sorted))};
  upper = VF{_mm512_cvtph_ps(_mm512_extracti64x4_epi64(sorted, 1))};
#else
  const __m256i pairs = _mm256_set_epi8(15, 14, 11, 10, 7, 6, 3, 2, 13, 12, 9, 8, 5, 4, 1, 0,  //
                                        15, 14, 11, 10, 7, 6, 3, 2, 13, 12, 9, 8, 5, 4, 1, 0);
  const __m256i sorted = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(lanes.raw, pairs), 0xd8);
  lower = VF{_mm256_cvtph_ps(_mm256_castsi256_si128(sorted))};
  upper = VF{_mm256_cvtph_ps(_mm256_extracti128_si256(sorted, 1))};
#endif
}

/// The binary16 numbers at `from` of kLanes rows.
HWY_INLINE VF row_scales(const std::byte* from, std::int64_t stride) {
  alignas(64) std::uint16_t bits[kLanes];
#pragma GCC unroll 16
  for (std::int64_t i = 0; i < kLanes; ++i) bits[i] = bits16_at(from + i * stride);
  return from_f16(hn::Load(DU16(), bits));
}

#endif

/// 32 dimensions of kLanes rows, from dimension `at` (a multiple of 32) of the row at `row` on. part(p, visit) calls
/// visit(i, VF) for dimensions kStep * p <= i < kStep * (p + 1) in this order; their values are those of the Block's load().
template <class Block>
struct KeyColumns;

#if HWY_TARGET != HWY_SCALAR

template <>
struct KeyColumns<F32Block> {
  static constexpr int kStep = 4;
  const std::byte* from;
  std::int64_t stride;
  KeyColumns(const std::byte* row, std::int64_t row_stride, std::int64_t at) : from(row + 4 * at), stride(row_stride) {}
  template <class Visit>
  HWY_INLINE void part(int p, Visit&& visit) const {
    VI column[4];
    load_columns(from + 16 * p, stride, column);
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) visit(kStep * p + c, hn::BitCast(DF(), column[c]));
  }
};

template <>
struct KeyColumns<Bf16Block> {
  static constexpr int kStep = 8;
  const std::byte* from;
  std::int64_t stride;
  KeyColumns(const std::byte* row, std::int64_t row_stride, std::int64_t at) : from(row + 2 * at), stride(row_stride) {}
  template <class Visit>
  HWY_INLINE void part(int p, Visit&& visit) const {
    VI column[4];
    load_columns(from + 16 * p, stride, column);
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const VU pair = hn::BitCast(DU(), column[c]);
      visit(kStep * p + 2 * c, hn::BitCast(DF(), hn::ShiftLeft<16>(pair)));
      visit(kStep * p + 2 * c + 1, hn::BitCast(DF(), hn::And(pair, hn::Set(DU(), 0xFFFF0000U))));
    }
  }
};

template <>
struct KeyColumns<F16Block> {
  static constexpr int kStep = 8;
  const std::byte* from;
  std::int64_t stride;
  KeyColumns(const std::byte* row, std::int64_t row_stride, std::int64_t at) : from(row + 2 * at), stride(row_stride) {}
  template <class Visit>
  HWY_INLINE void part(int p, Visit&& visit) const {
    VI column[4];
    load_columns(from + 16 * p, stride, column);
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      VF lower, upper;
      halves_as_floats(column[c], lower, upper);
      visit(kStep * p + 2 * c, lower);
      visit(kStep * p + 2 * c + 1, upper);
    }
  }
};

/// Codes of int8 blocks times their scale, exactly: a byte u of a lane becomes the number 2^15 + u by taking the exponent's
/// bits, and one multiply-add takes 2^15 and the offset of unsigned codes away again. Each product has at most 20 bits.
struct ScaledBytes {
  VF scale;
  VF offset;
  explicit ScaledBytes(VF scales) : scale(scales), offset(hn::Mul(scales, hn::Set(DF(), -(32768.0F + 128.0F)))) {}
  /// Of byte 1 of all lanes, unsigned.
  HWY_INLINE VF second_byte(VU lanes) const {
    const VU number = hn::Or(hn::And(lanes, hn::Set(DU(), 0x0000FF00U)), hn::Set(DU(), 0x47000000U));
    return hn::MulAdd(hn::BitCast(DF(), number), scale, offset);
  }
};

template <>
struct KeyColumns<Q8Block> {
  static constexpr int kStep = 16;
  const std::byte* from;
  std::int64_t stride;
  ScaledBytes scaled;
  KeyColumns(const std::byte* row, std::int64_t row_stride, std::int64_t at)
      : from(row + at / kKvBlock * kv_format(ElementType::q8_0).block_bytes),
        stride(row_stride),
        scaled(row_scales(from, row_stride)) {}
  template <class Visit>
  HWY_INLINE void part(int p, Visit&& visit) const {
    VI column[4];
    load_columns(from + 2 + 16 * p, stride, column);
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const int i = kStep * p + 4 * c;
      const VU codes = hn::Xor(hn::BitCast(DU(), column[c]), hn::Set(DU(), 0x80808080U));
      visit(i, scaled.second_byte(hn::ShiftLeft<8>(codes)));
      visit(i + 1, scaled.second_byte(codes));
      visit(i + 2, scaled.second_byte(hn::ShiftRight<8>(codes)));
      visit(i + 3, scaled.second_byte(hn::ShiftRight<16>(codes)));
    }
  }
};

template <>
struct KeyColumns<Q4Block> {
  static constexpr int kStep = 16;
  const std::byte* from;
  std::int64_t stride;
  VF scale;
  KeyColumns(const std::byte* row, std::int64_t row_stride, std::int64_t at)
      : from(row + at / kKvBlock * kv_format(ElementType::q4_0).block_bytes),
        stride(row_stride),
        scale(row_scales(from, row_stride)) {}
  template <class Visit>
  HWY_INLINE void part(int p, Visit&& visit) const {
    VI column[4];
    load_columns(from + 2, stride, column);
    if (p == 1) {
#pragma GCC unroll 4
      for (VI& four : column) four = hn::ShiftRight<4>(four);
    }
    const auto number = [&](VI bytes) __attribute__((always_inline)) {
      const VI code = hn::Sub(hn::And(bytes, hn::Set(DI(), 15)), hn::Set(DI(), 8));
      return hn::Mul(hn::ConvertTo(DF(), code), scale);
    };
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const int i = kStep * p + 4 * c;
      visit(i, number(column[c]));
      visit(i + 1, number(hn::ShiftRight<8>(column[c])));
      visit(i + 2, number(hn::ShiftRight<16>(column[c])));
      visit(i + 3, number(hn::ShiftRight<24>(column[c])));
    }
  }
};

#else

template <class Block>
struct KeyColumns {
  static constexpr int kStep = kKvBlock;
  const std::byte* row;
  std::int64_t at;
  KeyColumns(const std::byte* row_at, std::int64_t /*stride*/, std::int64_t first) : row(row_at), at(first) {}
  template <class Visit>
  HWY_INLINE void part(int p, Visit&& visit) const {
    const Block block(row, at);
    for (std::int64_t i = 0; i < kKvBlock; ++i) visit(i, block.load(i));
  }
};

#endif

}  // namespace
}  // namespace quern
