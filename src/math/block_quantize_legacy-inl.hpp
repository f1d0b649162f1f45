// The legacy quantizers: one scale, or scale and minimum, for 32 elements; IQ4_XS with eight scales; plain numbers. Included
// into each instruction-set file after it defines quern::lanes. docs/block-formats.md has the layouts.
#pragma once

#include <cstddef>
#include <cstdint>

#include "math/block_decode_common-inl.hpp"
#include "math/block_quantize.hpp"
#include "math/block_quantize_affine-inl.hpp"
#include "math/block_quantize_iq4_xs-inl.hpp"
#include "math/block_quantize_search-inl.hpp"

namespace quern {
namespace {
namespace lanes {

/// Where the extreme value's code is tried: the format's ends and what lies around them on both sides of zero. Chosen one
/// after the other, each the one that lowered the error of normal and heavy-tailed blocks most; without importance few, for
/// speed.
struct Q4Codes {
  using Codes = Integers<-8, 7>;
  static constexpr float kTried[8] = {-8.25F, -7.75F, -8.75F, -7.25F, -8.0F, -8.5F, -7.0F, -6.25F};
  static constexpr float kTriedWeighted[20] = {-8.25F, -9.25F, -7.25F, -10.0F, -7.75F, -8.75F, 8.75F, -7.0F, -6.25F, -8.0F,
                                               8.25F,  -8.5F,  -9.5F,  9.0F,   -6.75F, -9.0F,  -6.0F, -7.5F, 7.75F,  -9.75F};
};
struct Q5Codes {
  using Codes = Integers<-16, 15>;
  static constexpr float kTried[12] = {-16.25F, -15.25F, -15.75F, -16.75F, -14.0F,  -13.0F,
                                       -15.0F,  -16.0F,  -16.5F,  -14.75F, -12.25F, -14.25F};
  static constexpr float kTriedWeighted[24] = {-16.25F, -15.25F, -17.25F, -14.0F,  -15.75F, -13.0F,  -18.0F, -14.75F,
                                               -16.75F, -12.0F,  -16.0F,  -14.25F, -13.25F, -15.0F,  17.0F,  -16.5F,
                                               11.25F,  -17.5F,  -13.75F, 16.25F,  -17.0F,  -12.75F, 15.5F,  -17.75F};
};

/// Q4_0 and Q5_0.
template <class Format, int kScaleBytes, int kBlockBytes>
struct Symmetric {
  static constexpr int kElements = 32;
  static constexpr int kBytes = kBlockBytes;
  using Codes = typename Format::Codes;

  template <bool kWeighted>
  static void quantize(V* x, V* w, int count, std::uint8_t* out) {
    const Unit unit = scale_values(x, 32);
    if constexpr (kWeighted) scale_weights(w, 32);
    const Extent extent = extent_of(x, 32);
    BestScale best;
    if constexpr (kWeighted) {
      try_extremes<Codes, true>(x, w, extent.extreme, Format::kTriedWeighted, best);
      best.d = refitted<Codes, true>(x, w, best.d);
    } else {
      try_extremes<Codes, false>(x, w, extent.extreme, Format::kTried, best);
    }
    best.d = refitted<Codes, kWeighted>(x, w, best.d);
    Scale scale = f16_scale(best.d, unit);
    const Scale exact = exact_scale_of(x, extent.largest, unit);
    scale = select(exact.value != splat(0.0F), exact, scale);
    scale = select(extent.largest > splat(0.0F), scale, {splat_i(0), splat(0.0F)});
    write(x, scale, count, out);
  }

 private:
  static QUERN_LANES_INLINE Scale exact_scale_of(const V* x, V largest, const Unit& unit) {
    if constexpr (kBlockBytes == 18) return exact_scale<-8, 7>(x, largest, unit);
    return exact_scale<-16, 15>(x, largest, unit);
  }

