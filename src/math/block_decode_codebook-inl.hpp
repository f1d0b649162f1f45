// Decoders of the codebook formats (IQ1, IQ2, IQ3), TQ1_0, F64 and F32: one code for every instruction set but for the last
// step, eight values at once where there is AVX2. Included into each instruction-set file; everything here has internal
// linkage.
//
// Codes and scales are exact small integers times d (binary16, 11 bits), and every product below is exact in f32.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "math/block_decode_common-inl.hpp"
#include "math/block_grids.hpp"

namespace quern {
namespace {

/// Eight signs from seven bits: the eighth makes their number even.
inline std::uint32_t even_signs(std::uint32_t code) {
  const std::uint32_t seven = code & 127U;
  const std::uint32_t folded = seven ^ (seven >> 4);
  return seven | (((0x6996U >> (folded & 15U)) & 1U) << 7);  // 0x6996: the parity of 0 to 15
}

#if defined(__AVX2__)

inline __m256 widened8(const std::int8_t* values) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(values));
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
}

/// out[j] = scale * values[j], negated where bit j of `signs` is set.
inline void signed_values8(const std::int8_t* values, float scale, std::uint32_t signs, float* out) {
  const __m256i to_top = _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24);
  const __m256i shifted = _mm256_sllv_epi32(_mm256_set1_epi32(static_cast<int>(signs)), to_top);
  const __m256 flips = _mm256_and_ps(_mm256_castsi256_ps(shifted), _mm256_set1_ps(-0.0F));
  _mm256_storeu_ps(out, _mm256_xor_ps(_mm256_mul_ps(widened8(values), _mm256_set1_ps(scale)), flips));
}

/// out[j] = scale * (values[j] + shift).
inline void shifted_values8(const std::int8_t* values, float scale, float shift, float* out) {
  _mm256_storeu_ps(out, _mm256_mul_ps(_mm256_add_ps(widened8(values), _mm256_set1_ps(shift)), _mm256_set1_ps(scale)));
}

#else

/// out[j] = scale * values[j], negated where bit j of `signs` is set.

inline void signed_values8(const std::int8_t* values, float scale, std::uint32_t signs, float* out) {
  for (int j = 0; j < 8; ++j) {
    const float value = scale * static_cast<float>(values[j]);
    const std::uint32_t flip = ((signs >> j) & 1U) << 31;
    out[j] = float_from_bits(__builtin_bit_cast(std::uint32_t, value) ^ flip);
  }
}

/// out[j] = scale * (values[j] + shift).
inline void shifted_values8(const std::int8_t* values, float scale, float shift, float* out) {
  for (int j = 0; j < 8; ++j) out[j] = scale * (static_cast<float>(values[j]) + shift);
}

#endif

/// Eight values from two rows of four.
inline void signed_values4(const std::int8_t* first, const std::int8_t* second, float scale, std::uint32_t signs,
                           float* out) {
  std::int8_t values[8];
  __builtin_memcpy(values, first, 4);
  __builtin_memcpy(values + 4, second, 4);
  signed_values8(values, scale, signs, out);
}

/// Scales of IQ2 and IQ3_XXS: d * (1/2 + code) * factor.
inline float half_step_scale(float d, std::uint32_t code, float factor) {
  return d * (0.5F + static_cast<float>(code)) * factor;
}

/// d f16; eight groups of 32 elements in 8 bytes: four codes, then 4 x 7 bits of signs and 4 bits of scale.
inline void decode_iq2_xxs(const std::uint8_t* block, float* out) {
  const float d = load_f16(block);
  for (int k = 0; k < 8; ++k) {
    const std::uint8_t* const codes = block + 2 + 8 * k;
    const std::uint32_t rest = load_u32(codes + 4);
    const float scale = half_step_scale(d, rest >> 28, 0.25F);
    for (int l = 0; l < 4; ++l) {
      signed_values8(internal::kIq2XxsGrid.rows[codes[l]], scale, even_signs(rest >> (7 * l)), out + 32 * k + 8 * l);
    }
  }
}

