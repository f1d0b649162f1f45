// Block decoders with 256-bit integer code and the including file's f32 vectors. Included into each instruction-set file
// after it defines, in an unnamed namespace of quern,
//
//     struct Lanes {
//       static void scaled(__m128i q, float scale, float* out);                // out[16] = scale * q (i8)
//       static void affine(__m128i q, float scale, float offset, float* out);  // out[16] = scale * q + offset
//       // out[16] = scale * table[q], q from 0 to 15; table[8 + i] is -table[i]
//       static void looked_up(const float (&table)[16], __m128i q, float scale, float* out);
//       // A prefix of n numbers; returns how many.
//       static std::int64_t f16(const std::uint8_t* x, std::int64_t n, float* y);
//       static std::int64_t bf16(const std::uint8_t* x, std::int64_t n, float* y);
//     };
//
// Every product of d (11 bits), a scale and a code is exact in f32 (at most 24 bits), so a value is rounded once, by the
// addition of a minimum where there is one: contraction to fused operations and the order of factors change no bit.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "math/block_decode_codebook-inl.hpp"
#include "math/block_decode_common-inl.hpp"

namespace quern {
namespace {

inline __m128i load16(const void* bytes) { return _mm_loadu_si128(static_cast<const __m128i*>(bytes)); }
inline __m256i load32(const void* bytes) { return _mm256_loadu_si256(static_cast<const __m256i*>(bytes)); }
inline float fast_f16(const std::uint8_t* bytes) { return _cvtsh_ss(load_u16(bytes)); }

/// 32 values of which each half of 16 has a scale.
inline void scaled(__m256i q, float low, float high, float* out) {
  Lanes::scaled(_mm256_castsi256_si128(q), low, out);
  Lanes::scaled(_mm256_extracti128_si256(q, 1), high, out + 16);
}

inline void affine(__m256i q, float scale_low, float offset_low, float scale_high, float offset_high, float* out) {
  Lanes::affine(_mm256_castsi256_si128(q), scale_low, offset_low, out);
  Lanes::affine(_mm256_extracti128_si256(q, 1), scale_high, offset_high, out + 16);
}

inline void store_scaled8(__m256i integers, float d, float* out) {
  _mm256_storeu_ps(out, _mm256_mul_ps(_mm256_cvtepi32_ps(integers), _mm256_set1_ps(d)));
}

/// out[16] = d * q of 16 signed bytes: the scales of a super-block.
inline void scales16(__m128i q, float d, float* out) {
  store_scaled8(_mm256_cvtepi8_epi32(q), d, out);
  store_scaled8(_mm256_cvtepi8_epi32(_mm_srli_si128(q, 8)), d, out + 8);
}

/// Elements j from the low nibbles of 16 bytes, j + 16 from the high ones.
inline __m256i nibbles(const std::uint8_t* bytes) {
  const __m128i raw = load16(bytes);
  return _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(raw, 4), raw), _mm256_set1_epi8(15));
}

/// 16 in each byte j whose bit j is set.
inline __m256i fifth_bits(const std::uint8_t* bits) {
  const __m256i bytes = _mm256_shuffle_epi8(
      _mm256_set1_epi32(static_cast<int>(load_u32(bits))),
      _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3));
  const __m256i mask = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201ULL));
  return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(bytes, mask), mask), _mm256_set1_epi8(16));
}

/// The bytes of `table` that 32 nibbles name.
inline __m256i look_up(const std::int8_t (&table)[16], __m256i codes) {
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load16(table)), codes);
}

inline void fast_q4_0(const std::uint8_t* block, float* out) {
  const float d = fast_f16(block);
  scaled(_mm256_sub_epi8(nibbles(block + 2), _mm256_set1_epi8(8)), d, d, out);
}

inline void fast_q4_1(const std::uint8_t* block, float* out) {
  const float d = fast_f16(block);
  const float m = fast_f16(block + 2);
  affine(nibbles(block + 4), d, m, d, m, out);
}

