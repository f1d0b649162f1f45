// Weights decoded straight into panels of bf16 pairs, against the decoders: the same values, rounded to nearest even.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "math/block_formats.hpp"
#include "math/number_formats.hpp"
#include "support/block_dot_support.hpp"

namespace quern {
namespace {

using namespace test;

constexpr std::int64_t kPanelRows = 32;

/// What products take x as: subnormal numbers are 0, of either sign.
std::uint16_t expected_bits(float x) {
  const bf16 rounded = bf16_from_float(x);
  return (rounded.bits & 0x7f80U) == 0 ? std::uint16_t{0} : rounded.bits;
}
std::uint16_t without_zero_sign(std::uint16_t bits) { return (bits & 0x7fffU) == 0 ? std::uint16_t{0} : bits; }

TEST(BlockPairs, AreTheDecodersValuesInPanels) {
  int tables = 0;
  for (const KernelTable* table : supported_kernels()) {
    if (table->blocks->decode_pairs == nullptr) continue;
    ++tables;
    for (const ElementType type : kDotTypes) {
      const std::int64_t unit = block_format(type).block_elements;
      for (const std::int64_t cols : {unit, 3 * unit, 256 + 3 * unit}) {
        for (const std::int64_t rows : {1, 15, 16, 17, 31, 32}) {
          SCOPED_TRACE(std::string(isa_name(table->isa)) + " " + std::string(block_format(type).name) + " " +
                       std::to_string(rows) + " x " + std::to_string(cols));
          std::mt19937 random(static_cast<std::uint32_t>(100 * cols + rows));
          const FileWeight w(type, rows, cols, random);
          AlignedBuffer panel = buffer(static_cast<std::size_t>(cols * kPanelRows * 2));
          std::memset(panel.data(), 0xff, panel.bytes());
          table->blocks->decode_pairs({.type = type,
                                       .weight = w.bytes.data(),
                                       .row_bytes = w.row_bytes,
                                       .rows = rows,
                                       .cols = cols,
                                       .panel = static_cast<std::byte*>(panel.data())});
          std::vector<float> row(static_cast<std::size_t>(cols));
          for (std::int64_t r = 0; r < kPanelRows; ++r) {
            std::fill(row.begin(), row.end(), 0.0F);
            if (r < rows)
              table->blocks->decode(type, w.bytes.data() + r * static_cast<std::int64_t>(w.row_bytes), cols, row.data());
            for (std::int64_t k = 0; k < cols; ++k) {
              const std::uint16_t found = panel.as<std::uint16_t>()[(k / 2 * kPanelRows + r) * 2 + k % 2];
              ASSERT_EQ(without_zero_sign(found), expected_bits(row[static_cast<std::size_t>(k)]))
                  << "row " << r << ", element " << k << ": " << row[static_cast<std::size_t>(k)];
            }
          }
        }
      }
    }
  }
  if (tables == 0) GTEST_SKIP() << "no instruction set here multiplies panels of bf16 pairs";
}

}  // namespace
}  // namespace quern
