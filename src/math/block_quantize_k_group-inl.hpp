// What the K-quant quantizers share: sixteen sub-blocks side by side, scaled into a range where f32 sums are safe.
// Included into each instruction-set file; everything here has internal linkage.
//
// A lane is a sub-block and its elements come one after the other, so every sum has the same order whatever the vector
// width, and lanes never meet. With products and sums that are never fused (the build turns contraction off for these
// files), all instruction sets give the same bytes.
#pragma once

#include <hwy/highway.h>

#include <cstdint>

#include "math/block_decode_common-inl.hpp"
#include "math/block_quantize.hpp"

namespace quern {
namespace {
namespace kq {

namespace hn = hwy::HWY_NAMESPACE;

constexpr int kWidth = 16;           ///< sub-blocks side by side
constexpr int kSuperElements = 256;  ///< elements of a super-block

/// Above every error of scaled values.
constexpr float kNoError = 0x1p120F;

using DF = hn::CappedTag<float, kWidth>;
using V = hn::Vec<DF>;
using Mask = hn::Mask<DF>;
constexpr int kVectorLanes = static_cast<int>(HWY_LANES(float)) < kWidth ? static_cast<int>(HWY_LANES(float)) : kWidth;

/// A number of each sub-block.
struct Lanes16 {
  alignas(64) float at[kWidth];
};

HWY_INLINE V load(const Lanes16& lanes, int first) { return hn::Load(DF(), lanes.at + first); }
HWY_INLINE void store(V v, Lanes16& lanes, int first) { hn::Store(v, DF(), lanes.at + first); }
HWY_INLINE V splat(float x) { return hn::Set(DF(), x); }
HWY_INLINE V clamped(V x, V low, V high) { return hn::Min(hn::Max(x, low), high); }
/// To the nearest integer, ties to even, of |x| < 2^22.
HWY_INLINE V rounded(V x) {
  const V magic = splat(12582912.0F);
  return hn::Sub(hn::Add(x, magic), magic);
}
/// 1 / x, and 0 where x is zero or so near to it that 1 / x might not be a number.
HWY_INLINE V inverse_or_zero(V x) {
  const Mask zero = hn::Lt(hn::Abs(x), splat(0x1p-120F));
  return hn::IfThenZeroElse(zero, hn::Div(splat(1.0F), hn::IfThenElse(zero, splat(1.0F), x)));
}

inline double power_of_two(int exponent) {
  return __builtin_bit_cast(double, static_cast<std::uint64_t>(1023 + exponent) << 52);
}

/// A super-block's scale: the nearest binary16 number, but the largest for all above it, and the smallest above zero for all
/// between.
inline std::uint16_t f16_scale_bits(double value) {
  const std::uint16_t sign = value < 0.0 ? 0x8000U : 0U;
  const double magnitude = value < 0.0 ? -value : value;
  if (!(magnitude > 0.0)) return 0;
  if (magnitude >= 65504.0) return static_cast<std::uint16_t>(sign | 0x7BFFU);
  if (magnitude <= 0x1p-24) return static_cast<std::uint16_t>(sign | 1U);
  if (magnitude < 0x1p-14) {
    const double units = (magnitude * 0x1p24 + 0x1.8p52) - 0x1.8p52;  // 1024 is the smallest normal number's bits
    return static_cast<std::uint16_t>(sign | static_cast<std::uint16_t>(units));
  }
  const std::uint64_t bits = __builtin_bit_cast(std::uint64_t, magnitude);
  const std::uint64_t nearest = (bits + ((std::uint64_t{1} << 41) - 1) + ((bits >> 42) & 1U)) >> 42;
  return static_cast<std::uint16_t>(sign | static_cast<std::uint16_t>(nearest - (std::uint64_t{1023 - 15} << 10)));
}

inline void store_u16(std::uint16_t value, std::uint8_t* bytes) {
  bytes[0] = static_cast<std::uint8_t>(value & 0xFFU);
  bytes[1] = static_cast<std::uint8_t>(value >> 8);
}

/// A super-block's scale as the search holds it: the number in the file, and that number in the group's scaled units.
struct SuperScale {
  std::uint16_t bits = 0;
  float scaled = 0.0F;
};

/// Sixteen sub-blocks of kElements: one super-block of sixteen, or two of eight. Values are scaled by a power of two for
/// each super-block, which is exact, so that the largest is about 1, and so are weights.
template <int kElements>
struct Group {
  static constexpr int kSubBlocks = kSuperElements / kElements;  ///< of a super-block
  static constexpr int kSupers = kWidth / kSubBlocks;

  alignas(64) float x[kElements][kWidth];
  alignas(64) float w[kElements][kWidth];
  Lanes16 sum_w, sum_wx, sum_wxx;
  int exponent[kSupers];  ///< x is the file's value / 2^exponent
  bool zero[kSupers];     ///< every value is nearer to zero than to the smallest number that the format can say
  bool negated[kSupers];  ///< x is that of the negated value, and the file's d and dmin are to be negated