inline void fast_q5_0(const std::uint8_t* block, float* out) {
  const float d = fast_f16(block);
  const __m256i codes = _mm256_or_si256(nibbles(block + 6), fifth_bits(block + 2));
  scaled(_mm256_sub_epi8(codes, _mm256_set1_epi8(16)), d, d, out);
}

inline void fast_q5_1(const std::uint8_t* block, float* out) {
  const float d = fast_f16(block);
  const float m = fast_f16(block + 2);
  affine(_mm256_or_si256(nibbles(block + 8), fifth_bits(block + 4)), d, m, d, m, out);
}

inline void fast_q8_0(const std::uint8_t* block, float* out) {
  const float d = fast_f16(block);
  Lanes::scaled(load16(block + 2), d, out);
  Lanes::scaled(load16(block + 18), d, out + 16);
}

inline void fast_iq4_nl(const std::uint8_t* block, float* out) {
  const float d = fast_f16(block);
  scaled(look_up(kIq4Values, nibbles(block + 2)), d, d, out);
}

inline void fast_mxfp4(const std::uint8_t* block, float* out) {
  const float factor = mxfp4_factor(block[0]);
  const __m256i codes = nibbles(block + 1);
  Lanes::looked_up(kMxfp4Values, _mm256_castsi256_si128(codes), factor, out);
  Lanes::looked_up(kMxfp4Values, _mm256_extracti128_si256(codes, 1), factor, out + 16);
}

inline void fast_q2_k(const std::uint8_t* block, float* out) {
  const __m128i packed = load16(block);
  const __m128i nibble = _mm_set1_epi8(15);
  alignas(32) float scales[16];
  alignas(32) float offsets[16];
  scales16(_mm_and_si128(packed, nibble), fast_f16(block + 80), scales);
  scales16(_mm_and_si128(_mm_srli_epi16(packed, 4), nibble), -fast_f16(block + 82), offsets);
  for (int h = 0; h < 2; ++h) {
    __m256i codes = load32(block + 16 + 32 * h);
    for (int g = 0; g < 4; ++g) {
      const int i = 8 * h + 2 * g;
      affine(_mm256_and_si256(codes, _mm256_set1_epi8(3)), scales[i], offsets[i], scales[i + 1], offsets[i + 1],
             out + 16 * i);
      codes = _mm256_srli_epi16(codes, 2);  // of bits that cross bytes, none reaches the low two
    }
  }
}

inline void fast_q3_k(const std::uint8_t* block, float* out) {
  const std::uint8_t* const packed = block + 96;
  const int first = static_cast<int>(load_u32(packed));
  const int second = static_cast<int>(load_u32(packed + 4));
  const __m128i low = _mm_and_si128(_mm_srlv_epi32(_mm_setr_epi32(first, second, first, second), _mm_setr_epi32(0, 0, 4, 4)),
                                    _mm_set1_epi8(15));
  const __m128i high = _mm_and_si128(
      _mm_srlv_epi32(_mm_set1_epi32(static_cast<int>(load_u32(packed + 8))), _mm_setr_epi32(0, 2, 4, 6)), _mm_set1_epi8(3));
  alignas(32) float scales[16];
  scales16(_mm_sub_epi8(_mm_or_si128(low, _mm_slli_epi16(high, 4)), _mm_set1_epi8(32)), fast_f16(block + 108), scales);
  __m256i thirds = load32(block);
  for (int h = 0; h < 2; ++h) {
    __m256i codes = load32(block + 32 + 32 * h);
    for (int g = 0; g < 4; ++g) {
      const int i = 8 * h + 2 * g;
      const __m256i third = _mm256_slli_epi16(_mm256_and_si256(thirds, _mm256_set1_epi8(1)), 2);
      const __m256i code = _mm256_or_si256(_mm256_and_si256(codes, _mm256_set1_epi8(3)), third);
      scaled(_mm256_sub_epi8(code, _mm256_set1_epi8(4)), scales[i], scales[i + 1], out + 16 * i);
      codes = _mm256_srli_epi16(codes, 2);
      thirds = _mm256_srli_epi16(thirds, 1);
    }
  }
}

