// Pairs of bf16 along the reduction, and transposition, with AVX-512 (BW). Included by instruction-set files only;
// everything has internal linkage.
namespace quern {
namespace {

constexpr std::int64_t kPairPanel = 32;

inline __mmask32 low_bits32(std::int64_t n) { return n >= 32 ? ~__mmask32{0} : (__mmask32{1} << n) - 1; }
inline __mmask16 low_bits16(std::int64_t n) {
  return n >= 16 ? __mmask16{0xffff} : static_cast<__mmask16>((1U << (n < 0 ? 0 : n)) - 1U);
}

/// Up to 32 bf16 of row k, the rest zero; all zero past the last row. Fetches a later row, because a panel touches one line
/// of each row, which hardware prefetchers do not follow.
inline __m512i load_row(const MatmulBlock& source, std::int64_t k, __mmask32 cols) {
  if (k >= source.rows) return _mm512_setzero_si512();
  const auto* row = static_cast<const std::uint16_t*>(source.data) + k * source.stride;
  if (k + 32 < source.rows) _mm_prefetch(row + 32 * source.stride, _MM_HINT_T0);
  return _mm512_maskz_loadu_epi16(cols, row);
}

/// (even[j], odd[j]) side by side: columns 0..15 in `low`, 16..31 in `high`.
struct RowPair {
  __m512i low;
  __m512i high;
};
inline RowPair interleave(__m512i even, __m512i odd) {
  alignas(64) static constexpr std::uint16_t kLow[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                         8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  alignas(64) static constexpr std::uint16_t kHigh[32] = {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
                                                          24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63};
  return {_mm512_permutex2var_epi16(even, _mm512_load_si512(kLow), odd),
          _mm512_permutex2var_epi16(even, _mm512_load_si512(kHigh), odd)};
}

/// Transposes sixteen rows of sixteen 4-byte lanes.
inline void transpose16(__m512i (&r)[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {  // 128-bit blocks: rows i and i + 4 of each half
    const int base = (i / 4) * 8 + i % 4;
    t[base] = _mm512_shuffle_i32x4(r[base], r[base + 4], 0x88);
    t[base + 4] = _mm512_shuffle_i32x4(r[base], r[base + 4], 0xdd);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

/// Panels of activations that are packed at once: runs of 256 bytes, of which memory reads more in a given time than of 64.
constexpr std::int64_t kPairPanelsPerPack = 4;

/// bf16 activations [k, cols <= 128] into up to four panels, one after the other.
void pack_b_pairs(const MatmulBlock& source, std::int64_t padded_k, void* out) {
  auto* first = static_cast<std::uint16_t*>(out);
  for (std::int64_t k = 0; k < padded_k; k += 2, first += 2 * kPairPanel) {
    std::uint16_t* panel = first;
    for (std::int64_t begin = 0; begin < source.cols; begin += kPairPanel, panel += padded_k * kPairPanel) {
      const MatmulBlock part{.data = static_cast<const std::uint16_t*>(source.data) + begin,
                             .stride = source.stride,
                             .rows = source.rows,
                             .cols = source.cols - begin};
      const __mmask32 cols = low_bits32(part.cols);
      const RowPair pair = interleave(load_row(part, k, cols), load_row(part, k + 1, cols));
      _mm512_storeu_si512(panel, pair.low);
      _mm512_storeu_si512(panel + 32, pair.high);
    }
  }
}

/// Sixteen pairs of a panel.
inline void store_pairs(std::uint16_t* to, __m512i pairs, bool stream) {
  if (stream) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), pairs);
  } else {
    _mm512_store_si512(to, pairs);
  }
}

/// f32 weights [k, cols <= 32] into a panel.
void pack_weight_rows_pairs(const MatmulBlock& source, std::int64_t padded_k, void* out) {
  auto* panel = static_cast<std::uint16_t*>(out);
  const float* data = static_cast<const float*>(source.data);
  const __m512i high_half = _mm512_set1_epi32(static_cast<int>(0xffff0000U));
  for (std::int64_t k = 0; k < padded_k; k += 2, panel += 2 * kPairPanel) {
    for (int half = 0; half < 2; ++half) {
      const __mmask16 cols = low_bits16(source.cols - 16 * half);
      const float* row = data + k * source.stride + 16 * half;
      const __m512 even = k < source.rows && cols != 0 ? _mm512_maskz_loadu_ps(cols, row) : _mm512_setzero_ps();
      const __m512 odd =
          k + 1 < source.rows && cols != 0 ? _mm512_maskz_loadu_ps(cols, row + source.stride) : _mm512_setzero_ps();
      const __m512i low = _mm512_srli_epi32(Lanes::round_to_bf16(even), 16);
      const __m512i high = _mm512_and_si512(Lanes::round_to_bf16(odd), high_half);
      store_pairs(panel + 32 * half, _mm512_or_si512(low, high), source.stream);
    }
  }
  if (source.stream) _mm_sfence();
}

/// Thirty-two f32 of a weight's row, from element k on, as bf16 in order; zeros past `end`.
inline __m512i load_weight_row(const float* row, std::int64_t k, std::int64_t end) {
  if (k >= end) return _mm512_setzero_si512();
  const __m512 a = _mm512_maskz_loadu_ps(low_bits16(end - k), row + k);
  const __m512 b = end - k > 16 ? _mm512_maskz_loadu_ps(low_bits16(end - k - 16), row + k + 16) : _mm512_setzero_ps();
  const __m256i low = _mm512_cvtepi32_epi16(_mm512_srli_epi32(Lanes::round_to_bf16(a), 16));
  const __m256i high = _mm512_cvtepi32_epi16(_mm512_srli_epi32(Lanes::round_to_bf16(b), 16));
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

/// f32 weights [cols <= 32, k] transposed into a panel.
void pack_weight_transposed_pairs(const MatmulBlock& source, std::int64_t padded_k, void* out) {
  auto* panel = static_cast<std::uint16_t*>(out);
  const float* data = static_cast<const float*>(source.data);
  for (std::int64_t k = 0; k < padded_k; k += 32) {
    const std::int64_t pairs = padded_k - k >= 32 ? 16 : (padded_k - k) / 2;
    for (std::int64_t j0 = 0; j0 < kPairPanel; j0 += 16) {
      __m512i r[16];
      for (std::int64_t j = 0; j < 16; ++j) {
        r[j] =
            j0 + j < source.rows ? load_weight_row(data + (j0 + j) * source.stride, k, source.cols) : _mm512_setzero_si512();
      }
      transpose16(r);
      for (std::int64_t p = 0; p < pairs; ++p)
        store_pairs(panel + (k / 2 + p) * 2 * kPairPanel + 2 * j0, r[p], source.stream);
    }
  }
  if (source.stream) _mm_sfence();
}

/// bf16 rows copied, with zeros up to padded_cols.
void copy_rows_bf16(const MatmulBlock& source, std::int64_t padded_cols, void* out, std::int64_t out_stride) {
  for (std::int64_t r = 0; r < source.rows; ++r) {
    const auto* from = static_cast<const std::uint16_t*>(source.data) + r * source.stride;
    auto* to = static_cast<std::uint16_t*>(out) + r * out_stride;
    for (std::int64_t c = 0; c < padded_cols; c += 32) {
      const __mmask32 present = c < source.cols ? low_bits32(source.cols - c) : __mmask32{0};
      const __m512i v = present != 0 ? _mm512_maskz_loadu_epi16(present, from + c) : _mm512_setzero_si512();
      _mm512_mask_storeu_epi16(to + c, low_bits32(padded_cols - c), v);
    }
  }
}

/// What VDPBF16PS and matrix tiles have in common: panels of pairs. The rest of the table is the caller's to fill.
constexpr ProductKernels pair_operand_packs() {
  ProductKernels p;
  p.operand = ElementType::bf16;
  p.panel_cols = kPairPanel;
  p.pack_weight_rows = pack_weight_rows_pairs;
  p.pack_weight_transposed = pack_weight_transposed_pairs;
  p.pack_b = pack_b_pairs;
  p.panels_per_pack = kPairPanelsPerPack;
  p.copy_a = copy_rows_bf16;
  p.column_sums = column_sums<bf16>;
  return p;
}

}  // namespace
}  // namespace quern