  /// What the file says for d or dmin.
  std::uint16_t bits_in_file(const SuperScale& scale, int super) const {
    return static_cast<std::uint16_t>(negated[super] && scale.bits != 0 ? scale.bits ^ 0x8000U : scale.bits);
  }

  /// The f16 number nearest to `scaled`, in the group's units. Where f16 numbers are coarse (subnormal), `outward` takes the
  /// next one away from zero rather than one nearer to it, which all values would have to be cut to.
  SuperScale scale(double scaled, int super, bool outward = false) const {
    SuperScale result;
    const double wanted = scaled * power_of_two(exponent[super]);
    result.bits = f16_scale_bits(wanted);
    if (outward && (result.bits & 0x7FFFU) < 0x400U) {
      const double found = static_cast<double>(float_from_f16_bits(result.bits));
      if (found * found < wanted * wanted) ++result.bits;
    }
    const double value = static_cast<double>(float_from_f16_bits(result.bits)) * power_of_two(-exponent[super]);
    if (value < 0x1p-120 && value > -0x1p-120) {
      result.bits = 0;
    } else {
      result.scaled = static_cast<float>(value);
    }
    return result;
  }
};

/// exponent of the power of two at or below x > 0, from -126 to 126, so that its inverse is an exact normal number too.
inline int exponent_of(float x) {
  const int exponent = static_cast<int>(__builtin_bit_cast(std::uint32_t, x) >> 23) - 127;
  return exponent < -126 ? -126 : (exponent > 126 ? 126 : exponent);
}

/// Whether |x| is a number below infinity.
HWY_INLINE Mask is_finite(V x) { return hn::Le(hn::Abs(x), splat(0x1.FFFFFEp127F)); }

/// The largest finite |x| of a super-block.
inline float largest_of(const float* x) {
  V largest = hn::Zero(DF());
  for (int i = 0; i < kSuperElements; i += kVectorLanes) {
    const V v = hn::LoadU(DF(), x + i);
    largest = hn::Max(largest, hn::IfThenElseZero(is_finite(v), hn::Abs(v)));
  }
  alignas(64) float lanes[kVectorLanes];
  hn::Store(largest, DF(), lanes);
  float result = 0.0F;
  for (const float lane : lanes) result = lane > result ? lane : result;
  return result;
}

/// From elements in order to sub-blocks side by side.
template <int kElements>
inline void put_in_lanes(const float (&elements)[kSuperElements], int first, float (&lanes)[kElements][kWidth]) {
  constexpr int kSubBlocks = kSuperElements / kElements;
  for (int j = 0; j < kElements; ++j) {
    for (int k = 0; k < kSubBlocks; ++k) lanes[j][first + k] = elements[k * kElements + j];
  }
}

/// Puts the values of one super-block into the lanes from super * kSubBlocks on; any that is no finite number counts as 0.
/// kNegatePositive: negated where all are above zero, as the affine formats need it (offsets reach down only, and no further
/// than a minimum times the largest f16).
template <bool kNegatePositive, int kElements>
inline void load_values(Group<kElements>& group, int super, const float* x) {
  const float largest = largest_of(x);
  group.zero[super] = largest < 0x1p-25F;
  const int exponent = group.zero[super] ? 0 : exponent_of(largest);
  group.exponent[super] = exponent;
  group.negated[super] = false;
  if constexpr (kNegatePositive) {
    if (x[0] > 0.0F && largest <= 65504.0F) {
      bool positive = true;
      for (int i = 1; i < kSuperElements; ++i) positive = positive & (x[i] > 0.0F);
      group.negated[super] = positive;
    }
  }
  const float power = static_cast<float>(power_of_two(-exponent));
  const V scale = splat(group.negated[super] ? -power : power);
  alignas(64) float scaled[kSuperElements];
  for (int i = 0; i < kSuperElements; i += kVectorLanes) {
    const V v = hn::LoadU(DF(), x + i);
    hn::Store(hn::IfThenElseZero(is_finite(v), hn::Mul(v, scale)), DF(), scaled + i);
  }
  put_in_lanes(scaled, super * Group<kElements>::kSubBlocks, group.x);
}

/// The same of weights. A sub-block of no importance still gets a fit of its own, and no sum of weights vanishes: all are at
/// least 2^-30 of the largest. Where all are zero, all are equal.
template <int kElements>
inline void load_weights(Group<kElements>& group, int super, const float* importance) {
  const float largest = largest_of(importance);
  const V scale = splat(largest > 0.0F ? static_cast<float>(power_of_two(-exponent_of(largest))) : 0.0F);
  const V least = splat(0x1p-30F);
  alignas(64) float scaled[kSuperElements];
  for (int i = 0; i < kSuperElements; i += kVectorLanes) {
    const V w = hn::Mul(hn::LoadU(DF(), importance + i), scale);
    hn::Store(hn::IfThenElse(hn::Gt(w, least), hn::Min(w, splat(4.0F)), least), DF(), scaled + i);
  }
  put_in_lanes(scaled, super * Group<kElements>::kSubBlocks, group.w);
}

/// Codes on their way from lanes to the order of the elements.
template <int kElements>
struct CodesByLane {
  alignas(64) float plus_2_23[kElements][kWidth];  ///< their bit patterns end in the codes

