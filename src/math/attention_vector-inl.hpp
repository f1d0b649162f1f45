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

/// 2^t for t below 127, with exp2(n) exact for whole n and everything below kExp2Floor as 2^kExp2Floor. Relative error 2e-9
/// plus rounding (AVX-512: 8e-8), or 3e-6 where `kShort` (used where the result is rounded to bf16, 2e-3). Minimax
/// polynomials with constant term 1, on [-1/2, 1/2] or, where hardware takes floors and scales, on [0, 1].
template <bool kShort>
HWY_INLINE VF exp2_of(VF t) {
  const DF df;
  t = hn::Max(t, hn::Set(df, kExp2Floor));
  VF p;
#if HWY_TARGET == HWY_AVX3
  const VF f{_mm512_reduce_ps(t.raw, 1)};  // t - floor(t)
  if constexpr (kShort) {
    p = hn::MulAdd(hn::Set(df, 0.0134266876F), f, hn::Set(df, 0.0522424690F));
    p = hn::MulAdd(p, f, hn::Set(df, 0.241280213F));
    p = hn::MulAdd(p, f, hn::Set(df, 0.693044841F));
  } else {
    p = hn::MulAdd(hn::Set(df, 0.00186713052F), f, hn::Set(df, 0.00901702978F));
    p = hn::MulAdd(p, f, hn::Set(df, 0.0557999127F));
    p = hn::MulAdd(p, f, hn::Set(df, 0.240164444F));
    p = hn::MulAdd(p, f, hn::Set(df, 0.693151295F));
  }
  p = hn::MulAdd(p, f, hn::Set(df, 1.0F));
  return VF{_mm512_scalef_ps(p.raw, t.raw)};  // p * 2^floor(t)
#else
  const VF shift = hn::Set(df, 12582912.0F);  // 1.5 * 2^23: adding it leaves round(t) in the low bits
  const VF shifted = hn::Add(t, shift);
  const VF f = hn::Sub(t, hn::Sub(shifted, shift));
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
#endif
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

#if HWY_TARGET == HWY_SCALAR
/// High and low halves of the products of 32-bit lanes with a constant.
HWY_INLINE void wide_multiply(VU x, std::uint32_t factor, VU& high, VU& low) {
  const std::uint64_t product = static_cast<std::uint64_t>(hn::GetLane(x)) * factor;
  high = hn::Set(DU(), static_cast<std::uint32_t>(product >> 32));
  low = hn::Set(DU(), static_cast<std::uint32_t>(product));
}
#endif

/// Dropout of probabilities: for kLanes mask rows and 8 consecutive columns, four words whose 16-bit halves are compared
/// with `threshold` (see DropoutMask). simd/philox-inl.hpp makes the same bits for the columns of one row; here lanes are
/// rows.
struct DropoutBlock {
  VU words[4];
};
HWY_INLINE DropoutBlock philox_block(const DropoutMask& mask, VU column_blocks, VU rows) {
  const DU du;
  std::uint32_t k0 = static_cast<std::uint32_t>(mask.seed);
  std::uint32_t k1 = static_cast<std::uint32_t>(mask.seed >> 32);
#if HWY_TARGET == HWY_SCALAR
  VU c0 = column_blocks;
  VU c1 = rows;
  VU c2 = hn::Set(du, mask.site);
  VU c3 = hn::Set(du, mask.step);
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
#else
  // Even and odd lanes on their own, in the lower halves of 64-bit lanes, which is what multiplications read; upper halves
  // hold what is not needed.
  const hn::RepartitionToWide<DU> d64;
  const auto upper = [&](VU x) HWY_ATTR { return hn::Shuffle2301(x); };
  VU c0[2] = {column_blocks, upper(column_blocks)};
  VU c1[2] = {rows, upper(rows)};
  VU c2[2] = {hn::Set(du, mask.site), hn::Set(du, mask.site)};
  VU c3[2] = {hn::Set(du, mask.step), hn::Set(du, mask.step)};
  const VU f0 = hn::Set(du, 0xD2511F53U);
  const VU f1 = hn::Set(du, 0xCD9E8D57U);
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const VU key0 = hn::Set(du, k0);
    const VU key1 = hn::Set(du, k1);
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const VU product0 = hn::BitCast(du, hn::MulEven(c0[i], f0));
      const VU product1 = hn::BitCast(du, hn::MulEven(c2[i], f1));
      c0[i] = hn::Xor(hn::Xor(upper(product1), c1[i]), key0);
      c2[i] = hn::Xor(hn::Xor(upper(product0), c3[i]), key1);
      c1[i] = product1;
      c3[i] = product0;
    }
    k0 += 0x9E3779B9U;
    k1 += 0xBB67AE85U;
  }
  const auto both = [&](const VU* x)
                        HWY_ATTR { return hn::OddEven(hn::BitCast(du, hn::ShiftLeft<32>(hn::BitCast(d64, x[1]))), x[0]); };
  return {{both(c0), both(c1), both(c2), both(c3)}};
#endif
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
