// Unpacking block formats for a group of rows at a time: codes as bytes in the order in which integer products take them,
// scales and minima as floats. Written once over the vectors of block_lanes_*-inl.hpp; included by instruction-set files
// only, after block_products_*-inl.hpp. Rows lie apart as in a file (RowGroup), or interleaved (InterleavedRows).
namespace quern {
namespace {

constexpr int kSlabCols = 256;

/// 256 columns (or fewer, whole blocks of 32) of a group of kRows rows. Codes are unsigned numbers w + kOffset, or signed
/// ones where the products take those: vector v holds elements 4v .. 4v + 3 of every row. Scales and minima (which are
/// added) belong to 32 elements each, or to 16.
struct Slab {
  alignas(64) std::uint8_t codes[kSlabCols * kRows];
  alignas(64) float scales[16 * kRows];
  alignas(64) float mins[16 * kRows];
  [[nodiscard]] std::uint8_t* vector(int v) { return codes + 4 * kRows * v; }
  /// Codes of vector v.
  void put(int v, Ints vector_codes) { store_ints(vector(v), vector_codes); }
  [[nodiscard]] const std::uint8_t* vector(int v) const { return codes + 4 * kRows * v; }
};

inline Ints low_nibbles(Ints v) { return both(v, every_int(0x0f0f0f0f)); }
inline Ints high_nibbles(Ints v) { return both(down<4>(v), every_int(0x0f0f0f0f)); }

/// Bytes kByte of all lanes as floats.
template <int kByte>
inline Floats byte_floats(Ints v) {
  if constexpr (kByte == 3) return to_floats(down<24>(v));
  return to_floats(both(down<8 * kByte>(v), every_int(0xff)));
}
template <int kByte>
inline Floats signed_byte_floats(Ints v) {
  return to_floats(down_signed<24>(up<24 - 8 * kByte>(v)));
}

/// Four unsigned bytes of every lane, each times `factor`, to four consecutive vectors of floats.
inline void store_byte_products(Ints bytes, Floats factor, float* to) {
  store_floats(to, product_of(byte_floats<0>(bytes), factor));
  store_floats(to + kRows, product_of(byte_floats<1>(bytes), factor));
  store_floats(to + 2 * kRows, product_of(byte_floats<2>(bytes), factor));
  store_floats(to + 3 * kRows, product_of(byte_floats<3>(bytes), factor));
}
inline void store_signed_byte_products(Ints bytes, Floats factor, float* to) {
  store_floats(to, product_of(signed_byte_floats<0>(bytes), factor));
  store_floats(to + kRows, product_of(signed_byte_floats<1>(bytes), factor));
  store_floats(to + 2 * kRows, product_of(signed_byte_floats<2>(bytes), factor));
  store_floats(to + 3 * kRows, product_of(signed_byte_floats<3>(bytes), factor));
}

// --- Blocks of 32 ----------------------------------------------------------------------------------------------------

/// Sixteen bytes at `offset` whose low nibbles are elements 0 .. 15 of a block and the high ones 16 .. 31, through `map`, to
/// vectors first .. first + 7.
template <class Map>
__attribute__((always_inline)) inline void unpack_nibbles(const auto& g, std::size_t offset, auto& to, int first, Map map) {
  Ints column[4];
  load_columns(g, offset, column);
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    to.put(first + c, map(low_nibbles(column[c]), c));
    to.put(first + c + 4, map(high_nibbles(column[c]), c + 4));
  }
}
inline Ints unmapped(Ints code, int /*vector*/) { return code; }

constexpr int kIq4Offset = kKeepsSigns ? 0 : 127;
inline Ints iq4_values(Ints index, int /*vector*/) {
  const __m128i table = _mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);
  return look_up(_mm_add_epi8(table, _mm_set1_epi8(kIq4Offset)), index);
}

/// The fifth bits of the four elements of vector v, from the 32 bits of every row: 16 where set.
inline Ints fifth_bits(Ints bits, int v) {
  // Byte v / 2 in all four bytes, then the bit of each.
  const int first = v / 2;
  const __m128i byte_of = _mm_add_epi8(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12),
                                       _mm_set1_epi8(static_cast<char>(first)));
  const Ints spread = shuffle_bytes(bits, byte_of);
  const Ints nibble = v % 2 == 0 ? spread : down<4>(spread);
  const __m128i sixteen_if_set = _mm_setr_epi8(0, 16, 16, 0, 16, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0);
  return look_up(sixteen_if_set, both(nibble, every_int(0x08040201)));
}

