// exp, tanh, erf, log and the sigmoid on Highway vectors of f32, and loads and stores of f32 and bf16.
//
// For translation units that hold one instruction set: static dispatch, everything in internal linkage. Functions take the
// tag `d` first, as Highway's own do, and work for any lane count. Error bounds hold for every target; results of one
// target are the same bits wherever the value sits in a vector. Polynomials are minimax fits (Remez exchange, 40 digits).
#pragma once

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>

#include "math/element_type.hpp"

namespace quern {
namespace {
namespace simd {

namespace hn = hwy::HWY_NAMESPACE;

template <class D>
using UnsignedTag = hn::Rebind<std::uint32_t, D>;

/// x = n ln 2 + r with |r| <= ln 2 / 2, and exp(r).
template <class D>
struct ReducedExp {
  hn::Vec<D> exp_r;                  ///< NaN when x was
  hn::Vec<UnsignedTag<D>> exponent;  ///< n << 23, modulo 2^32
};

template <class D, class V = hn::Vec<D>>
HWY_INLINE ReducedExp<D> reduced_exp(D d, V x) {
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low mantissa bits: n = round(x / ln 2).
  const V magic = hn::Set(d, 12582912.0F);
  const V shifted = hn::MulAdd(x, hn::Set(d, 1.44269504F), magic);
  const V n = hn::Sub(shifted, magic);
  // r = x - n ln 2 in two steps: the first constant has 9 mantissa bits, so n times it is exact.
  V r = hn::NegMulAdd(n, hn::Set(d, 0.693359375F), x);
  r = hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4F), r);
  V q = hn::Set(d, 0.001381470023F);
  q = hn::MulAdd(q, r, hn::Set(d, 0.008368665104F));
  q = hn::MulAdd(q, r, hn::Set(d, 0.04166838312F));
  q = hn::MulAdd(q, r, hn::Set(d, 0.1666652106F));
  q = hn::MulAdd(q, r, hn::Set(d, 0.4999999348F));
  const V p = hn::Add(hn::MulAdd(q, hn::Mul(r, r), r), hn::Set(d, 1.0F));
  return {p, hn::ShiftLeft<23>(hn::BitCast(UnsignedTag<D>(), shifted))};
}

/// exp(x), at most 1.5 ulp where the result is a normal number. Results below 2^-126 are 0, above the largest float +inf;
/// exp(-inf) = 0; NaN stays NaN.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V exp_f32(D d, V x) {
  const UnsignedTag<D> du;
  const ReducedExp<D> e = reduced_exp(d, x);
  // Multiply by 2^n by adding n to the exponent bits; exact while the result is a normal number.
  V result = hn::BitCast(d, hn::Add(hn::BitCast(du, e.exp_r), e.exponent));
  result = hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -87.3365402F)), result);
  result = hn::IfThenElse(hn::Gt(x, hn::Set(d, 88.7228394F)), hn::Set(d, __builtin_inff()), result);
  return hn::IfThenElse(hn::Eq(x, x), result, x);
}

/// exp_f32 for x <= 0 or NaN: the same bits, fewer instructions.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V exp_nonpositive_f32(D d, V x) {
  const UnsignedTag<D> du;
  const ReducedExp<D> e = reduced_exp(d, x);
  // 2^n as a number of its own: multiplying keeps NaN, which adding to its bits would not.
  const V power = hn::BitCast(d, hn::Add(e.exponent, hn::Set(du, 127U << 23)));
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -87.3365402F)), hn::Mul(e.exp_r, power));
}

/// exp(min(max(x, -87), 87)), at most 1.5 ulp. NaN may come out as any number.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V exp_clamped_f32(D d, V x) {
  const UnsignedTag<D> du;
  const ReducedExp<D> e = reduced_exp(d, hn::Max(hn::Set(d, -87.0F), hn::Min(hn::Set(d, 87.0F), x)));
  return hn::BitCast(d, hn::Add(hn::BitCast(du, e.exp_r), e.exponent));
}

/// 1 / x for x in [1, 2^125], relative error at most 2e-7.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V reciprocal_f32(D d, V x) {
#if HWY_TARGET == HWY_AVX3
  // Sixteen divisions take sixteen cycles; an estimate of 14 bits and one step of Newton's method a quarter of that.
  const V estimate = hn::ApproximateReciprocal(x);
  return hn::Mul(estimate, hn::NegMulAdd(x, estimate, hn::Set(d, 2.0F)));
#else
  return hn::Div(hn::Set(d, 1.0F), x);
#endif
}

/// 1 / (1 + exp(-x)), relative error at most 3e-7 above -87; below, the value at -87 (1.6e-38). NaN may come out as any
/// number between 0 and 1, so multiply by x, as activations do, where it must be seen.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V sigmoid_f32(D d, V x) {
  const V one = hn::Set(d, 1.0F);
  return reciprocal_f32(d, hn::Add(one, exp_clamped_f32(d, hn::Neg(x))));
}

