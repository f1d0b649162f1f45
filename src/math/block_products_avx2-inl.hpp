// Integer products of a slab's codes, 256 bits at a time: pairs of products of an unsigned and a signed byte make 16-bit
// sums, as many of which are added as cannot overflow. Included by instruction-set files only, after
// block_lanes_avx2-inl.hpp.
namespace quern {
namespace {

/// Codes above seven bits are stored as signed numbers: |w| is multiplied by x with w's sign.
constexpr bool kKeepsSigns = true;
/// Tokens that share the loads of a slab's codes.
constexpr int kTokensAtOnce = 2;

/// Both are for VPDPBUSD.
constexpr bool kPairsOfGroups = false;
constexpr bool kDirectProducts = false;
inline Ints add_direct(Ints acc, Ints /*codes*/, const std::int8_t* /*x*/) { return acc; }

/// acc[j] += sum over kVectors vectors of codes times the 4 kVectors activations at x[j].
template <class Format, int kVectors, int T>
__attribute__((always_inline)) inline void add_products(const std::uint8_t* codes, const std::int8_t* const (&x)[T],
                                                        Ints (&acc)[T]) {
  const Ints ones = _mm256_set1_epi16(1);
  if constexpr (Format::kLargest > 127) {
#pragma GCC unroll 8
    for (int g = 0; g < kVectors; ++g) {
      const Ints w = load_ints(codes + 4 * kRows * g);
      const Ints magnitude = _mm256_abs_epi8(w);
#pragma GCC unroll 4
      for (int j = 0; j < T; ++j) {
        const Ints xv = every_four(x[j] + 4 * g);
        const Ints turned = _mm256_sign_epi8(xv, w);
        acc[j] = _mm256_add_epi32(acc[j], _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, turned), ones));
      }
    }
  } else {
    constexpr int kFit = 32767 / (2 * 127 * Format::kLargest);
    constexpr int kChain = kFit < kVectors ? kFit : kVectors;
#pragma GCC unroll 8
    for (int first = 0; first < kVectors; first += kChain) {
      Ints pairs[T];
#pragma GCC unroll 8
      for (int c = 0; c < kChain; ++c) {
        const int g = first + c;
        if (g >= kVectors) break;
        const Ints w = load_ints(codes + 4 * kRows * g);
#pragma GCC unroll 4
        for (int j = 0; j < T; ++j) {
          const Ints products = _mm256_maddubs_epi16(w, every_four(x[j] + 4 * g));
          pairs[j] = g == first ? products : _mm256_add_epi16(pairs[j], products);
        }
      }
#pragma GCC unroll 4
      for (int j = 0; j < T; ++j) acc[j] = _mm256_add_epi32(acc[j], _mm256_madd_epi16(pairs[j], ones));
    }
  }
}

}  // namespace
}  // namespace quern
