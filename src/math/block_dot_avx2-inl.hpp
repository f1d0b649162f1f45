// Dot products of blocks with int8 activations, 256 bits at a time. Included by instruction-set files only, after
// block_rows-inl.hpp and block_scales_avx2-inl.hpp.
//
// A vector holds 32 weights in the order of their elements, as one of
//   - unsigned numbers w + offset up to 63, whose products with offset are subtracted from each pair sum, or
//   - signed numbers up to 127 in magnitude (128 for -128): |w| is multiplied by x with w's sign.
// Pairs of products then fit in 16 bits; four make one of the eight 32-bit lanes, which is converted to f32, scaled and
// added to the even or odd vectors' sum.
namespace quern {
namespace {

struct Signed {
  static constexpr bool kSigned = true;
  static constexpr int kOffset = 0;
};
template <int kValue>
struct Unsigned {
  static constexpr bool kSigned = false;
  static constexpr int kOffset = kValue;
};

/// What is subtracted from pair sums where weights carry an offset; the same for all rows.
template <class Format>
inline __m256i offset_products(__m256i x) {
  if constexpr (Format::kOffset != 0) return _mm256_maddubs_epi16(_mm256_set1_epi8(Format::kOffset), x);
  return x;
}

/// Eight sums of four products.
template <class Format>
inline __m256 sums_of_four(__m256i w, __m256i x, [[maybe_unused]] __m256i offset) {
  __m256i pairs;
  if constexpr (Format::kSigned) {
    pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
  } else {
    pairs = _mm256_maddubs_epi16(w, x);
  }
  if constexpr (Format::kOffset != 0) pairs = _mm256_sub_epi16(pairs, offset);
  return _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/// Sixteen bytes' low nibbles, then their high ones.
inline __m256i nibbles(const std::byte* p) {
  const __m128i bytes = load16(p);
  const __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(bytes), _mm_srli_epi16(bytes, 4), 1);
  return _mm256_and_si256(both, _mm256_set1_epi8(15));
}

/// 16 where bit i of the four bytes at p is set, for elements i = 0 .. 31.
inline __m256i fifth_bits(const std::byte* p) {
  const __m256i byte_of = _mm256_setr_epi64x(0x0000000000000000, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i bit_of = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201ULL));
  const __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(u32_at(p))), byte_of);
  const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit_of), bit_of);
  return _mm256_and_si256(set, _mm256_set1_epi8(16));
}

inline __m256i iq4_values(__m256i index) {
  const __m256i table =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113));
  return _mm256_shuffle_epi8(table, index);
}

// --- Blocks of 32 ----------------------------------------------------------------------------------------------------

struct Q40 : Unsigned<8> {
  static constexpr std::int64_t kBytes = 18;
  static constexpr bool kMin = false;
  static __m256i values(const std::byte* b) { return nibbles(b + 2); }
  static __m256 scale(const std::byte* b) { return half_lanes(b); }
};

struct Q41 : Unsigned<0> {
  static constexpr std::int64_t kBytes = 20;
  static constexpr bool kMin = true;
  static __m256i values(const std::byte* b) { return nibbles(b + 4); }
  static __m256 scale(const std::byte* b) { return half_lanes(b); }
  static __m256 min(const std::byte* b) { return half_lanes(b + 2); }
};

struct Q50 : Unsigned<16> {
  static constexpr std::int64_t kBytes = 22;
  static constexpr bool kMin = false;
  static __m256i values(const std::byte* b) { return _mm256_or_si256(nibbles(b + 6), fifth_bits(b + 2)); }
  static __m256 scale(const std::byte* b) { return half_lanes(b); }
};

struct Q51 : Unsigned<0> {
  static constexpr std::int64_t kBytes = 24;
  static constexpr bool kMin = true;
  static __m256i values(const std::byte* b) { return _mm256_or_si256(nibbles(b + 8), fifth_bits(b + 4)); }
  static __m256 scale(const std::byte* b) { return half_lanes(b); }
  static __m256 min(const std::byte* b) { return half_lanes(b + 2); }
};

