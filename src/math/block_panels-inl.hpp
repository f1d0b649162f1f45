// Weights decoded straight into panels, the right-hand side of products (matmul_kernels.hpp). Included by instruction-set
// files only, after block_rows-inl.hpp.
//
// A panel wants elements of 2 kRows rows side by side, and Slab has them: lanes are rows. The values are those of the
// decoders, bit by bit: codes times scales are exact in f32 (at most 24 bits), or rounded once and nothing is added.
namespace quern {
namespace {

template <class Format, int kByte>
inline Floats code_value(Ints codes, Floats scale, Floats min) {
  Ints code = kKeepsSigns && Format::kLargest == 255 ? down_signed<24>(up<24 - 8 * kByte>(codes))
                                                     : both(down<8 * kByte>(codes), every_int(0xff));
  if constexpr (Format::kOffset != 0) code = subtract(code, every_int(Format::kOffset));
  if constexpr (Format::kMin) return add_product(to_floats(code), scale, min);
  return product_of(to_floats(code), scale);
}

/// Panels of f32: element (k, row) at k * 2 kRows + row.
struct FloatPanel {
  static constexpr std::int64_t kHalfBytes = 4 * kRows;    ///< a group's share of a row of the panel
  static constexpr std::int64_t kColumnBytes = 8 * kRows;  ///< of the panel, for an element of each row
  static void store(std::byte* out, Floats a, Floats b, Floats c, Floats d) {
    auto* to = reinterpret_cast<float*>(out);
    store_floats(to, a);
    store_floats(to + 2 * kRows, b);
    store_floats(to + 4 * kRows, c);
    store_floats(to + 6 * kRows, d);
  }
  static void store_zeros(std::byte* out) { store_floats(reinterpret_cast<float*>(out), zero_floats()); }
  static constexpr std::int64_t kColumnsPerStore = 1;  ///< of store_zeros
};

/// `blocks` blocks of 32 elements of a group of rows, from `out` on: that group's half of a panel.
template <class Format, class Panel>
inline void store_slab(const Slab& slab, int blocks, std::byte* out) {
  constexpr int kVectors = Format::kPer16 ? 4 : 8;  // per scale
  for (int k = 0; k < (Format::kPer16 ? 2 : 1) * blocks; ++k) {
    const Floats scale = load_floats(slab.scales + kRows * k);
    const Floats min = Format::kMin ? load_floats(slab.mins + kRows * k) : zero_floats();
    for (int v = 0; v < kVectors; ++v, out += 4 * Panel::kColumnBytes) {
      const Ints codes = load_ints(slab.vector(kVectors * k + v));
      Panel::store(out, code_value<Format, 0>(codes, scale, min), code_value<Format, 1>(codes, scale, min),
                   code_value<Format, 2>(codes, scale, min), code_value<Format, 3>(codes, scale, min));
    }
  }
}

template <class Format, class Panel>
void decode_panel(const BlockPanel& d) {
  constexpr std::int64_t kStepBytes = GroupWalk<Format>::kStepBytes;
  for (int half = 0; half < 2; ++half) {
    std::byte* const out = d.panel + half * Panel::kHalfBytes;
    const std::int64_t rows = d.rows - kRows * half < kRows ? d.rows - kRows * half : kRows;
    if (rows <= 0) {
      for (std::int64_t col = 0; col < d.cols; col += Panel::kColumnsPerStore) {
        Panel::store_zeros(out + col * Panel::kColumnBytes);
      }
      continue;
    }
    const std::byte* const start = d.weight + static_cast<std::size_t>(kRows * half) * d.row_bytes;
    BytesAhead nothing(start, 0);
    const GroupWalk<Format> walk{.start = start,
                                 .row_bytes = d.row_bytes,
                                 .rows = rows,
                                 .cols = d.cols,
                                 .interleaved = d.interleaved,
                                 .ahead = &nothing,
                                 .group_ahead = kStepBytes * kRows};
    Slab slab;
    walk([&](auto&& unpack, std::int64_t col, int blocks) __attribute__((always_inline)) {
      // The next piece of the reduction reads on in each row; its rows lie too far apart for the hardware to see that.
      if (!d.interleaved && rows == kRows) {
        const std::byte* next = start + (col / kSlabCols + 1) * kStepBytes;
        for (int i = 0; i < kRows; ++i, next += d.row_bytes) {
          for (std::int64_t line = 0; line < kStepBytes; line += 64) __builtin_prefetch(next + line, 0, 2);
        }
      }
      unpack(slab);
      store_slab<Format, Panel>(slab, blocks, out + col * Panel::kColumnBytes);
    });
  }
}

}  // namespace
}  // namespace quern
