// Packing K-quant super-blocks, and the quantizer of all their types. docs/block-formats.md has the layouts. Included into
// each instruction-set file.
#pragma once

#include "math/block_quantize_k_affine-inl.hpp"
#include "math/block_quantize_k_symmetric-inl.hpp"

namespace quern {
namespace {
namespace kq {

using Q2 = AffineFormat<16, 3, 15>;
using Q3 = SymmetricFormat<4, 32>;
using Q4 = AffineFormat<32, 15, 63>;
using Q5 = AffineFormat<32, 31, 63>;
using Q6 = SymmetricFormat<32, 128>;

/// Two bits of each code in the order of Q2_K and Q3_K: half h, group g of 32, position l is bits 2g of byte 32h + l.
inline void pack_two_bits(const std::uint8_t* codes, std::uint8_t* out) {
  for (int h = 0; h < 2; ++h) {
    const std::uint8_t* const half = codes + 128 * h;
    for (int l = 0; l < 32; ++l) {
      out[32 * h + l] = static_cast<std::uint8_t>((half[l] & 3) | ((half[l + 32] & 3) << 2) | ((half[l + 64] & 3) << 4) |
                                                  ((half[l + 96] & 3) << 6));
    }
  }
}

inline void quantize_q2_k(const Group<16>& group, std::uint8_t* out, int /*supers*/) {
  const auto choice = choose_affine<Q2>(group);
  std::uint8_t codes[16 * kWidth];
  affine_codes<Q2>(group, choice, codes);
  for (int k = 0; k < 16; ++k) {
    out[k] = static_cast<std::uint8_t>(static_cast<int>(choice.scale.at[k]) | (static_cast<int>(choice.minimum.at[k]) << 4));
  }
  pack_two_bits(codes, out + 16);
  store_u16(group.bits_in_file(choice.d[0], 0), out + 80);
  store_u16(group.bits_in_file(choice.dmin[0], 0), out + 82);
}

inline void quantize_q3_k(const Group<16>& group, std::uint8_t* out, int /*supers*/) {
  const SymmetricChoice choice = choose_symmetric<Q3>(group);
  std::uint8_t codes[16 * kWidth];
  symmetric_codes_of<Q3>(group, choice, codes);
  for (int l = 0; l < 32; ++l) {
    int third = 0;
    for (int i = 0; i < 8; ++i) third |= (codes[32 * i + l] >> 2) << i;
    out[l] = static_cast<std::uint8_t>(third);
  }
  pack_two_bits(codes, out + 32);
  std::uint8_t* const packed = out + 96;
  for (int i = 0; i < 12; ++i) packed[i] = 0;
  for (int i = 0; i < 16; ++i) {
    const int scale = static_cast<int>(choice.scale.at[i]) + 32;
    packed[i % 8] = static_cast<std::uint8_t>(packed[i % 8] | ((scale & 15) << (4 * (i / 8))));
    packed[8 + i % 4] = static_cast<std::uint8_t>(packed[8 + i % 4] | ((scale >> 4) << (2 * (i / 4))));
  }
  store_u16(choice.d.bits, out + 108);
}

/// d, dmin, and the scales and minima of Q4_K and Q5_K.
inline void pack_scales(const Group<32>& group, const AffineChoice<Group<32>>& choice, int super, std::uint8_t* out) {
  store_u16(group.bits_in_file(choice.d[super], super), out);
  store_u16(group.bits_in_file(choice.dmin[super], super), out + 2);
  std::uint8_t* const packed = out + 4;
  for (int k = 0; k < 4; ++k) {
    const int lane = 8 * super + k;
    const int scale = static_cast<int>(choice.scale.at[lane]);
    const int minimum = static_cast<int>(choice.minimum.at[lane]);
    const int later_scale = static_cast<int>(choice.scale.at[lane + 4]);
    const int later_minimum = static_cast<int>(choice.minimum.at[lane + 4]);
    packed[k] = static_cast<std::uint8_t>(scale | ((later_scale >> 4) << 6));
    packed[k + 4] = static_cast<std::uint8_t>(minimum | ((later_minimum >> 4) << 6));
    packed[k + 8] = static_cast<std::uint8_t>((later_scale & 15) | ((later_minimum & 15) << 4));
  }
}

/// The low four bits of the codes of Q4_K and Q5_K: of each pair of sub-blocks, the first in low nibbles.
inline void pack_nibbles(const std::uint8_t* codes, std::uint8_t* out) {
  for (int pair = 0; pair < 4; ++pair) {
    for (int l = 0; l < 32; ++l) {
      out[32 * pair + l] = static_cast<std::uint8_t>((codes[64 * pair + l] & 15) | ((codes[64 * pair + 32 + l] & 15) << 4));
    }
  }
}

inline void quantize_q4_k(const Group<32>& group, std::uint8_t* out, int supers) {
  const auto choice = choose_affine<Q4>(group);
  std::uint8_t codes[32 * kWidth];
  affine_codes<Q4>(group, choice, codes);
  for (int s = 0; s < supers; ++s) {
    pack_scales(group, choice, s, out + 144 * s);
    pack_nibbles(codes + 256 * s, out + 144 * s + 16);
  }
}

inline void quantize_q5_k(const Group<32>& group, std::uint8_t* out, int supers) {
  const auto choice = choose_affine<Q5>(group);
  std::uint8_t codes[32 * kWidth];
  affine_codes<Q5>(group, choice, codes);
  for (int s = 0; s < supers; ++s) {
    std::uint8_t* const block = out + 176 * s;
    pack_scales(group, choice, s, block);
    for (int l = 0; l < 32; ++l) {
      int fifth = 0;
      for (int k = 0; k < 8; ++k) fifth |= (codes[256 * s + 32 * k + l] >> 4) << k;
      block[16 + l] = static_cast<std::uint8_t>(fifth);
    }
    pack_nibbles(codes + 256 * s, block + 48);
  }
}

/// In each half of 128, group g of 32 has its low bits in nibble g / 2 of byte l + 32 * (g % 2), and its high ones in bits
/// 2g.
inline void quantize_q6_k(const Group<16>& group, std::uint8_t* out, int /*supers*/) {
  const SymmetricChoice choice = choose_symmetric<Q6>(group);
  std::uint8_t codes[16 * kWidth];
  symmetric_codes_of<Q6>(group, choice, codes);
  for (int h = 0; h < 2; ++h) {
    const std::uint8_t* const half = codes + 128 * h;
    for (int l = 0; l < 32; ++l) {
      out[64 * h + l] = static_cast<std::uint8_t>((half[l] & 15) | ((half[l + 64] & 15) << 4));
      out[64 * h + 32 + l] = static_cast<std::uint8_t>((half[l + 32] & 15) | ((half[l + 96] & 15) << 4));
      out[128 + 32 * h + l] = static_cast<std::uint8_t>((half[l] >> 4) | ((half[l + 32] >> 4) << 2) |
                                                        ((half[l + 64] >> 4) << 4) | ((half[l + 96] >> 4) << 6));
    }
  }
  for (int k = 0; k < 16; ++k) {
    out[192 + k] = static_cast<std::uint8_t>(static_cast<std::int8_t>(static_cast<int>(choice.scale.at[k])));
  }
  store_u16(choice.d.bits, out + 208);
}

inline bool quantize(const QuantizeRows& rows) {
  switch (rows.type) {
    case ElementType::q2_k:
      for_each_group<16, 84, true>(rows, quantize_q2_k);
      return true;
    case ElementType::q3_k:
      for_each_group<16, 110, false>(rows, quantize_q3_k);
      return true;
    case ElementType::q4_k:
      for_each_group<32, 144, true>(rows, quantize_q4_k);
      return true;
    case ElementType::q5_k:
      for_each_group<32, 176, true>(rows, quantize_q5_k);
      return true;
    case ElementType::q6_k:
      for_each_group<16, 210, false>(rows, quantize_q6_k);
      return true;
    default:
      return false;
  }
}

}  // namespace kq
}  // namespace
}  // namespace quern