struct Q80 : Signed {
  static constexpr std::int64_t kBytes = 34;
  static constexpr bool kMin = false;
  static __m256i values(const std::byte* b) { return load32(b + 2); }
  static __m256 scale(const std::byte* b) { return half_lanes(b); }
};

struct Iq4Nl : Signed {
  static constexpr std::int64_t kBytes = 18;
  static constexpr bool kMin = false;
  static __m256i values(const std::byte* b) { return iq4_values(nibbles(b + 2)); }
  static __m256 scale(const std::byte* b) { return half_lanes(b); }
};

struct Mxfp4 : Unsigned<12> {
  static constexpr std::int64_t kBytes = 17;
  static constexpr bool kMin = false;
  static __m256i values(const std::byte* b) {
    const __m256i table =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
    return _mm256_shuffle_epi8(table, nibbles(b + 1));
  }
  static __m256 scale(const std::byte* b) { return _mm256_set1_ps(mxfp4_scale(b)); }
};

/// Sums of even blocks and of odd ones; minima go with their block.
template <class Format>
struct BlockTile {
  template <int R, int T>
  static void run(const BlockDot& d, std::int64_t r, std::int64_t t) {
    const std::byte* row[R];
    __m256 sum[R][T][2];
#pragma GCC unroll 2
    for (int i = 0; i < R; ++i) {
      row[i] = d.weight + static_cast<std::size_t>(r + i) * d.row_bytes;
#pragma GCC unroll 4
      for (int j = 0; j < T; ++j) sum[i][j][0] = sum[i][j][1] = _mm256_setzero_ps();
    }
    const ActivationRow* x = d.x + t;
    const auto add = [&](std::int64_t b, int odd) __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int j = 0; j < T; ++j) {
        const __m256i xv = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x[j].values + b * kActivationBlock));
        const __m256i offset = offset_products<Format>(xv);
        const __m256 x_scale = _mm256_broadcast_ss(x[j].scales + b);
#pragma GCC unroll 2
        for (int i = 0; i < R; ++i) {
          const std::byte* block = row[i] + b * Format::kBytes;
          const __m256 products = sums_of_four<Format>(Format::values(block), xv, offset);
          __m256& to = sum[i][j][odd];
          to = _mm256_fmadd_ps(products, _mm256_mul_ps(Format::scale(block), x_scale), to);
          if constexpr (Format::kMin) {
            const __m256 ones = sums_of_four<Unsigned<0>>(_mm256_set1_epi8(1), xv, xv);
            to = _mm256_fmadd_ps(ones, _mm256_mul_ps(Format::min(block), x_scale), to);
          }
        }
      }
    };
    const std::int64_t blocks = d.cols / kActivationBlock;
    std::int64_t b = 0;
    for (; b + 2 <= blocks; b += 2) {
#pragma GCC unroll 2
      for (int i = 0; i < R; ++i) fetch_ahead<T>(row[i] + b * Format::kBytes + R * d.row_bytes, 2 * Format::kBytes);
      add(b, 0);
      add(b + 1, 1);
    }
    if (b < blocks) add(b, 0);
#pragma GCC unroll 2
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < T; ++j) {
        d.out[(t + j) * d.out_stride + r + i] = lane_sum(_mm256_add_ps(sum[i][j][0], sum[i][j][1]));
      }
    }
  }
};

// --- Super-blocks of 256: eight vectors ------------------------------------------------------------------------------

/// Scales of 32 elements each, times d.
struct ScalePer32 {
  static constexpr bool kPer16 = false;
  __m256 scales;
};
/// Scales of 16 elements each, times d: the first eight and the others.
struct ScalePer16 {
  static constexpr bool kPer16 = true;
  __m256 scales[2];
  void set(__m128i bytes, __m256 d) {
    scales[0] = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)), d);
    scales[1] = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8))), d);
  }
};

