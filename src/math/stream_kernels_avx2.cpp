#include <immintrin.h>

#include "math/stream_kernels.hpp"

#define QUERN_HAS_STREAM_STORES
#define QUERN_VECTOR_REGISTER "x"

namespace quern {
namespace {

using Vector = __m256i;
inline Vector ones() { return _mm256_set1_epi32(1); }
inline Vector load(const std::byte* from) { return _mm256_load_si256(reinterpret_cast<const Vector*>(from)); }
inline void store(std::byte* to, Vector value) { _mm256_store_si256(reinterpret_cast<Vector*>(to), value); }
inline void store_past(std::byte* to, Vector value) { _mm256_stream_si256(reinterpret_cast<Vector*>(to), value); }
inline void fence() { _mm_sfence(); }

#include "math/stream_loops-inl.hpp"

}  // namespace

const StreamKernels* stream_kernels_avx2() {
  static constexpr StreamKernels kernels{"32-byte registers", read, write, copy, write_past};
  return &kernels;
}

}  // namespace quern
