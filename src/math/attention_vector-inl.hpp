// Vector helpers of attention: exp2, transposes, rows of packed tiles, and the dropout mask for lanes that are rows.
// Included only by the instruction-set files; everything has internal linkage.
#pragma once

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>

#include "math/attention_kernels.hpp"
#include "math/simd/math-inl.hpp"

namespace quern {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using DU = hn::ScalableTag<std::uint32_t>;
using DI = hn::ScalableTag<std::int32_t>;
using VF = hn::Vec<DF>;
using VU = hn::Vec<DU>;
using VI = hn::Vec<DI>;

inline constexpr std::int64_t kLanes = HWY_LANES(float);

constexpr float kLog2E = 1.44269504088896341F;
constexpr float kLn2 = 0.693147180559945309F;

constexpr std::int64_t round_up(std::int64_t n, std::int64_t unit) { return (n + unit - 1) / unit * unit; }
constexpr std::int64_t min_of(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
constexpr std::int64_t max_of(std::int64_t a, std::int64_t b) { return a > b ? a : b; }

HWY_INLINE float to_float(float x) { return x; }
HWY_INLINE float to_float(bf16 x) { return __builtin_bit_cast(float, static_cast<std::uint32_t>(x.bits) << 16); }
HWY_INLINE std::uint32_t rounded_bits(float x) {
  const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, x);
  return bits + 0x7FFFU + ((bits >> 16) & 1U);
}
HWY_INLINE void from_float(float x, float* out) { *out = x; }
HWY_INLINE void from_float(float x, bf16* out) { out->bits = static_cast<std::uint16_t>(rounded_bits(x) >> 16); }

HWY_INLINE VU rounded_bits(VF x) {
  const DU du;
  const VU bits = hn::BitCast(du, x);
  return hn::Add(bits, hn::Add(hn::Set(du, 0x7FFFU), hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1U))));
}
/// x rounded to bf16 (nearest even), as f32.
HWY_INLINE VF round_to_bf16(VF x) { return hn::BitCast(DF(), hn::And(rounded_bits(x), hn::Set(DU(), 0xFFFF0000U))); }
HWY_INLINE VU load_u16(const std::uint16_t* x) { return hn::PromoteTo(DU(), hn::LoadU(hn::Rebind<std::uint16_t, DU>(), x)); }

/// Where exp2 stops: 2^-100 vanishes beside a row's largest term (1), and its products with values are still normal numbers.
constexpr float kExp2Floor = -100.0F;

/// 2^t for t <= 1, with exp2(0) = 1 exactly and everything below kExp2Floor as 2^kExp2Floor. Relative error 2e-9 plus
/// rounding, or 3e-6 where `kShort` (used where the result is rounded to bf16, 2e-3). Minimax on [-1/2, 1/2] with constant
/// term 1.
template <bool kShort>
HWY_INLINE VF exp2_of(VF t) {
  const DF df;
  const VF shift = hn::Set(df, 12582912.0F);  // 1.5 * 2^23: adding it leaves round(t) in the low bits
  t = hn::Max(t, hn::Set(df, kExp2Floor));
  const VF shifted = hn::Add(t, shift);
  const VF f = hn::Sub(t, hn::Sub(shifted, shift));
  VF p;
  if constexpr (kShort) {
    p = hn::MulAdd(hn::Set(df, 0.00958285201F), f, hn::Set(df, 0.0559064262F));
    p = hn::MulAdd(p, f, hn::Set(df, 0.240240991F));
    p = hn::MulAdd(p, f, hn::Set(df, 0.693124175F));
  } else {
    p = hn::MulAdd(hn::Set(df, 0.000153533605F), f, hn::Set(df, 0.0013398875F));
    p = hn::MulAdd(p, f, hn::Set(df, 0.00961843692F));
    p = hn::MulAdd(p, f, hn::Set(df, 0.0555033237F));
    p = hn::MulAdd(p, f, hn::Set(df, 0.240226477F));
    p = hn::MulAdd(p, f, hn::Set(df, 0.693147182F));
  }
  p = hn::MulAdd(p, f, hn::Set(df, 1.0F));
  const DI di;
  return hn::BitCast(df, hn::Add(hn::BitCast(di, p), hn::ShiftLeft<23>(hn::BitCast(di, shifted))));
}