/// sigmoid_f32 for results that are rounded to bf16 (which is off by up to 2e-3): relative error at most 6e-5 above -87;
/// below, a number from 0 to 1.7e-38.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V short_sigmoid_f32(D d, V x) {
#if HWY_TARGET == HWY_AVX3
  // 2^t with hardware's floor and scale and a polynomial for [0, 1] (3e-6), and an estimate of 14 bits. Where 2^t
  // vanishes, 1.
  const V t = hn::Min(hn::Mul(x, hn::Set(d, -1.44269504F)), hn::Set(d, 126.0F));
  const V f{_mm512_reduce_ps(t.raw, 1)};  // t - floor(t)
  V p = hn::MulAdd(hn::Set(d, 0.0134266876F), f, hn::Set(d, 0.0522424690F));
  p = hn::MulAdd(p, f, hn::Set(d, 0.241280213F));
  p = hn::MulAdd(p, f, hn::Set(d, 0.693044841F));
  p = hn::MulAdd(p, f, hn::Set(d, 1.0F));
  return hn::ApproximateReciprocal(hn::Add(V{_mm512_scalef_ps(p.raw, t.raw)}, hn::Set(d, 1.0F)));
#else
  return sigmoid_f32(d, x);
#endif
}

/// tanh(x), relative error at most 4e-7. tanh(-0) = -0, tanh(inf) = 1.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V tanh_f32(D d, V x) {
  const V a = hn::Abs(x);
  // Near 0: x + x^3 p(x^2).
  const V z = hn::Mul(x, x);
  V p = hn::Set(d, -0.006214969714F);
  p = hn::MulAdd(p, z, hn::Set(d, 0.02110768381F));
  p = hn::MulAdd(p, z, hn::Set(d, -0.05388286284F));
  p = hn::MulAdd(p, z, hn::Set(d, 0.1333305536F));
  p = hn::MulAdd(p, z, hn::Set(d, -0.3333333242F));
  const V small = hn::MulAdd(hn::Mul(p, z), x, x);
  // Elsewhere: 1 - 2 / (exp(2 |x|) + 1), with the sign of x.
  const V one = hn::Set(d, 1.0F);
  const V e = exp_clamped_f32(d, hn::Add(a, a));
  const V large = hn::NegMulAdd(hn::Set(d, 2.0F), reciprocal_f32(d, hn::Add(e, one)), one);
  // NaN is not above the limit, so it takes the polynomial, which keeps it.
  return hn::IfThenElse(hn::Gt(a, hn::Set(d, 0.625F)), hn::CopySign(large, x), small);
}

/// erf(x), absolute error at most 2e-7.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V erf_f32(D d, V x) {
  const V a = hn::Abs(x);
  // |x| < 1: x p(x^2).
  const V z = hn::Mul(x, x);
  V p = hn::Set(d, 8.258655259e-5F);
  p = hn::MulAdd(p, z, hn::Set(d, -0.0008132933611F));
  p = hn::MulAdd(p, z, hn::Set(d, 0.005202106743F));
  p = hn::MulAdd(p, z, hn::Set(d, -0.02686079363F));
  p = hn::MulAdd(p, z, hn::Set(d, 0.1128373959F));
  p = hn::MulAdd(p, z, hn::Set(d, -0.3761263763F));
  p = hn::MulAdd(p, z, hn::Set(d, 1.128379167F));
  const V small = hn::Mul(p, x);
  // 1 <= |x|: 1 - exp(-g(|x|)) with g = -log(erfc) fitted on [1, 4]; beyond 4 the result is 1 to f32.
  const V b = hn::Min(a, hn::Set(d, 4.0F));
  V g = hn::Set(d, -0.000104674229F);
  g = hn::MulAdd(g, b, hn::Set(d, 0.002030095332F));
  g = hn::MulAdd(g, b, hn::Set(d, -0.01765802408F));
  g = hn::MulAdd(g, b, hn::Set(d, 0.09324052399F));
  g = hn::MulAdd(g, b, hn::Set(d, 0.6508489865F));
  g = hn::MulAdd(g, b, hn::Set(d, 1.118634672F));
  g = hn::MulAdd(g, b, hn::Set(d, 0.0026139307F));
  const V large = hn::Sub(hn::Set(d, 1.0F), exp_clamped_f32(d, hn::Neg(g)));
  // NaN is not above the limit, so it takes the polynomial, which keeps it.
  return hn::IfThenElse(hn::Gt(a, hn::Set(d, 1.0F)), hn::CopySign(large, x), small);
}

