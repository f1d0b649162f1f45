// How a set of dot products is walked, written once over a format of block_unpack-inl.hpp. Included by instruction-set files
// only, inside which everything has internal linkage; no standard headers.
//
// A group of kRows rows is unpacked 256 columns at a time into first-level cache, whatever the number of tokens, and then
// multiplied with every token's activations. A lane is a row: nothing is summed across lanes, scales are vectors.
namespace quern {
namespace {

/// What a token brings to a slab.
struct TokenSlab {
  alignas(64) float scale[16];         ///< of each block of activations
  alignas(64) std::int32_t first[16];  ///< where its integer sums begin: minus the products with the codes' offset
  alignas(64) float sum[16];           ///< scale * sum of activations, which minima multiply
};

/// `blocks` blocks of 32 activations from element `col` on.
template <class Format>
__attribute__((always_inline)) inline void prepare(const ActivationRow& x, std::int64_t col, int blocks, TokenSlab& to) {
  const float* scales = x.scales + col / kActivationBlock;
  const std::int16_t* sums = x.sums + col / 16;
  alignas(32) float padded_scales[8] = {};
  alignas(32) std::int16_t padded_sums[16] = {};
  if (blocks < 8) {
    __builtin_memcpy(padded_scales, scales, static_cast<std::size_t>(blocks) * sizeof(float));
    __builtin_memcpy(padded_sums, sums, static_cast<std::size_t>(blocks) * 2 * sizeof(std::int16_t));
    scales = padded_scales;
    sums = padded_sums;
  }
  const __m256 scale = _mm256_loadu_ps(scales);
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums));
  if constexpr (Format::kPer16) {
    const __m256i low = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(halves));
    const __m256i high = _mm256_cvtepi16_epi32(_mm256_extracti128_si256(halves, 1));
    const __m256i factor = _mm256_set1_epi32(-Format::kOffset);
    _mm256_store_si256(reinterpret_cast<__m256i*>(to.first), _mm256_mullo_epi32(low, factor));
    _mm256_store_si256(reinterpret_cast<__m256i*>(to.first + 8), _mm256_mullo_epi32(high, factor));
    const __m256 low_scale = _mm256_permutevar8x32_ps(scale, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
    const __m256 high_scale = _mm256_permutevar8x32_ps(scale, _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7));
    _mm256_store_ps(to.scale, low_scale);
    _mm256_store_ps(to.scale + 8, high_scale);
    if constexpr (Format::kMin) {
      _mm256_store_ps(to.sum, _mm256_mul_ps(_mm256_cvtepi32_ps(low), low_scale));
      _mm256_store_ps(to.sum + 8, _mm256_mul_ps(_mm256_cvtepi32_ps(high), high_scale));
    }
  } else {
    _mm256_store_ps(to.scale, scale);
    _mm256_store_si256(reinterpret_cast<__m256i*>(to.first),
                       _mm256_madd_epi16(halves, _mm256_set1_epi16(static_cast<short>(-Format::kOffset))));
    if constexpr (Format::kMin) {
      _mm256_store_ps(to.sum, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_madd_epi16(halves, _mm256_set1_epi16(1))), scale));
    }
  }
}

/// Cache lines of the next rows that are asked for with each part of a slab's products: with the two of each load_columns
/// about as many as a slab has, at sixteen rows.
template <class Format>
constexpr int kLinesPerPart = (Format::kBytes == 34 ? 4 : 2) * kRows / 16;

