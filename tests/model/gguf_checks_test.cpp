// Every check of the GGUF reader has an image that only it refuses, and a sentence.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <new>
#include <string>
#include <vector>

#include "model/gguf_file.hpp"
#include "support/gguf_builder.hpp"

// Counts the bytes that this program asks for; what is given back is not taken off. Not inlined: GCC would see free() given
// what new returned, and warn.
static std::atomic<std::int64_t> g_allocated{0};

[[gnu::noinline]] void* operator new(std::size_t bytes) {
  g_allocated += static_cast<std::int64_t>(bytes);
  void* const memory = std::malloc(bytes == 0 ? 1 : bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace quern {
namespace {

constexpr std::uint64_t kHuge = std::numeric_limits<std::uint64_t>::max();

template <class T>
std::string raw(T value) {
  return GgufBuilder::bytes_of_number(value);
}

std::string array(std::uint32_t type, std::uint64_t count, const std::string& elements = {}) {
  return GgufBuilder::array_head(type, count) + elements;
}

std::string parse_error(const std::vector<std::byte>& image) {
  const auto file = GgufFile::parse(image, "x.gguf");
  if (file) return "no error";
  EXPECT_EQ(file.error().code, ErrorCode::bad_input);
  return file.error().message;
}
std::string parse_error(const GgufBuilder& builder) { return parse_error(builder.build()); }

void expect_error(const GgufBuilder& builder, const std::string& sentence) {
  EXPECT_EQ(parse_error(builder), "x.gguf: " + sentence);
}

TEST(GgufChecks, Header) {
  EXPECT_EQ(parse_error(std::vector<std::byte>()),
            "x.gguf: expected a GGUF file, found 0 bytes, fewer than its header of 24");
  EXPECT_EQ(parse_error(std::vector<std::byte>(23)),
            "x.gguf: expected a GGUF file, found 23 bytes, fewer than its header of 24");
  expect_error(GgufBuilder().magic("\x89HDF"), "expected a GGUF file (magic 'GGUF'), found '\\x89HDF'");
  expect_error(GgufBuilder().version(1), "expected GGUF version 2 or 3, found 1");
  expect_error(GgufBuilder().version(0), "expected GGUF version 2 or 3, found 0");
  expect_error(GgufBuilder().version(4), "expected GGUF version 2 or 3, found 4");
  expect_error(GgufBuilder().version(0x03000000),
               "the file is big-endian, expected a little-endian one; convert it with a tool that swaps its byte order");
  EXPECT_EQ(parse_error(GgufBuilder()), "no error");
}

TEST(GgufChecks, Counts) {
  expect_error(GgufBuilder().u32("key", 1).entry_count(1000),
               "1000 metadata entries do not fit into the 43 bytes of the file");
  expect_error(GgufBuilder().entry_count(kHuge), "expected at most 65536 metadata entries, found 18446744073709551615");
  expect_error(GgufBuilder().u32("key", 1).tensor_count(1000), "1000 tensors do not fit into the 43 bytes of the file");
  expect_error(GgufBuilder().tensor_count(kHuge), "expected at most 1048576 tensors, found 18446744073709551615");
  // One more than there are: the next read meets the end of the file.
  expect_error(GgufBuilder().text("key", std::string(40, 'x')).entry_count(2),
               "expected the length of the key of entry 1 (8 bytes) at byte 87, found the end of the file");
  // What fits the file, but not what the metadata leave.
  expect_error(GgufBuilder().text("key", std::string(40, 'x')).tensor_count(1),
               "1 tensors do not fit into the 0 bytes after the metadata");
}

TEST(GgufChecks, Keys) {
  expect_error(GgufBuilder().u32("", 1), "the key of entry 0 is empty");
  expect_error(GgufBuilder().u32("same", 1).u32("other", 1).u32("same", 2), "key 'same' occurs twice");
  expect_error(GgufBuilder().u32(std::string(65536, 'k'), 1),
               "the key of entry 0 at byte 24 has a length of 65536 bytes, expected at most 65535");
  EXPECT_EQ(parse_error(GgufBuilder().u32(std::string(65535, 'k'), 1)), "no error");
  expect_error(GgufBuilder().raw("key", 13, raw(0)), "the value type of key 'key': expected 0 to 12, found 13");
  expect_error(GgufBuilder().raw("key", 0xFFFFFFFF, raw(0)),
               "the value type of key 'key': expected 0 to 12, found 4294967295");
  expect_error(GgufBuilder().raw("a\x1B[2Jb", 77, raw(0)), "the value type of key 'a\\x1B[2Jb': expected 0 to 12, found 77");
}

TEST(GgufChecks, Values) {
  expect_error(GgufBuilder().raw("key", gguf::kU64, raw(std::uint32_t{0})),
               "expected the value of key 'key' (8 bytes) at byte 39, found the end of the file");
  expect_error(GgufBuilder().raw("key", gguf::kBool, "\2"), "the value of key 'key': expected a bool of 0 or 1, found 2");
  expect_error(GgufBuilder().raw("key", gguf::kString, raw(std::uint64_t{5}) + "four"),
               "the value of key 'key' at byte 39 has a length of 5 bytes, but 4 are left in the file");
  expect_error(GgufBuilder().raw("key", gguf::kString, raw(kHuge) + "four"),
               "the value of key 'key' at byte 39 has a length of 18446744073709551615 bytes, but 4 are left in the file");
}

TEST(GgufChecks, Arrays) {
  expect_error(GgufBuilder().raw("key", gguf::kArray, array(13, 0)),
               "the array of key 'key': expected an element type of 0 to 12, found 13");
  expect_error(GgufBuilder().raw("key", gguf::kArray, array(gguf::kArray, 1, array(gguf::kU8, 0))),
               "the array of key 'key' is nested, expected elements that are no arrays");
  expect_error(GgufBuilder().raw("key", gguf::kArray, array(gguf::kU32, 3, raw(std::uint64_t{0}))),
               "the array of key 'key' has 3 elements of u32, which do not fit into the 8 bytes that are left");
  expect_error(GgufBuilder().raw("key", gguf::kArray, array(gguf::kF64, kHuge / 8 + 1, raw(std::uint64_t{0}))),
               "the array of key 'key' has 2305843009213693952 elements of f64, which do not fit into the 8 bytes that are "
               "left");
  expect_error(GgufBuilder().raw("key", gguf::kArray, array(gguf::kString, 2, raw(std::uint64_t{1}) + "x")),
               "the array of key 'key' has 2 elements of string, which do not fit into the 9 bytes that are left");
  expect_error(
      GgufBuilder().raw("key", gguf::kArray, array(gguf::kString, 2, raw(std::uint64_t{0}) + raw(std::uint64_t{9}) + "x")),
      "element 1 of the array of key 'key' at byte 59 has a length of 9 bytes, but 1 are left in the file");
  expect_error(GgufBuilder().raw("key", gguf::kArray, array(gguf::kBool, 3, std::string("\0\1\3", 3))),
               "element 2 of the array of key 'key': expected a bool of 0 or 1, found 3");
}

TEST(GgufChecks, Alignment) {
  const std::string expected = "key 'general.alignment': expected a power of two from 8 to 1048576, found ";
  for (const std::uint32_t alignment : {0U, 1U, 4U, 24U, 33U, 1U << 21, 1U << 31, 0xFFFFFFFFU}) {
    expect_error(GgufBuilder().u32("general.alignment", alignment), expected + "u32 " + std::to_string(alignment));
  }
  expect_error(GgufBuilder().raw("general.alignment", gguf::kU64, raw(std::uint64_t{1} << 63)),
               expected + "u64 9223372036854775808");
  expect_error(GgufBuilder().text("general.alignment", "32"), expected + "the string '32'");
  EXPECT_EQ(parse_error(GgufBuilder().u32("general.alignment", 1U << 20)), "no error");
}

TEST(GgufChecks, VocabularyArrays) {
  const std::string tokens = "tokenizer.ggml.tokens", scores = "tokenizer.ggml.scores", types = "tokenizer.ggml.token_type";
  expect_error(GgufBuilder().i32s(tokens, {1}),
               "key 'tokenizer.ggml.tokens': expected an array of string, found an array of 1 i32");
  expect_error(GgufBuilder().text(tokens, "a"),
               "key 'tokenizer.ggml.tokens': expected an array of string, found the string 'a'");
  expect_error(GgufBuilder().texts(tokens, {"a"}).texts(scores, {"1"}),
               "key 'tokenizer.ggml.scores': expected an array of f32, found an array of 1 string");
  expect_error(GgufBuilder().texts(tokens, {"a"}).f32s(types, {1}),
               "key 'tokenizer.ggml.token_type': expected an array of i32, found an array of 1 f32");
  expect_error(GgufBuilder().f32s("tokenizer.ggml.merges", {1}),
               "key 'tokenizer.ggml.merges': expected an array of string, found an array of 1 f32");
  expect_error(GgufBuilder().texts(tokens, {"a", "b"}).f32s(scores, {1}),
               "key 'tokenizer.ggml.scores': expected 2 elements, one for each token, found 1");
  expect_error(GgufBuilder().texts(tokens, {"a", "b"}).i32s(types, {1, 1, 1}),
               "key 'tokenizer.ggml.token_type': expected 2 elements, one for each token, found 3");
  EXPECT_EQ(
      parse_error(GgufBuilder().texts(tokens, {"a"}).f32s(scores, {0}).i32s(types, {1}).texts("tokenizer.ggml.merges", {})),
      "no error");
}

GgufBuilder one_tensor(std::uint32_t type, const std::vector<std::int64_t>& shape, std::uint64_t offset = 0) {
  return GgufBuilder().tensor("t", type, shape, std::string(64, 'x'), offset);
}

TEST(GgufChecks, TensorNames) {
  expect_error(GgufBuilder().tensor("", 24, {1}, "x"), "the name of tensor 0 is empty");
  expect_error(GgufBuilder().tensor("a", 24, {1}, "x").tensor(std::string(64, 'n'), 24, {1}, "x"),
               "the name of tensor 1 at byte 57 has a length of 64 bytes, expected at most 63");
  expect_error(GgufBuilder().tensor("a", 24, {1}, "x").tensor("b", 24, {1}, "x").tensor("a", 24, {1}, "x"),
               "tensor 'a' occurs twice");
  EXPECT_EQ(parse_error(GgufBuilder().tensor(std::string(63, 'n'), 24, {1}, "x")), "no error");
}

TEST(GgufChecks, Shapes) {
  expect_error(one_tensor(24, {1, 1, 1, 1, 1}), "the dimensions of tensor 't': expected at most 4, found 5");
  expect_error(one_tensor(24, {0}), "dimension 0 of tensor 't': expected at least 1, found 0");
  expect_error(one_tensor(24, {4, -1}), "dimension 1 of tensor 't': expected at least 1, found -1");
  const std::int64_t big = std::int64_t{1} << 32;
  expect_error(one_tensor(24, {big, big}), "the shape of tensor 't': the number of elements overflows 64 bits");
  expect_error(one_tensor(24, {big, big, big, big}), "the shape of tensor 't': the number of elements overflows 64 bits");
  expect_error(one_tensor(28, {std::int64_t{1} << 62}), "tensor 't': its size in bytes overflows 64 bits");
  expect_error(one_tensor(8, {48, 2}), "tensor 't': expected rows of a multiple of 32 elements for Q8_0, found 48");
  expect_error(one_tensor(12, {128, 2}), "tensor 't': expected rows of a multiple of 256 elements for Q4_K, found 128");
}

TEST(GgufChecks, Types) {
  for (const std::uint32_t id : {4U, 5U, 31U, 32U, 33U, 36U, 37U, 38U}) {
    expect_error(one_tensor(id, {256}),
                 "tensor 't': type id " + std::to_string(id) + " is one that the format no longer has");
  }
  for (const std::uint32_t id : {9U, 15U}) {
    expect_error(one_tensor(id, {256}),
                 "tensor 't': type id " + std::to_string(id) + " is for activations, not for weights");
  }
  for (const std::uint32_t id : {40U, 97U, 255U, 256U, 0xFFFFFFFFU}) {
    expect_error(one_tensor(id, {256}), "tensor 't': type id " + std::to_string(id) + " is none that this build knows");
  }
}

TEST(GgufChecks, Offsets) {
  expect_error(one_tensor(24, {1}, 33), "tensor 't': expected an offset that is a multiple of the alignment 32, found 33");
  expect_error(GgufBuilder().u32("general.alignment", 64).place_at(64).tensor("t", 24, {1}, "x", 32),
               "tensor 't': expected an offset that is a multiple of the alignment 64, found 32");
  const std::string beyond = " reach beyond the 64 bytes of tensor data in the file; it may be cut short";
  EXPECT_EQ(parse_error(one_tensor(24, {64})), "no error");
  expect_error(one_tensor(24, {65}), "tensor 't': 65 bytes at offset 0" + beyond);
  EXPECT_EQ(parse_error(GgufBuilder().tensor("t", 24, {32}, std::string(64, 'x')).tensor("u", 24, {32}, "", 32)),
            "no error");
  expect_error(GgufBuilder().tensor("t", 24, {32}, std::string(64, 'x')).tensor("u", 24, {33}, "", 32),
               "tensor 'u': 33 bytes at offset 32" + beyond);
  expect_error(GgufBuilder().tensor("t", 24, {32}, std::string(64, 'x')).tensor("u", 24, {1}, "", kHuge - 31),
               "tensor 'u': 1 bytes at offset 18446744073709551584" + beyond);
  expect_error(GgufBuilder().tensor("t", 24, {32}, std::string(64, 'x')).tensor("u", 24, {64}, "", kHuge - 31),
               "tensor 'u': 64 bytes at offset 18446744073709551584" + beyond);
  // The file ends before the data begin.
  expect_error(GgufBuilder().tensor("t", 24, {1}, ""),
               "tensor 't': 1 bytes at offset 0 reach beyond the 0 bytes of tensor data in the file; it may be cut short");
}

TEST(GgufChecks, TensorsMayNotOverlap) {
  expect_error(GgufBuilder().tensor("a", 24, {64}, std::string(64, 'x')).tensor("b", 24, {32}, std::string(32, 'x'), 32),
               "tensors 'a' and 'b' overlap");
  expect_error(GgufBuilder().tensor("a", 24, {8}, std::string(64, 'x')).tensor("b", 24, {8}, "", 0),
               "tensors 'a' and 'b' overlap");
  expect_error(GgufBuilder().tensor("late", 24, {8}, "x", 96).tensor("c", 24, {40}, std::string(200, 'x'), 64),
               "tensors 'c' and 'late' overlap");
}

TEST(GgufChecks, PartsOfASplitModelAreNotWholeImages) {
  expect_error(GgufBuilder().u32("split.count", 3).u32("split.no", 1).u32("split.tensors.count", 0),
               "expected a whole model in memory, found part 2 of 3");
  expect_error(GgufBuilder().u32("split.count", 3).u32("split.tensors.count", 0),
               "key 'split.no' is missing, which parts of a split model have");
  expect_error(GgufBuilder().u32("split.count", 3).u32("split.no", 3).u32("split.tensors.count", 0),
               "key 'split.no': expected an integer from 0 to 2, found u32 3");
  expect_error(GgufBuilder().text("split.count", "3"),
               "key 'split.count': expected an integer from 0 to 65535, found the string '3'");
  EXPECT_EQ(parse_error(GgufBuilder().u32("split.count", 1)), "no error");
}

// Counts that lie never make the reader allocate more than a multiple of the file's own size.
TEST(GgufChecks, MemoryIsBoundedByTheFile) {
  constexpr std::size_t kFile = 1 << 20;
  std::vector<GgufBuilder> images;
  images.push_back(GgufBuilder().text("key", std::string(kFile, 'x')).entry_count(65536));
  images.push_back(GgufBuilder().text("key", std::string(kFile, 'x')).tensor_count(kFile / 25));
  images.push_back(GgufBuilder().raw("key", gguf::kArray, array(gguf::kString, kFile / 8, std::string(kFile, '\0'))));
  images.push_back(GgufBuilder().raw("key", gguf::kArray, array(gguf::kU64, kFile / 8, std::string(kFile, '\0'))));
  for (const GgufBuilder& builder : images) {
    const auto image = builder.build();
    const std::int64_t before = g_allocated;
    (void)GgufFile::parse(image, "x.gguf");
    EXPECT_LE(g_allocated - before, 8 * static_cast<std::int64_t>(image.size()));
  }
}

// Many keys and tensors, with names alike: quadratic search would take minutes.
TEST(GgufChecks, TimeIsBoundedByTheFile) {
  GgufBuilder builder;
  for (int i = 0; i < 60000; ++i) builder.u32("general.some.long.common.prefix." + std::to_string(i), 1);
  for (int i = 0; i < 60000; ++i) builder.tensor("t" + std::to_string(i), 24, {1}, "x");
  const auto image = builder.build();
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(parse_error(image), "no error");
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

}  // namespace
}  // namespace quern
