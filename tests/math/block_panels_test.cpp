// Weights decoded straight into panels, of rows apart and interleaved, against the decoders: the same values, in bf16
// rounded to nearest even.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "math/block_formats.hpp"
#include "math/block_interleave.hpp"
#include "math/number_formats.hpp"
#include "support/block_dot_support.hpp"

namespace quern {
namespace {

using namespace test;

/// What products take x as: subnormal numbers are 0, of either sign.
std::uint16_t expected_bits(float x) {
  const bf16 rounded = bf16_from_float(x);
  return (rounded.bits & 0x7f80U) == 0 ? std::uint16_t{0} : rounded.bits;
}
std::uint16_t without_zero_sign(std::uint16_t bits) { return (bits & 0x7fffU) == 0 ? std::uint16_t{0} : bits; }

/// Decodes `w` by `decode` into a panel of panel_rows rows, and compares every element by `same(found place, expected)`.
template <class Decode, class Compare>
void expect_panel(const BlockKernels& blocks, const FileWeight& w, std::int64_t panel_rows, bool interleaved, Decode decode,
                  Compare compare) {
  AlignedBuffer panel = buffer(static_cast<std::size_t>(w.cols * panel_rows * 4));
  std::memset(panel.data(), 0xff, panel.bytes());
  const std::vector<std::byte> woven = interleaved ? interleaved_rows(blocks, w) : std::vector<std::byte>{};
  decode({.type = w.type,
          .weight = interleaved ? woven.data() : w.bytes.data(),
          .row_bytes = w.row_bytes,
          .rows = w.rows,
          .cols = w.cols,
          .interleaved = interleaved,
          .panel = static_cast<std::byte*>(panel.data())});
  std::vector<float> row(static_cast<std::size_t>(w.cols));
  for (std::int64_t r = 0; r < panel_rows; ++r) {
    std::fill(row.begin(), row.end(), 0.0F);
    if (r < w.rows) blocks.decode(w.type, w.bytes.data() + r * static_cast<std::int64_t>(w.row_bytes), w.cols, row.data());
    for (std::int64_t k = 0; k < w.cols; ++k) {
      compare(panel, r, k, row[static_cast<std::size_t>(k)]);
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
}

/// Calls check(table, weight, interleaved) for every type, shape and layout.
template <class Check>
void for_all_panels(std::int64_t (*panel_rows)(const KernelTable&), Check check) {
  for (const KernelTable* table : supported_kernels()) {
    const std::int64_t most = panel_rows(*table);
    if (most == 0) continue;
    for (const ElementType type : kDotTypes) {
      const std::int64_t unit = block_format(type).block_elements;
      for (const std::int64_t cols : {unit, 3 * unit, 256 + 3 * unit}) {
        for (const std::int64_t rows : {std::int64_t{1}, most / 2 - 1, most / 2, most / 2 + 1, most - 1, most}) {
          for (const bool interleaved : {false, true}) {
            if (interleaved && rows % table->blocks->interleave_rows != 0) continue;
            SCOPED_TRACE(std::string(isa_name(table->isa)) + " " + std::string(block_format(type).name) + " " +
                         std::to_string(rows) + " x " + std::to_string(cols) + (interleaved ? " interleaved" : ""));
            std::mt19937 random(static_cast<std::uint32_t>(100 * cols + rows));
            check(*table, most, FileWeight(type, rows, cols, random), interleaved);
            if (::testing::Test::HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

TEST(BlockPanels, OfPairsAreTheDecodersValues) {
  for_all_panels(
      [](const KernelTable& table) { return table.blocks->decode_pairs == nullptr ? 0 : table.matmul->b16.panel_cols; },
      [](const KernelTable& table, std::int64_t panel_rows, const FileWeight& w, bool interleaved) {
        expect_panel(*table.blocks, w, panel_rows, interleaved, table.blocks->decode_pairs,
                     [&](AlignedBuffer& panel, std::int64_t r, std::int64_t k, float value) {
                       const std::uint16_t found = panel.as<std::uint16_t>()[(k / 2 * panel_rows + r) * 2 + k % 2];
                       ASSERT_EQ(without_zero_sign(found), expected_bits(value))
                           << "row " << r << ", element " << k << ": " << value;
                     });
      });
}

TEST(BlockPanels, OfFloatsAreTheDecodersValues) {
  for_all_panels(
      [](const KernelTable& table) { return table.blocks->decode_floats == nullptr ? 0 : table.matmul->f32.panel_cols; },
      [](const KernelTable& table, std::int64_t panel_rows, const FileWeight& w, bool interleaved) {
        expect_panel(*table.blocks, w, panel_rows, interleaved, table.blocks->decode_floats,
                     [&](AlignedBuffer& panel, std::int64_t r, std::int64_t k, float value) {
                       ASSERT_EQ(panel.as<float>()[k * panel_rows + r], value) << "row " << r << ", element " << k;
                     });
      });
}

}  // namespace
}  // namespace quern
