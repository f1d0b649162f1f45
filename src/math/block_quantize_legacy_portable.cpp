// Quantizers of the legacy formats in plain code: four blocks at a time, in the compiler's own vectors.
#include <cstddef>
#include <cstdint>

#include "math/block_quantize.hpp"
#include "math/number_formats.hpp"

namespace quern {
namespace {
namespace lanes {

#define QUERN_LANES_INLINE inline __attribute__((always_inline))

constexpr int kLanes = 4;
typedef float V __attribute__((vector_size(16)));
typedef std::int32_t I __attribute__((vector_size(16)));

QUERN_LANES_INLINE V splat(float x) { return V{x, x, x, x}; }
QUERN_LANES_INLINE I splat_i(std::int32_t x) { return I{x, x, x, x}; }
/// Of two values neither of which is NaN; of others the second, as the processors' instructions give it.
QUERN_LANES_INLINE V min(V a, V b) { return a < b ? a : b; }
QUERN_LANES_INLINE V max(V a, V b) { return a > b ? a : b; }
/// For exact results only, where that it rounds once makes no difference.
QUERN_LANES_INLINE V fused_multiply_add(V a, V b, V c) { return a * b + c; }
QUERN_LANES_INLINE V load(const float* p) { return V{p[0], p[1], p[2], p[3]}; }
QUERN_LANES_INLINE void store(I x, std::int32_t* p) {
  for (int i = 0; i < kLanes; ++i) p[i] = x[i];
}
QUERN_LANES_INLINE bool any(I mask) { return (mask[0] | mask[1] | mask[2] | mask[3]) != 0; }
QUERN_LANES_INLINE I f16_bits(V x) {
  I bits;
  for (int i = 0; i < kLanes; ++i) bits[i] = f16_from_float(x[i]);
  return bits;
}
QUERN_LANES_INLINE V from_f16(I bits) {
  V x;
  for (int i = 0; i < kLanes; ++i) x[i] = float_from_f16(static_cast<std::uint16_t>(bits[i]));
  return x;
}
QUERN_LANES_INLINE V look_up(const float (&table)[16], I index) {
  return V{table[index[0] & 15], table[index[1] & 15], table[index[2] & 15], table[index[3] & 15]};
}
/// Writes four 16-bit numbers.
QUERN_LANES_INLINE void store_u16(I bits, std::byte* out) {
  for (int i = 0; i < kLanes; ++i) {
    out[2 * i] = static_cast<std::byte>(bits[i] & 0xFF);
    out[2 * i + 1] = static_cast<std::byte>((bits[i] >> 8) & 0xFF);
  }
}

/// out[j][lane] = x[kStride * lane + j] for j < 32.
template <int kStride>
QUERN_LANES_INLINE void transpose32(const float* x, V* out) {
  for (int j = 0; j < 32; ++j) out[j] = V{x[j], x[kStride + j], x[2 * kStride + j], x[3 * kStride + j]};
}

}  // namespace lanes
}  // namespace
}  // namespace quern

#include "math/block_quantize_legacy-inl.hpp"

namespace quern {

BlockQuantizer block_quantizer_legacy_portable() { return quantize_legacy; }

// Builds without the x86 files: other architectures have the plain quantizers only.
#if !defined(__x86_64__)
BlockQuantizer block_quantizer_legacy_avx2() { return nullptr; }
BlockQuantizer block_quantizer_legacy_avx512() { return nullptr; }
#endif

}  // namespace quern