struct Q4K : Unsigned<0>, ScalePer32 {
  static constexpr std::int64_t kBytes = 144;
  static constexpr bool kMin = true;
  const std::byte* qs;
  __m256i mins;  ///< of 16 elements each
  __m256 negative_dmin;
  explicit Q4K(const std::byte* b, std::int64_t qs_at = 16) : qs(b + qs_at) {
    const SixBitScales packed(b + 4);
    scales = _mm256_mul_ps(bytes_to_floats(packed.scales), half_lanes(b));
    mins = bytes_to_word_pairs(packed.mins);
    negative_dmin = _mm256_xor_ps(half_lanes(b + 2), _mm256_set1_ps(-0.0F));
  }
  [[nodiscard]] __m256i values(int k) const {
    return _mm256_and_si256(_mm256_srli_epi16(load32(qs + 32 * (k / 2)), 4 * (k % 2)), _mm256_set1_epi8(15));
  }
};

struct Q5K : Q4K {
  static constexpr std::int64_t kBytes = 176;
  __m256i high;
  explicit Q5K(const std::byte* b) : Q4K(b, 48), high(load32(b + 16)) {}
  [[nodiscard]] __m256i values(int k) const {
    const __m256i bit = _mm256_set1_epi8(static_cast<char>(1 << k));
    const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(high, bit), bit);
    return _mm256_or_si256(Q4K::values(k), _mm256_and_si256(set, _mm256_set1_epi8(16)));
  }
};

struct Q6K : Unsigned<32>, ScalePer16 {
  static constexpr std::int64_t kBytes = 210;
  static constexpr bool kMin = false;
  const std::byte* block;
  explicit Q6K(const std::byte* b) : block(b) { set(load16(b + 192), half_lanes(b + 208)); }
  [[nodiscard]] __m256i values(int k) const {
    const int group = k % 4;
    const __m256i low = _mm256_srli_epi16(load32(block + 64 * (k / 4) + 32 * (group % 2)), 4 * (group / 2));
    const __m256i two = load32(block + 128 + 32 * (k / 4));
    const __m256i high = group < 2 ? _mm256_slli_epi16(two, 4 - 2 * group) : _mm256_srli_epi16(two, 2 * group - 4);
    return _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi8(15)), _mm256_and_si256(high, _mm256_set1_epi8(0x30)));
  }
};

struct Q2K : Unsigned<0>, ScalePer16 {
  static constexpr std::int64_t kBytes = 84;
  static constexpr bool kMin = true;
  const std::byte* qs;
  __m256i mins;
  __m256 negative_dmin;
  explicit Q2K(const std::byte* b) : qs(b + 16) {
    const __m128i packed = load16(b);
    const __m128i four = _mm_set1_epi8(15);
    set(_mm_and_si128(packed, four), half_lanes(b + 80));
    mins = _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16(packed, 4), four));
    negative_dmin = _mm256_xor_ps(half_lanes(b + 82), _mm256_set1_ps(-0.0F));
  }
  [[nodiscard]] __m256i values(int k) const {
    return _mm256_and_si256(_mm256_srli_epi16(load32(qs + 32 * (k / 4)), 2 * (k % 4)), _mm256_set1_epi8(3));
  }
};

struct Q3K : Unsigned<4>, ScalePer16 {
  static constexpr std::int64_t kBytes = 110;
  static constexpr bool kMin = false;
  const std::byte* qs;
  __m256i high;
  explicit Q3K(const std::byte* b) : qs(b + 32), high(load32(b)) { set(q3_k_scales(b + 96), half_lanes(b + 108)); }
  [[nodiscard]] __m256i values(int k) const {
    const __m256i low = _mm256_and_si256(_mm256_srli_epi16(load32(qs + 32 * (k / 4)), 2 * (k % 4)), _mm256_set1_epi8(3));
    const __m256i bit = _mm256_set1_epi8(static_cast<char>(1 << k));
    const __m256i set_bits = _mm256_cmpeq_epi8(_mm256_and_si256(high, bit), bit);
    return _mm256_or_si256(low, _mm256_and_si256(set_bits, _mm256_set1_epi8(4)));
  }
};

