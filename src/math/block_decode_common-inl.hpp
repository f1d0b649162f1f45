// What the block decoders of every instruction set share: reading scales, and walking blocks. Included into each
// instruction-set file; everything here has internal linkage.
#pragma once

#include <cstdint>

#include "math/element_type.hpp"

namespace quern {
namespace {

inline std::uint16_t load_u16(const std::uint8_t* bytes) { return static_cast<std::uint16_t>(bytes[0] | (bytes[1] << 8)); }

inline std::uint32_t load_u32(const std::uint8_t* bytes) {
  return load_u16(bytes) | (static_cast<std::uint32_t>(load_u16(bytes + 2)) << 16);
}

inline float float_from_bits(std::uint32_t bits) { return __builtin_bit_cast(float, bits); }

/// A binary16 number. Exact; signalling NaNs come out quiet, as the processors' own conversion gives them.
inline float float_from_f16_bits(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000U) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1FU;
  const std::uint32_t fraction = bits & 0x3FFU;
  if (exponent == 0x1FU) {
    return float_from_bits(sign | 0x7F800000U | (fraction == 0 ? 0U : 0x400000U | (fraction << 13)));
  }
  if (exponent != 0) return float_from_bits(sign | ((exponent + 112U) << 23) | (fraction << 13));
  const float magnitude = static_cast<float>(fraction) * 0x1p-24F;  // zero and subnormals
  return float_from_bits(sign | __builtin_bit_cast(std::uint32_t, magnitude));
}

inline float load_f16(const std::uint8_t* bytes) { return float_from_f16_bits(load_u16(bytes)); }

inline float load_bf16(const std::uint8_t* bytes) {
  return float_from_bits(static_cast<std::uint32_t>(load_u16(bytes)) << 16);
}

/// 2^(e - 128), the factor of MXFP4's doubled values; e = 0 and 1 are subnormal. 255, NaN by the OCP standard, is 2^127 as
/// in ggml.
inline float mxfp4_factor(std::uint32_t e) { return float_from_bits(e < 2 ? 0x00200000U << e : (e - 1) << 23); }

/// The values of IQ4_NL and IQ4_XS.
alignas(16) constexpr std::int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                    1,    13,   25,  38,  53,  69,  89,  113};
/// Twice the values of MXFP4 (E2M1). Code 8 is -0, which a table of integers would lose.
alignas(64) constexpr float kMxfp4Values[16] = {0.0F,  1.0F,  2.0F,  3.0F,  4.0F,  6.0F,  8.0F,  12.0F,
                                                -0.0F, -1.0F, -2.0F, -3.0F, -4.0F, -6.0F, -8.0F, -12.0F};

/// How far ahead of a block the decoders ask for data: too few cache lines per microsecond are read for the processor's own
/// prefetchers to run far ahead. It made Q4_0 to Q6_K from memory 1.3 to 2.5 times as fast on a Xeon with AVX-512 and AMX
/// (of 512, 1024, 2048 and 4096 bytes this was best or near it), and costs nothing where blocks are in cache. To measure
/// again: block_decode_bench --benchmark_filter=/16384.
constexpr std::uintptr_t kPrefetchBytes = 2048;

/// Asks for the cache lines of `bytes` bytes, kPrefetchBytes ahead; they may lie beyond the data, which a prefetch may.
inline void prefetch_ahead(const std::uint8_t* blocks, std::int64_t bytes) {
  const std::uintptr_t ahead = reinterpret_cast<std::uintptr_t>(blocks) + kPrefetchBytes;
  for (std::int64_t i = 0; i < bytes; i += 64) {
    __builtin_prefetch(reinterpret_cast<const void*>(ahead + static_cast<std::uintptr_t>(i)));
  }
}

/// Calls decode(block, out) for every block of kElements elements in kBytes bytes.
template <std::int64_t kElements, std::int64_t kBytes, class Decode>
inline void for_each_block(const std::uint8_t* blocks, std::int64_t elements, float* out, const Decode& decode) {
  for (std::int64_t i = 0; i < elements / kElements; ++i) {
    if constexpr (kElements > 1) prefetch_ahead(blocks + i * kBytes, kBytes);
    decode(blocks + i * kBytes, out + i * kElements);
  }
}

}  // namespace
}  // namespace quern
