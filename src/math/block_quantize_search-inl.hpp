// How the legacy quantizers look for scales: a block in each lane, its elements one after the other. Included into each
// instruction-set file after it defines quern::lanes (vectors V of f32 and I of i32, and what is done with them).
//
// Lanes never meet and sums run over the elements in order, so the width of vectors changes no bit; the files are compiled
// without contraction of products and sums. Values are scaled by powers of two into a range where f32 sums are safe.
#pragma once

#include <cstddef>
#include <cstdint>

#include "math/block_decode_common-inl.hpp"

namespace quern {
namespace {
namespace lanes {

QUERN_LANES_INLINE I bits_of(V x) { return reinterpret_cast<I>(x); }
QUERN_LANES_INLINE V of_bits(I x) { return reinterpret_cast<V>(x); }
QUERN_LANES_INLINE V magnitude(V x) { return of_bits(bits_of(x) & splat_i(0x7FFFFFFF)); }
QUERN_LANES_INLINE V clamped(V x, float low, float high) { return min(max(x, splat(low)), splat(high)); }

/// Adding it to |x| < 2^22 rounds to the nearest integer, ties to even, and leaves that in the low bits.
constexpr float kMagic = 12582912.0F;
constexpr std::int32_t kMagicBits = 0x4B400000;

QUERN_LANES_INLINE V rounded(V x) { return (x + splat(kMagic)) - splat(kMagic); }
/// The integer of a whole number below 2^22.
QUERN_LANES_INLINE I integer(V x) { return bits_of(x + splat(kMagic)) - splat_i(kMagicBits); }
/// 1 / x, or 0 of 0.
QUERN_LANES_INLINE V inverse_or_zero(V x) { return x == splat(0.0F) ? splat(0.0F) : splat(1.0F) / x; }

/// a * b + c where that is a whole number below 2^24: fused or not, it is exact.
QUERN_LANES_INLINE V exact_multiply_add(V a, V b, V c) { return fused_multiply_add(a, b, c); }

/// The power of two that brings a block near 1, and its inverse, both exact. Values below 2^-40 are left small: the smallest
/// f16 scale is 2^-24, so they are zeros, or (MXFP4) do not use this.
constexpr std::int32_t kSmallestExponent = 127 - 40;
struct Unit {
  V unit;     ///< value = scaled * unit
  V inverse;  ///< scaled = value * inverse
};

QUERN_LANES_INLINE Unit unit_of(V largest, std::int32_t smallest_exponent) {
  I exponent = (bits_of(largest) >> 23) & splat_i(0xFF);
  exponent = exponent < splat_i(smallest_exponent) ? splat_i(smallest_exponent) : exponent;
  exponent = exponent > splat_i(253) ? splat_i(253) : exponent;
  return {of_bits(exponent << 23), of_bits((splat_i(254) - exponent) << 23)};
}

/// What is said of the values of a block of 32, besides the values themselves.
struct Extent {
  V largest;  ///< magnitude
  V extreme;  ///< the value of that magnitude
};

QUERN_LANES_INLINE Extent extent_of(const V* x, int elements) {
  Extent extent = {magnitude(x[0]), x[0]};
  for (int j = 1; j < elements; ++j) {
    const V m = magnitude(x[j]);
    extent.extreme = m > extent.largest ? x[j] : extent.extreme;
    extent.largest = max(m, extent.largest);
  }
  return extent;
}

QUERN_LANES_INLINE Unit scale_values(V* x, int elements) {
  V largest = splat(0.0F);
  for (int j = 0; j < elements; ++j) largest = max(magnitude(x[j]), largest);
  const Unit unit = unit_of(largest, kSmallestExponent);
  for (int j = 0; j < elements; ++j) x[j] = x[j] * unit.inverse;
  return unit;
}

/// Weights relative to the largest. None is quite zero, so that an element that does not matter is still written sensibly
/// and every fit has a solution; a block of zero weights becomes one of equal weights.
QUERN_LANES_INLINE void scale_weights(V* w, int elements) {
  V largest = splat(0.0F);
  for (int j = 0; j < elements; ++j) largest = max(w[j], largest);
  const V inverse = unit_of(largest, 1).inverse;
  for (int j = 0; j < elements; ++j) w[j] = max(w[j] * inverse, splat(0x1p-20F));
}

/// A binary16 scale: its bits, and what it is in the block's units.
struct Scale {
  I bits;
  V value;
};

/// The binary16 nearest to d: the largest for all above it, the smallest above zero for all between.
QUERN_LANES_INLINE Scale f16_scale(V d, const Unit& unit) {
  const V wanted = d * unit.unit;
  const I sign = bits_of(wanted) & splat_i(INT32_MIN);
  const I half = f16_bits(max(min(magnitude(wanted), splat(65504.0F)), splat(0x1p-24F)));
  return {half | ((sign >> 16) & splat_i(0x8000)), of_bits(bits_of(from_f16(half) * unit.inverse) | sign)};
}

/// The binary16 nearest to m, zero included.
QUERN_LANES_INLINE Scale f16_offset(V m, const Unit& unit) {
  const I half = f16_bits(clamped(m * unit.unit, -65504.0F, 65504.0F));
  return {half, from_f16(half) * unit.inverse};
}

QUERN_LANES_INLINE Scale select(I mask, const Scale& a, const Scale& b) {
  return {mask ? a.bits : b.bits, mask ? a.value : b.value};
}

/// The codes kLow .. kHigh, whose values are themselves.
template <int kLow, int kHigh>
struct Integers {
  static constexpr float kLargest = -kLow > kHigh ? -kLow : kHigh;  ///< magnitude
  static constexpr bool kWhole = true;                              ///< 32 squares sum up to less than 2^24
  static QUERN_LANES_INLINE V nearest(V x) {
    return rounded(clamped(x, static_cast<float>(kLow), static_cast<float>(kHigh)));
  }
  /// The code as it is stored, from 0 up.
  static QUERN_LANES_INLINE I code(V x) {
    return integer(clamped(x, static_cast<float>(kLow), static_cast<float>(kHigh))) - splat_i(kLow);
  }
};

/// The sixteen values of IQ4_NL and IQ4_XS.
alignas(64) constexpr float kIq4Floats[16] = {-127.0F, -104.0F, -83.0F, -65.0F, -49.0F, -35.0F, -22.0F, -10.0F,
                                              1.0F,    13.0F,   25.0F,  38.0F,  53.0F,  69.0F,  89.0F,  113.0F};
/// Halfway between a value and the next.
alignas(64) constexpr float kIq4Borders[16] = {-115.5F, -93.5F, -74.0F, -57.0F, -42.0F, -28.5F, -16.0F, -4.5F,
                                               7.0F,    19.0F,  31.5F,  45.5F,  61.0F,  79.0F,  101.0F, 0.0F};

struct Iq4Values {
  static constexpr bool kWhole = true;
  static QUERN_LANES_INLINE I code(V x) {
    I code = (x > splat(kIq4Borders[7])) & splat_i(8);
    code += (x > look_up(kIq4Borders, code + splat_i(3))) & splat_i(4);
    code += (x > look_up(kIq4Borders, code + splat_i(1))) & splat_i(2);
    return code + ((x > look_up(kIq4Borders, code)) & splat_i(1));
  }
  static QUERN_LANES_INLINE V value(I code) { return look_up(kIq4Floats, code); }
  static QUERN_LANES_INLINE V nearest(V x) { return value(code(x)); }
};

/// sum + wq * q; kExact: whole numbers, and the sum below 2^24.
template <bool kExact>
QUERN_LANES_INLINE V sum_with_square(V sum, V wq, V q) {
  return kExact ? exact_multiply_add(wq, q, sum) : sum + wq * q;
}

/// The best scale so far: gain is what it takes from the error of all zeros.
struct BestScale {
  V gain = splat(-1.0F);
  V d = splat(0.0F);
};

/// Rounds the values to codes with each of kCount inverse scales, fits the scale of each anew by least squares, and keeps
/// the best.
template <class Codes, bool kWeighted, int kCount>
QUERN_LANES_INLINE void try_scales(const V* x, const V* w, const V (&inverse)[kCount], BestScale& best) {
  V values[kCount];
  V squares[kCount];
  for (int c = 0; c < kCount; ++c) values[c] = squares[c] = splat(0.0F);
  for (int j = 0; j < 32; ++j) {
    const V weighted = kWeighted ? w[j] * x[j] : x[j];
    for (int c = 0; c < kCount; ++c) {
      const V q = Codes::nearest(x[j] * inverse[c]);
      values[c] = values[c] + weighted * q;
      squares[c] = sum_with_square < Codes::kWhole && !kWeighted > (squares[c], kWeighted ? w[j] * q : q, q);
    }
  }
  for (int c = 0; c < kCount; ++c) {
    const V d = values[c] / squares[c];
    const V gain = values[c] * d;
    const I better = gain > best.gain;
    best.gain = better ? gain : best.gain;
    best.d = better ? d : best.d;
  }
}

/// The same for the scales that bring the extreme value to each of `extremes`.
template <class Codes, bool kWeighted, int kCount>
QUERN_LANES_INLINE void try_extremes(const V* x, const V* w, V extreme, const float (&extremes)[kCount], BestScale& best) {
  constexpr int kTogether = 4;
  static_assert(kCount % kTogether == 0);
  const V one = splat(1.0F) / extreme;
  for (int c = 0; c < kCount; c += kTogether) {
    const V inverse[kTogether] = {one * splat(extremes[c]), one * splat(extremes[c + 1]), one * splat(extremes[c + 2]),
                                  one * splat(extremes[c + 3])};
    try_scales<Codes, kWeighted, kTogether>(x, w, inverse, best);
  }
}

/// The least-squares scale of the codes that `d` gives: the error falls, or stays. Where it is 0, d stays.
template <class Codes, bool kWeighted>
QUERN_LANES_INLINE V refitted(const V* x, const V* w, V d) {
  BestScale fit = {splat(-1.0F), d};
  const V inverse[1] = {inverse_or_zero(d)};
  try_scales<Codes, kWeighted, 1>(x, w, inverse, fit);
  return fit.d;
}

/// The binary16 scale of which every value is a multiple within Integers<kLow, kHigh>; value 0 where there is none. Such a
/// scale divides the smallest magnitude, and the quotient is small: for other values few quotients are tried.
template <int kLow, int kHigh>
inline Scale exact_scale(const V* x, V largest, const Unit& unit) {
  V smallest = splat(0x1p127F);
  for (int j = 0; j < 32; ++j) {
    const V m = magnitude(x[j]);
    smallest = min(m > splat(0.0F) ? m : splat(0x1p127F), smallest);
  }
  Scale found = {splat_i(0), splat(0.0F)};
  const V limit = (smallest * splat(Integers<kLow, kHigh>::kLargest * 1.001F)) / largest;
  V divisor = splat(1.0F);
  // Of a block of zeros the limit is infinite.
  I active = (limit >= divisor) & (largest > splat(0.0F));
  while (any(active)) {
    const V d = smallest / divisor;
    const Scale scale = f16_scale(d, unit);
    I exact = active & (scale.value == d);
    V lowest = splat(0.0F);
    V highest = splat(0.0F);
    for (int j = 0; j < 32 && any(exact); j += 4) {
      for (int i = j; i < j + 4; ++i) {
        const V q = rounded(x[i] / d);
        exact &= q * d == x[i];
        lowest = min(q, lowest);
        highest = max(q, highest);
      }
    }
    const I fits = exact & (lowest >= splat(kLow)) & (highest <= splat(kHigh));
    const I fits_negated = exact & (highest <= splat(-kLow)) & (lowest >= splat(-kHigh));
    found = select(fits_negated, {scale.bits | splat_i(0x8000), -d}, found);
    found = select(fits, scale, found);
    divisor = divisor + splat(1.0F);
    active &= ~(fits | fits_negated) & (limit >= divisor);
  }
  return found;
}

/// The scale with which every value is one of T's; 0 where there is none. With kHalf only scales that are binary16 numbers.
template <bool kHalf>
inline V exact_iq4_scale(const V* x, V extreme, const Unit& unit) {
  V found = splat(0.0F);
  for (const float value : kIq4Floats) {
    const V d = extreme / splat(value);
    I exact = extreme != splat(0.0F);
    if constexpr (kHalf) exact &= f16_scale(d, unit).value == d;
    for (int j = 0; j < 32 && any(exact); j += 4) {
      for (int i = j; i < j + 4; ++i) exact &= Iq4Values::nearest(x[i] / d) * d == x[i];
    }
    found = exact ? d : found;
  }
  return found;
}

/// The word of bytes 4k .. 4k + 3 of the codes of 32 elements, two to a byte.
QUERN_LANES_INLINE I nibble_word(const I* codes, int k) {
  I word = splat_i(0);
  for (int i = 0; i < 4; ++i) {
    word |= ((codes[4 * k + i] & splat_i(15)) | ((codes[4 * k + i + 16] & splat_i(15)) << 4)) << (8 * i);
  }
  return word;
}

/// Bit j is the fifth bit of code j.
QUERN_LANES_INLINE I fifth_bits(const I* codes) {
  I word = splat_i(0);
  for (int j = 0; j < 32; ++j) word |= ((codes[j] >> 4) & splat_i(1)) << j;
  return word;
}

/// Words of each lane, on their way to its block.
template <int kWords>
struct Words {
  alignas(64) std::int32_t at[kWords][kLanes];
  QUERN_LANES_INLINE void set(int word, I x) { store(x, at[word]); }
  /// Writes words first .. first + count - 1, little-endian.
  QUERN_LANES_INLINE void write(int lane, int first, int count, std::uint8_t* out) const {
    for (int i = 0; i < count; ++i) {
      auto word = static_cast<std::uint32_t>(at[first + i][lane]);
      if constexpr (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__) word = __builtin_bswap32(word);
      __builtin_memcpy(out + 4 * i, &word, sizeof(word));
    }
  }
  /// Writes the low half of a word.
  QUERN_LANES_INLINE void write_half(int lane, int word, std::uint8_t* out) const {
    out[0] = static_cast<std::uint8_t>(at[word][lane] & 0xFF);
    out[1] = static_cast<std::uint8_t>((at[word][lane] >> 8) & 0xFF);
  }
};

}  // namespace lanes
}  // namespace
}  // namespace quern
