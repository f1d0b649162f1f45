// Dot products of blocks with int8 activations, 512 bits at a time, with VPDPBUSD (four products of an unsigned and a signed
// byte added to a 32-bit lane, exactly). Included by instruction-set files only, after block_rows-inl.hpp and
// block_scales_avx2-inl.hpp.
//
// A vector holds 64 weights in the order of their elements as unsigned numbers w + offset. Lanes start at minus the products
// of `offset`, which are the same for all rows; they are then converted to f32, scaled and added to the even or odd vectors'
// sum.
namespace quern {
namespace {

inline __m512i load64(const void* p) { return _mm512_loadu_si512(p); }
/// 32 bytes, twice.
inline __m512i twice(const std::byte* p) { return _mm512_broadcast_i64x4(load32(p)); }
/// Shift counts for the four quarters of a vector.
inline __m512i quarters(long long a, long long b, long long c, long long d) {
  return _mm512_setr_epi64(a, a, b, b, c, c, d, d);
}

inline __m512i iq4_values(__m512i index) {  // plus 127
  const __m128i table = _mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_add_epi8(table, _mm_set1_epi8(127))), index);
}

template <class Format>
inline __m512i offset_products(__m512i x) {
  const __m512i zero = _mm512_setzero_si512();
  if constexpr (Format::kOffset == 0) return zero;
  return _mm512_sub_epi32(zero, _mm512_dpbusd_epi32(zero, _mm512_set1_epi8(static_cast<char>(Format::kOffset)), x));
}

inline float lane_sum(__m512 v) { return lane_sum(_mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1))); }

// --- Blocks of 32: two per vector ------------------------------------------------------------------------------------
//
// A pair of blocks is read with one masked load, which never touches a byte past it; where a row ends with one block, the
// second one's bytes are zero, and so are its activations.

struct BlockPair {
  __m512i values;
  __m512 scales;
  __m512 mins;
};

/// Of a vector that holds two blocks: each one's sixteen bytes from kFirst on, twice.
template <int kBytes, int kFirst>
struct NibbleBytes {
  alignas(64) char index[64];
  constexpr NibbleBytes() : index() {
    for (int i = 0; i < 64; ++i) index[i] = static_cast<char>(kFirst + (i / 32) * kBytes + i % 16);
  }
};
template <int kBytes, int kFirst>
inline __m512i nibbles(__m512i blocks) {
  static constexpr NibbleBytes<kBytes, kFirst> kIndex;
  const __m512i bytes = _mm512_permutexvar_epi8(load64(kIndex.index), blocks);
  return _mm512_and_si512(_mm512_srlv_epi64(bytes, quarters(0, 4, 0, 4)), _mm512_set1_epi8(15));
}

/// The binary16 number at word kWord of each of the two blocks, in eight lanes each.
template <int kBytes, int kWord>
inline __m512 halves(__m512i blocks) {
  static_assert(kBytes % 2 == 0 && kBytes / 2 + kWord < 16, "the first 32 bytes hold both");
  constexpr short a = kWord;
  constexpr short b = kWord + kBytes / 2;
  const __m256i index = _mm256_setr_epi16(a, a, a, a, a, a, a, a, b, b, b, b, b, b, b, b);
  return _mm512_cvtph_ps(_mm256_permutexvar_epi16(index, _mm512_castsi512_si256(blocks)));
}

template <int kBytes, bool kBoth>
inline __m512i load_blocks(const std::byte* b) {
  constexpr int kPresent = kBoth ? 2 * kBytes : kBytes;
  return _mm512_maskz_loadu_epi8((__mmask64{1} << kPresent) - 1, b);
}

/// Fifth bits of two blocks: bit i of the four bytes at kFirst belongs to element i.
template <int kBytes, int kFirst, bool kBoth>
inline __m512i with_fifth_bits(__m512i nibbles, const std::byte* b) {
  const __mmask64 set = joined(u32_at(b + kFirst), kBoth ? u32_at(b + kBytes + kFirst) : 0);
  return _mm512_mask_add_epi8(nibbles, set, nibbles, _mm512_set1_epi8(16));
}