/// Blocks one after the other, each with its own scale.
template <class Format>
struct SmallBlocks {
  static constexpr bool kPer16 = false;
  static constexpr int kSlabBytes = 8;  ///< blocks
  /// All scales are gathered before any is read as a vector, which would otherwise wait for the single stores.
  __attribute__((always_inline)) static inline void unpack(const RowGroup& g, std::size_t offset, int blocks, auto& slab) {
    using Number = typename Format::ScaleNumber;
    alignas(64) Number scales[8 * kRows];
    alignas(64) Number mins[8 * kRows];
    if (blocks > 8) __builtin_unreachable();  // or GCC warns of a ninth block
    for (int k = 0; k < blocks; ++k) {
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        const std::byte* block = g.row(i) + offset + static_cast<std::size_t>(k) * Format::kBytes;
        __builtin_memcpy(scales + kRows * k + i, block, sizeof(Number));
        if constexpr (Format::kMin) __builtin_memcpy(mins + kRows * k + i, block + 2, sizeof(Number));
      }
    }
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) {
      if (k == blocks) break;
      Format::codes(g, offset + static_cast<std::size_t>(k) * Format::kBytes, slab, 8 * k);
      store_scales(slab, k, scales + kRows * k, mins + kRows * k);
    }
  }
  /// A slab's scales lie before its codes, then its minima where there are any.
  __attribute__((always_inline)) static inline void unpack(const InterleavedRows& g, std::size_t offset, int blocks,
                                                           auto& slab) {
    using Number = typename Format::ScaleNumber;
    constexpr std::size_t kHeader = (Format::kMin ? 2 : 1) * sizeof(Number);
    const auto count = static_cast<std::size_t>(blocks);
    const auto* scales = reinterpret_cast<const Number*>(g.at + kRows * offset);
    fetch_ahead(g, count * kHeader);
    const std::size_t codes = offset + (count - 1) * kHeader;  // as if the first block began with its own
#pragma GCC unroll 8
    for (std::size_t k = 0; k < 8; ++k) {
      if (k == count) break;
      Format::codes(g, codes + k * (Format::kBytes - kHeader), slab, 8 * static_cast<int>(k));
      store_scales(slab, static_cast<int>(k), scales + kRows * k, scales + kRows * (count + k));
    }
  }

 private:
  template <class Number>
  static void store_scales(auto& slab, int k, const Number* scales, const Number* mins) {
    store_floats(slab.scales + kRows * k, Format::scale(scales));
    if constexpr (Format::kMin) store_floats(slab.mins + kRows * k, load_halves(mins));
  }
};

struct HalfScale {
  using ScaleNumber = std::uint16_t;
  static Floats scale(const std::uint16_t* halves) { return load_halves(halves); }
};

struct Q40 : SmallBlocks<Q40>, HalfScale {
  static constexpr int kBytes = 18, kOffset = 8, kLargest = 15;
  static constexpr bool kMin = false;
  __attribute__((always_inline)) static inline void codes(const auto& g, std::size_t offset, auto& to, int first) {
    unpack_nibbles(g, offset + 2, to, first, unmapped);
  }
};

struct Q41 : SmallBlocks<Q41>, HalfScale {
  static constexpr int kBytes = 20, kOffset = 0, kLargest = 15;
  static constexpr bool kMin = true;
  __attribute__((always_inline)) static inline void codes(const auto& g, std::size_t offset, auto& to, int first) {
    unpack_nibbles(g, offset + 4, to, first, unmapped);
  }
};

struct Q50 : SmallBlocks<Q50>, HalfScale {
  static constexpr int kBytes = 22, kOffset = 16, kLargest = 31;
  static constexpr bool kMin = false;
  __attribute__((always_inline)) static inline void codes(const auto& g, std::size_t offset, auto& to, int first) {
    const Ints bits = row_words(g, offset + 2);
    unpack_nibbles(g, offset + 6, to, first, [&](Ints code, int v) { return either(code, fifth_bits(bits, v)); });
  }
};

