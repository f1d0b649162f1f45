#include <immintrin.h>

#include "math/int8_loop_kernels.hpp"

namespace quern {
namespace {

using Vector = __m512i;

/// Twelve independent chains: enough to cover the latency of two units, few enough for sixteen registers.
double loop(std::int64_t iterations) {
  constexpr int kChains = 12;
  constexpr int kRounds = 16;
  const Vector x = _mm512_set1_epi32(0x7A3B5C19);
  const Vector y = _mm512_set1_epi32(0x15E9473D);
  const Vector one = _mm512_set1_epi16(1);
  Vector sum[kChains];
#pragma GCC unroll 16
  for (int i = 0; i < kChains; ++i) sum[i] = _mm512_set1_epi32(i);
  for (std::int64_t n = 0; n < iterations * kRounds; ++n) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) {
      Vector bytes = x;
      __asm__ volatile("" : "+v"(bytes));  // or the products would be computed once
      const Vector pairs = _mm512_maddubs_epi16(bytes, y);
      sum[i] = _mm512_add_epi32(sum[i], _mm512_madd_epi16(pairs, one));
      __asm__ volatile("" : "+v"(sum[i]));  // keeps the chain from being simplified
    }
  }
#pragma GCC unroll 16
  for (int i = 1; i < kChains; ++i) sum[0] = _mm512_add_epi32(sum[0], sum[i]);
  __asm__ volatile("" : : "v"(sum[0]));
  return static_cast<double>(iterations) * kRounds * kChains * static_cast<double>(sizeof(Vector)) * 2.0;
}

}  // namespace

const Int8LoopKernels* int8_loop_kernels_avx512() {
  static constexpr Int8LoopKernels kernels{"VPMADDUBSW, VPMADDWD and VPADDD, 64 bytes", loop};
  return &kernels;
}

}  // namespace quern