struct Q40 {
  static constexpr int kBytes = 18, kOffset = 8;
  static constexpr bool kMin = false;
  template <bool kBoth>
  static BlockPair load(const std::byte* b) {
    const __m512i blocks = load_blocks<kBytes, kBoth>(b);
    return {nibbles<kBytes, 2>(blocks), halves<kBytes, 0>(blocks), _mm512_setzero_ps()};
  }
};

struct Q41 {
  static constexpr int kBytes = 20, kOffset = 0;
  static constexpr bool kMin = true;
  template <bool kBoth>
  static BlockPair load(const std::byte* b) {
    const __m512i blocks = load_blocks<kBytes, kBoth>(b);
    return {nibbles<kBytes, 4>(blocks), halves<kBytes, 0>(blocks), halves<kBytes, 1>(blocks)};
  }
};

struct Q50 {
  static constexpr int kBytes = 22, kOffset = 16;
  static constexpr bool kMin = false;
  template <bool kBoth>
  static BlockPair load(const std::byte* b) {
    const __m512i blocks = load_blocks<kBytes, kBoth>(b);
    return {with_fifth_bits<kBytes, 2, kBoth>(nibbles<kBytes, 6>(blocks), b), halves<kBytes, 0>(blocks),
            _mm512_setzero_ps()};
  }
};

struct Q51 {
  static constexpr int kBytes = 24, kOffset = 0;
  static constexpr bool kMin = true;
  template <bool kBoth>
  static BlockPair load(const std::byte* b) {
    const __m512i blocks = load_blocks<kBytes, kBoth>(b);
    return {with_fifth_bits<kBytes, 4, kBoth>(nibbles<kBytes, 8>(blocks), b), halves<kBytes, 0>(blocks),
            halves<kBytes, 1>(blocks)};
  }
};

struct Q80 {
  static constexpr int kBytes = 34, kOffset = 128;
  static constexpr bool kMin = false;
  template <bool kBoth>
  static BlockPair load(const std::byte* b) {
    const __m256i second = kBoth ? load32(b + kBytes + 2) : _mm256_setzero_si256();
    const __m512i values = _mm512_inserti64x4(_mm512_castsi256_si512(load32(b + 2)), second, 1);
    const __m128i d0 = _mm_set1_epi16(static_cast<short>(u16_at(b)));
    const __m128i d1 = kBoth ? _mm_set1_epi16(static_cast<short>(u16_at(b + kBytes))) : _mm_setzero_si128();
    const __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(d0), d1, 1);
    return {_mm512_xor_si512(values, _mm512_set1_epi8(-128)), _mm512_cvtph_ps(both), _mm512_setzero_ps()};
  }
};

struct Iq4Nl {
  static constexpr int kBytes = 18, kOffset = 127;
  static constexpr bool kMin = false;
  template <bool kBoth>
  static BlockPair load(const std::byte* b) {
    const __m512i blocks = load_blocks<kBytes, kBoth>(b);
    return {iq4_values(nibbles<kBytes, 2>(blocks)), halves<kBytes, 0>(blocks), _mm512_setzero_ps()};
  }
};

struct Mxfp4 {
  static constexpr int kBytes = 17, kOffset = 12;
  static constexpr bool kMin = false;
  /// Half of 2^(e - 127), subnormals included: (e - 1) << 23, but 2^21 << e below e = 2.
  static __m512 scales(__m512i blocks) {
    const __m512i index = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi32(kBytes), 1);
    const __m512i e = _mm512_maskz_permutexvar_epi8(0x1111111111111111ULL, index, blocks);
    const __m512i normal = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
    return _mm512_castsi512_ps(
        _mm512_mask_sllv_epi32(normal, _mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2)), _mm512_set1_epi32(0x00200000), e));
  }
  template <bool kBoth>
  static BlockPair load(const std::byte* b) {
    const __m512i blocks = load_blocks<kBytes, kBoth>(b);
    const __m512i table = _mm512_broadcast_i32x4(_mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
    return {_mm512_shuffle_epi8(table, nibbles<kBytes, 1>(blocks)), scales(blocks), _mm512_setzero_ps()};
  }
};

/// Two scales of activations in eight lanes each; the second is zero where there is one block.
template <bool kBoth>
inline __m512 scale_pair(const float* p) {
  double bits = 0.0;
  __builtin_memcpy(&bits, p, kBoth ? 8 : 4);
  const __m512i index = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
  return _mm512_permutexvar_ps(index, _mm512_castpd_ps(_mm512_set1_pd(bits)));
}