struct Q51 : SmallBlocks<Q51>, HalfScale {
  static constexpr int kBytes = 24, kOffset = 0, kLargest = 31;
  static constexpr bool kMin = true;
  __attribute__((always_inline)) static inline void codes(const auto& g, std::size_t offset, auto& to, int first) {
    const Ints bits = row_words(g, offset + 4);
    unpack_nibbles(g, offset + 8, to, first, [&](Ints code, int v) { return either(code, fifth_bits(bits, v)); });
  }
};

struct Q80 : SmallBlocks<Q80>, HalfScale {
  static constexpr int kBytes = 34, kOffset = kKeepsSigns ? 0 : 128, kLargest = 255;
  static constexpr bool kMin = false;
  __attribute__((always_inline)) static inline void codes(const auto& g, std::size_t offset, auto& to, int first) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      Ints column[4];
      load_columns(g, offset + 2 + 16 * static_cast<std::size_t>(half), column);
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) {
        const Ints code = kKeepsSigns ? column[c] : differs(column[c], every_int(static_cast<std::int32_t>(0x80808080U)));
        to.put(first + 4 * half + c, code);
      }
    }
  }
};

struct Iq4Nl : SmallBlocks<Iq4Nl>, HalfScale {
  static constexpr int kBytes = 18, kOffset = kIq4Offset, kLargest = 255;
  static constexpr bool kMin = false;
  __attribute__((always_inline)) static inline void codes(const auto& g, std::size_t offset, auto& to, int first) {
    unpack_nibbles(g, offset + 2, to, first, iq4_values);
  }
};

/// Values are doubled, scales halved.
struct Mxfp4 : SmallBlocks<Mxfp4> {
  static constexpr int kBytes = 17, kOffset = 12, kLargest = 24;
  static constexpr bool kMin = false;
  using ScaleNumber = std::uint8_t;
  static Floats scale(const std::uint8_t* exponents) { return mxfp4_scales(load_bytes_as_ints(exponents)); }
  __attribute__((always_inline)) static inline void codes(const auto& g, std::size_t offset, auto& to, int first) {
    unpack_nibbles(g, offset + 1, to, first, [](Ints code, int /*vector*/) {
      return look_up(_mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0), code);
    });
  }
};

// --- Super-blocks of 256 ---------------------------------------------------------------------------------------------

/// d, dmin and the six-bit scales and minima of Q4_K and Q5_K, in the first sixteen bytes of a super-block.
__attribute__((always_inline)) inline void unpack_six_bit_scales(const auto& g, std::size_t offset, auto& slab) {
  Ints column[4];
  load_columns(g, offset, column);
  const Ints six = every_int(0x3f3f3f3f);
  const Ints four = every_int(0x0f0f0f0f);
  const Ints top = every_int(0x30303030);
  const Floats d = low_halves(column[0]);
  const Floats negative_dmin = negated(low_halves(down<16>(column[0])));
  store_byte_products(both(column[1], six), d, slab.scales);
  store_byte_products(either(both(column[3], four), both(down<2>(column[1]), top)), d, slab.scales + 4 * kRows);
  store_byte_products(both(column[2], six), negative_dmin, slab.mins);
  store_byte_products(either(both(down<4>(column[3]), four), both(down<2>(column[2]), top)), negative_dmin,
                      slab.mins + 4 * kRows);
}

struct Q4K {
  static constexpr int kBytes = 144, kSlabBytes = 1, kOffset = 0, kLargest = 15;
  static constexpr bool kMin = true, kPer16 = false;
  __attribute__((always_inline)) static inline void unpack(const auto& g, std::size_t offset, int /*blocks*/, auto& slab) {
    unpack_six_bit_scales(g, offset, slab);
#pragma GCC unroll 8
    for (int piece = 0; piece < 8; ++piece) {
      Ints column[4];
      load_columns(g, offset + 16 + 16 * static_cast<std::size_t>(piece), column);
      const int to = 16 * (piece / 2) + 4 * (piece % 2);
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) {
        slab.put(to + c, low_nibbles(column[c]));
        slab.put(to + c + 8, high_nibbles(column[c]));
      }
    }
  }
};

/// Bit kBit of every byte, as 16.
template <int kBit>
inline Ints bit_as_sixteen(Ints v) {
  if constexpr (kBit <= 4) return both(up<4 - kBit>(v), every_int(0x10101010));
  return both(down<kBit - 4>(v), every_int(0x10101010));
}