struct Iq4Xs : Signed, ScalePer32 {
  static constexpr std::int64_t kBytes = 136;
  static constexpr bool kMin = false;
  const std::byte* qs;
  explicit Iq4Xs(const std::byte* b) : qs(b + 8) {
    scales = _mm256_mul_ps(iq4_xs_scales(b + 4, u16_at(b + 2)), half_lanes(b));
  }
  [[nodiscard]] __m256i values(int k) const { return iq4_values(nibbles(qs + 16 * k)); }
};

/// The scales of a super-block's vectors times those of the activations, in memory: a vector's scale is then a broadcast.
template <class Format>
inline void scaled_by(const Format& f, __m256 x_scales, float* out) {
  if constexpr (Format::kPer16) {
    const __m256 low = _mm256_permutevar8x32_ps(x_scales, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
    const __m256 high = _mm256_permutevar8x32_ps(x_scales, _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7));
    _mm256_store_ps(out, _mm256_mul_ps(f.scales[0], low));
    _mm256_store_ps(out + 8, _mm256_mul_ps(f.scales[1], high));
  } else {
    _mm256_store_ps(out, _mm256_mul_ps(f.scales, x_scales));
  }
}

template <class Format>
inline __m256 vector_scale(const float* scales, int k) {
  if constexpr (Format::kPer16) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_broadcast_ss(scales + 2 * k)),
                                _mm_broadcast_ss(scales + 2 * k + 1), 1);
  }
  return _mm256_broadcast_ss(scales + k);
}

/// Sums of even vectors and of odd ones; minima of a super-block are added to the former first.
template <class Format>
struct SuperBlockTile {
  template <int R, int T>
  static void run(const BlockDot& d, std::int64_t r, std::int64_t t) {
    const std::byte* row[R];
    __m256 sum[R][T][2];
#pragma GCC unroll 2
    for (int i = 0; i < R; ++i) {
      row[i] = d.weight + static_cast<std::size_t>(r + i) * d.row_bytes;
#pragma GCC unroll 4
      for (int j = 0; j < T; ++j) sum[i][j][0] = sum[i][j][1] = _mm256_setzero_ps();
    }
    const ActivationRow* x = d.x + t;
    for (std::int64_t b = 0; b < d.cols / 256; ++b) {
      alignas(32) float scales[R][T][16];
#pragma GCC unroll 2
      for (int i = 0; i < R; ++i) {
        const Format f(row[i]);
#pragma GCC unroll 4
        for (int j = 0; j < T; ++j) {
          const __m256 x_scales = _mm256_loadu_ps(x[j].scales + 8 * b);
          scaled_by(f, x_scales, scales[i][j]);
          if constexpr (Format::kMin) {
            const __m256i x_sums = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x[j].sums + 16 * b));
            const __m256 mins = _mm256_cvtepi32_ps(_mm256_madd_epi16(x_sums, f.mins));
            sum[i][j][0] = _mm256_fmadd_ps(mins, _mm256_mul_ps(f.negative_dmin, x_scales), sum[i][j][0]);
          }
        }
      }
#pragma GCC unroll 8
      for (int k = 0; k < 8; ++k) {
        __m256i w[R];
#pragma GCC unroll 2
        for (int i = 0; i < R; ++i) w[i] = Format(row[i]).values(k);
#pragma GCC unroll 4
        for (int j = 0; j < T; ++j) {
          const __m256i xv = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x[j].values + 256 * b + 32 * k));
          const __m256i offset = offset_products<Format>(xv);
#pragma GCC unroll 2
          for (int i = 0; i < R; ++i) {
            const __m256 products = sums_of_four<Format>(w[i], xv, offset);
            __m256& to = sum[i][j][k % 2];
            to = _mm256_fmadd_ps(products, vector_scale<Format>(scales[i][j], k), to);
          }
        }
      }
#pragma GCC unroll 2
      for (int i = 0; i < R; ++i) {
        fetch_ahead<T>(row[i] + R * d.row_bytes, Format::kBytes);
        row[i] += Format::kBytes;
      }
    }
#pragma GCC unroll 2
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < T; ++j) {
        d.out[(t + j) * d.out_stride + r + i] = lane_sum(_mm256_add_ps(sum[i][j][0], sum[i][j][1]));
      }
    }
  }
};

}  // namespace
}  // namespace quern