/// Adds the products of kGroups groups' slabs with T tokens to their sums (sums[i] belong to slab i): those of even blocks
/// and those of odd ones. The groups share what is loaded of the tokens; a group's bits are those it has alone.
template <class Format, int T, int kGroups>
void multiply(BytesAhead& ahead, const Slab (&slab)[kGroups], const ActivationRow* x, std::int64_t col, int blocks,
              float* const (&sums)[kGroups]) {
  constexpr int kVectors = Format::kPer16 ? 4 : 8;
  constexpr int kFetches = kGroups * kLinesPerPart<Format>;
  TokenSlab token[T];
  const std::int8_t* values[T];
  Floats sum[kGroups][T][2];
#pragma GCC unroll 4
  for (int j = 0; j < T; ++j) {
    prepare<Format>(x[j], col, blocks, token[j]);
    values[j] = x[j].values + col;
#pragma GCC unroll 2
    for (int i = 0; i < kGroups; ++i) {
      sum[i][j][0] = load_floats(sums[i] + 2 * kRows * j);
      sum[i][j][1] = load_floats(sums[i] + 2 * kRows * j + kRows);
    }
  }
  const int parts = Format::kPer16 ? 2 * blocks : blocks;
  const auto part = [&](int k, int odd) __attribute__((always_inline)) {
    ahead.fetch<kFetches>();
    Ints acc[kGroups][T];
    const std::int8_t* at[T];
#pragma GCC unroll 4
    for (int j = 0; j < T; ++j) {
#pragma GCC unroll 2
      for (int i = 0; i < kGroups; ++i) acc[i][j] = every_int(token[j].first[k]);
      at[j] = values[j] + 4 * kVectors * k;
    }
    if constexpr (kGroups == 1) {
      add_products<Format, kVectors, T>(slab[0].vector(kVectors * k), at, acc[0]);
    } else {
      add_pair_products<kVectors, T>(slab[0].vector(kVectors * k), slab[1].vector(kVectors * k), at, acc);
    }
#pragma GCC unroll 2
    for (int i = 0; i < kGroups; ++i) {
      const Floats scale = load_floats(slab[i].scales + kRows * k);
#pragma GCC unroll 4
      for (int j = 0; j < T; ++j) {
        Floats& to = sum[i][j][odd];
        to = add_product(to_floats(acc[i][j]), product_of(scale, every_float(token[j].scale[k])), to);
        if constexpr (Format::kMin) {
          to = add_product(load_floats(slab[i].mins + kRows * k), every_float(token[j].sum[k]), to);
        }
      }
    }
  };
  int k = 0;
  for (; k + 2 <= parts; k += 2) {
    part(k, 0);
    part(k + 1, 1);
  }
  if (k < parts) part(k, 0);
#pragma GCC unroll 4
  for (int j = 0; j < T; ++j) {
#pragma GCC unroll 2
    for (int i = 0; i < kGroups; ++i) {
      store_floats(sums[i] + 2 * kRows * j, sum[i][j][0]);
      store_floats(sums[i] + 2 * kRows * j + kRows, sum[i][j][1]);
    }
  }
}

/// multiply() for `tokens` tokens from x on.
template <class Format, int kGroups>
__attribute__((always_inline)) inline void multiply_all(BytesAhead& ahead, const Slab (&slab)[kGroups],
                                                        const ActivationRow* x, std::int64_t tokens, std::int64_t col,
                                                        int blocks, float* const (&sums)[kGroups]) {
  const auto some = [&]<int T>(std::int64_t t) __attribute__((always_inline)) {
    float* to[kGroups];
    for (int i = 0; i < kGroups; ++i) to[i] = sums[i] + 2 * kRows * t;
    multiply<Format, T, kGroups>(ahead, slab, x + t, col, blocks, to);
  };
  std::int64_t t = 0;
  for (; t + kTokensAtOnce <= tokens; t += kTokensAtOnce) some.template operator()<kTokensAtOnce>(t);
  for (; t < tokens; ++t) some.template operator()<1>(t);
}

/// Tokens whose sums are kept while a group of rows passes.
constexpr std::int64_t kTokensInPass = 32;