struct Q5K {
  static constexpr int kBytes = 176, kSlabBytes = 1, kOffset = 0, kLargest = 31;
  static constexpr bool kMin = true, kPer16 = false;
  __attribute__((always_inline)) static inline void unpack(const auto& g, std::size_t offset, int /*blocks*/, auto& slab) {
    unpack_six_bit_scales(g, offset, slab);
    Ints high[2][4];
    load_columns(g, offset + 16, high[0]);
    load_columns(g, offset + 32, high[1]);
    pair<0>(g, offset, high, slab);
    pair<2>(g, offset, high, slab);
    pair<4>(g, offset, high, slab);
    pair<6>(g, offset, high, slab);
  }

 private:
  /// Sub-blocks kBlock and kBlock + 1.
  template <int kBlock>
  __attribute__((always_inline)) static inline void pair(const auto& g, std::size_t offset, const Ints (&high)[2][4],
                                                         auto& slab) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      Ints column[4];
      load_columns(g, offset + 48 + 16 * static_cast<std::size_t>(kBlock + half), column);
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) {
        const int to = 8 * kBlock + 4 * half + c;
        slab.put(to, either(low_nibbles(column[c]), bit_as_sixteen<kBlock>(high[half][c])));
        slab.put(to + 8, either(high_nibbles(column[c]), bit_as_sixteen<kBlock + 1>(high[half][c])));
      }
    }
  }
};

struct Q6K {
  static constexpr int kBytes = 210, kSlabBytes = 1, kOffset = 32, kLargest = 63;
  static constexpr bool kMin = false, kPer16 = true;
  __attribute__((always_inline)) static inline void unpack(const auto& g, std::size_t offset, int /*blocks*/, auto& slab) {
    const Ints two = every_int(0x30303030);
#pragma GCC unroll 4
    for (int part = 0; part < 4; ++part) {
      const auto n = static_cast<std::size_t>(part / 2);
      const auto half = static_cast<std::size_t>(part % 2);
      Ints even[4];
      Ints odd[4];
      Ints high[4];
      load_columns(g, offset + 64 * n + 16 * half, even);
      load_columns(g, offset + 64 * n + 32 + 16 * half, odd);
      load_columns(g, offset + 128 + 32 * n + 16 * half, high);
      const int to = 32 * (part / 2) + 4 * (part % 2);
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) {
        slab.put(to + c, either(low_nibbles(even[c]), both(up<4>(high[c]), two)));
        slab.put(to + 8 + c, either(low_nibbles(odd[c]), both(up<2>(high[c]), two)));
        slab.put(to + 16 + c, either(high_nibbles(even[c]), both(high[c], two)));
        slab.put(to + 24 + c, either(high_nibbles(odd[c]), both(down<2>(high[c]), two)));
      }
    }
    // Last, so that a slab is read in about its order: hardware fetches what follows (Zen 4, two threads: 24 to 28 GB/s).
    Ints scales[4];
    load_columns(g, offset + 192, scales);
    const Floats d = row_halves(g, offset + 208);
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) store_signed_byte_products(scales[c], d, slab.scales + 4 * kRows * c);
  }
};

inline Ints two_bits(Ints v) { return both(v, every_int(0x03030303)); }

struct Q2K {
  static constexpr int kBytes = 84, kSlabBytes = 1, kOffset = 0, kLargest = 3;
  static constexpr bool kMin = true, kPer16 = true;
  __attribute__((always_inline)) static inline void unpack(const auto& g, std::size_t offset, int /*blocks*/, auto& slab) {
    const Floats d = row_halves(g, offset + 80);
    const Floats negative_dmin = negated(row_halves(g, offset + 82));
    Ints packed[4];
    load_columns(g, offset, packed);
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      store_byte_products(low_nibbles(packed[c]), d, slab.scales + 4 * kRows * c);
      store_byte_products(high_nibbles(packed[c]), negative_dmin, slab.mins + 4 * kRows * c);
    }
#pragma GCC unroll 4
    for (int part = 0; part < 4; ++part) {
      Ints column[4];
      load_columns(g, offset + 16 + 16 * static_cast<std::size_t>(part), column);
      const int to = 32 * (part / 2) + 4 * (part % 2);
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) {
        slab.put(to + c, two_bits(column[c]));
        slab.put(to + 8 + c, two_bits(down<2>(column[c])));
        slab.put(to + 16 + c, two_bits(down<4>(column[c])));
        slab.put(to + 24 + c, two_bits(down<6>(column[c])));
      }
    }
  }
};

