// Block decoders in plain code: the ones to read first. docs/block-formats.md has the layouts.
//
// Every product of d (11 bits), a scale and a code is exact in f32 (at most 24 bits), so a value is rounded once, by the
// addition of a minimum where there is one, whether or not the compiler contracts products and sums.
#include <cstddef>
#include <cstdint>

#include "math/block_decode.hpp"
#include "math/block_decode_codebook-inl.hpp"
#include "math/block_decode_common-inl.hpp"

namespace quern {
namespace {

/// Sixteen bytes: elements j in low nibbles, j + 16 in high ones. Calls value(code, element).
template <class Value>
inline void nibbles(const std::uint8_t* bytes, float* out, const Value& value) {
  for (int j = 0; j < 16; ++j) {
    out[j] = value(bytes[j] & 15, j);
    out[j + 16] = value(bytes[j] >> 4, j + 16);
  }
}

void decode_q4_0(const std::uint8_t* block, float* out) {
  const float d = load_f16(block);
  nibbles(block + 2, out, [d](int code, int) { return d * static_cast<float>(code - 8); });
}

void decode_q4_1(const std::uint8_t* block, float* out) {
  const float d = load_f16(block);
  const float m = load_f16(block + 2);
  nibbles(block + 4, out, [d, m](int code, int) { return d * static_cast<float>(code) + m; });
}

/// Bit j of `high` is the fifth bit of element j.
inline int with_fifth_bit(int code, std::uint32_t high, int j) { return code | static_cast<int>(((high >> j) & 1U) << 4); }

void decode_q5_0(const std::uint8_t* block, float* out) {
  const float d = load_f16(block);
  const std::uint32_t high = load_u32(block + 2);
  nibbles(block + 6, out, [d, high](int code, int j) { return d * static_cast<float>(with_fifth_bit(code, high, j) - 16); });
}

void decode_q5_1(const std::uint8_t* block, float* out) {
  const float d = load_f16(block);
  const float m = load_f16(block + 2);
  const std::uint32_t high = load_u32(block + 4);
  nibbles(block + 8, out,
          [d, m, high](int code, int j) { return d * static_cast<float>(with_fifth_bit(code, high, j)) + m; });
}

void decode_q8_0(const std::uint8_t* block, float* out) {
  const float d = load_f16(block);
  for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(static_cast<std::int8_t>(block[2 + j]));
}

void decode_iq4_nl(const std::uint8_t* block, float* out) {
  const float d = load_f16(block);
  nibbles(block + 2, out, [d](int code, int) { return d * static_cast<float>(kIq4Values[code]); });
}

void decode_mxfp4(const std::uint8_t* block, float* out) {
  const float factor = mxfp4_factor(block[0]);
  nibbles(block + 1, out, [factor](int code, int) { return factor * kMxfp4Values[code]; });
}

/// The element order of Q2_K, Q3_K and TQ2_0: half h, group g of 32, position l is bits 2g of byte 32h + l. Calls
/// value(two bits, h, g, l).
template <class Value>
inline void two_bits(const std::uint8_t* bytes, float* out, const Value& value) {
  for (int h = 0; h < 2; ++h) {
    for (int g = 0; g < 4; ++g) {
      for (int l = 0; l < 32; ++l) out[128 * h + 32 * g + l] = value((bytes[32 * h + l] >> (2 * g)) & 3, h, g, l);
    }
  }
}

/// scales[16] of scale (low nibble) and minimum; qs[64]; d f16; dmin f16.
void decode_q2_k(const std::uint8_t* block, float* out) {
  const float d = load_f16(block + 80);
  const float dmin = load_f16(block + 82);
  two_bits(block + 16, out, [=](int code, int h, int g, int l) {
    const int packed = block[8 * h + 2 * g + l / 16];
    return d * static_cast<float>(packed & 15) * static_cast<float>(code) - dmin * static_cast<float>(packed >> 4);
  });
}

/// hmask[32], the third bits; qs[64]; 6-bit scales in 12 bytes; d f16.
void decode_q3_k(const std::uint8_t* block, float* out) {
  const std::uint8_t* const packed = block + 96;
  const float d = load_f16(block + 108);
  float scales[16];
  for (int i = 0; i < 16; ++i) {
    const int low = (packed[i % 8] >> (4 * (i / 8))) & 15;
    const int high = (packed[8 + i % 4] >> (2 * (i / 4))) & 3;
    scales[i] = d * static_cast<float>((low | (high << 4)) - 32);
  }
  two_bits(block + 32, out, [block, &scales](int code, int h, int g, int l) {
    const int third = (block[l] >> (4 * h + g)) & 1;
    return scales[8 * h + 2 * g + l / 16] * static_cast<float>(code + 4 * third - 4);
  });
}

void decode_tq2_0(const std::uint8_t* block, float* out) {
  const float d = load_f16(block + 64);
  two_bits(block, out, [d](int code, int, int, int) { return d * static_cast<float>(code - 1); });
}

/// The eight scales and minima of Q4_K and Q5_K: d f16; dmin f16; eight 6-bit scales and eight 6-bit minima in 12 bytes.
struct ScalesAndMinima {
  float scales[8];
  float minima[8];
};

inline ScalesAndMinima scales_and_minima(const std::uint8_t* block) {
  const float d = load_f16(block);
  const float dmin = load_f16(block + 2);
  const std::uint8_t* const packed = block + 4;
  ScalesAndMinima result;
  for (int k = 0; k < 8; ++k) {
    const int scale = k < 4 ? packed[k] & 63 : (packed[k + 4] & 15) | ((packed[k - 4] >> 6) << 4);
    const int minimum = k < 4 ? packed[k + 4] & 63 : (packed[k + 4] >> 4) | ((packed[k] >> 6) << 4);
    result.scales[k] = d * static_cast<float>(scale);
    result.minima[k] = dmin * static_cast<float>(minimum);
  }
  return result;
}

/// Scales and minima; qs[128]: of each pair of sub-blocks of 32, the first in low nibbles, the second in high ones.
void decode_q4_k(const std::uint8_t* block, float* out) {
  const ScalesAndMinima s = scales_and_minima(block);
  for (int k = 0; k < 8; ++k) {
    const std::uint8_t* const codes = block + 16 + 32 * (k / 2);
    for (int l = 0; l < 32; ++l) {
      out[32 * k + l] = s.scales[k] * static_cast<float>((codes[l] >> (4 * (k % 2))) & 15) - s.minima[k];
    }
  }
}

/// As Q4_K with qh[32] before qs: bit k of byte l is the fifth bit of position l of sub-block k.
void decode_q5_k(const std::uint8_t* block, float* out) {
  const ScalesAndMinima s = scales_and_minima(block);
  const std::uint8_t* const high = block + 16;
  for (int k = 0; k < 8; ++k) {
    const std::uint8_t* const codes = block + 48 + 32 * (k / 2);
    for (int l = 0; l < 32; ++l) {
      const int code = ((codes[l] >> (4 * (k % 2))) & 15) | (((high[l] >> k) & 1) << 4);
      out[32 * k + l] = s.scales[k] * static_cast<float>(code) - s.minima[k];
    }
  }
}

/// ql[128]; qh[64]; scales[16] i8; d f16. In each half of 128, group g of 32 has its low bits in nibble g / 2 of ql[l + 32 *
/// (g % 2)] and its high bits in bits 2g of qh[l].
void decode_q6_k(const std::uint8_t* block, float* out) {
  const float d = load_f16(block + 208);
  for (int h = 0; h < 2; ++h) {
    const std::uint8_t* const low = block + 64 * h;
    const std::uint8_t* const high = block + 128 + 32 * h;
    for (int g = 0; g < 4; ++g) {
      for (int l = 0; l < 32; ++l) {
        const float scale = d * static_cast<float>(static_cast<std::int8_t>(block[192 + 8 * h + 2 * g + l / 16]));
        const int code = ((low[l + 32 * (g % 2)] >> (4 * (g / 2))) & 15) | (((high[l] >> (2 * g)) & 3) << 4);
        out[128 * h + 32 * g + l] = scale * static_cast<float>(code - 32);
      }
    }
  }
}

/// d f16; two high scale bits of each of eight sub-blocks in a u16; four low ones in 4 bytes; qs[128].
void decode_iq4_xs(const std::uint8_t* block, float* out) {
  const float d = load_f16(block);
  const std::uint32_t high = load_u16(block + 2);
  for (int k = 0; k < 8; ++k) {
    const std::uint32_t low = (static_cast<std::uint32_t>(block[4 + k / 2]) >> (4 * (k % 2))) & 15U;
    const int packed = static_cast<int>(low | (((high >> (2 * k)) & 3U) << 4));
    const float scale = d * static_cast<float>(packed - 32);
    nibbles(block + 8 + 16 * k, out + 32 * k,
            [scale](int code, int) { return scale * static_cast<float>(kIq4Values[code]); });
  }
}

void decode(ElementType type, const void* data, std::int64_t elements, float* out) {
  if (elements <= 0) return;
  const auto* const blocks = static_cast<const std::uint8_t*>(data);
  switch (type) {
    case ElementType::f16:
      return for_each_block<1, 2>(blocks, elements, out, [](const std::uint8_t* x, float* y) { *y = load_f16(x); });
    case ElementType::bf16:
      return for_each_block<1, 2>(blocks, elements, out, [](const std::uint8_t* x, float* y) { *y = load_bf16(x); });
    case ElementType::q4_0:
      return for_each_block<32, 18>(blocks, elements, out, decode_q4_0);
    case ElementType::q4_1:
      return for_each_block<32, 20>(blocks, elements, out, decode_q4_1);
    case ElementType::q5_0:
      return for_each_block<32, 22>(blocks, elements, out, decode_q5_0);
    case ElementType::q5_1:
      return for_each_block<32, 24>(blocks, elements, out, decode_q5_1);
    case ElementType::q8_0:
      return for_each_block<32, 34>(blocks, elements, out, decode_q8_0);
    case ElementType::iq4_nl:
      return for_each_block<32, 18>(blocks, elements, out, decode_iq4_nl);
    case ElementType::mxfp4:
      return for_each_block<32, 17>(blocks, elements, out, decode_mxfp4);
    case ElementType::q2_k:
      return for_each_block<256, 84>(blocks, elements, out, decode_q2_k);
    case ElementType::q3_k:
      return for_each_block<256, 110>(blocks, elements, out, decode_q3_k);
    case ElementType::q4_k:
      return for_each_block<256, 144>(blocks, elements, out, decode_q4_k);
    case ElementType::q5_k:
      return for_each_block<256, 176>(blocks, elements, out, decode_q5_k);
    case ElementType::q6_k:
      return for_each_block<256, 210>(blocks, elements, out, decode_q6_k);
    case ElementType::iq4_xs:
      return for_each_block<256, 136>(blocks, elements, out, decode_iq4_xs);
    case ElementType::tq2_0:
      return for_each_block<256, 66>(blocks, elements, out, decode_tq2_0);
    default:
      return decode_plain(type, blocks, elements, out);
  }
}

}  // namespace

BlockDecoder block_decoder_portable() { return decode; }

// Builds without the x86 files: other architectures have the plain decoder only.
#if !defined(__x86_64__)
BlockDecoder block_decoder_avx2() { return nullptr; }
BlockDecoder block_decoder_avx512() { return nullptr; }
#endif

}  // namespace quern
