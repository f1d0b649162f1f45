// Fields of a group of kRows rows as vectors, from rows that lie apart (RowGroup) or interleaved. Included by
// instruction-set files only, after block_lanes_*-inl.hpp.
namespace quern {
namespace {

/// A group of rows interleaved (block_interleave.hpp) with kRows rows to a group: the vectors that load_columns makes of
/// RowGroup lie in memory one after the other, and what lies at a row's byte b is at kRows * b.
struct InterleavedRows {
  const std::byte* at;
  /// What is fetched next of the group that is read next. In order, although a slab's fields are read in another one.
  mutable const std::byte* next;
};

/// Asks for as much of the next group as `bytes` bytes of each row, from where the last call ended.
__attribute__((always_inline)) inline void fetch_ahead(const InterleavedRows& g, std::size_t bytes) {
#pragma GCC unroll 8
  for (std::size_t line = 0; line < kRows * bytes; line += 64) __builtin_prefetch(g.next + line, 0, 2);
  g.next += kRows * bytes;
}

/// Sixteen bytes of each row, as for RowGroup.
inline void load_columns(const InterleavedRows& g, std::size_t offset, Ints (&column)[4]) {
  const std::byte* from = g.at + kRows * offset;
  fetch_ahead(g, 16);
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) column[c] = load_ints_anywhere(from + 4 * kRows * c);
}

/// The binary16 number at `offset` of every row.
inline Floats row_halves(const RowGroup& g, std::size_t offset) {
  alignas(32) std::uint16_t halves[kRows];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) halves[i] = u16_at(g.row(i) + offset);
  return load_halves(halves);
}
inline Floats row_halves(const InterleavedRows& g, std::size_t offset) {
  fetch_ahead(g, 2);
  return load_halves(reinterpret_cast<const std::uint16_t*>(g.at + kRows * offset));
}

/// The four bytes at `offset` of every row.
inline Ints row_words(const RowGroup& g, std::size_t offset) {
  alignas(64) std::uint32_t words[kRows];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) words[i] = u32_at(g.row(i) + offset);
  return load_ints(words);
}
inline Ints row_words(const InterleavedRows& g, std::size_t offset) {
  fetch_ahead(g, 4);
  return load_ints_anywhere(g.at + kRows * offset);
}

}  // namespace
}  // namespace quern
