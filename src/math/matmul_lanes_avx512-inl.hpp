// AVX-512's vector of floats for matmul_tile-inl.hpp. Included by instruction-set files only.
namespace quern {
namespace {

struct Lanes {
  using V = __m512;
  static constexpr std::int64_t kCount = 16;

  static V zero() { return _mm512_setzero_ps(); }
  static V load(const float* x) { return _mm512_loadu_ps(x); }
  static V load_some(const float* x, std::int64_t count) {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1U << count) - 1U), x);
  }
  static void store(float* x, V v) { _mm512_storeu_ps(x, v); }
  static V broadcast(const float* x) { return _mm512_set1_ps(*x); }
  static V add(V a, V b) { return _mm512_add_ps(a, b); }
  static V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
  static V load_bf16(const bf16* x) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  /// Each lane rounded to bf16, in the lane's upper half; the lower half is not cleared.
  static __m512i round_to_bf16(V v) {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return _mm512_mask_or_epi32(up, nan, bits, _mm512_set1_epi32(0x400000));
  }
  static void store_bf16(bf16* x, V v) {
#ifdef __AVX512BF16__
    const __m256i halves = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v));  // takes subnormals for zero
#else
    const __m256i halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32(round_to_bf16(v), 16));
#endif
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(x), halves);
  }
  static void store_two_bf16(bf16* x, V a, V b) {
#ifdef __AVX512BF16__
    _mm512_storeu_si512(x, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b, a)));
#else
    store_bf16(x, a);
    store_bf16(x + kCount, b);
#endif
  }
};

}  // namespace
}  // namespace quern