/// R rows by T tokens: sums of even pairs of blocks and of odd ones; minima go with their blocks.
template <class Format>
struct BlockTile {
  template <int R, int T>
  static void run(const BlockDot& d, std::int64_t r, std::int64_t t) {
    const std::byte* row[R];
    __m512 sum[R][T][2];
#pragma GCC unroll 2
    for (int i = 0; i < R; ++i) {
      row[i] = d.weight + static_cast<std::size_t>(r + i) * d.row_bytes;
#pragma GCC unroll 4
      for (int j = 0; j < T; ++j) sum[i][j][0] = sum[i][j][1] = _mm512_setzero_ps();
    }
    const ActivationRow* x = d.x + t;
    const std::size_t ahead = R * d.row_bytes;
    const std::int64_t blocks = d.cols / kActivationBlock;
    std::int64_t b = 0;
    for (; b + 4 <= blocks; b += 4) {
      add<R, T, true>(row, x, ahead, b, sum, 0);
      add<R, T, true>(row, x, ahead, b + 2, sum, 1);
    }
    int odd = 0;
    if (b + 2 <= blocks) {
      add<R, T, true>(row, x, ahead, b, sum, 0);
      b += 2;
      odd = 1;
    }
    if (b < blocks) {
      if (odd == 0) {
        add<R, T, false>(row, x, ahead, b, sum, 0);
      } else {
        add<R, T, false>(row, x, ahead, b, sum, 1);
      }
    }
#pragma GCC unroll 2
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < T; ++j) {
        d.out[(t + j) * d.out_stride + r + i] = lane_sum(_mm512_add_ps(sum[i][j][0], sum[i][j][1]));
      }
    }
  }

  /// Blocks b and (kBoth) b + 1.
  template <int R, int T, bool kBoth>
  __attribute__((always_inline)) static inline void add(const std::byte* const (&row)[R], const ActivationRow* x,
                                                        std::size_t ahead, std::int64_t b, __m512 (&sum)[R][T][2], int odd) {
    BlockPair w[R];
#pragma GCC unroll 2
    for (int i = 0; i < R; ++i) {
      w[i] = Format::template load<kBoth>(row[i] + b * Format::kBytes);
      fetch_ahead<T>(row[i] + b * Format::kBytes + ahead, 2 * Format::kBytes);
    }
#pragma GCC unroll 4
    for (int j = 0; j < T; ++j) {
      const std::int8_t* values = x[j].values + b * kActivationBlock;
      const __m512i xv = kBoth ? load64(values) : _mm512_maskz_loadu_epi8(0xffffffffULL, values);
      const __m512i offset = offset_products<Format>(xv);
      const __m512 x_scales = scale_pair<kBoth>(x[j].scales + b);
#pragma GCC unroll 2
      for (int i = 0; i < R; ++i) {
        const __m512 products = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(offset, w[i].values, xv));
        __m512& to = sum[i][j][odd];
        to = _mm512_fmadd_ps(products, _mm512_mul_ps(w[i].scales, x_scales), to);
        if constexpr (Format::kMin) {
          const __m512i ones = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), xv);
          to = _mm512_fmadd_ps(_mm512_cvtepi32_ps(ones), _mm512_mul_ps(w[i].mins, x_scales), to);
        }
      }
    }
  }
};

// --- Super-blocks of 256: four vectors -------------------------------------------------------------------------------

/// Scales of 32 elements each, times d.
struct ScalePer32 {
  __m256 scales;
  /// Times the activations' scales.
  [[nodiscard]] __m512 scaled(__m256 x_scales) const { return _mm512_zextps256_ps512(_mm256_mul_ps(scales, x_scales)); }
  /// Those of vector v in their lanes.
  static __m512 of_vector(__m512 scaled, int v) {
    const __m512i index = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    return _mm512_permutexvar_ps(_mm512_add_epi32(index, _mm512_set1_epi32(2 * v)), scaled);
  }
};

