// Reading keys and values of any cache format as f32 vectors. Included only by the instruction-set files; everything has
// internal linkage.
#pragma once

#include "math/attention_vector-inl.hpp"
#include "math/kv_rows-inl.hpp"

namespace quern {
namespace {

/// Consecutive positions of one head in a cache page.
struct KvRows {
  const std::byte* data = nullptr;
  std::int64_t stride = 0;  ///< bytes from a position to the next
  ElementType type = ElementType::f32;
};

using DU16 = hn::Rebind<std::uint16_t, DU>;
static_assert(kKvBlock % kLanes == 0 && kKvBlock / 2 % kLanes == 0, "a vector lies in one half of a block");

/// IEEE binary16 as f32, exactly.
HWY_INLINE VF from_f16(hn::Vec<DU16> bits) {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
  return hn::PromoteTo(DF(), hn::BitCast(hn::Rebind<hwy::float16_t, DF>(), bits));
#else
  const DU du;
  const VU all = hn::PromoteTo(du, bits);
  const VU magnitude = hn::ShiftLeft<13>(hn::And(all, hn::Set(du, 0x7FFFU)));
  // The exponent moves from a bias of 15 to one of 127, which also makes subnormals normal; infinity and NaN keep theirs.
  const VF finite = hn::Mul(hn::BitCast(DF(), magnitude), hn::Set(DF(), 0x1p112F));
  const VU special = hn::Or(magnitude, hn::Set(du, 0x7F800000U));
  const auto is_special = hn::Not(hn::Lt(hn::BitCast(DI(), magnitude), hn::Set(DI(), 0x0F800000)));
  const VU value = hn::IfThenElse(hn::RebindMask(du, is_special), special, hn::BitCast(du, finite));
  return hn::BitCast(DF(), hn::Or(value, hn::ShiftLeft<16>(hn::And(all, hn::Set(du, 0x8000U)))));
#endif
}

HWY_INLINE std::uint16_t bits16_at(const std::byte* from) {
  std::uint16_t bits = 0;
  __builtin_memcpy(&bits, from, sizeof bits);
  return bits;
}

// 32 elements each: load(i) gives elements i .. i + kLanes - 1 of the block that starts at element `at` of a row, for i a
// multiple of kLanes. Formats of single numbers can also give one element.

struct F32Block {
  static constexpr bool kNumbers = true;
  const float* from;
  F32Block(const std::byte* row, std::int64_t at) : from(reinterpret_cast<const float*>(row) + at) {}
  HWY_INLINE VF load(std::int64_t i) const { return hn::LoadU(DF(), from + i); }
  HWY_INLINE float element(std::int64_t i) const { return from[i]; }
};

struct Bf16Block {
  static constexpr bool kNumbers = true;
  const bf16* from;
  Bf16Block(const std::byte* row, std::int64_t at) : from(reinterpret_cast<const bf16*>(row) + at) {}
  HWY_INLINE VF load(std::int64_t i) const { return simd::load_f32(DF(), from + i); }
  HWY_INLINE float element(std::int64_t i) const { return to_float(from[i]); }
};

struct F16Block {
  static constexpr bool kNumbers = true;
  const std::uint16_t* from;
  F16Block(const std::byte* row, std::int64_t at) : from(reinterpret_cast<const std::uint16_t*>(row) + at) {}
  HWY_INLINE VF load(std::int64_t i) const { return from_f16(hn::LoadU(DU16(), from + i)); }
  HWY_INLINE float element(std::int64_t i) const { return hn::GetLane(from_f16(hn::Set(DU16(), from[i]))); }
};

struct Q8Block {
  static constexpr bool kNumbers = false;
  const std::int8_t* codes;
  VF scale;
  Q8Block(const std::byte* row, std::int64_t at) {
    const std::byte* block = row + at / kKvBlock * kv_format(ElementType::q8_0).block_bytes;
    codes = reinterpret_cast<const std::int8_t*>(block + 2);
    scale = from_f16(hn::Set(DU16(), bits16_at(block)));
  }
  HWY_INLINE VF load(std::int64_t i) const {
    const VI code = hn::PromoteTo(DI(), hn::LoadU(hn::Rebind<std::int8_t, DI>(), codes + i));
    return hn::Mul(hn::ConvertTo(DF(), code), scale);
  }
};

struct Q4Block {
  static constexpr bool kNumbers = false;
  const std::uint8_t* codes;
  VF scale;
  Q4Block(const std::byte* row, std::int64_t at) {
    const std::byte* block = row + at / kKvBlock * kv_format(ElementType::q4_0).block_bytes;
    codes = reinterpret_cast<const std::uint8_t*>(block + 2);
    scale = from_f16(hn::Set(DU16(), bits16_at(block)));
  }
  HWY_INLINE VF load(std::int64_t i) const {
    const VI both = hn::PromoteTo(DI(), hn::LoadU(hn::Rebind<std::uint8_t, DI>(), codes + i % (kKvBlock / 2)));
    const VI code = i < kKvBlock / 2 ? hn::And(both, hn::Set(DI(), 15)) : hn::ShiftRight<4>(both);
    return hn::Mul(hn::ConvertTo(DF(), hn::Sub(code, hn::Set(DI(), 8))), scale);
  }
};

/// to[0..cols) = the row, zeros up to `padded` (whole blocks of 32); with kRound rounded to bf16.
template <class Block, bool kRound>
HWY_INLINE void unpack_kv_row(const std::byte* row, std::int64_t cols, float* to, std::int64_t padded) {
  const auto rounded = [](VF x) HWY_ATTR { return kRound ? round_to_bf16(x) : x; };
  std::int64_t c = 0;
  for (; c + kKvBlock <= cols; c += kKvBlock) {
    const Block block(row, c);
#pragma GCC unroll 2
    for (std::int64_t i = 0; i < kKvBlock; i += kLanes) hn::StoreU(rounded(block.load(i)), DF(), to + c + i);
  }
  if constexpr (Block::kNumbers) {
    const Block rest(row, 0);
    for (; c + kLanes <= cols; c += kLanes) hn::StoreU(rounded(rest.load(c)), DF(), to + c);
    for (; c < cols; ++c) {
      const float x = rest.element(c);
      to[c] = kRound ? to_float(bf16{static_cast<std::uint16_t>(rounded_bits(x) >> 16)}) : x;
    }
  }
  for (; c < padded; ++c) to[c] = 0.0F;
}

template <class Block, bool kRound>
inline void unpack_kv_rows(const KvRows& rows, std::int64_t count, std::int64_t cols, float* to, std::int64_t padded) {
  for (std::int64_t k = 0; k < count; ++k) {
    unpack_kv_row<Block, kRound>(rows.data + k * rows.stride, cols, to + k * padded, padded);
  }
}

}  // namespace
}  // namespace quern
