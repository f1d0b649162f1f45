#include <immintrin.h>

#include "math/stream_kernels.hpp"

#define QUERN_HAS_STREAM_STORES
#define QUERN_VECTOR_REGISTER "v"

namespace quern {
namespace {

using Vector = __m512i;
inline Vector ones() { return _mm512_set1_epi32(1); }
inline Vector load(const std::byte* from) { return _mm512_load_si512(reinterpret_cast<const Vector*>(from)); }
inline void store(std::byte* to, Vector value) { _mm512_store_si512(reinterpret_cast<Vector*>(to), value); }
inline void store_past(std::byte* to, Vector value) { _mm512_stream_si512(reinterpret_cast<Vector*>(to), value); }
inline void fence() { _mm_sfence(); }

#include "math/stream_loops-inl.hpp"

}  // namespace

const StreamKernels* stream_kernels_avx512() {
  static constexpr StreamKernels kernels{"64-byte registers", read, write, copy, write_past};
  return &kernels;
}

}  // namespace quern
