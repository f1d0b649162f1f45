// Pairs of bf16 along the reduction, and transposition, with AVX-512 (BW). Included by instruction-set files only;
// everything has internal linkage.
namespace quern {
namespace {

constexpr std::int64_t kPairPanel = 32;

inline __mmask32 low_bits32(std::int64_t n) { return n >= 32 ? ~__mmask32{0} : (__mmask32{1} << n) - 1; }
inline __mmask16 low_bits16(std::int64_t n) {
  return n >= 16 ? __mmask16{0xffff} : static_cast<__mmask16>((1U << (n < 0 ? 0 : n)) - 1U);
}

/// Up to 32 bf16 of row k, the rest zero; all zero past the last row.
inline __m512i load_row(const MatmulBlock& source, std::int64_t k, __mmask32 cols) {
  if (k >= source.rows) return _mm512_setzero_si512();
  return _mm512_maskz_loadu_epi16(cols, static_cast<const std::uint16_t*>(source.data) + k * source.stride);
}

/// (even[j], odd[j]) side by side: columns 0..15 in `low`, 16..31 in `high`.
struct RowPair {
  __m512i low;
  __m512i high;
};
inline RowPair interleave(__m512i even, __m512i odd) {
  alignas(64) static constexpr std::uint16_t kLow[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                         8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  alignas(64) static constexpr std::uint16_t kHigh[32] = {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
                                                          24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63};
  return {_mm512_permutex2var_epi16(even, _mm512_load_si512(kLow), odd),
          _mm512_permutex2var_epi16(even, _mm512_load_si512(kHigh), odd)};
}

/// Transposes sixteen rows of sixteen 4-byte lanes.
inline void transpose16(__m512i (&r)[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {  // 128-bit blocks: rows i and i + 4 of each half
    const int base = (i / 4) * 8 + i % 4;
    t[base] = _mm512_shuffle_i32x4(r[base], r[base + 4], 0x88);
    t[base + 4] = _mm512_shuffle_i32x4(r[base], r[base + 4], 0xdd);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

}  // namespace
}  // namespace quern