/// d f16; 32 u16 of code (9 bits) and signs (7), one for 8 elements; 8 bytes of scales, a nibble for 16 elements.
inline void decode_iq2_xs(const std::uint8_t* block, float* out) {
  const float d = load_f16(block);
  const std::uint8_t* const scales = block + 66;
  for (int i = 0; i < 32; ++i) {
    const std::uint32_t code = load_u16(block + 2 + 2 * i);
    const float scale = half_step_scale(d, (scales[i / 4] >> (4 * (i / 2 % 2))) & 15U, 0.25F);
    signed_values8(internal::kIq2XsGrid.rows[code & 511U], scale, even_signs(code >> 9), out + 8 * i);
  }
}

/// d f16; 32 low bytes of codes; 32 bytes of signs; 8 bytes of high code bits, 2 a code; 8 bytes of scales as IQ2_XS.
inline void decode_iq2_s(const std::uint8_t* block, float* out) {
  const float d = load_f16(block);
  const std::uint8_t* const codes = block + 2;
  const std::uint8_t* const signs = block + 34;
  const std::uint8_t* const high = block + 66;
  const std::uint8_t* const scales = block + 74;
  for (int i = 0; i < 32; ++i) {
    const std::uint32_t code = codes[i] | (((static_cast<std::uint32_t>(high[i / 4]) >> (2 * (i % 4))) & 3U) << 8);
    const float scale = half_step_scale(d, (scales[i / 4] >> (4 * (i / 2 % 2))) & 15U, 0.25F);
    signed_values8(internal::kIq2SGrid.rows[code], scale, signs[i], out + 8 * i);
  }
}

/// d f16; 64 codes, one for 4 elements; eight u32, one for 32 elements, of signs and scale as IQ2_XXS.
inline void decode_iq3_xxs(const std::uint8_t* block, float* out) {
  const float d = load_f16(block);
  const std::uint8_t* const codes = block + 2;
  for (int k = 0; k < 8; ++k) {
    const std::uint32_t rest = load_u32(block + 66 + 4 * k);
    const float scale = half_step_scale(d, rest >> 28, 0.5F);
    for (int l = 0; l < 4; ++l) {
      const std::uint8_t* const pair = codes + 8 * k + 2 * l;
      signed_values4(internal::kIq3XxsGrid.rows[pair[0]], internal::kIq3XxsGrid.rows[pair[1]], scale,
                     even_signs(rest >> (7 * l)), out + 32 * k + 8 * l);
    }
  }
}

/// d f16; 64 low bytes of codes; 8 bytes of ninth bits; 32 bytes of signs; 4 bytes of scales, a nibble for 32 elements.
inline void decode_iq3_s(const std::uint8_t* block, float* out) {
  const float d = load_f16(block);
  const std::uint8_t* const codes = block + 2;
  const std::uint8_t* const high = block + 66;
  const std::uint8_t* const signs = block + 74;
  const std::uint8_t* const scales = block + 106;
  for (int k = 0; k < 8; ++k) {
    const std::uint32_t nibble = (scales[k / 2] >> (4 * (k % 2))) & 15U;
    const float scale = d * static_cast<float>(1U + 2U * nibble);
    for (int l = 0; l < 4; ++l) {
      const std::uint32_t ninth = static_cast<std::uint32_t>(high[k]) >> (2 * l);
      const std::uint32_t first = codes[8 * k + 2 * l] | ((ninth & 1U) << 8);
      const std::uint32_t second = codes[8 * k + 2 * l + 1] | (((ninth >> 1) & 1U) << 8);
      signed_values4(internal::kIq3SGrid.rows[first], internal::kIq3SGrid.rows[second], scale, signs[4 * k + l],
                     out + 32 * k + 8 * l);
    }
  }
}

/// Eight values of an IQ1 format: scale * (grid + 1/8 or - 1/8).
inline void iq1_values(std::uint32_t code, float scale, bool below, float* out) {
  shifted_values8(internal::kIq1Grid.rows[code], scale, below ? -0.125F : 0.125F, out);
}

/// d f16; 32 low bytes of codes; eight u16, one for 32 elements: 4 x 3 high code bits, 3 bits of scale, the shift's sign.
inline void decode_iq1_s(const std::uint8_t* block, float* out) {
  const float d = load_f16(block);
  const std::uint8_t* const codes = block + 2;
  for (int k = 0; k < 8; ++k) {
    const std::uint32_t rest = load_u16(block + 34 + 2 * k);
    const float scale = d * static_cast<float>(2U * ((rest >> 12) & 7U) + 1U);
    for (int l = 0; l < 4; ++l) {
      const std::uint32_t code = codes[4 * k + l] | (((rest >> (3 * l)) & 7U) << 8);
      iq1_values(code, scale, (rest & 0x8000U) != 0, out + 32 * k + 8 * l);
    }
  }
}