inline void fast_tq2_0(const std::uint8_t* block, float* out) {
  const float d = fast_f16(block + 64);
  for (int h = 0; h < 2; ++h) {
    __m256i codes = load32(block + 32 * h);
    for (int g = 0; g < 4; ++g) {
      const __m256i code = _mm256_and_si256(codes, _mm256_set1_epi8(3));
      scaled(_mm256_sub_epi8(code, _mm256_set1_epi8(1)), d, d, out + 128 * h + 32 * g);
      codes = _mm256_srli_epi16(codes, 2);
    }
  }
}

/// The scales and negated minima of Q4_K and Q5_K.
struct ScalesAndOffsets {
  alignas(32) float scales[8];
  alignas(32) float offsets[8];
};

inline void load_scales(const std::uint8_t* block, ScalesAndOffsets& result) {
  const std::uint32_t a = load_u32(block + 4);
  const std::uint32_t b = load_u32(block + 8);
  const std::uint32_t c = load_u32(block + 12);
  const std::uint32_t scales_high = (c & 0x0F0F0F0FU) | ((a >> 2) & 0x30303030U);
  const std::uint32_t minima_high = ((c >> 4) & 0x0F0F0F0FU) | ((b >> 2) & 0x30303030U);
  const __m128i packed = _mm_setr_epi32(static_cast<int>(a & 0x3F3F3F3FU), static_cast<int>(scales_high),
                                        static_cast<int>(b & 0x3F3F3F3FU), static_cast<int>(minima_high));
  store_scaled8(_mm256_cvtepi8_epi32(packed), fast_f16(block), result.scales);
  store_scaled8(_mm256_cvtepi8_epi32(_mm_srli_si128(packed, 8)), -fast_f16(block + 2), result.offsets);
}

inline void fast_q4_k(const std::uint8_t* block, float* out) {
  ScalesAndOffsets s;
  load_scales(block, s);
  const __m256i nibble = _mm256_set1_epi8(15);
  for (int k = 0; k < 8; k += 2) {
    const __m256i raw = load32(block + 16 + 16 * k);
    const __m256i first = _mm256_and_si256(raw, nibble);
    const __m256i second = _mm256_and_si256(_mm256_srli_epi16(raw, 4), nibble);
    affine(first, s.scales[k], s.offsets[k], s.scales[k], s.offsets[k], out + 32 * k);
    affine(second, s.scales[k + 1], s.offsets[k + 1], s.scales[k + 1], s.offsets[k + 1], out + 32 * k + 32);
  }
}

inline void fast_q5_k(const std::uint8_t* block, float* out) {
  ScalesAndOffsets s;
  load_scales(block, s);
  const __m256i nibble = _mm256_set1_epi8(15);
  const __m256i sixteen = _mm256_set1_epi8(16);
  __m256i high = load32(block + 16);
  for (int k = 0; k < 8; k += 2) {
    const __m256i raw = load32(block + 48 + 16 * k);
    const __m256i first =
        _mm256_or_si256(_mm256_and_si256(raw, nibble), _mm256_and_si256(_mm256_slli_epi16(high, 4), sixteen));
    const __m256i second = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(raw, 4), nibble),
                                           _mm256_and_si256(_mm256_slli_epi16(high, 3), sixteen));
    affine(first, s.scales[k], s.offsets[k], s.scales[k], s.offsets[k], out + 32 * k);
    affine(second, s.scales[k + 1], s.offsets[k + 1], s.scales[k + 1], s.offsets[k + 1], out + 32 * k + 32);
    high = _mm256_srli_epi16(high, 2);
  }
}

