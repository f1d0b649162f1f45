// Panels of bf16 pairs. Included by instruction-set files with bf16 conversions only, after block_panels-inl.hpp.
namespace quern {
namespace {

/// Two vectors of floats as bf16 pairs: lane i holds low[i] and high[i].
inline __m512i bf16_pairs(Floats low, Floats high) {
  const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh(high, low);
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                         20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, halves);
}

/// Element (k, row) at (k / 2 * 32 + row) * 2 + k % 2, rounded to nearest even; subnormal ones become 0, as which products
/// take them.
struct PairPanel {
  static constexpr std::int64_t kHalfBytes = 64;
  static constexpr std::int64_t kColumnBytes = 64;
  static void store(std::byte* out, Floats a, Floats b, Floats c, Floats d) {
    _mm512_store_si512(out, bf16_pairs(a, b));
    _mm512_store_si512(out + 128, bf16_pairs(c, d));
  }
  static void store_zeros(std::byte* out) { _mm512_store_si512(out, every_int(0)); }
  static constexpr std::int64_t kColumnsPerStore = 2;
};

}  // namespace
}  // namespace quern