/// Scales of 16 elements each, times d.
struct ScalePer16 {
  __m512 scales;
  ScalePer16(__m128i bytes, const std::byte* d)
      : scales(_mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)),
                             _mm512_cvtph_ps(_mm256_set1_epi16(static_cast<short>(u16_at(d)))))) {}
  [[nodiscard]] __m512 scaled(__m256 x_scales) const {
    const __m512i index = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    return _mm512_mul_ps(scales, _mm512_permutexvar_ps(index, _mm512_castps256_ps512(x_scales)));
  }
  static __m512 of_vector(__m512 scaled, int v) {
    const __m512i index = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    return _mm512_permutexvar_ps(_mm512_add_epi32(index, _mm512_set1_epi32(4 * v)), scaled);
  }
};

/// Minima, in words of 16 elements each, and minus their scale.
struct Minima {
  __m256i mins;
  __m256 negative_dmin;
  Minima(__m256i words, const std::byte* dmin)
      : mins(words), negative_dmin(_mm256_xor_ps(half_lanes(dmin), _mm256_set1_ps(-0.0F))) {}
};

/// Bits 2v and 2v + 1 of 32 bytes that a vector holds twice: those of the elements of vector v.
inline __mmask64 bits_of_vector(__m512i high, int v) {
  const __m512i bits = _mm512_inserti64x4(_mm512_set1_epi8(static_cast<char>(1 << (2 * v))),
                                          _mm256_set1_epi8(static_cast<char>(2 << (2 * v))), 1);
  return _mm512_test_epi8_mask(high, bits);
}

struct Q4K : ScalePer32, Minima {
  static constexpr int kBytes = 144, kOffset = 0;
  static constexpr bool kMin = true;
  const std::byte* qs;
  explicit Q4K(const std::byte* b, int qs_at = 16) : Q4K(b, SixBitScales(b + 4), b + qs_at) {}
  Q4K(const std::byte* b, const SixBitScales& packed, const std::byte* quants)
      : ScalePer32{_mm256_mul_ps(bytes_to_floats(packed.scales), half_lanes(b))},
        Minima(bytes_to_word_pairs(packed.mins), b + 2),
        qs(quants) {}
  [[nodiscard]] __m512i values(int v) const {
    return _mm512_and_si512(_mm512_srlv_epi64(twice(qs + 32 * v), quarters(0, 0, 4, 4)), _mm512_set1_epi8(15));
  }
};

struct Q5K : Q4K {
  static constexpr int kBytes = 176;
  __m512i high;
  explicit Q5K(const std::byte* b) : Q4K(b, 48), high(twice(b + 16)) {}
  [[nodiscard]] __m512i values(int v) const {
    const __m512i low = Q4K::values(v);
    return _mm512_mask_add_epi8(low, bits_of_vector(high, v), low, _mm512_set1_epi8(16));
  }
};

struct Q6K : ScalePer16 {
  static constexpr int kBytes = 210, kOffset = 32;
  static constexpr bool kMin = false;
  const std::byte* block;
  explicit Q6K(const std::byte* b) : ScalePer16(load16(b + 192), b + 208), block(b) {}
  [[nodiscard]] __m512i values(int v) const {
    const __m512i bytes = load64(block + 64 * (v / 2));
    const __m512i low = v % 2 == 0 ? bytes : _mm512_srli_epi16(bytes, 4);
    const __m512i turns = v % 2 == 0 ? quarters(4, 4, 2, 2) : quarters(0, 0, 62, 62);
    const __m512i high = _mm512_rolv_epi64(twice(block + 128 + 32 * (v / 2)), turns);
    return _mm512_or_si512(_mm512_and_si512(low, _mm512_set1_epi8(15)), _mm512_and_si512(high, _mm512_set1_epi8(0x30)));
  }
};

/// The two low bits of Q2_K and Q3_K.
inline __m512i two_bits(const std::byte* qs, int v) {
  const __m512i shifts = v % 2 == 0 ? quarters(0, 0, 2, 2) : quarters(4, 4, 6, 6);
  return _mm512_and_si512(_mm512_srlv_epi64(twice(qs + 32 * (v / 2)), shifts), _mm512_set1_epi8(3));
}

struct Q2K : ScalePer16, Minima {
  static constexpr int kBytes = 84, kOffset = 0;
  static constexpr bool kMin = true;
  const std::byte* qs;
  explicit Q2K(const std::byte* b)
      : ScalePer16(_mm_and_si128(load16(b), _mm_set1_epi8(15)), b + 80),
        Minima(_mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16(load16(b), 4), _mm_set1_epi8(15))), b + 82),
        qs(b + 16) {}
  [[nodiscard]] __m512i values(int v) const { return two_bits(qs, v); }
};

