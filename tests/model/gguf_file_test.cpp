// Reading good GGUF files: every value type, typed access, tensors, alignment, real files.
#include "model/gguf_file.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "support/gguf_builder.hpp"
#include "support/shared_data.hpp"

namespace quern {
namespace {

template <class T>
std::string raw(T value) {
  return GgufBuilder::bytes_of_number(value);
}

// An image and the file that views it.
struct Parsed {
  explicit Parsed(const GgufBuilder& builder) : image(builder.build()), file(GgufFile::parse(image, "image")) {}
  std::vector<std::byte> image;
  Result<GgufFile> file;
};

std::string error_of(const auto& result) { return result ? "no error" : result.error().message; }

TEST(GgufFile, ReadsEveryTypeOfNumber) {
  const Parsed parsed(GgufBuilder()
                          .raw("u8", gguf::kU8, raw(std::uint8_t{200}))
                          .raw("i8", gguf::kI8, raw(std::int8_t{-100}))
                          .raw("u16", gguf::kU16, raw(std::uint16_t{60000}))
                          .raw("i16", gguf::kI16, raw(std::int16_t{-30000}))
                          .raw("u32", gguf::kU32, raw(std::uint32_t{4000000000U}))
                          .raw("i32", gguf::kI32, raw(std::int32_t{-2000000000}))
                          .raw("f32", gguf::kF32, raw(0.1F))
                          .raw("bool", gguf::kBool, raw(std::uint8_t{1}))
                          .raw("u64", gguf::kU64, raw(std::uint64_t{1} << 40))
                          .raw("huge", gguf::kU64, raw(std::numeric_limits<std::uint64_t>::max()))
                          .raw("i64", gguf::kI64, raw(std::numeric_limits<std::int64_t>::min()))
                          .raw("f64", gguf::kF64, raw(1e300))
                          .text("string", std::string_view("a\0b", 3)));
  ASSERT_TRUE(parsed.file) << error_of(parsed.file);
  const GgufFile& file = *parsed.file;
  const auto integer = [&](std::string_view key) {
    const auto value =
        file.require_integer(key, std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max());
    EXPECT_TRUE(value) << error_of(value);
    return value.value_or(0);
  };
  EXPECT_EQ(integer("u8"), 200);
  EXPECT_EQ(integer("i8"), -100);
  EXPECT_EQ(integer("u16"), 60000);
  EXPECT_EQ(integer("i16"), -30000);
  EXPECT_EQ(integer("u32"), 4000000000);
  EXPECT_EQ(integer("i32"), -2000000000);
  EXPECT_EQ(integer("u64"), std::int64_t{1} << 40);
  EXPECT_EQ(integer("i64"), std::numeric_limits<std::int64_t>::min());
  EXPECT_EQ(file.require_number("f32").value(), double{0.1F});
  EXPECT_EQ(file.require_number("f64").value(), 1e300);
  EXPECT_EQ(file.require_number("i8").value(), -100.0);
  EXPECT_EQ(file.require_number("huge").value(), 18446744073709551616.0);
  EXPECT_EQ(std::get<std::uint64_t>(file.find("huge")->value), std::numeric_limits<std::uint64_t>::max());
  EXPECT_TRUE(file.bool_or("bool", false).value());
  EXPECT_EQ(file.require_string("string").value(), std::string_view("a\0b", 3));

  EXPECT_EQ(file.metadata().size(), 13U);
  EXPECT_EQ(file.metadata()[0].key, "u8");
  EXPECT_EQ(file.metadata()[12].key, "string");
  EXPECT_EQ(file.version(), 3U);
  EXPECT_EQ(file.alignment(), 32U);
  EXPECT_EQ(file.file_bytes(), parsed.image.size());
  EXPECT_EQ(file.parts(), 1);
  EXPECT_EQ(file.name(), "image");
  EXPECT_TRUE(file.tensors().empty());
}

TEST(GgufFile, TypedAccessNamesKeyAndWhatWasFound) {
  const Parsed parsed(GgufBuilder()
                          .u32("layers", 7)
                          .text("word", "hello")
                          .f32("nan", std::numeric_limits<float>::quiet_NaN())
                          .raw("huge", gguf::kU64, raw(std::uint64_t{1} << 63))
                          .f32s("numbers", {1.0F, std::numeric_limits<float>::infinity()})
                          .texts("words", {"a", "b"})
                          .boolean("flag", true));
  ASSERT_TRUE(parsed.file) << error_of(parsed.file);
  const GgufFile& file = *parsed.file;
  EXPECT_EQ(error_of(file.require_integer("absent", 0, 9)), "image: key 'absent' is missing");
  EXPECT_EQ(error_of(file.require_integer("layers", 8, 9)),
            "image: key 'layers': expected an integer from 8 to 9, found u32 7");
  EXPECT_EQ(error_of(file.require_integer("layers", 0, 6)),
            "image: key 'layers': expected an integer from 0 to 6, found u32 7");
  EXPECT_EQ(error_of(file.integer_or("word", 1, 0, 6)),
            "image: key 'word': expected an integer from 0 to 6, found the string 'hello'");
  EXPECT_EQ(error_of(file.require_integer("huge", 0, std::numeric_limits<std::int64_t>::max())),
            "image: key 'huge': expected an integer from 0 to 9223372036854775807, found u64 9223372036854775808");
  EXPECT_EQ(error_of(file.require_number("nan")), "image: key 'nan': expected a finite number, found f32 nan");
  EXPECT_EQ(error_of(file.number_or("flag", 1)), "image: key 'flag': expected a finite number, found bool true");
  EXPECT_EQ(error_of(file.require_number("absent")), "image: key 'absent' is missing");
  EXPECT_EQ(error_of(file.bool_or("layers", true)), "image: key 'layers': expected a bool, found u32 7");
  EXPECT_EQ(error_of(file.require_string("flag")), "image: key 'flag': expected a string, found bool true");
  EXPECT_EQ(error_of(file.require_string("absent")), "image: key 'absent' is missing");
  EXPECT_EQ(error_of(file.string_or("words", "")), "image: key 'words': expected a string, found an array of 2 string");
  EXPECT_EQ(error_of(file.strings("numbers")),
            "image: key 'numbers': expected an array of strings, found an array of 2 f32");
  EXPECT_EQ(error_of(file.floats("numbers")),
            "image: key 'numbers': expected an array of finite numbers, found an array of 2 f32 whose element 1 is none");
  EXPECT_EQ(error_of(file.floats("words")),
            "image: key 'words': expected an array of finite numbers, found an array of 2 string");
  EXPECT_EQ(error_of(file.integers("words")),
            "image: key 'words': expected integers of 64 bits, found an array of 2 string");
  EXPECT_EQ(error_of(file.bools("layers")), "image: key 'layers': expected bools, found u32 7");
  EXPECT_EQ(file.find("absent"), nullptr);
  EXPECT_EQ(file.find(""), nullptr);
}

TEST(GgufFile, MissingKeysGiveTheFallback) {
  const Parsed parsed(GgufBuilder().u32("key", 1));
  ASSERT_TRUE(parsed.file);
  const GgufFile& file = *parsed.file;
  EXPECT_EQ(file.integer_or("absent", -5, 0, 1).value(), -5);
  EXPECT_EQ(file.number_or("absent", 0.5).value(), 0.5);
  EXPECT_TRUE(file.bool_or("absent", true).value());
  EXPECT_EQ(file.string_or("absent", "x").value(), "x");
  EXPECT_TRUE(file.strings("absent").value().empty());
  EXPECT_TRUE(file.integers("absent").value().empty());
  EXPECT_TRUE(file.floats("absent").value().empty());
  EXPECT_TRUE(file.bools("absent").value().empty());
}

TEST(GgufFile, ReadsArraysAndScalarsAsArraysOfOne) {
  const Parsed parsed(
      GgufBuilder()
          .boolean("shift", true)  // what follows lies at odd positions
          .texts("texts", {"one", "", std::string(300, 'x')})
          .i32s("i32s", {-1, 0, 2147483647})
          .f32s("f32s", {-1.5F, 0.0F, 3e38F})
          .bools("bools", {true, false, true})
          .raw("u64s", gguf::kArray, GgufBuilder::array_head(gguf::kU64, 2) + raw(std::uint64_t{7}) + raw(~std::uint64_t{0}))
          .raw("f64s", gguf::kArray, GgufBuilder::array_head(gguf::kF64, 2) + raw(0.25) + raw(1e300))
          .texts("none", {})
          .u32("scalar", 9));
  ASSERT_TRUE(parsed.file) << error_of(parsed.file);
  const GgufFile& file = *parsed.file;
  const auto texts = file.strings("texts");
  ASSERT_TRUE(texts);
  ASSERT_EQ(texts->size(), 3U);
  EXPECT_EQ((*texts)[0], "one");
  EXPECT_EQ((*texts)[1], "");
  EXPECT_EQ((*texts)[2].size(), 300U);
  EXPECT_EQ(file.integers("i32s").value(), (std::vector<std::int64_t>{-1, 0, 2147483647}));
  EXPECT_EQ(file.floats("f32s").value(), (std::vector<float>{-1.5F, 0.0F, 3e38F}));
  EXPECT_EQ(file.floats("i32s").value()[0], -1.0F);
  EXPECT_EQ(file.bools("bools").value(), (std::vector<bool>{true, false, true}));
  EXPECT_FALSE(file.integers("u64s"));  // the second exceeds int64
  EXPECT_FALSE(file.integers("f32s"));
  EXPECT_FALSE(file.floats("f64s"));  // the second exceeds f32
  EXPECT_FALSE(file.floats("scalar"));
  EXPECT_TRUE(file.strings("none").value().empty());
  EXPECT_EQ(file.integers("scalar").value(), std::vector<std::int64_t>{9});
  EXPECT_EQ(file.bools("shift").value(), std::vector<bool>{true});
}

TEST(GgufFile, FindsTensorsAndTheirData) {
  const std::vector<float> values = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  for (const std::size_t alignment : {8, 32, 64, 4096}) {
    const Parsed parsed(GgufBuilder()
                            .u32("general.alignment", static_cast<std::uint32_t>(alignment))
                            .place_at(alignment)
                            .f32_tensor("b.weight", {4, 3}, values)
                            .tensor("a.weight", 8, {64}, std::string(68, '\7'))
                            .f32_tensor("scalar", {}, std::span(values).first(1))
                            .f32_tensor("cube", {1, 2, 3, 2}, values));
    ASSERT_TRUE(parsed.file) << error_of(parsed.file);
    const GgufFile& file = *parsed.file;
    EXPECT_EQ(file.alignment(), alignment);
    ASSERT_EQ(file.tensors().size(), 4U);
    EXPECT_EQ(file.tensors()[0].name, "b.weight");
    const GgufTensor* const b = file.find_tensor("b.weight");
    ASSERT_NE(b, nullptr);
    EXPECT_EQ(b, file.tensors().data());
    EXPECT_EQ(b->type, ElementType::f32);
    EXPECT_EQ(b->dimensions, 2);
    EXPECT_EQ(b->shape, (std::array<std::int64_t, 4>{4, 3, 1, 1}));
    EXPECT_EQ(b->bytes, 48U);
    EXPECT_EQ(b->part, 0);
    EXPECT_EQ(std::memcmp(b->data, values.data(), 48), 0);
    EXPECT_EQ(static_cast<std::size_t>(b->data - parsed.image.data()) % alignment, 0U);
    const GgufTensor* const a = file.find_tensor("a.weight");
    ASSERT_NE(a, nullptr);
    EXPECT_EQ(a->type, ElementType::q8_0);
    EXPECT_EQ(a->bytes, 68U);
    EXPECT_EQ(a->data[67], std::byte{7});
    EXPECT_EQ(file.find_tensor("scalar")->elements(), 1);
    EXPECT_EQ(file.find_tensor("cube")->elements(), 12);
    EXPECT_EQ(file.find_tensor("c.weight"), nullptr);
    file.will_need(*b);  // of an image in memory: nothing happens
    file.release(*b);
    EXPECT_EQ(std::memcmp(b->data, values.data(), 48), 0);
  }
}

TEST(GgufFile, DataMayLieInAnyOrderWithHoles) {
  const Parsed parsed(GgufBuilder()
                          .tensor("second", 24, {32}, std::string(32, '\2'), 64)
                          .tensor("first", 24, {32}, std::string(32, '\1'), 0)
                          .tensor("third", 24, {1}, "\3", 4096));
  ASSERT_TRUE(parsed.file) << error_of(parsed.file);
  EXPECT_EQ(parsed.file->find_tensor("first")->data[31], std::byte{1});
  EXPECT_EQ(parsed.file->find_tensor("second")->data[31], std::byte{2});
  EXPECT_EQ(parsed.file->find_tensor("third")->data[0], std::byte{3});
}

TEST(GgufFile, Version2IsReadAlike) {
  const Parsed parsed(GgufBuilder().version(2).u32("key", 5));
  ASSERT_TRUE(parsed.file) << error_of(parsed.file);
  EXPECT_EQ(parsed.file->version(), 2U);
  EXPECT_EQ(parsed.file->require_integer("key", 0, 9).value(), 5);
}

TEST(GgufFile, MovingKeepsViewsValid) {
  const std::vector<float> values = {1, 2, 3, 4};
  Parsed parsed(GgufBuilder().text("key", "value").f32_tensor("t", {4}, values));
  ASSERT_TRUE(parsed.file);
  const GgufTensor* const tensor = parsed.file->find_tensor("t");
  const GgufFile moved = std::move(*parsed.file);
  EXPECT_EQ(moved.find_tensor("t"), tensor);
  EXPECT_EQ(moved.require_string("key").value(), "value");
}

// Every file that the shared data has: small models of each architecture, vocabularies, a trained model.
TEST(GgufFile, ReadsRealFiles) {
  const auto root = shared_data("testdata");
  if (!root) GTEST_SKIP() << "shared data absent: testdata";
  int files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(*root)) {
    if (entry.path().extension() != ".gguf") continue;
    const auto file = GgufFile::open(entry.path());
    ASSERT_TRUE(file) << error_of(file);
    EXPECT_EQ(file->file_bytes(), entry.file_size());
    const auto tokens = file->strings("tokenizer.ggml.tokens");
    ASSERT_TRUE(tokens) << error_of(tokens);
    EXPECT_GE(tokens->size(), 512U) << entry.path();
    const auto architecture = file->require_string("general.architecture");
    ASSERT_TRUE(architecture) << error_of(architecture);
    for (const GgufTensor& tensor : file->tensors()) EXPECT_EQ(file->find_tensor(tensor.name), &tensor);
    ++files;
  }
  EXPECT_GE(files, 17);
}

}  // namespace
}  // namespace quern
