// Walking rows with vectors: loads and stores that stop at a row's end, and sums in an order that the row's length fixes.
#pragma once

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>

#include "math/simd/math-inl.hpp"

// After a lambda's parameters: inline its body into the loop that calls it.
#define QUERN_INLINE_LAMBDA __attribute__((always_inline))

namespace quern {
namespace {
namespace simd {

namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using VF = hn::Vec<DF>;
constexpr std::int64_t kLanes = static_cast<std::int64_t>(HWY_LANES(float));

HWY_INLINE VF splat(float x) { return hn::Set(DF(), x); }

/// Vectors that lie wholly inside a row.
struct WholeVector {
  template <class T>
  HWY_INLINE VF load(const T* p) const {
    return load_f32(DF(), p);
  }
  template <class T>
  HWY_INLINE void store(VF v, T* p) const {
    store_f32(DF(), v, p);
  }
  /// `v`, with `other` in the lanes past the row's end.
  HWY_INLINE VF or_else(VF v, float /*other*/) const { return v; }
};

/// The last vector of a row: `count` < kLanes elements. Loads give 0 past the end; stores write nothing there.
struct LastVector {
  std::int64_t count;

  template <class T>
  HWY_INLINE VF load(const T* p) const {
    alignas(64) T lanes[kLanes] = {};
    for (std::int64_t i = 0; i < count; ++i) lanes[i] = p[i];
    return load_f32(DF(), lanes);
  }
  template <class T>
  HWY_INLINE void store(VF v, T* p) const {
    alignas(64) T lanes[kLanes];
    store_f32(DF(), v, lanes);
    for (std::int64_t i = 0; i < count; ++i) p[i] = lanes[i];
  }
  HWY_INLINE VF or_else(VF v, float other) const {
    return hn::IfThenElse(hn::FirstN(DF(), static_cast<std::size_t>(count)), v, splat(other));
  }
};

/// Calls body(vector, i) for i = begin, begin + kLanes, ... below `end`; `vector` is a WholeVector, at the end a LastVector.
template <class Body>
HWY_INLINE void for_each_vector(std::int64_t begin, std::int64_t end, const Body& body) {
  std::int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) body(WholeVector{}, i);
  if (i < end) body(LastVector{end - i}, i);
}

/// Elements that are summed in f32 lanes before the lanes go into the double total: each lane then adds at most 256 terms on
/// the narrowest vector target (1024 on the scalar one, divided among four sums), so rounding stays near 1e-6 relative at
/// worst for any row length.
constexpr std::int64_t kSumBlock = 1024;

/// The sum over i < count of the terms that step(vector, i, sum) adds to `sum`, in double. The order depends on `count`
/// alone: four vector sums per block of kSumBlock elements. `step` must add 0 in lanes past the end.
template <class Step>
HWY_INLINE double sum_row(std::int64_t count, const Step& step) {
  double total = 0.0;
  for (std::int64_t begin = 0; begin < count; begin += kSumBlock) {
    const std::int64_t end = begin + kSumBlock < count ? begin + kSumBlock : count;
    VF s0 = hn::Zero(DF()), s1 = s0, s2 = s0, s3 = s0;
    std::int64_t i = begin;
    for (; i + 4 * kLanes <= end; i += 4 * kLanes) {
      s0 = step(WholeVector{}, i, s0);
      s1 = step(WholeVector{}, i + kLanes, s1);
      s2 = step(WholeVector{}, i + 2 * kLanes, s2);
      s3 = step(WholeVector{}, i + 3 * kLanes, s3);
    }
    for (; i + kLanes <= end; i += kLanes) s0 = step(WholeVector{}, i, s0);
    if (i < end) s1 = step(LastVector{end - i}, i, s1);
    const VF sum = hn::Add(hn::Add(s0, s1), hn::Add(s2, s3));
    total += static_cast<double>(hn::GetLane(hn::SumOfLanes(DF(), sum)));
  }
  return total;
}

/// The largest of x[0 .. count-1]; -inf when count is 0.
HWY_INLINE float max_of_row(const float* x, std::int64_t count) {
  const float lowest = -__builtin_inff();
  VF m0 = splat(lowest), m1 = m0, m2 = m0, m3 = m0;
  std::int64_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    m0 = hn::Max(m0, hn::LoadU(DF(), x + i));
    m1 = hn::Max(m1, hn::LoadU(DF(), x + i + kLanes));
    m2 = hn::Max(m2, hn::LoadU(DF(), x + i + 2 * kLanes));
    m3 = hn::Max(m3, hn::LoadU(DF(), x + i + 3 * kLanes));
  }
  for (; i + kLanes <= count; i += kLanes) m0 = hn::Max(m0, hn::LoadU(DF(), x + i));
  if (i < count) {
    const LastVector last{count - i};
    m1 = hn::Max(m1, last.or_else(last.load(x + i), lowest));
  }
  return hn::GetLane(hn::MaxOfLanes(DF(), hn::Max(hn::Max(m0, m1), hn::Max(m2, m3))));
}

}  // namespace simd
}  // namespace
}  // namespace quern