  HWY_INLINE void set(int element, int first, V codes) {
    hn::Store(hn::Add(codes, splat(0x1p23F)), DF(), plus_2_23[element] + first);
  }
  void copy_to(std::uint8_t (&codes)[kWidth * kElements]) const {
    for (int k = 0; k < kWidth; ++k) {
      for (int j = 0; j < kElements; ++j) {
        codes[k * kElements + j] = static_cast<std::uint8_t>(__builtin_bit_cast(std::uint32_t, plus_2_23[j][k]));
      }
    }
  }
};

/// The sums over each sub-block that no choice of codes changes.
template <int kElements>
inline void sum_weights(Group<kElements>& group) {
  for (int first = 0; first < kWidth; first += kVectorLanes) {
    V sum_w = hn::Zero(DF());
    V sum_wx = hn::Zero(DF());
    V sum_wxx = hn::Zero(DF());
    for (int j = 0; j < kElements; ++j) {
      const V x = hn::Load(DF(), group.x[j] + first);
      const V w = hn::Load(DF(), group.w[j] + first);
      const V wx = hn::Mul(w, x);
      sum_w = hn::Add(sum_w, w);
      sum_wx = hn::Add(sum_wx, wx);
      sum_wxx = hn::Add(sum_wxx, hn::Mul(wx, x));
    }
    store(sum_w, group.sum_w, first);
    store(sum_wx, group.sum_wx, first);
    store(sum_wxx, group.sum_wxx, first);
  }
}

/// The unit of which the values are most nearly whole multiples, from `fewest` to `most`, in the sense of weighted least
/// squares. Tried: units that divide `extreme`, the value of largest magnitude, by kUnits numbers from `end` down, where end
/// is fewest or most.
template <int kCount>
inline float common_unit(const float* values, const float* weights, float fewest, float most, float extreme, float end) {
  constexpr int kUnits = 16;
  if (extreme == 0.0F) return 0.0F;
  alignas(64) float units[kUnits];
  alignas(64) float errors[kUnits];
  const float toward_zero = end < 0.0F ? 0.5F : -0.5F;
  for (int t = 0; t < kUnits; ++t) units[t] = extreme / (end + toward_zero * static_cast<float>(t));
  for (int t = 0; t < kUnits; t += kVectorLanes) {
    const V unit = hn::Load(DF(), units + t);
    const V inverse = inverse_or_zero(unit);
    V error = hn::Zero(DF());
    for (int k = 0; k < kCount; ++k) {
      const V value = splat(values[k]);
      const V n = rounded(clamped(hn::Mul(value, inverse), splat(fewest), splat(most)));
      const V difference = hn::Sub(value, hn::Mul(n, unit));
      error = hn::Add(error, hn::Mul(splat(weights[k]), hn::Mul(difference, difference)));
    }
    hn::Store(error, DF(), errors + t);
  }
  int best = 0;
  for (int t = 1; t < kUnits; ++t) best = errors[t] < errors[best] ? t : best;
  return units[best];
}

/// Calls quantize(group, out of each super-block, super-blocks that are in the group) for all super-blocks of the rows.
template <int kElements, int kBytes, bool kNegatePositive, class Quantize>
inline void for_each_group(const QuantizeRows& rows, const Quantize& quantize) {
  constexpr int kSupers = Group<kElements>::kSupers;
  const std::int64_t per_row = rows.cols / kSuperElements;
  const std::int64_t blocks = rows.rows * per_row;
  auto* const out = reinterpret_cast<std::uint8_t*>(rows.out);
  Group<kElements> group;
  if (rows.importance == nullptr) {
    for (float(&lanes)[kWidth] : group.w) {
      for (float& w : lanes) w = 1.0F;
    }
  }
  for (std::int64_t block = 0; block < blocks; block += kSupers) {
    const int supers = blocks - block < kSupers ? static_cast<int>(blocks - block) : kSupers;
    for (int s = 0; s < kSupers; ++s) {
      const std::int64_t source = block + (s < supers ? s : 0);  // a last lone super-block fills the others' lanes too
      load_values<kNegatePositive>(group, s, rows.x + source * kSuperElements);
      if (rows.importance != nullptr) load_weights(group, s, rows.importance + source % per_row * kSuperElements);
    }
    sum_weights(group);
    quantize(group, out + block * kBytes, supers);
  }
}

}  // namespace kq
}  // namespace
}  // namespace quern