  static void write(const V* x, const Scale& scale, int count, std::uint8_t* out) {
    const V inverse = inverse_or_zero(scale.value);
    I codes[32];
    for (int j = 0; j < 32; ++j) codes[j] = Codes::code(x[j] * inverse);
    Words<6> words;
    words.set(0, scale.bits);
    if constexpr (kBlockBytes == 22) words.set(1, fifth_bits(codes));
    for (int k = 0; k < 4; ++k) words.set(2 + k, nibble_word(codes, k));
    for (int lane = 0; lane < count; ++lane, out += kBytes) {
      words.write_half(lane, 0, out);
      if constexpr (kBlockBytes == 22) words.write(lane, 1, 1, out + 2);
      words.write(lane, 2, 4, out + kScaleBytes);
    }
  }
};

struct Q8_0 {
  static constexpr int kElements = 32;
  static constexpr int kBytes = 34;
  using Codes = Integers<-127, 127>;
  /// Codes of the largest magnitude that are tried, below 127.5. One scale is worth about as much as another a little
  /// larger, but rounding errors of 32 elements differ by chance: the best of many is worth more than the finest.
  static constexpr float kTried[20] = {127.0F, 126.0F, 125.0F,  123.0F, 121.0F, 124.0F,  122.0F,  120.0F, 127.49F, 119.0F,
                                       118.0F, 116.0F, 113.25F, 117.0F, 115.0F, 114.25F, 125.25F, 111.0F, 126.25F, 112.0F};
  static constexpr float kTriedWeighted[24] = {127.0F, 126.0F, 124.0F, 122.0F,  120.0F,  125.0F,  123.0F, 119.0F,
                                               121.0F, 117.0F, 114.0F, 127.49F, 112.0F,  118.0F,  116.0F, 107.0F,
                                               113.0F, 115.0F, 110.0F, 111.0F,  109.25F, 126.75F, 104.0F, 124.5F};

  template <bool kWeighted>
  static void quantize(V* x, V* w, int count, std::uint8_t* out) {
    const Unit unit = scale_values(x, 32);
    if constexpr (kWeighted) scale_weights(w, 32);
    const Extent extent = extent_of(x, 32);
    V d;
    if constexpr (kWeighted) {
      d = searched<true>(x, w, extent.largest, kTriedWeighted);
    } else {
      d = searched<false>(x, w, extent.largest, kTried);
    }
    d = refitted<Codes, kWeighted>(x, w, d);
    Scale scale = f16_scale(d, unit);
    const Scale exact = exact_scale<-128, 127>(x, extent.largest, unit);
    scale = select(exact.value != splat(0.0F), exact, scale);
    scale = select(extent.largest > splat(0.0F), scale, {splat_i(0), splat(0.0F)});
    // -128 is written only where it was read: not every program expects it.
    write(x, scale, exact.value != splat(0.0F) ? splat(-128.0F) : splat(-127.0F), count, out);
  }

 private:
  /// The errors are small beside the values, so they are summed themselves.
  template <bool kWeighted, int kCount>
  static QUERN_LANES_INLINE V searched(const V* x, const V* w, V largest, const float (&tried)[kCount]) {
    constexpr int kTogether = 4;
    V best_d = splat(0.0F);
    V best_error = splat(__builtin_inff());
    const V one = splat(1.0F) / largest;
    for (int first = 0; first < kCount; first += kTogether) {
      V errors[kTogether];
      V inverse[kTogether];
      for (int c = 0; c < kTogether; ++c) {
        errors[c] = splat(0.0F);
        inverse[c] = one * splat(tried[first + c]);
      }
      for (int j = 0; j < 32; ++j) {
        for (int c = 0; c < kTogether; ++c) {
          const V y = x[j] * inverse[c];
          const V e = y - rounded(y);
          errors[c] = errors[c] + (kWeighted ? w[j] * e : e) * e;
        }
      }
      for (int c = 0; c < kTogether; ++c) {
        const V d = largest * splat(1.0F / tried[first + c]);
        const V error = errors[c] * (d * d);
        const I better = error < best_error;
        best_error = better ? error : best_error;
        best_d = better ? d : best_d;
      }
    }
    return best_d;
  }

  static void write(const V* x, const Scale& scale, V lowest, int count, std::uint8_t* out) {
    const V inverse = inverse_or_zero(scale.value);
    Words<9> words;
    words.set(0, scale.bits);
    for (int k = 0; k < 8; ++k) {
      I word = splat_i(0);
      for (int i = 0; i < 4; ++i) {
        word |= (integer(min(max(x[4 * k + i] * inverse, lowest), splat(127.0F))) & splat_i(255)) << (8 * i);
      }
      words.set(1 + k, word);
    }
    for (int lane = 0; lane < count; ++lane, out += kBytes) {
      words.write_half(lane, 0, out);
      words.write(lane, 1, 8, out + 2);
    }
  }
};

struct Iq4Nl {
  static constexpr int kElements = 32;
  static constexpr int kBytes = 18;