/// What a slab's codes become where one token multiplies them at once: a sum for each scale.
template <class Format>
struct DirectProducts {
  static constexpr int kVectors = Format::kPer16 ? 4 : 8;  ///< per sum
  static constexpr int kSums = 64 / kVectors;
  alignas(64) float scales[16 * kRows];
  alignas(64) float mins[16 * kRows];
  Ints acc[kSums];
  const std::int8_t* x;
  __attribute__((always_inline)) inline void put(int v, Ints codes) {
    acc[v / kVectors] = add_direct(acc[v / kVectors], codes, x + 4 * v);
  }
};

/// A slab's products with one token, added to their sums in the order of multiply().
template <class Format, class Unpack>
__attribute__((always_inline)) inline void multiply_direct(Unpack&& unpack, const ActivationRow& x, std::int64_t col,
                                                           int blocks, float* sums) {
  TokenSlab token;
  prepare<Format>(x, col, blocks, token);
  DirectProducts<Format> products;
  constexpr int kSums = DirectProducts<Format>::kSums;
#pragma GCC unroll 16
  for (int k = 0; k < kSums; ++k) products.acc[k] = every_int(token.first[k]);
  products.x = x.values + col;
  unpack(products);
  const int parts = Format::kPer16 ? 2 * blocks : blocks;
  Floats sum[2] = {load_floats(sums), load_floats(sums + kRows)};
#pragma GCC unroll 16
  for (int k = 0; k < kSums; ++k) {
    if (k == parts) break;
    const Floats scale = load_floats(products.scales + kRows * k);
    sum[k % 2] = add_product(to_floats(products.acc[k]), product_of(scale, every_float(token.scale[k])), sum[k % 2]);
    if constexpr (Format::kMin) {
      sum[k % 2] = add_product(load_floats(products.mins + kRows * k), every_float(token.sum[k]), sum[k % 2]);
    }
  }
  store_floats(sums, sum[0]);
  store_floats(sums + kRows, sum[1]);
}

/// Rows that lie `stride` bytes apart.
inline RowGroup row_group(const std::byte* first, std::size_t stride, BytesAhead& ahead) {
  RowGroup group;
  group.stride = stride;
  for (int i = 0; i < kRows / 4; ++i) group.at[i] = first + static_cast<std::size_t>(4 * i) * stride;
  group.ahead = &ahead;
  return group;
}

/// A group of rows, gone through 256 columns (or the last fewer) at a time: visit(unpack, col, blocks), where unpack(slab)
/// unpacks them into a Slab or what has its members. Where there are fewer than kRows rows, the missing ones are zeros.
template <class Format>
struct GroupWalk {
  static constexpr std::int64_t kStepBytes = std::int64_t{Format::kBytes} * Format::kSlabBytes;

  const std::byte* start;  ///< the group's first row
  std::size_t row_bytes;
  std::int64_t rows;
  std::int64_t cols;
  bool interleaved;
  BytesAhead* ahead;           ///< of rows that lie apart
  std::ptrdiff_t group_ahead;  ///< of interleaved ones: to the group that is read next

  template <class Visit>
  __attribute__((always_inline)) inline void operator()(Visit&& visit) const {
    if (interleaved) {
      walk(InterleavedRows{.at = start, .next = start + group_ahead}, visit);
    } else if (rows == kRows) {
      walk(row_group(start, row_bytes, *ahead), visit);
    } else {
      walk_some(visit);
    }
  }

 private:
  [[nodiscard]] int blocks_at(std::int64_t col) const {
    const std::int64_t left = (cols - col) / kActivationBlock;
    return left < 8 ? static_cast<int>(left) : 8;
  }

  template <class Group, class Visit>
  __attribute__((always_inline)) inline void walk(const Group& group, Visit&& visit) const {
    std::size_t offset = 0;
    for (std::int64_t col = 0; col < cols; col += kSlabCols, offset += static_cast<std::size_t>(kStepBytes)) {
      const int blocks = blocks_at(col);
      visit(
          [&](auto& slab) __attribute__((always_inline)) { Format::unpack(group, offset, blocks, slab); }, col, blocks);
    }
  }

