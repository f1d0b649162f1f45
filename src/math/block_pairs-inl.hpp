// Weights decoded straight into panels of bf16 pairs, the right-hand side of products (matmul_kernels.hpp). Included by
// instruction-set files with bf16 conversions only, after block_unpack-inl.hpp.
//
// A panel wants two consecutive elements of sixteen rows side by side, and Slab has them: lanes are rows. The values are
// those of the decoders, bit by bit: codes times scales are exact in f32 (at most 24 bits), or rounded once and nothing is
// added. They are rounded to nearest even; subnormal ones become 0, as which products take them.
namespace quern {
namespace {

/// Two vectors of floats as bf16 pairs: lane i holds low[i] and high[i].
inline __m512i bf16_pairs(Floats low, Floats high) {
  const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh(high, low);
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                         20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, halves);
}

template <class Format, int kByte>
inline Floats code_value(Ints codes, Floats scale, Floats min) {
  Ints code = kKeepsSigns && Format::kLargest == 255 ? down_signed<24>(up<24 - 8 * kByte>(codes))
                                                     : both(down<8 * kByte>(codes), every_int(0xff));
  if constexpr (Format::kOffset != 0) code = subtract(code, every_int(Format::kOffset));
  if constexpr (Format::kMin) return add_product(to_floats(code), scale, min);
  return product_of(to_floats(code), scale);
}

constexpr std::int64_t kPairRowBytes = 128;  // of a panel: 32 pairs

/// `blocks` blocks of 32 elements of a group of rows, from `out` on: that group's half of a panel.
template <class Format>
inline void store_slab_pairs(const Slab& slab, int blocks, std::byte* out) {
  constexpr int kVectors = Format::kPer16 ? 4 : 8;  // per scale
  for (int k = 0; k < (Format::kPer16 ? 2 : 1) * blocks; ++k) {
    const Floats scale = load_floats(slab.scales + kRows * k);
    const Floats min = Format::kMin ? load_floats(slab.mins + kRows * k) : zero_floats();
    for (int v = 0; v < kVectors; ++v, out += 2 * kPairRowBytes) {
      const Ints codes = load_ints(slab.vector(kVectors * k + v));
      _mm512_store_si512(out,
                         bf16_pairs(code_value<Format, 0>(codes, scale, min), code_value<Format, 1>(codes, scale, min)));
      _mm512_store_si512(out + kPairRowBytes,
                         bf16_pairs(code_value<Format, 2>(codes, scale, min), code_value<Format, 3>(codes, scale, min)));
    }
  }
}

template <class Format>
void decode_group_pairs(const BlockPairs& d, std::int64_t first, std::int64_t rows, std::byte* out) {
  constexpr std::int64_t kStepBytes = std::int64_t{Format::kBytes} * Format::kSlabBytes;
  Slab slab;
  const std::byte* const start = d.weight + static_cast<std::size_t>(first) * d.row_bytes;
  const bool whole = rows == kRows;
  alignas(64) std::byte copy[kRows * kStepBytes];  // of a slab of fewer rows
  if (!whole) __builtin_memset(copy, 0, sizeof copy);
  RowGroup group;
  group.stride = whole ? d.row_bytes : static_cast<std::size_t>(kStepBytes);
  for (int i = 0; i < kRows / 4; ++i) group.at[i] = (whole ? start : copy) + static_cast<std::size_t>(4 * i) * group.stride;
  BytesAhead nothing(start, 0);
  group.ahead = &nothing;
  std::size_t offset = 0;
  for (std::int64_t col = 0; col < d.cols; col += kSlabCols, offset += static_cast<std::size_t>(kStepBytes)) {
    const std::int64_t left = (d.cols - col) / 32;
    const int blocks = left < 8 ? static_cast<int>(left) : 8;
    if (whole) {
      // The next piece of the reduction reads on in each row; its rows lie too far apart for the hardware to see that.
      for (int i = 0; i < kRows; ++i) {
        for (std::int64_t line = 0; line < kStepBytes; line += 64) {
          _mm_prefetch(reinterpret_cast<const char*>(group.row(i)) + offset + kStepBytes + line, _MM_HINT_T1);
        }
      }
      Format::unpack(group, offset, blocks, slab);
    } else {
      const std::size_t bytes =
          Format::kSlabBytes == 1 ? static_cast<std::size_t>(kStepBytes) : static_cast<std::size_t>(blocks) * Format::kBytes;
      for (std::int64_t r = 0; r < rows; ++r) {
        __builtin_memcpy(copy + r * kStepBytes, start + static_cast<std::size_t>(r) * d.row_bytes + offset, bytes);
      }
      Format::unpack(group, 0, blocks, slab);
    }
    store_slab_pairs<Format>(slab, blocks, out + col / 2 * kPairRowBytes);
  }
}

template <class Format>
void decode_panel(const BlockPairs& d) {
  constexpr std::int64_t kHalfBytes = kPairRowBytes / 2;
  for (int half = 0; half < 2; ++half) {
    std::byte* const out = d.panel + half * kHalfBytes;
    const std::int64_t rows = d.rows - kRows * half < kRows ? d.rows - kRows * half : kRows;
    if (rows > 0) {
      decode_group_pairs<Format>(d, kRows * half, rows, out);
      continue;
    }
    for (std::int64_t pair = 0; pair < d.cols / 2; ++pair) _mm512_store_si512(out + pair * kPairRowBytes, every_int(0));
  }
}

}  // namespace
}  // namespace quern