inline void fast_q6_k(const std::uint8_t* block, float* out) {
  alignas(32) float scales[16];
  scales16(load16(block + 192), fast_f16(block + 208), scales);
  const __m256i nibble = _mm256_set1_epi8(15);
  const __m256i bits = _mm256_set1_epi8(0x30);
  for (int h = 0; h < 2; ++h) {
    const __m256i low0 = load32(block + 64 * h);
    const __m256i low1 = load32(block + 64 * h + 32);
    const __m256i high = load32(block + 128 + 32 * h);
    const auto emit = [&](int g, __m256i low, __m256i shifted) __attribute__((always_inline)) {
      const __m256i code = _mm256_or_si256(_mm256_and_si256(low, nibble), _mm256_and_si256(shifted, bits));
      const int i = 8 * h + 2 * g;
      scaled(_mm256_sub_epi8(code, _mm256_set1_epi8(32)), scales[i], scales[i + 1], out + 16 * i);
    };
    emit(0, low0, _mm256_slli_epi16(high, 4));
    emit(1, low1, _mm256_slli_epi16(high, 2));
    emit(2, _mm256_srli_epi16(low0, 4), high);
    emit(3, _mm256_srli_epi16(low1, 4), _mm256_srli_epi16(high, 2));
  }
}

inline void fast_iq4_xs(const std::uint8_t* block, float* out) {
  const __m256i low = _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(static_cast<int>(load_u32(block + 4))),
                                                         _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28)),
                                       _mm256_set1_epi32(15));
  const __m256i high = _mm256_and_si256(
      _mm256_srlv_epi32(_mm256_set1_epi32(load_u16(block + 2)), _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14)),
      _mm256_set1_epi32(3));
  const __m256i packed = _mm256_or_si256(low, _mm256_slli_epi32(high, 4));
  alignas(32) float scales[8];
  store_scaled8(_mm256_sub_epi32(packed, _mm256_set1_epi32(32)), fast_f16(block), scales);
  for (int k = 0; k < 8; ++k) {
    scaled(look_up(kIq4Values, nibbles(block + 8 + 16 * k)), scales[k], scales[k], out + 32 * k);
  }
}

inline void fast_f16_row(const std::uint8_t* x, std::int64_t n, float* y) {
  for (std::int64_t i = Lanes::f16(x, n, y); i < n; ++i) y[i] = load_f16(x + 2 * i);
}

inline void fast_bf16_row(const std::uint8_t* x, std::int64_t n, float* y) {
  for (std::int64_t i = Lanes::bf16(x, n, y); i < n; ++i) y[i] = load_bf16(x + 2 * i);
}

inline void decode(ElementType type, const void* data, std::int64_t elements, float* out) {
  if (elements <= 0) return;
  const auto* const blocks = static_cast<const std::uint8_t*>(data);
  switch (type) {
    case ElementType::f16:
      return fast_f16_row(blocks, elements, out);
    case ElementType::bf16:
      return fast_bf16_row(blocks, elements, out);
    case ElementType::q4_0:
      return for_each_block<32, 18>(blocks, elements, out, fast_q4_0);
    case ElementType::q4_1:
      return for_each_block<32, 20>(blocks, elements, out, fast_q4_1);
    case ElementType::q5_0:
      return for_each_block<32, 22>(blocks, elements, out, fast_q5_0);
    case ElementType::q5_1:
      return for_each_block<32, 24>(blocks, elements, out, fast_q5_1);
    case ElementType::q8_0:
      return for_each_block<32, 34>(blocks, elements, out, fast_q8_0);
    case ElementType::iq4_nl:
      return for_each_block<32, 18>(blocks, elements, out, fast_iq4_nl);
    case ElementType::mxfp4:
      return for_each_block<32, 17>(blocks, elements, out, fast_mxfp4);
    case ElementType::q2_k:
      return for_each_block<256, 84>(blocks, elements, out, fast_q2_k);
    case ElementType::q3_k:
      return for_each_block<256, 110>(blocks, elements, out, fast_q3_k);
    case ElementType::q4_k:
      return for_each_block<256, 144>(blocks, elements, out, fast_q4_k);
    case ElementType::q5_k:
      return for_each_block<256, 176>(blocks, elements, out, fast_q5_k);
    case ElementType::q6_k:
      return for_each_block<256, 210>(blocks, elements, out, fast_q6_k);
    case ElementType::iq4_xs:
      return for_each_block<256, 136>(blocks, elements, out, fast_iq4_xs);
    case ElementType::tq2_0:
      return for_each_block<256, 66>(blocks, elements, out, fast_tq2_0);
    default:
      return decode_plain(type, blocks, elements, out);
  }
}

}  // namespace
}  // namespace quern