  template <class Visit>
  void walk_some(Visit&& visit) const {
    alignas(64) std::byte copy[kRows * kStepBytes];
    __builtin_memset(copy, 0, sizeof copy);
    const RowGroup group = row_group(copy, static_cast<std::size_t>(kStepBytes), *ahead);
    std::size_t offset = 0;
    for (std::int64_t col = 0; col < cols; col += kSlabCols, offset += static_cast<std::size_t>(kStepBytes)) {
      const int blocks = blocks_at(col);
      const std::size_t bytes =
          Format::kSlabBytes == 1 ? static_cast<std::size_t>(kStepBytes) : static_cast<std::size_t>(blocks) * Format::kBytes;
      for (std::int64_t r = 0; r < rows; ++r) {
        __builtin_memcpy(copy + r * kStepBytes, start + static_cast<std::size_t>(r) * row_bytes + offset, bytes);
      }
      visit([&](auto& slab) { Format::unpack(group, 0, blocks, slab); }, col, blocks);
    }
  }
};

/// Results of a group from its tokens' sums, to rows first .. first + rows - 1.
inline void write_results(const BlockDot& d, const float* sums, std::int64_t first, std::int64_t rows, std::int64_t token,
                          std::int64_t tokens) {
  for (std::int64_t t = 0; t < tokens; ++t) {
    const float* from = sums + 2 * kRows * t;
    const Floats total = sum_of(load_floats(from), load_floats(from + kRows));
    float* out = d.out + (token + t) * d.out_stride + first;
    if (rows == kRows) {
      store_row_results(out, total);
    } else {
      alignas(64) float some[kRows];
      store_floats(some, total);
      for (std::int64_t r = 0; r < rows; ++r) out[r] = some[r];
    }
  }
}

/// Two whole groups, rows first .. first + 2 kRows - 1, for more than one token.
template <class Format>
void dot_two_groups(const BlockDot& d, std::int64_t first, std::int64_t token, std::int64_t tokens, const std::byte* ahead,
                    std::int64_t ahead_bytes) {
  alignas(64) float sums[2][kTokensInPass * 2 * kRows];
  for (auto& group : sums) {
    for (std::int64_t i = 0; i < tokens * 2 * kRows; i += kRows) store_floats(group + i, zero_floats());
  }
  const std::byte* const start = d.weight + static_cast<std::size_t>(first) * d.row_bytes;
  BytesAhead far(ahead == nullptr ? start : ahead, d.interleaved ? 0 : ahead_bytes);
  const std::int64_t slabs = (d.cols + kSlabCols - 1) / kSlabCols;
  Slab slab[2];
  const auto go = [&](const auto& group0, const auto& group1) __attribute__((always_inline)) {
    std::size_t offset = 0;
    for (std::int64_t col = 0; col < d.cols; col += kSlabCols, offset += GroupWalk<Format>::kStepBytes) {
      const std::int64_t left = (d.cols - col) / kActivationBlock;
      const int blocks = left < 8 ? static_cast<int>(left) : 8;
      if (!d.interleaved) far.fetch_up_to(ahead_bytes * (col / kSlabCols + 1) / slabs - 128 * kRows);
      Format::unpack(group0, offset, blocks, slab[0]);
      Format::unpack(group1, offset, blocks, slab[1]);
      multiply_all<Format, 2>(far, slab, d.x + token, tokens, col, blocks, {sums[0], sums[1]});
    }
  };
  const std::byte* const second = start + static_cast<std::size_t>(kRows) * d.row_bytes;
  if (d.interleaved) {
    const std::ptrdiff_t distance = ahead == nullptr ? 0 : ahead - start;
    go(InterleavedRows{.at = start, .next = start + distance}, InterleavedRows{.at = second, .next = second + distance});
  } else {
    go(row_group(start, d.row_bytes, far), row_group(second, d.row_bytes, far));
  }
  write_results(d, sums[0], first, kRows, token, tokens);
  write_results(d, sums[1], first + kRows, kRows, token, tokens);
}

