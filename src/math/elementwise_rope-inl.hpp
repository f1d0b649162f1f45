// Rotary position embedding (Su et al. 2021) and conversions. Included only by the instruction-set files.
#pragma once

#include "math/simd/rows-inl.hpp"

namespace quern {
namespace {

using simd::DF;
using simd::VF;
namespace hn = hwy::HWY_NAMESPACE;

/// Vectors of a head's even and odd elements.
struct Pairs {
  VF even;
  VF odd;
};

HWY_INLINE Pairs load_pairs(const float* p) {
#if HWY_TARGET == HWY_SCALAR
  return {hn::LoadU(DF(), p), hn::LoadU(DF(), p + 1)};
#else
  VF even = hn::Zero(DF());
  VF odd = even;
  hn::LoadInterleaved2(DF(), p, even, odd);
  return {even, odd};
#endif
}

HWY_INLINE void store_pairs(const Pairs& v, float* p) {
#if HWY_TARGET == HWY_SCALAR
  hn::StoreU(v.even, DF(), p);
  hn::StoreU(v.odd, DF(), p + 1);
#else
  hn::StoreInterleaved2(v.even, v.odd, DF(), p);
#endif
}

/// A pair of bf16 is one 32-bit word: the even element below, the odd one above.
HWY_INLINE Pairs load_pairs(const bf16* p) {
  const simd::UnsignedTag<DF> du;
  alignas(64) std::uint32_t words[simd::kLanes];
  __builtin_memcpy(words, p, sizeof(words));
  const auto word = hn::Load(du, words);
  return {hn::BitCast(DF(), hn::ShiftLeft<16>(word)), hn::BitCast(DF(), hn::And(word, hn::Set(du, 0xFFFF0000U)))};
}

HWY_INLINE void store_pairs(const Pairs& v, bf16* p) {
  const simd::UnsignedTag<DF> du;
  const auto even = hn::ShiftRight<16>(simd::round_to_bf16(DF(), v.even));
  const auto odd = hn::And(simd::round_to_bf16(DF(), v.odd), hn::Set(du, 0xFFFF0000U));
  alignas(64) std::uint32_t words[simd::kLanes];
  hn::Store(hn::Or(even, odd), du, words);
  __builtin_memcpy(p, words, sizeof(words));
}

/// `v` turned by the angles with these cosines and sines.
HWY_INLINE Pairs turned(const Pairs& v, VF cosine, VF sine) {
  return {hn::NegMulAdd(v.odd, sine, hn::Mul(v.even, cosine)), hn::MulAdd(v.even, sine, hn::Mul(v.odd, cosine))};
}

template <class T>
HWY_INLINE void rope_head_halves(T* head, std::int64_t pairs, const float* cosine, const float* sine, VF sign) {
  simd::for_each_vector(0, pairs, [&](auto vector, std::int64_t i) QUERN_INLINE_LAMBDA {
    const Pairs v{vector.load(head + i), vector.load(head + pairs + i)};
    const Pairs out = turned(v, vector.load(cosine + i), hn::Mul(vector.load(sine + i), sign));
    vector.store(out.even, head + i);
    vector.store(out.odd, head + pairs + i);
  });
}

template <class T>
HWY_INLINE void rope_head_adjacent(T* head, std::int64_t pairs, const float* cosine, const float* sine, VF sign) {
  std::int64_t i = 0;
  for (; i + simd::kLanes <= pairs; i += simd::kLanes) {
    const VF s = hn::Mul(hn::LoadU(DF(), sine + i), sign);
    store_pairs(turned(load_pairs(head + 2 * i), hn::LoadU(DF(), cosine + i), s), head + 2 * i);
  }
  if (i < pairs) {
    const simd::LastVector last{pairs - i};
    alignas(64) T lanes[2 * simd::kLanes] = {};
    for (std::int64_t k = 0; k < 2 * last.count; ++k) lanes[k] = head[2 * i + k];
    const VF s = hn::Mul(last.load(sine + i), sign);
    store_pairs(turned(load_pairs(lanes), last.load(cosine + i), s), lanes);
    for (std::int64_t k = 0; k < 2 * last.count; ++k) head[2 * i + k] = lanes[k];
  }
}

template <class T>
void rope_rows(T* x, std::int64_t row_stride, std::int64_t head_stride, std::int64_t rows, std::int64_t heads,
               std::int64_t rotated, RopePairing pairing, const float* cos_sin, const std::int32_t* positions,
               bool inverse) {
  const std::int64_t pairs = rotated / 2;
  const VF sign = simd::splat(inverse ? -1.0F : 1.0F);
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* cosine = cos_sin + positions[r] * rotated;
    const float* sine = cosine + pairs;
    for (std::int64_t h = 0; h < heads; ++h) {
      T* head = x + r * row_stride + h * head_stride;
      if (pairing == RopePairing::halves) {
        rope_head_halves(head, pairs, cosine, sine, sign);
      } else {
        rope_head_adjacent(head, pairs, cosine, sine, sign);
      }
    }
  }
}

template <class X, class Y>
void convert_rows(const X* x, std::int64_t x_stride, Y* y, std::int64_t y_stride, std::int64_t rows, std::int64_t cols) {
  for (std::int64_t r = 0; r < rows; ++r, x += x_stride, y += y_stride) {
    simd::for_each_vector(0, cols,
                          [&](auto vector, std::int64_t i) QUERN_INLINE_LAMBDA { vector.store(vector.load(x + i), y + i); });
  }
}

template <class T>
void scale_rows(const T* x, std::int64_t x_stride, const float* factor, T* y, std::int64_t y_stride, std::int64_t rows,
                std::int64_t cols) {
  for (std::int64_t r = 0; r < rows; ++r, x += x_stride, y += y_stride) {
    const VF by = simd::splat(factor[r]);
    simd::for_each_vector(0, cols, [&](auto vector, std::int64_t i) QUERN_INLINE_LAMBDA {
      vector.store(hn::Mul(vector.load(x + i), by), y + i);
    });
  }
}

}  // namespace
}  // namespace quern