/// 32 low bytes of codes; 16 bytes, a nibble a code: 3 high code bits and the shift's sign; four u16 of scales, 3 bits for
/// 16 elements, whose top nibbles are d (f16), the lowest nibble first.
inline void decode_iq1_m(const std::uint8_t* block, float* out) {
  const std::uint8_t* const high = block + 32;
  std::uint32_t scales[4];
  std::uint32_t d_bits = 0;
  for (int i = 0; i < 4; ++i) {
    scales[i] = load_u16(block + 48 + 2 * i);
    d_bits |= (scales[i] >> 12) << (4 * i);
  }
  const float d = float_from_f16_bits(static_cast<std::uint16_t>(d_bits));
  for (int i = 0; i < 32; ++i) {
    const std::uint32_t nibble = (static_cast<std::uint32_t>(high[i / 2]) >> (4 * (i % 2))) & 15U;
    const std::uint32_t three = (scales[i / 8] >> (3 * (i / 2 % 4))) & 7U;
    iq1_values(block[i] | ((nibble & 7U) << 8), d * static_cast<float>(2U * three + 1U), (nibble & 8U) != 0, out + 8 * i);
  }
}

/// Digit n (0 to 4) of a byte of base-3 digits, less 1: the byte is a fraction of 256 whose digits stand before one another.
template <int kBytes, int kDigits>
inline void ternary_digits(const std::uint8_t* bytes, float d, float* out) {
  std::uint32_t power = 1;
  for (int n = 0; n < kDigits; ++n) {
    for (int m = 0; m < kBytes; ++m) {
      const std::uint32_t digit = (((bytes[m] * power) & 255U) * 3U) >> 8;
      out[n * kBytes + m] = d * static_cast<float>(static_cast<int>(digit) - 1);
    }
    power *= 3U;
  }
}

/// 48 bytes of five base-3 digits (32 bytes, then 16), 4 bytes of four, d f16.
inline void decode_tq1_0(const std::uint8_t* block, float* out) {
  const float d = load_f16(block + 52);
  ternary_digits<32, 5>(block, d, out);
  ternary_digits<16, 5>(block + 32, d, out + 160);
  ternary_digits<4, 4>(block + 48, d, out + 240);
}

inline void decode_f64(const std::uint8_t* element, float* out) {
  double value = 0.0;
  __builtin_memcpy(&value, element, sizeof value);
  *out = static_cast<float>(value);
}

/// Decodes the formats of this file; any other type writes nothing.
inline void decode_plain(ElementType type, const std::uint8_t* blocks, std::int64_t elements, float* out) {
  switch (type) {
    case ElementType::f32:
      __builtin_memcpy(out, blocks, static_cast<std::size_t>(elements) * sizeof(float));
      return;
    case ElementType::f64:
      return for_each_block<1, 8>(blocks, elements, out, decode_f64);
    case ElementType::iq2_xxs:
      return for_each_block<256, 66>(blocks, elements, out, decode_iq2_xxs);
    case ElementType::iq2_xs:
      return for_each_block<256, 74>(blocks, elements, out, decode_iq2_xs);
    case ElementType::iq2_s:
      return for_each_block<256, 82>(blocks, elements, out, decode_iq2_s);
    case ElementType::iq3_xxs:
      return for_each_block<256, 98>(blocks, elements, out, decode_iq3_xxs);
    case ElementType::iq3_s:
      return for_each_block<256, 110>(blocks, elements, out, decode_iq3_s);
    case ElementType::iq1_s:
      return for_each_block<256, 50>(blocks, elements, out, decode_iq1_s);
    case ElementType::iq1_m:
      return for_each_block<256, 56>(blocks, elements, out, decode_iq1_m);
    case ElementType::tq1_0:
      return for_each_block<256, 54>(blocks, elements, out, decode_tq1_0);
    default:
      return;
  }
}

}  // namespace
}  // namespace quern