/// One group: rows first .. first + kRows - 1, or all of them where there are fewer.
template <class Format>
void dot_group(const BlockDot& d, std::int64_t first, std::int64_t rows, std::int64_t token, std::int64_t tokens,
               const std::byte* ahead, std::int64_t ahead_bytes) {
  alignas(64) float sums[kTokensInPass * 2 * kRows];
  for (std::int64_t i = 0; i < tokens * 2 * kRows; i += kRows) store_floats(sums + i, zero_floats());
  const std::byte* const start = d.weight + static_cast<std::size_t>(first) * d.row_bytes;
  BytesAhead far(ahead == nullptr ? start : ahead, d.interleaved ? 0 : ahead_bytes);
  const GroupWalk<Format> walk{.start = start,
                               .row_bytes = d.row_bytes,
                               .rows = rows,
                               .cols = d.cols,
                               .interleaved = d.interleaved,
                               .ahead = &far,
                               .group_ahead = ahead == nullptr ? 0 : ahead - start};
  // What computing has not asked for by a slab's end.
  const std::int64_t slabs = (d.cols + kSlabCols - 1) / kSlabCols;
  const auto fetch_rest = [&](std::int64_t col) {
    if (!d.interleaved) far.fetch_up_to(ahead_bytes * (col / kSlabCols + 1) / slabs - 128 * kRows);
  };
  if (kDirectProducts && tokens == 1) {
    walk([&](auto&& unpack, std::int64_t col, int blocks) __attribute__((always_inline)) {
      fetch_rest(col);
      multiply_direct<Format>(unpack, d.x[token], col, blocks, sums);
    });
  } else {
    Slab slab[1];
    walk([&](auto&& unpack, std::int64_t col, int blocks) __attribute__((always_inline)) {
      fetch_rest(col);
      unpack(slab[0]);
      multiply_all<Format, 1>(far, slab, d.x + token, tokens, col, blocks, {sums});
    });
  }
  write_results(d, sums, first, rows, token, tokens);
}

/// Groups of rows one after the other; the last one reaches back where rows are not whole groups, which computes some rows
/// twice, with the same bits.
template <class Format>
void walk_rows(const BlockDot& d) {
  for (std::int64_t token = 0; token < d.tokens; token += kTokensInPass) {
    const std::int64_t tokens = d.tokens - token < kTokensInPass ? d.tokens - token : kTokensInPass;
    std::int64_t row = 0;
    if constexpr (kPairsOfGroups) {
      for (; tokens > 1 && row + 2 * kRows <= d.rows; row += 2 * kRows) {
        const std::int64_t after = d.rows - row - 2 * kRows;
        const std::int64_t ahead_rows =
            after > 0 ? (after < 2 * kRows ? after : 2 * kRows) : (d.ahead == nullptr ? 0 : 2 * kRows);
        const std::byte* ahead = after > 0 ? d.weight + static_cast<std::size_t>(row + 2 * kRows) * d.row_bytes : d.ahead;
        dot_two_groups<Format>(d, row, token, tokens, ahead, ahead_rows * static_cast<std::int64_t>(d.row_bytes));
      }
    }
    for (; row < d.rows; row += kRows) {
      const std::int64_t left = d.rows - row;
      const std::int64_t first = left >= kRows || d.rows < kRows ? row : d.rows - kRows;
      const std::int64_t after = left - kRows;
      const std::byte* ahead = d.fetches ? d.ahead : nullptr;
      std::int64_t ahead_rows = ahead == nullptr ? 0 : kRows;
      if (after > 0 && d.fetches) {
        ahead = d.weight + static_cast<std::size_t>(row + kRows) * d.row_bytes;
        ahead_rows = after < kRows ? after : kRows;
      }
      dot_group<Format>(d, first, d.rows < kRows ? d.rows : kRows, token, tokens, ahead,
                        ahead_rows * static_cast<std::int64_t>(d.row_bytes));
    }
  }
}

}  // namespace
}  // namespace quern