struct Q3K {
  static constexpr int kBytes = 110, kSlabBytes = 1, kOffset = 4, kLargest = 7;
  static constexpr bool kMin = false, kPer16 = true;
  __attribute__((always_inline)) static inline void unpack(const auto& g, std::size_t offset, int /*blocks*/, auto& slab) {
    const Floats d = row_halves(g, offset + 108);
    const Ints a = row_words(g, offset + 96);
    const Ints b = row_words(g, offset + 100);
    const Ints c = row_words(g, offset + 104);
    const Ints top = every_int(0x30303030);
    store_scales(either(low_nibbles(a), both(up<4>(c), top)), d, slab.scales);
    store_scales(either(low_nibbles(b), both(up<2>(c), top)), d, slab.scales + 4 * kRows);
    store_scales(either(high_nibbles(a), both(c, top)), d, slab.scales + 8 * kRows);
    store_scales(either(high_nibbles(b), both(down<2>(c), top)), d, slab.scales + 12 * kRows);
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const std::size_t at = 16 * static_cast<std::size_t>(half);
      Ints high[4];
      load_columns(g, offset + at, high);
      quarter<0>(g, offset + 32 + at, high, slab, 4 * half);
      quarter<4>(g, offset + 64 + at, high, slab, 32 + 4 * half);
    }
  }

 private:
  static void store_scales(Ints bytes, Floats d, float* to) {
    store_signed_byte_products(add_bytes(bytes, every_int(static_cast<std::int32_t>(0xe0e0e0e0U))), d, to);  // - 32
  }
  /// Bit kBit of every byte, as 4.
  template <int kBit>
  static Ints third_bit(Ints v) {
    if constexpr (kBit <= 2) return both(up<2 - kBit>(v), every_int(0x04040404));
    return both(down<kBit - 2>(v), every_int(0x04040404));
  }
  /// Four times sixteen elements of a half of 128, whose third bits begin at bit kBit.
  template <int kBit>
  __attribute__((always_inline)) static inline void quarter(const auto& g, std::size_t offset, const Ints (&high)[4],
                                                            auto& slab, int to) {
    Ints column[4];
    load_columns(g, offset, column);
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      slab.put(to + c, either(two_bits(column[c]), third_bit<kBit>(high[c])));
      slab.put(to + 8 + c, either(two_bits(down<2>(column[c])), third_bit<kBit + 1>(high[c])));
      slab.put(to + 16 + c, either(two_bits(down<4>(column[c])), third_bit<kBit + 2>(high[c])));
      slab.put(to + 24 + c, either(two_bits(down<6>(column[c])), third_bit<kBit + 3>(high[c])));
    }
  }
};

struct Iq4Xs {
  static constexpr int kBytes = 136, kSlabBytes = 1, kOffset = kIq4Offset, kLargest = 255;
  static constexpr bool kMin = false, kPer16 = false;
  __attribute__((always_inline)) static inline void unpack(const auto& g, std::size_t offset, int /*blocks*/, auto& slab) {
    Ints header[4];
    load_columns(g, offset, header);
    const Floats d = low_halves(header[0]);
    const Ints high = down<16>(header[0]);
    scale<0>(header[1], high, d, slab);
    scale<1>(header[1], high, d, slab);
    scale<2>(header[1], high, d, slab);
    scale<3>(header[1], high, d, slab);
    scale<4>(header[1], high, d, slab);
    scale<5>(header[1], high, d, slab);
    scale<6>(header[1], high, d, slab);
    scale<7>(header[1], high, d, slab);
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) {
      unpack_nibbles(g, offset + 8 + 16 * static_cast<std::size_t>(k), slab, 8 * k, iq4_values);
    }
  }

 private:
  template <int kBlock>
  static void scale(Ints low, Ints high, Floats d, auto& slab) {
    const Ints bits = either(both(down<4 * kBlock>(low), every_int(15)), up<4>(both(down<2 * kBlock>(high), every_int(3))));
    store_floats(slab.scales + kRows * kBlock, product_of(to_floats(subtract(bits, every_int(32))), d));
  }
};

}  // namespace
}  // namespace quern
