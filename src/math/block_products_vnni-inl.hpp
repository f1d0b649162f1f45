// Integer products of a slab's codes with VPDPBUSD: four products of an unsigned and a signed byte added to a 32-bit lane,
// exactly. Included by instruction-set files only, after block_lanes_avx512-inl.hpp.
namespace quern {
namespace {

/// Codes above seven bits are stored as unsigned numbers.
constexpr bool kKeepsSigns = false;
/// Tokens that share the loads of a slab's codes.
constexpr int kTokensAtOnce = 4;

/// Two groups of rows are multiplied together, so that four activations, spread to all lanes by a load, serve 32 rows: such
/// loads, not products, were the limit (Zen 4).
constexpr bool kPairsOfGroups = true;

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

/// add_products for two groups of rows: acc[0] those of `first`, acc[1] those of `second`.
template <int kVectors, int T>
__attribute__((always_inline)) inline void add_pair_products(const std::uint8_t* first, const std::uint8_t* second,
                                                             const std::int8_t* const (&x)[T], Ints (&acc)[2][T]) {
#pragma GCC unroll 8
  for (int g = 0; g < kVectors; ++g) {
    const Ints w0 = load_ints(first + 4 * kRows * g);
    const Ints w1 = load_ints(second + 4 * kRows * g);
#pragma GCC unroll 4
    for (int j = 0; j < T; ++j) {
      const Ints four = every_four(x[j] + 4 * g);
      acc[0][j] = _mm512_dpbusd_epi32(acc[0][j], w0, four);
      acc[1][j] = _mm512_dpbusd_epi32(acc[1][j], w1, four);
    }
  }
}

}  // namespace
}  // namespace quern
