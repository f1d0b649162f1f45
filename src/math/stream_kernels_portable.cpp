#include "math/stream_kernels.hpp"

#if defined(__x86_64__)
#include <emmintrin.h>
#define QUERN_HAS_STREAM_STORES
#define QUERN_VECTOR_REGISTER "x"
#elif defined(__aarch64__)
#include <arm_neon.h>
#define QUERN_VECTOR_REGISTER "w"
#else
#define QUERN_VECTOR_REGISTER "r"
#endif

namespace quern {
namespace {

#if defined(__x86_64__)
using Vector = __m128i;
inline Vector ones() { return _mm_set1_epi32(1); }
inline Vector load(const std::byte* from) { return _mm_load_si128(reinterpret_cast<const Vector*>(from)); }
inline void store(std::byte* to, Vector value) { _mm_store_si128(reinterpret_cast<Vector*>(to), value); }
inline void store_past(std::byte* to, Vector value) { _mm_stream_si128(reinterpret_cast<Vector*>(to), value); }
inline void fence() { _mm_sfence(); }
#elif defined(__aarch64__)
using Vector = uint8x16_t;
inline Vector ones() { return vdupq_n_u8(1); }
inline Vector load(const std::byte* from) { return vld1q_u8(reinterpret_cast<const std::uint8_t*>(from)); }
inline void store(std::byte* to, Vector value) { vst1q_u8(reinterpret_cast<std::uint8_t*>(to), value); }
#else
using Vector = std::uint64_t;
inline Vector ones() { return 1; }
inline Vector load(const std::byte* from) { return *reinterpret_cast<const Vector*>(from); }
inline void store(std::byte* to, Vector value) { *reinterpret_cast<Vector*>(to) = value; }
#endif

#include "math/stream_loops-inl.hpp"

}  // namespace

const StreamKernels* stream_kernels_portable() {
#if defined(__x86_64__)
  static constexpr StreamKernels kernels{"16-byte registers", read, write, copy, write_past};
#elif defined(__aarch64__)
  static constexpr StreamKernels kernels{"16-byte registers", read, write, copy, nullptr};
#else
  static constexpr StreamKernels kernels{"8-byte registers", read, write, copy, nullptr};
#endif
  return &kernels;
}

}  // namespace quern