/// to[c][r] = from[r][c] for 32-bit elements; rows and cols are multiples of 4.
HWY_INLINE void transpose32(const std::uint32_t* HWY_RESTRICT from, std::int64_t from_stride, std::int64_t rows,
                            std::int64_t cols, std::uint32_t* HWY_RESTRICT to, std::int64_t to_stride) {
#if HWY_TARGET == HWY_SCALAR
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < cols; ++c) to[c * to_stride + r] = from[r * from_stride + c];
  }
#else
  const hn::Full128<std::uint32_t> d;
  const hn::Full128<std::uint64_t> d64;
  for (std::int64_t r = 0; r < rows; r += 4) {
    for (std::int64_t c = 0; c < cols; c += 4) {
      const std::uint32_t* p = from + r * from_stride + c;
      const auto x0 = hn::LoadU(d, p);
      const auto x1 = hn::LoadU(d, p + from_stride);
      const auto x2 = hn::LoadU(d, p + 2 * from_stride);
      const auto x3 = hn::LoadU(d, p + 3 * from_stride);
      const auto lo01 = hn::BitCast(d64, hn::InterleaveLower(d, x0, x1));
      const auto lo23 = hn::BitCast(d64, hn::InterleaveLower(d, x2, x3));
      const auto hi01 = hn::BitCast(d64, hn::InterleaveUpper(d, x0, x1));
      const auto hi23 = hn::BitCast(d64, hn::InterleaveUpper(d, x2, x3));
      std::uint32_t* q = to + c * to_stride + r;
      hn::StoreU(hn::BitCast(d, hn::InterleaveLower(d64, lo01, lo23)), d, q);
      hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(d64, lo01, lo23)), d, q + to_stride);
      hn::StoreU(hn::BitCast(d, hn::InterleaveLower(d64, hi01, hi23)), d, q + 2 * to_stride);
      hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(d64, hi01, hi23)), d, q + 3 * to_stride);
    }
  }
#endif
}
HWY_INLINE void transpose32(const float* HWY_RESTRICT from, std::int64_t from_stride, std::int64_t rows, std::int64_t cols,
                            float* HWY_RESTRICT to, std::int64_t to_stride) {
#if HWY_TARGET == HWY_SCALAR
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < cols; ++c) to[c * to_stride + r] = from[r * from_stride + c];
  }
#else
  transpose32(reinterpret_cast<const std::uint32_t*>(from), from_stride, rows, cols, reinterpret_cast<std::uint32_t*>(to),
              to_stride);
#endif
}

/// Asks for `count` rows of `cols` elements to be brought into the second-level cache.
template <class T>
HWY_INLINE void prefetch_rows(const T* from, std::int64_t stride, std::int64_t count, std::int64_t cols) {
  constexpr std::int64_t kLine = 64 / static_cast<std::int64_t>(sizeof(T));
  for (std::int64_t r = 0; r < count; ++r) {
    for (std::int64_t c = 0; c < cols; c += kLine) __builtin_prefetch(from + r * stride + c, 0, 2);
  }
}

/// to[0..cols) = from[0..cols) as f32, zeros up to `padded` (a multiple of kLanes).
template <class T>
HWY_INLINE void unpack_row(const T* from, std::int64_t cols, float* to, std::int64_t padded) {
  std::int64_t c = 0;
  for (; c + kLanes <= cols; c += kLanes) hn::StoreU(simd::load_f32(DF(), from + c), DF(), to + c);
  for (; c < cols; ++c) to[c] = to_float(from[c]);
  for (; c < padded; ++c) to[c] = 0.0F;
}

/// to[c] = from[c] * factor. Denormal results become +0: matrix units flush them, vectors do not, and which tiles a row
/// visits past its own keys may depend on its neighbours.
template <class T>
HWY_INLINE void write_row(const float* from, std::int64_t cols, float factor, T* to) {
  const DF df;
  const VF tiny = hn::Set(df, 1.17549435e-38F);
  std::int64_t c = 0;
  for (; c + kLanes <= cols; c += kLanes) {
    const VF v = hn::Mul(hn::LoadU(df, from + c), hn::Set(df, factor));
    simd::store_f32(DF(), hn::IfThenZeroElse(hn::Lt(hn::Abs(v), tiny), v), to + c);
  }
  for (; c < cols; ++c) {
    const float v = from[c] * factor;
    from_float((v < 1.17549435e-38F && v > -1.17549435e-38F) ? 0.0F : v, to + c);
  }
}