/// log(x) for positive normal x, at most 2 ulp away from x = 1 and 1e-7 absolute near it. 0 and smaller subnormals give
/// -inf, negative numbers NaN, +inf gives +inf, NaN stays NaN.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V log_f32(D d, V x) {
  const hn::Rebind<std::int32_t, D> di;
  // x = 2^k m with m in [sqrt(1/2), sqrt 2): subtracting the bits of sqrt(1/2) puts k into the exponent field.
  const auto offset = hn::Set(di, 0x3F3504F3);
  const auto shifted = hn::Sub(hn::BitCast(di, x), offset);
  const auto k = hn::ShiftRight<23>(shifted);
  const V m = hn::BitCast(d, hn::Add(hn::And(shifted, hn::Set(di, 0x007FFFFF)), offset));
  const V kf = hn::ConvertTo(d, k);
  const V t = hn::Sub(m, hn::Set(d, 1.0F));
  V p = hn::Set(d, -0.07641303346F);
  p = hn::MulAdd(p, t, hn::Set(d, 0.1275676752F));
  p = hn::MulAdd(p, t, hn::Set(d, -0.1315482775F));
  p = hn::MulAdd(p, t, hn::Set(d, 0.1420197063F));
  p = hn::MulAdd(p, t, hn::Set(d, -0.1662397617F));
  p = hn::MulAdd(p, t, hn::Set(d, 0.2000124814F));
  p = hn::MulAdd(p, t, hn::Set(d, -0.2500080214F));
  p = hn::MulAdd(p, t, hn::Set(d, 0.3333333093F));
  const V t2 = hn::Mul(t, t);
  V tail = hn::Mul(hn::Mul(p, t), t2);
  tail = hn::MulAdd(kf, hn::Set(d, -2.12194440e-4F), tail);
  tail = hn::NegMulAdd(hn::Set(d, 0.5F), t2, tail);
  V result = hn::MulAdd(kf, hn::Set(d, 0.693359375F), hn::Add(t, tail));
  const V inf = hn::Set(d, __builtin_inff());
  result = hn::IfThenElse(hn::Lt(x, hn::Set(d, 1.17549435e-38F)), hn::Neg(inf), result);
  result = hn::IfThenElse(hn::Lt(x, hn::Zero(d)), hn::Set(d, __builtin_nanf("")), result);
  return hn::IfThenElse(hn::Lt(x, inf), result, x);  // +inf and NaN
}

/// Bits of f32 `x` rounded to bf16 (nearest, ties to even) in the upper halves of 32-bit lanes; the lower halves hold
/// leftovers. NaN stays a (quiet) NaN.
template <class D, class V = hn::Vec<D>>
HWY_INLINE hn::Vec<UnsignedTag<D>> round_to_bf16(D d, V x) {
  const UnsignedTag<D> du;
  const auto bits = hn::BitCast(du, x);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1U));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFFU)));
  const auto quiet = hn::Or(bits, hn::Set(du, 0x00400000U));
  return hn::BitCast(du, hn::IfThenElse(hn::Eq(x, x), hn::BitCast(d, rounded), hn::BitCast(d, quiet)));
}

template <class D>
HWY_INLINE hn::Vec<D> load_f32(D d, const float* p) {
  return hn::LoadU(d, p);
}

template <class D>
HWY_INLINE hn::Vec<D> load_f32(D d, const bf16* p) {
  const UnsignedTag<D> du;
  const hn::Rebind<std::uint16_t, D> dh;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(dh, &p->bits))));
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE void store_f32(D d, V v, float* p) {
  hn::StoreU(v, d, p);
}

/// Rounds to nearest even, NaN kept. Where hardware converts (files compiled for it), subnormals become zero.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void store_f32(D d, V v, bf16* p) {
#if defined(__AVX512BF16__) && HWY_TARGET == HWY_AVX3
  if constexpr (sizeof(V) == 64) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(v.raw));
    return;
  }
#endif
  const hn::Rebind<std::uint16_t, D> dh;
  hn::StoreU(hn::TruncateTo(dh, hn::ShiftRight<16>(round_to_bf16(d, v))), dh, &p->bits);
}

/// Two vectors one after the other. `stream`: past the caches where the instruction set can and p is aligned to 64 bytes;
/// then end_stream() must follow before other threads read.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void store_pair(D d, V a, V b, bool /*stream*/, float* p) {
  hn::StoreU(a, d, p);
  hn::StoreU(b, d, p + hn::Lanes(d));
}
template <class D, class V = hn::Vec<D>>
HWY_INLINE void store_pair(D d, V a, V b, [[maybe_unused]] bool stream, bf16* p) {
#if defined(__AVX512BF16__) && HWY_TARGET == HWY_AVX3
  if constexpr (sizeof(V) == 64) {
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(b.raw, a.raw);
    if (stream && reinterpret_cast<std::uintptr_t>(p) % 64 == 0) {
      _mm512_stream_si512(reinterpret_cast<__m512i*>(p), both);
    } else {
      _mm512_storeu_si512(p, both);
    }
    return;
  }
#endif
  store_f32(d, a, p);
  store_f32(d, b, p + hn::Lanes(d));
}
HWY_INLINE void end_stream() {
#if defined(__AVX512BF16__) && HWY_TARGET == HWY_AVX3
  _mm_sfence();
#endif
}

}  // namespace simd
}  // namespace
}  // namespace quern
