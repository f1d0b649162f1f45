// The decoders of every instruction set against recorded values, against the plain reference in double, and against one
// another: bit for bit, because every product of a format is exact in f32 and a value is rounded at most once.
#include "math/block_decode.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "math/block_formats.hpp"
#include "math/block_grids.hpp"
#include "math/cpu_features.hpp"
#include "math/number_formats.hpp"
#include "support/block_reference.hpp"
#include "support/shared_data.hpp"

namespace quern {
namespace {

struct Decoder {
  std::string name;
  BlockDecoder decode;
};

std::vector<Decoder> decoders() {
  std::vector<Decoder> result = {{"portable", block_decoder_portable()}};
  if (block_decoder_avx2() != nullptr && supports(cpu_features(), Isa::avx2)) {
    result.push_back({"avx2", block_decoder_avx2()});
  }
  if (block_decoder_avx512() != nullptr && supports(cpu_features(), Isa::avx512)) {
    result.push_back({"avx512", block_decoder_avx512()});
  }
  return result;
}

bool is_decoded(const BlockFormat& format) {
  return format.type != ElementType::i8 && format.type != ElementType::i16 && format.type != ElementType::i32 &&
         format.type != ElementType::i64;
}

std::uint32_t bits_of(float x) { return std::bit_cast<std::uint32_t>(x); }

/// Equal bits, or NaN both: which NaN a product of NaNs is depends on the order of its factors.
bool same(float a, float b) { return bits_of(a) == bits_of(b) || (std::isnan(a) && std::isnan(b)); }

/// Decodes into a buffer with guards on both sides, from bytes at an odd address whose end is the end of their allocation.
std::vector<float> decoded(const Decoder& decoder, ElementType type, const std::vector<std::byte>& blocks,
                           std::int64_t elements, std::size_t misalignment = 0) {
  constexpr float kGuard = 12345.0F;
  constexpr std::size_t kGuards = 16;
  std::vector<std::byte> moved(blocks.size() + misalignment);
  if (!blocks.empty()) std::memcpy(moved.data() + misalignment, blocks.data(), blocks.size());
  const auto count = static_cast<std::size_t>(elements);
  std::vector<float> out(count + 2 * kGuards + 1, kGuard);
  float* const start = out.data() + kGuards + misalignment % 2;
  decoder.decode(type, moved.data() + misalignment, elements, start);
  for (const float* x = out.data(); x < out.data() + out.size(); ++x) {
    const bool guard = x < start || x >= start + count;
    EXPECT_TRUE(!guard || *x == kGuard) << decoder.name << " wrote at element " << x - start;
  }
  return {start, start + count};
}

void expect_same(const std::vector<float>& got, const std::vector<float>& expected, const std::string& what) {
  ASSERT_EQ(got.size(), expected.size()) << what;
  for (std::size_t i = 0; i < got.size(); ++i) {
    ASSERT_TRUE(same(got[i], expected[i])) << what << " element " << i << ": " << got[i] << ", expected " << expected[i]
                                           << std::hex << " (" << bits_of(got[i]) << ", " << bits_of(expected[i]) << ")";
  }
}

std::vector<float> rounded(const std::vector<double>& values) {
  std::vector<float> result;
  result.reserve(values.size());
  for (const double x : values) result.push_back(static_cast<float>(x));
  return result;
}

std::vector<std::byte> bytes(std::initializer_list<int> values) {
  std::vector<std::byte> result;
  for (const int value : values) result.push_back(static_cast<std::byte>(value));
  return result;
}

std::vector<char> file_bytes(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

TEST(BlockDecode, RecordedBlocksDecodeToTheRecordedBits) {
  const auto folder = shared_data("testdata/quants");
  if (!folder) GTEST_SKIP() << "shared data absent: testdata/quants";
  int formats = 0;
  for (const BlockFormat& format : block_formats()) {
    const std::string name(format.name);
    const std::vector<char> blocks = file_bytes(*folder / (name + ".blocks"));
    const std::vector<char> values = file_bytes(*folder / (name + ".f32"));
    if (blocks.empty()) continue;
    ++formats;
    const auto elements = static_cast<std::int64_t>(values.size() / sizeof(float));
    ASSERT_EQ(bytes_of(format.type, elements), blocks.size()) << name;
    std::vector<float> expected(static_cast<std::size_t>(elements));
    std::memcpy(expected.data(), values.data(), values.size());
    std::vector<std::byte> source(blocks.size());
    std::memcpy(source.data(), blocks.data(), blocks.size());
    for (const Decoder& decoder : decoders()) {
      expect_same(decoded(decoder, format.type, source, elements), expected, decoder.name + " " + name);
    }
    expect_same(rounded(decode_reference(format.type, source)), expected, "reference " + name);
  }
  EXPECT_EQ(formats, 21);
}

TEST(BlockDecode, RandomBlocksEqualTheReferenceAtEveryCountAndAlignment) {
  for (const BlockFormat& format : block_formats()) {
    if (!is_decoded(format)) continue;
    const std::vector<std::int64_t> counts = format.quantized
                                                 ? std::vector<std::int64_t>{0, 1, 2, 3, 7, 33}
                                                 : std::vector<std::int64_t>{0, 1, 7, 8, 9, 15, 16, 17, 31, 33, 1000};
    for (const std::int64_t count : counts) {
      const std::int64_t elements = count * format.block_elements;
      const std::vector<std::byte> blocks = random_blocks(format.type, elements, static_cast<std::uint32_t>(count + 1));
      const std::vector<float> expected = rounded(decode_reference(format.type, blocks));
      for (const Decoder& decoder : decoders()) {
        for (const std::size_t misalignment : {0U, 1U, 2U, 3U, 13U}) {
          expect_same(decoded(decoder, format.type, blocks, elements, misalignment), expected,
                      decoder.name + " " + std::string(format.name) + " blocks " + std::to_string(count));
        }
      }
    }
  }
}

// No byte is trusted: infinite and NaN scales, every code.
TEST(BlockDecode, ArbitraryBytesDecodeAlikeEverywhere) {
  std::mt19937 engine(7);
  for (const BlockFormat& format : block_formats()) {
    if (!is_decoded(format)) continue;
    const std::int64_t elements = 257 * format.block_elements;
    std::vector<std::byte> blocks(*bytes_of(format.type, elements));
    for (std::byte& byte : blocks) byte = static_cast<std::byte>(engine() % 8 == 0 ? 0xFFU : engine() & 255U);
    const std::vector<float> portable = decoded(decoders().front(), format.type, blocks, elements);
    expect_same(portable, rounded(decode_reference(format.type, blocks)), "portable " + std::string(format.name));
    for (const Decoder& decoder : decoders()) {
      expect_same(decoded(decoder, format.type, blocks, elements), portable, decoder.name + " " + std::string(format.name));
    }
  }
}

TEST(BlockDecode, Mxfp4CoversItsExponents) {
  const double values[16] = {0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6};
  for (const int exponent : {0, 1, 2, 3, 127, 253, 254, 255}) {
    std::vector<std::byte> block = bytes({exponent});
    for (int j = 0; j < 16; ++j) block.push_back(static_cast<std::byte>(j | (15 - j) << 4));
    for (const Decoder& decoder : decoders()) {
      const std::vector<float> got = decoded(decoder, ElementType::mxfp4, block, 32);
      for (std::size_t j = 0; j < 16; ++j) {
        // Subnormal factors are exact, and so are the largest: 6 * 2^127 is beyond f32, infinite.
        const auto low = static_cast<float>(std::ldexp(values[j], exponent - 127));
        const auto high = static_cast<float>(std::ldexp(values[15 - j], exponent - 127));
        EXPECT_EQ(bits_of(got[j]), bits_of(low)) << decoder.name << " exponent " << exponent << " code " << j;
        EXPECT_EQ(bits_of(got[16 + j]), bits_of(high)) << decoder.name << " exponent " << exponent << " code " << 15 - j;
      }
    }
  }
}

TEST(BlockDecode, EveryF16AndBf16Pattern) {
  std::vector<std::byte> all(2 * 65536);
  for (std::size_t i = 0; i < 65536; ++i) {
    all[2 * i] = static_cast<std::byte>(i & 255U);
    all[2 * i + 1] = static_cast<std::byte>(i >> 8);
  }
  for (const Decoder& decoder : decoders()) {
    const std::vector<float> half = decoded(decoder, ElementType::f16, all, 65536);
    const std::vector<float> brain = decoded(decoder, ElementType::bf16, all, 65536);
    for (std::uint32_t i = 0; i < 65536; ++i) {
      const bool nan = (i & 0x7C00U) == 0x7C00U && (i & 0x3FFU) != 0;
      // NaNs keep their sign and payload and come out quiet.
      const std::uint32_t expected = bits_of(float_from_f16(static_cast<std::uint16_t>(i))) | (nan ? 0x400000U : 0U);
      ASSERT_EQ(bits_of(half[i]), expected) << decoder.name << " f16 " << i;
      ASSERT_EQ(bits_of(brain[i]), i << 16) << decoder.name << " bf16 " << i;
    }
  }
}

TEST(BlockDecode, F64RoundsToNearest) {
  const double values[] = {1.0,
                           0.1,
                           -1e300,
                           1e-320,
                           3.4028235677973366e38,
                           1.401298464324817e-45,
                           -0.0,
                           1e-46,
                           std::numeric_limits<double>::infinity()};
  std::vector<std::byte> source(sizeof values);
  std::memcpy(source.data(), values, sizeof values);
  const std::vector<float> expected = {1.0F,
                                       0.1F,
                                       -std::numeric_limits<float>::infinity(),
                                       0.0F,
                                       std::numeric_limits<float>::infinity(),
                                       std::numeric_limits<float>::denorm_min(),
                                       -0.0F,
                                       0.0F,
                                       std::numeric_limits<float>::infinity()};
  for (const Decoder& decoder : decoders()) {
    expect_same(decoded(decoder, ElementType::f64, source, 9, 1), expected, decoder.name);
  }
}

TEST(BlockDecode, InfiniteAndSubnormalScales) {
  std::vector<std::byte> infinite = bytes({0x00, 0x7C});   // d = infinity
  std::vector<std::byte> subnormal = bytes({0x01, 0x80});  // d = -2^-24
  for (int j = 0; j < 16; ++j) {
    infinite.push_back(static_cast<std::byte>(0x80 | j));  // j low, 8 high
    subnormal.push_back(static_cast<std::byte>(0x80 | j));
  }
  for (const Decoder& decoder : decoders()) {
    const std::vector<float> got = decoded(decoder, ElementType::q4_0, infinite, 32);
    const std::vector<float> small = decoded(decoder, ElementType::q4_0, subnormal, 32);
    for (std::size_t j = 0; j < 16; ++j) {
      const float sign = j < 8 ? -1.0F : 1.0F;
      if (j == 8) {
        EXPECT_TRUE(std::isnan(got[j])) << decoder.name;
      } else {
        EXPECT_EQ(got[j], sign * std::numeric_limits<float>::infinity()) << decoder.name << j;
      }
      EXPECT_TRUE(std::isnan(got[16 + j])) << decoder.name;
      EXPECT_EQ(bits_of(small[j]), bits_of(-0x1p-24F * (static_cast<float>(j) - 8.0F))) << decoder.name << j;
      EXPECT_EQ(bits_of(small[16 + j]), bits_of(-0.0F)) << decoder.name;
    }
  }
}

TEST(BlockDecode, IntegerTypesAndNegativeCountsWriteNothing) {
  const std::vector<std::byte> source(64);
  for (const Decoder& decoder : decoders()) {
    float out = 5.0F;
    for (const ElementType type : {ElementType::i8, ElementType::i16, ElementType::i32, ElementType::i64}) {
      decoder.decode(type, source.data(), 1, &out);
    }
    decoder.decode(ElementType::f32, source.data(), -1, &out);
    decoder.decode(ElementType::q4_0, nullptr, 0, nullptr);
    decoder.decode(ElementType::f32, nullptr, 0, nullptr);
    EXPECT_EQ(out, 5.0F) << decoder.name;
  }
}

/// FNV-1a of a grid's bytes, row by row.
template <int kRows, int kValues>
std::uint64_t hash(const internal::CodebookGrid<kRows, kValues>& grid) {
  std::uint64_t result = 0xCBF29CE484222325U;
  for (const auto& row : grid.rows) {
    for (const std::int8_t value : row) result = (result ^ static_cast<std::uint8_t>(value)) * 0x100000001B3U;
  }
  return result;
}

// Hashes of the formats' published grids, from which ours were packed.
TEST(BlockDecode, GridsAreTheFormats) {
  EXPECT_EQ(hash(internal::kIq2XxsGrid), 0xBB4EE025B5AC6E8EU);
  EXPECT_EQ(hash(internal::kIq2XsGrid), 0xC9B1EE61E79909BDU);
  EXPECT_EQ(hash(internal::kIq2SGrid), 0x123EDD38A3B62B90U);
  EXPECT_EQ(hash(internal::kIq3XxsGrid), 0xDFA5DC83D6A155D5U);
  EXPECT_EQ(hash(internal::kIq3SGrid), 0xFA37020C25B44829U);
  EXPECT_EQ(hash(internal::kIq1Grid), 0x6703ED863501AE2EU);
}

}  // namespace
}  // namespace quern
