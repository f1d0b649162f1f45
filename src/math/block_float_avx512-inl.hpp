// AVX-512's vector of floats for block_float-inl.hpp. Included by instruction-set files only.
namespace quern {
namespace {

struct FloatLanes {
  using V = __m512;
  static constexpr std::int64_t kCount = 16;

  static V zero() { return _mm512_setzero_ps(); }
  static V load(const void* p) { return _mm512_loadu_ps(p); }
  static V load_f16(const std::byte* p) { return _mm512_cvtph_ps(load32(p)); }
  static V load_bf16(const std::byte* p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load32(p)), 16));
  }
  static V add(V a, V b) { return _mm512_add_ps(a, b); }
  static V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
  static float sum(V v) { return lane_sum(_mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1))); }
};

}  // namespace
}  // namespace quern