  template <bool kWeighted>
  static void quantize(V* x, V* w, int count, std::uint8_t* out) {
    const Unit unit = scale_values(x, 32);
    if constexpr (kWeighted) scale_weights(w, 32);
    const Extent extent = extent_of(x, 32);
    BestScale best;
    try_extremes<Iq4Values, kWeighted>(x, w, extent.extreme, iq4_tried<kWeighted>(), best);
    best.d = refitted<Iq4Values, kWeighted>(x, w, best.d);
    best.d = refitted<Iq4Values, kWeighted>(x, w, best.d);
    Scale scale = f16_scale(best.d, unit);
    const V exact = exact_iq4_scale<true>(x, extent.extreme, unit);
    scale = select(exact != splat(0.0F), f16_scale(exact, unit), scale);
    scale = select(extent.largest > splat(0.0F), scale, {splat_i(0), splat(0.0F)});
    const V inverse = inverse_or_zero(scale.value);
    I codes[32];
    for (int j = 0; j < 32; ++j) codes[j] = Iq4Values::code(x[j] * inverse);
    Words<5> words;
    words.set(0, scale.bits);
    for (int k = 0; k < 4; ++k) words.set(1 + k, nibble_word(codes, k));
    for (int lane = 0; lane < count; ++lane, out += kBytes) {
      words.write_half(lane, 0, out);
      words.write(lane, 1, 4, out + 2);
    }
  }
};

/// The power-of-two scale that fits the largest value best, the next smaller and the next larger: whichever gives the
/// smallest error.
struct Mxfp4 {
  static constexpr int kElements = 32;
  static constexpr int kBytes = 17;

  template <bool kWeighted>
  static void quantize(V* x, V* w, int count, std::uint8_t* out) {
    if constexpr (kWeighted) scale_weights(w, 32);
    V largest = splat(0.0F);
    for (int j = 0; j < 32; ++j) largest = max(magnitude(x[j]), largest);
    // The largest is then in [4, 8), of which the format says 4 and 6.
    I e = ((bits_of(largest) >> 23) & splat_i(0xFF)) - splat_i(2);
    e = e < splat_i(0) ? splat_i(0) : e;
    // 2^(127 - e) in two steps, because it may be beyond the exponents of f32.
    const I exponent = splat_i(127) - e;
    const I half = exponent >> 1;
    const V first = of_bits((half + splat_i(127)) << 23);
    const V second = of_bits((exponent - half + splat_i(127)) << 23);
    for (int j = 0; j < 32; ++j) x[j] = (x[j] * first) * second;

    V below = splat(0.0F);
    V at = splat(0.0F);
    V above = splat(0.0F);
    for (int j = 0; j < 32; ++j) {
      const V m = magnitude(x[j]);
      const V error_below = m - splat(0.5F) * nearest(m * splat(2.0F));
      const V error_at = m - nearest(m);
      const V error_above = m - splat(2.0F) * nearest(m * splat(0.5F));
      below = below + (kWeighted ? w[j] * error_below : error_below) * error_below;
      at = at + (kWeighted ? w[j] * error_at : error_at) * error_at;
      above = above + (kWeighted ? w[j] * error_above : error_above) * error_above;
    }
    // A larger scale could say infinities: 6 times 2^(e - 127).
    constexpr std::int32_t kLargestTried = 252;
    const I use_below = (below < at) & (below < above) & (e > splat_i(0));
    const I use_above = (above < at) & ~use_below & (e < splat_i(kLargestTried));
    const V factor = use_below ? splat(2.0F) : (use_above ? splat(0.5F) : splat(1.0F));
    e = e + (use_below & splat_i(-1)) + (use_above & splat_i(1));
    e = largest > splat(0.0F) ? e : splat_i(0);

    I codes[32];
    for (int j = 0; j < 32; ++j) codes[j] = code(x[j] * factor);
    Words<5> words;
    words.set(0, e);
    for (int k = 0; k < 4; ++k) words.set(1 + k, nibble_word(codes, k));
    for (int lane = 0; lane < count; ++lane, out += kBytes) {
      out[0] = static_cast<std::uint8_t>(words.at[0][lane] & 0xFF);
      words.write(lane, 1, 4, out + 1);
    }
  }

