#include "math/block_interleave.hpp"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstring>
#include <span>

#include "math/block_formats.hpp"

namespace quern {
namespace {

/// Consecutive bytes of a block that are made of words of one size.
struct Field {
  std::size_t bytes = 0;
  std::size_t word = 0;
};

/// The fields of a block in their order; those of blocks of 32 elements are header fields (one word each) and then one of
/// codes.
struct Fields {
  std::array<Field, 3> list;
  std::size_t count = 0;
  [[nodiscard]] std::span<const Field> all() const { return {list.data(), count}; }
};

constexpr Field kHalf{.bytes = 2, .word = 2};

Fields fields_of(ElementType type) {
  switch (type) {
    case ElementType::q4_0:
    case ElementType::iq4_nl:
      return {{kHalf, {.bytes = 16, .word = 4}}, 2};
    case ElementType::q4_1:
      return {{kHalf, kHalf, {.bytes = 16, .word = 4}}, 3};
    case ElementType::q5_0:
      return {{kHalf, {.bytes = 20, .word = 4}}, 2};
    case ElementType::q5_1:
      return {{kHalf, kHalf, {.bytes = 20, .word = 4}}, 3};
    case ElementType::q8_0:
      return {{kHalf, {.bytes = 32, .word = 4}}, 2};
    case ElementType::mxfp4:
      return {{Field{.bytes = 1, .word = 1}, {.bytes = 16, .word = 4}}, 2};
    case ElementType::q2_k:
      return {{Field{.bytes = 80, .word = 4}, kHalf, kHalf}, 3};
    case ElementType::q3_k:
      return {{Field{.bytes = 108, .word = 4}, kHalf}, 2};
    case ElementType::q4_k:
      return {{Field{.bytes = 144, .word = 4}}, 1};
    case ElementType::q5_k:
      return {{Field{.bytes = 176, .word = 4}}, 1};
    case ElementType::q6_k:
      return {{Field{.bytes = 208, .word = 4}, kHalf}, 2};
    case ElementType::iq4_xs:
      return {{Field{.bytes = 136, .word = 4}}, 1};
    default:
      return {};
  }
}

/// The words of one field of one block of every row; returns where the next goes.
template <std::size_t kWord>
std::byte* write_words(const std::byte* from, std::size_t row_bytes, std::size_t bytes, int unit, std::byte* to) {
  const auto rows = static_cast<std::size_t>(unit);
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t b = 0; b < bytes; b += kWord) {
      std::memcpy(to + b * rows + r * kWord, from + r * row_bytes + b, kWord);
    }
  }
  return to + bytes * rows;
}

std::byte* write_field(const std::byte* from, std::size_t row_bytes, const Field& field, int unit, std::byte* to) {
  switch (field.word) {
    case 1:
      return write_words<1>(from, row_bytes, field.bytes, unit, to);
    case 2:
      return write_words<2>(from, row_bytes, field.bytes, unit, to);
    default:
      return write_words<4>(from, row_bytes, field.bytes, unit, to);
  }
}

}  // namespace

bool can_interleave(ElementType type) { return fields_of(type).count > 0; }

void interleave_rows(ElementType type, int unit, const std::byte* rows, std::int64_t cols, std::byte* out) {
  const Fields fields = fields_of(type);
  const BlockFormat& format = block_format(type);
  assert(fields.count > 0 && cols % format.block_elements == 0);
  const std::int64_t blocks = cols / format.block_elements;
  const std::int64_t per_slab = std::max<std::int64_t>(1, kInterleavedColumns / format.block_elements);
  const auto block_bytes = static_cast<std::size_t>(format.block_bytes);
  const std::size_t row_bytes = static_cast<std::size_t>(blocks) * block_bytes;
  for (std::int64_t first = 0; first < blocks; first += per_slab) {
    const std::int64_t end = std::min(blocks, first + per_slab);
    // Headers of all blocks of a slab, field by field, then what is left of each block.
    std::size_t offset = 0;
    const std::size_t headers = per_slab > 1 ? fields.count - 1 : 0;
    for (std::size_t f = 0; f < headers; offset += fields.list[f].bytes, ++f) {
      for (std::int64_t block = first; block < end; ++block) {
        out =
            write_field(rows + static_cast<std::size_t>(block) * block_bytes + offset, row_bytes, fields.list[f], unit, out);
      }
    }
    for (std::int64_t block = first; block < end; ++block) {
      std::size_t at = offset;
      for (const Field& field : fields.all().subspan(headers)) {
        out = write_field(rows + static_cast<std::size_t>(block) * block_bytes + at, row_bytes, field, unit, out);
        at += field.bytes;
      }
    }
  }
}

}  // namespace quern
