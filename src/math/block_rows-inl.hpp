// How a set of dot products is walked, written once over a tile function. Included by instruction-set files only, inside
// which everything has internal linkage; no standard headers.
//
// Tile::run<R, T>(d, r, t) computes R rows by T tokens from (r, t) on. Every R and T must give an element the same bits.
namespace quern {
namespace {

/// For one token, fetches `bytes` that will be read in the next pass over rows, at the place of those read now: pairs of
/// short rows are streams that hardware prefetchers lose at each row's end. (On Sapphire Rapids this doubles the speed at
/// which Q4_0 comes from memory.) Past the weight's end nothing is touched.
template <int T>
inline void fetch_ahead([[maybe_unused]] const std::byte* p, [[maybe_unused]] std::int64_t bytes) {
  if constexpr (T == 1) {
    for (std::int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i);
  }
}

/// Rows that are kept in first-level cache while groups of tokens pass: about 20 KiB at 4,096 columns and 4.5 bits.
constexpr std::int64_t kRowsInCache = 8;

/// One token is the memory-bound case: rows in pairs, so that the work on x is shared and two chains of sums overlap. More
/// tokens: four share the work of unpacking a row.
template <class Tile>
void walk_rows(const BlockDot& d) {
  if (d.tokens == 1) {
    std::int64_t r = 0;
    for (; r + 2 <= d.rows; r += 2) Tile::template run<2, 1>(d, r, 0);
    if (r < d.rows) Tile::template run<1, 1>(d, r, 0);
    return;
  }
  for (std::int64_t first = 0; first < d.rows; first += kRowsInCache) {
    const std::int64_t end = first + kRowsInCache < d.rows ? first + kRowsInCache : d.rows;
    std::int64_t t = 0;
    for (; t + 4 <= d.tokens; t += 4) {
      for (std::int64_t r = first; r < end; ++r) Tile::template run<1, 4>(d, r, t);
    }
    for (; t + 2 <= d.tokens; t += 2) {
      for (std::int64_t r = first; r < end; ++r) Tile::template run<1, 2>(d, r, t);
    }
    for (; t < d.tokens; ++t) {
      for (std::int64_t r = first; r < end; ++r) Tile::template run<1, 1>(d, r, t);
    }
  }
}

}  // namespace
}  // namespace quern