 private:
  /// The nearest of 0, 1/2, 1, 3/2, 2, 3, 4, 6 to m >= 0: one bit after the leading one, or halves below 1.
  static QUERN_LANES_INLINE V nearest(V m) {
    const V x = min(m, splat(6.0F));
    const V power = of_bits(bits_of(max(x, splat(1.0F))) & splat_i(0x7F800000));
    const V magic = power * splat(kMagic / 2.0F);
    return (x + magic) - magic;
  }
  /// Code of x, -0 where a negative value is too small.
  static QUERN_LANES_INLINE I code(V x) {
    const V m = nearest(magnitude(x));
    const I large = (bits_of(m) >> 22) - splat_i(252);
    const I small = (m > splat(0.0F)) & splat_i(1);
    return (m < splat(1.0F) ? small : large) | ((bits_of(x) >> 28) & splat_i(8));
  }
};

/// The importance of `count` consecutive blocks from block `first` of the rows on, one after the other in `buffer`.
template <int kElements>
inline void importance_of(const QuantizeRows& rows, std::int64_t first, int count, float* buffer) {
  const std::int64_t row_blocks = rows.cols / kElements;
  std::int64_t block = first % row_blocks;
  for (int lane = 0; lane < count; ++lane) {
    __builtin_memcpy(buffer + lane * kElements, rows.importance + block * kElements, sizeof(float) * kElements);
    if (++block == row_blocks) block = 0;
  }
}

template <int kElements>
QUERN_LANES_INLINE void transpose(const float* x, V* out) {
  for (int j = 0; j < kElements; j += 32) transpose32<kElements>(x + j, out + j);
}

template <class Format, bool kWeighted>
inline void quantize_blocks(const QuantizeRows& rows) {
  constexpr int kElements = Format::kElements;
  auto* const out = reinterpret_cast<std::uint8_t*>(rows.out);
  const std::int64_t blocks = rows.rows * (rows.cols / kElements);
  V x[kElements];
  V w[kWeighted ? kElements : 1];
  alignas(64) float buffer[kElements * kLanes];
  for (std::int64_t first = 0; first < blocks; first += kLanes) {
    const int count = blocks - first < kLanes ? static_cast<int>(blocks - first) : kLanes;
    const float* source = rows.x + first * kElements;
    if (count < kLanes) {
      __builtin_memset(buffer, 0, sizeof(buffer));
      __builtin_memcpy(buffer, source, sizeof(float) * static_cast<std::size_t>(kElements * count));
      source = buffer;
    }
    transpose<kElements>(source, x);
    if constexpr (kWeighted) {
      if (count < kLanes) __builtin_memset(buffer, 0, sizeof(buffer));
      importance_of<kElements>(rows, first, count, buffer);
      transpose<kElements>(buffer, w);
    }
    Format::template quantize<kWeighted>(x, w, count, out + first * Format::kBytes);
  }
}

template <class Format>
inline bool quantize_as(const QuantizeRows& rows) {
  if (rows.importance != nullptr) {
    quantize_blocks<Format, true>(rows);
  } else {
    quantize_blocks<Format, false>(rows);
  }
  return true;
}

/// Finite numbers beyond the largest of a format become that.
QUERN_LANES_INLINE I plain_bits(V x, ElementType type) {
  const I finite = magnitude(x) < splat(__builtin_inff());
  if (type == ElementType::f16) return f16_bits(finite ? clamped(x, -65504.0F, 65504.0F) : x);
  const V largest = of_bits(splat_i(0x7F7F0000));
  const V inside = finite ? max(min(x, largest), -largest) : x;
  const I bits = bits_of(inside);
  const I nearest = bits + splat_i(0x7FFF) + ((bits >> 16) & splat_i(1));
  // A NaN's fraction could round to an infinity's: it is made quiet instead.
  const I half = x == x ? nearest : (bits | splat_i(0x400000));
  return (half >> 16) & splat_i(0xFFFF);
}

inline bool quantize_plain(const QuantizeRows& rows) {
  const std::int64_t count = rows.rows * rows.cols;
  if (rows.type == ElementType::f32) {
    if (count > 0) __builtin_memcpy(rows.out, rows.x, sizeof(float) * static_cast<std::size_t>(count));
    return true;
  }
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store_u16(plain_bits(load(rows.x + i), rows.type), rows.out + 2 * i);
  if (i < count) {
    alignas(64) float last[kLanes] = {};
    std::byte bytes[2 * kLanes];
    __builtin_memcpy(last, rows.x + i, sizeof(float) * static_cast<std::size_t>(count - i));
    store_u16(plain_bits(load(last), rows.type), bytes);
    __builtin_memcpy(rows.out + 2 * i, bytes, 2 * static_cast<std::size_t>(count - i));
  }
  return true;
}

inline bool quantize_type(const QuantizeRows& rows) {
  switch (rows.type) {
    case ElementType::f32:
    case ElementType::f16:
    case ElementType::bf16:
      return quantize_plain(rows);
    case ElementType::q4_0:
      return quantize_as<Symmetric<Q4Codes, 2, 18>>(rows);
    case ElementType::q5_0:
      return quantize_as<Symmetric<Q5Codes, 6, 22>>(rows);
    case ElementType::q4_1:
      return quantize_as<Affine<15>>(rows);
    case ElementType::q5_1:
      return quantize_as<Affine<31>>(rows);
    case ElementType::q8_0:
      return quantize_as<Q8_0>(rows);
    case ElementType::iq4_nl:
      return quantize_as<Iq4Nl>(rows);
    case ElementType::iq4_xs:
      return quantize_as<Iq4Xs>(rows);
    case ElementType::mxfp4:
      return quantize_as<Mxfp4>(rows);
    default:
      return false;
  }
}

}  // namespace lanes

bool quantize_legacy(const QuantizeRows& rows) { return lanes::quantize_type(rows); }

}  // namespace
}  // namespace quern