struct Q3K : ScalePer16 {
  static constexpr int kBytes = 110, kOffset = 4;
  static constexpr bool kMin = false;
  const std::byte* qs;
  __m512i high;
  explicit Q3K(const std::byte* b) : ScalePer16(q3_k_scales(b + 96), b + 108), qs(b + 32), high(twice(b)) {}
  [[nodiscard]] __m512i values(int v) const {
    const __m512i low = two_bits(qs, v);
    return _mm512_mask_add_epi8(low, bits_of_vector(high, v), low, _mm512_set1_epi8(4));
  }
};

struct Iq4Xs : ScalePer32 {
  static constexpr int kBytes = 136, kOffset = 127;
  static constexpr bool kMin = false;
  const std::byte* qs;
  explicit Iq4Xs(const std::byte* b)
      : ScalePer32{_mm256_mul_ps(iq4_xs_scales(b + 4, u16_at(b + 2)), half_lanes(b))}, qs(b + 8) {}
  [[nodiscard]] __m512i values(int v) const {
    const __m512i bytes = _mm512_castsi256_si512(load32(qs + 32 * v));
    const __m512i each_twice = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3), bytes);
    return iq4_values(_mm512_and_si512(_mm512_srlv_epi64(each_twice, quarters(0, 4, 0, 4)), _mm512_set1_epi8(15)));
  }
};

/// R rows by T tokens: sums of even vectors and of odd ones; minima of a super-block are added to the former first.
template <class Format>
struct SuperBlockTile {
  template <int R, int T>
  static void run(const BlockDot& d, std::int64_t r, std::int64_t t) {
    const std::byte* row[R];
    __m512 sum[R][T][2];
#pragma GCC unroll 2
    for (int i = 0; i < R; ++i) {
      row[i] = d.weight + static_cast<std::size_t>(r + i) * d.row_bytes;
#pragma GCC unroll 4
      for (int j = 0; j < T; ++j) sum[i][j][0] = sum[i][j][1] = _mm512_setzero_ps();
    }
    const ActivationRow* x = d.x + t;
    for (std::int64_t b = 0; b < d.cols / 256; ++b) {
      __m512 scaled[R][T];
      __m512i w[R][4];
#pragma GCC unroll 2
      for (int i = 0; i < R; ++i) {
        const Format f(row[i]);
#pragma GCC unroll 4
        for (int v = 0; v < 4; ++v) w[i][v] = f.values(v);
#pragma GCC unroll 4
        for (int j = 0; j < T; ++j) {
          const __m256 x_scales = _mm256_loadu_ps(x[j].scales + 8 * b);
          scaled[i][j] = f.scaled(x_scales);
          if constexpr (Format::kMin) {
            const __m256i x_sums = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x[j].sums + 16 * b));
            const __m256 mins = _mm256_cvtepi32_ps(_mm256_madd_epi16(x_sums, f.mins));
            const __m256 min_scales = _mm256_mul_ps(f.negative_dmin, x_scales);
            sum[i][j][0] = _mm512_fmadd_ps(_mm512_zextps256_ps512(mins), _mm512_zextps256_ps512(min_scales), sum[i][j][0]);
          }
        }
        fetch_ahead<T>(row[i] + R * d.row_bytes, Format::kBytes);
        row[i] += Format::kBytes;
      }
#pragma GCC unroll 4
      for (int j = 0; j < T; ++j) {
#pragma GCC unroll 4
        for (int v = 0; v < 4; ++v) {
          const __m512i xv = load64(x[j].values + 256 * b + 64 * v);
          const __m512i offset = offset_products<Format>(xv);
#pragma GCC unroll 2
          for (int i = 0; i < R; ++i) {
            const __m512 products = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(offset, w[i][v], xv));
            __m512& to = sum[i][j][v % 2];
            to = _mm512_fmadd_ps(products, Format::of_vector(scaled[i][j], v), to);
          }
        }
      }
    }
#pragma GCC unroll 2
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < T; ++j) {
        d.out[(t + j) * d.out_stride + r + i] = lane_sum(_mm512_add_ps(sum[i][j][0], sum[i][j][1]));
      }
    }
  }
};

}  // namespace
}  // namespace quern
