// Integer products of a slab's codes with VPDPBUSD: four products of an unsigned and a signed byte added to a 32-bit lane,
// exactly. Included by instruction-set files only, after block_lanes_avx512-inl.hpp.
namespace quern {
namespace {

/// Codes above seven bits are stored as unsigned numbers.
constexpr bool kKeepsSigns = false;
/// Tokens that share the loads of a slab's codes.
constexpr int kTokensAtOnce = 4;

/// A single token's products are formed while codes are unpacked, without storing them.
constexpr bool kDirectProducts = true;
inline Ints add_direct(Ints acc, Ints codes, const std::int8_t* x) { return _mm512_dpbusd_epi32(acc, codes, every_four(x)); }

/// acc[j] += sum over kVectors vectors of codes times the 4 kVectors activations at x[j].
template <class Format, int kVectors, int T>
__attribute__((always_inline)) inline void add_products(const std::uint8_t* codes, const std::int8_t* const (&x)[T],
                                                        Ints (&acc)[T]) {
#pragma GCC unroll 8
  for (int g = 0; g < kVectors; ++g) {
    const Ints w = load_ints(codes + 4 * kRows * g);
#pragma GCC unroll 4
    for (int j = 0; j < T; ++j) acc[j] = _mm512_dpbusd_epi32(acc[j], w, every_four(x[j] + 4 * g));
  }
}

}  // namespace
}  // namespace quern