/// sum of a[c] * b[c], in an order that depends on cols alone.
template <class T>
HWY_INLINE float dot_row(const T* a, const T* b, std::int64_t cols) {
  VF sum = hn::Zero(DF());
  std::int64_t c = 0;
  for (; c + kLanes <= cols; c += kLanes) sum = hn::MulAdd(simd::load_f32(DF(), a + c), simd::load_f32(DF(), b + c), sum);
  float total = hn::GetLane(hn::SumOfLanes(DF(), sum));
  for (; c < cols; ++c) total += to_float(a[c]) * to_float(b[c]);
  return total;
}

/// High and low halves of the products of 32-bit lanes with a constant.
HWY_INLINE void wide_multiply(VU x, std::uint32_t factor, VU& high, VU& low) {
#if HWY_TARGET == HWY_SCALAR
  const std::uint64_t product = static_cast<std::uint64_t>(hn::GetLane(x)) * factor;
  high = hn::Set(DU(), static_cast<std::uint32_t>(product >> 32));
  low = hn::Set(DU(), static_cast<std::uint32_t>(product));
#else
  const hn::RepartitionToWide<DU> d64;
  const DU du;
  const VU f = hn::Set(du, factor);
  const auto even = hn::MulEven(x, f);
  const auto odd = hn::MulEven(hn::BitCast(du, hn::ShiftRight<32>(hn::BitCast(d64, x))), f);
  high = hn::OddEven(hn::BitCast(du, odd), hn::BitCast(du, hn::ShiftRight<32>(even)));
  low = hn::OddEven(hn::BitCast(du, hn::ShiftLeft<32>(odd)), hn::BitCast(du, even));
#endif
}

/// Dropout of probabilities: for kLanes mask rows and 8 consecutive columns, four words whose 16-bit halves are compared
/// with `threshold` (see DropoutMask). simd/philox-inl.hpp makes the same bits for the columns of one row; here lanes are
/// rows.
struct DropoutBlock {
  VU words[4];
};
HWY_INLINE DropoutBlock philox_block(const DropoutMask& mask, VU column_blocks, VU rows) {
  const DU du;
  VU c0 = column_blocks;
  VU c1 = rows;
  VU c2 = hn::Set(du, mask.site);
  VU c3 = hn::Set(du, mask.step);
  std::uint32_t k0 = static_cast<std::uint32_t>(mask.seed);
  std::uint32_t k1 = static_cast<std::uint32_t>(mask.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    VU high0, low0, high1, low1;
    wide_multiply(c0, 0xD2511F53U, high0, low0);
    wide_multiply(c2, 0xCD9E8D57U, high1, low1);
    c0 = hn::Xor(hn::Xor(high1, c1), hn::Set(du, k0));
    c2 = hn::Xor(hn::Xor(high0, c3), hn::Set(du, k1));
    c1 = low1;
    c3 = low0;
    k0 += 0x9E3779B9U;
    k1 += 0xBB67AE85U;
  }
  return {{c0, c1, c2, c3}};
}
HWY_INLINE DropoutBlock philox_block(const DropoutMask& mask, std::uint32_t column_block, VU rows) {
  return philox_block(mask, hn::Set(DU(), column_block), rows);
}
/// 16-bit half `kIndex` (0..7) of a block: kept lanes give `value`, dropped ones 0.
template <int kIndex>
HWY_INLINE VF keep(const DropoutBlock& block, VI threshold, VF value) {
  const DU du;
  const VU word = block.words[kIndex / 2];
  const VU half = (kIndex % 2) != 0 ? hn::ShiftRight<16>(word) : hn::And(word, hn::Set(du, 0xFFFFU));
  const auto dropped = hn::Lt(hn::BitCast(DI(), half), threshold);
  return hn::IfThenZeroElse(hn::RebindMask(DF(), dropped), value);
}

}  // namespace
}  // namespace quern
