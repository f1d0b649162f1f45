// Rows of block-quantized weights interleaved: the layout in which kernels read a group of rows as one stream.
//
// A group of `unit` rows (as many as a vector has 32-bit lanes) is cut into slabs of 256 columns; of a slab, each field of
// the block format is written word by word, every word `unit` times, once for each row. Words have four bytes, binary16
// numbers two, MXFP4's exponents one. Formats of 32 elements have the scales of a slab's (up to eight) blocks first, then
// their minima, then each block's codes. It takes as many bytes as the rows did, and row r of the matrix, r a multiple of
// `unit`, still begins at r * row_bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "math/element_type.hpp"

namespace quern {

/// Columns of a slab: products of interleaved rows are cut at its multiples only.
inline constexpr std::int64_t kInterleavedColumns = 256;

/// Whether rows of this type can be interleaved.
[[nodiscard]] bool can_interleave(ElementType type);

/// Interleaves `unit` (8 or 16) rows of `cols` elements, whole blocks, which follow each other in `rows`, into `out`; both
/// have unit * bytes_of(type, cols) bytes and do not overlap.
void interleave_rows(ElementType type, int unit, const std::byte* rows, std::int64_t cols, std::byte* out);

}  // namespace quern
