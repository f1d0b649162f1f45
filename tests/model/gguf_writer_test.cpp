// Writing GGUF files: what is written is read back; mistakes are told; nothing half-written replaces a good file.
#include "model/gguf_writer.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

#include "support/gguf_builder.hpp"
#include "support/shared_data.hpp"

namespace quern {
namespace {

class GgufWriterTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(testing::TempDir()) /
              ("quern_gguf_writer_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    path_ = (folder_ / "model.gguf").string();
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  [[nodiscard]] GgufWriter create(std::size_t alignment = 32) const {
    auto writer = GgufWriter::create(path_, {.alignment = alignment});
    EXPECT_TRUE(writer) << writer.error().message;
    return std::move(*writer);
  }
  [[nodiscard]] std::string contents() const {
    std::ifstream file(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  // Files in the folder: a temporary one is left only while a writer lives.
  [[nodiscard]] std::ptrdiff_t files() const {
    return std::distance(std::filesystem::directory_iterator(folder_), std::filesystem::directory_iterator());
  }
  std::filesystem::path folder_;
  std::string path_;
};

std::vector<std::byte> some_bytes(std::size_t count, unsigned seed) {
  std::vector<std::byte> bytes(count);
  for (std::size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::byte>((i * 31 + seed * 17) >> 1);
  return bytes;
}

void expect_same(const GgufFile& a, const GgufFile& b) {
  ASSERT_EQ(a.metadata().size(), b.metadata().size());
  for (std::size_t i = 0; i < a.metadata().size(); ++i) {
    const GgufValue &x = a.metadata()[i], &y = b.metadata()[i];
    EXPECT_EQ(x.key, y.key);
    EXPECT_EQ(x.type, y.type) << x.key;
    if (const auto* array = std::get_if<GgufArray>(&x.value)) {
      const auto& other = std::get<GgufArray>(y.value);
      EXPECT_EQ(array->type, other.type) << x.key;
      EXPECT_EQ(array->count, other.count) << x.key;
      EXPECT_EQ(array->strings, other.strings) << x.key;
      EXPECT_TRUE(std::equal(array->bytes.begin(), array->bytes.end(), other.bytes.begin(), other.bytes.end())) << x.key;
    } else if (const auto* text = std::get_if<std::string_view>(&x.value)) {
      EXPECT_EQ(*text, std::get<std::string_view>(y.value)) << x.key;
    } else {
      EXPECT_EQ(x.value.index(), y.value.index()) << x.key;
      if (std::holds_alternative<double>(x.value)) {
        EXPECT_EQ(std::get<double>(x.value), std::get<double>(y.value)) << x.key;
      }
      if (std::holds_alternative<bool>(x.value)) {
        EXPECT_EQ(std::get<bool>(x.value), std::get<bool>(y.value)) << x.key;
      }
      if (std::holds_alternative<std::int64_t>(x.value)) {
        EXPECT_EQ(std::get<std::int64_t>(x.value), std::get<std::int64_t>(y.value)) << x.key;
      }
    }
  }
  ASSERT_EQ(a.tensors().size(), b.tensors().size());
  for (std::size_t i = 0; i < a.tensors().size(); ++i) {
    const GgufTensor &x = a.tensors()[i], &y = b.tensors()[i];
    EXPECT_EQ(x.name, y.name);
    EXPECT_EQ(x.type, y.type) << x.name;
    EXPECT_EQ(x.shape, y.shape) << x.name;
    ASSERT_EQ(x.bytes, y.bytes) << x.name;
    EXPECT_EQ(std::memcmp(x.data, y.data, x.bytes), 0) << x.name;
  }
}

TEST_F(GgufWriterTest, WhatIsWrittenIsReadBack) {
  for (const std::size_t alignment : {8, 32, 256}) {
    GgufWriter writer = create(alignment);
    writer.add_string("general.architecture", "llama");
    writer.add_u32("u32", 4000000000U);
    writer.add_integer("u8", GgufType::u8, 255);
    writer.add_integer("i8", GgufType::i8, -128);
    writer.add_integer("u16", GgufType::u16, 65535);
    writer.add_integer("i16", GgufType::i16, -32768);
    writer.add_integer("i32", GgufType::i32, -2147483648);
    writer.add_integer("u64", GgufType::u64, std::numeric_limits<std::int64_t>::max());
    writer.add_integer("i64", GgufType::i64, std::numeric_limits<std::int64_t>::min());
    writer.add_f32("f32", 0.1F);
    writer.declare_tensor("first", ElementType::f32, std::vector<std::int64_t>{3, 5});
    writer.add_bool("bool", true);
    writer.add_strings("words", std::vector<std::string>{"a", "", "ccc"});
    writer.add_u32s("u32s", std::vector<std::uint32_t>{1, 2});
    writer.add_i32s("i32s", std::vector<std::int32_t>{-1, 2});
    writer.add_f32s("f32s", std::vector<float>{-0.5F});
    writer.add_bools("bools", {true, false});
    writer.declare_tensor("second", ElementType::q8_0, std::vector<std::int64_t>{64, 2, 1, 3});
    writer.declare_tensor("third", ElementType::i8, std::vector<std::int64_t>{1});
    ASSERT_TRUE(writer.begin_data());
    EXPECT_EQ(files(), alignment == 8 ? 1 : 2);  // the temporary file, and the one of the round before
    const auto first = some_bytes(60, 1), second = some_bytes(408, 2), third = some_bytes(1, 3);
    EXPECT_EQ(writer.left_in_tensor(), 60U);
    ASSERT_TRUE(writer.write(first));
    EXPECT_EQ(writer.left_in_tensor(), 408U);
    for (std::size_t at = 0; at < second.size(); at += 7) {
      ASSERT_TRUE(writer.write(std::span(second).subspan(at, std::min<std::size_t>(7, second.size() - at))));
    }
    ASSERT_TRUE(writer.write(third));
    EXPECT_EQ(writer.left_in_tensor(), 0U);
    const auto finished = writer.finish();
    ASSERT_TRUE(finished) << finished.error().message;
    EXPECT_EQ(files(), 1);

    const auto file = GgufFile::open(path_);
    ASSERT_TRUE(file) << file.error().message;
    EXPECT_EQ(file->version(), 3U);
    EXPECT_EQ(file->alignment(), alignment);
    EXPECT_EQ(file->file_bytes() % alignment, 0U);
    EXPECT_EQ(file->metadata().size(), alignment == 32 ? 16U : 17U);
    const auto integer = [&](std::string_view key) {
      return file->require_integer(key, std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max())
          .value_or(-7);
    };
    EXPECT_EQ(integer("u32"), 4000000000);
    EXPECT_EQ(integer("u8"), 255);
    EXPECT_EQ(integer("i8"), -128);
    EXPECT_EQ(integer("u16"), 65535);
    EXPECT_EQ(integer("i16"), -32768);
    EXPECT_EQ(integer("i32"), -2147483648);
    EXPECT_EQ(integer("u64"), std::numeric_limits<std::int64_t>::max());
    EXPECT_EQ(integer("i64"), std::numeric_limits<std::int64_t>::min());
    EXPECT_EQ(file->require_number("f32").value(), double{0.1F});
    EXPECT_TRUE(file->bool_or("bool", false).value());
    EXPECT_EQ(file->strings("words").value()[2], "ccc");
    EXPECT_EQ(file->integers("u32s").value(), (std::vector<std::int64_t>{1, 2}));
    EXPECT_EQ(file->integers("i32s").value(), (std::vector<std::int64_t>{-1, 2}));
    EXPECT_EQ(file->floats("f32s").value(), std::vector<float>{-0.5F});
    EXPECT_EQ(file->bools("bools").value(), (std::vector<bool>{true, false}));
    ASSERT_EQ(file->tensors().size(), 3U);
    EXPECT_EQ(file->tensors()[1].shape, (std::array<std::int64_t, 4>{64, 2, 1, 3}));
    EXPECT_EQ(std::memcmp(file->find_tensor("first")->data, first.data(), 60), 0);
    EXPECT_EQ(std::memcmp(file->find_tensor("second")->data, second.data(), 408), 0);
    EXPECT_EQ(file->find_tensor("third")->data[0], third[0]);
  }
}

// The same bytes as the tests' own builder makes from the format's description.
TEST_F(GgufWriterTest, BytesAreThoseOfTheFormat) {
  const std::vector<float> values = {1, 2, 3, 4, 5, 6, 7, 8};
  GgufWriter writer = create();
  writer.add_string("general.architecture", "llama");
  writer.add_u32("llama.block_count", 2);
  writer.add_strings("tokenizer.ggml.tokens", std::vector<std::string>{"a", "b"});
  writer.declare_tensor("t", ElementType::f32, std::vector<std::int64_t>{4, 2});
  ASSERT_TRUE(writer.begin_data());
  ASSERT_TRUE(writer.write(std::as_bytes(std::span(values))));
  ASSERT_TRUE(writer.finish());
  EXPECT_EQ(contents(), GgufBuilder()
                            .text("general.architecture", "llama")
                            .u32("llama.block_count", 2)
                            .texts("tokenizer.ggml.tokens", {"a", "b"})
                            .f32_tensor("t", {4, 2}, values)
                            .build_text());
}

// Data larger than the writer's own buffer, in pieces below and above it.
TEST_F(GgufWriterTest, LargeTensorsAreWrittenInPieces) {
  const auto data = some_bytes((std::size_t{5} << 20) + 3, 9);
  GgufWriter writer = create();
  writer.declare_tensor("a", ElementType::i8, std::vector<std::int64_t>{static_cast<std::int64_t>(data.size())});
  writer.declare_tensor("b", ElementType::i8, std::vector<std::int64_t>{static_cast<std::int64_t>(data.size())});
  ASSERT_TRUE(writer.begin_data());
  ASSERT_TRUE(writer.write(data));
  for (std::size_t at = 0; at < data.size(); at += 300'001) {
    ASSERT_TRUE(writer.write(std::span(data).subspan(at, std::min<std::size_t>(300'001, data.size() - at))));
  }
  ASSERT_TRUE(writer.finish());
  const auto file = GgufFile::open(path_);
  ASSERT_TRUE(file) << file.error().message;
  for (const GgufTensor& tensor : file->tensors()) EXPECT_EQ(std::memcmp(tensor.data, data.data(), data.size()), 0);
}

TEST_F(GgufWriterTest, MistakesAreTold) {
  const auto expect = [&](const std::string& sentence, const auto& make) {
    GgufWriter writer = create();
    make(writer);
    const auto began = writer.begin_data();
    ASSERT_FALSE(began) << sentence;
    EXPECT_EQ(began.error().code, ErrorCode::bad_input);
    EXPECT_EQ(began.error().message, path_ + ": " + sentence);
    EXPECT_FALSE(writer.finish());
  };
  const auto declare = [](GgufWriter& writer, std::string_view name, ElementType type, std::vector<std::int64_t> shape) {
    writer.declare_tensor(name, type, shape);
  };
  expect("key 'a' is there already", [](GgufWriter& w) { w.add_u32("a", 1), w.add_f32("a", 1); });
  expect("key 'general.alignment' is there already", [](GgufWriter& w) { w.add_u32("general.alignment", 64); });
  expect("expected a key of 1 to 65535 bytes, found one of 0", [](GgufWriter& w) { w.add_u32("", 1); });
  expect("expected a key of 1 to 65535 bytes, found one of 65536",
         [](GgufWriter& w) { w.add_u32(std::string(65536, 'k'), 1); });
  expect("key 'a': 256 is no u8", [](GgufWriter& w) { w.add_integer("a", GgufType::u8, 256); });
  expect("key 'a': -1 is no u64", [](GgufWriter& w) { w.add_integer("a", GgufType::u64, -1); });
  expect("key 'a': 1 is no f32", [](GgufWriter& w) { w.add_integer("a", GgufType::f32, 1); });
  expect("tensor '': expected a name of 1 to 63 bytes", [&](GgufWriter& w) { declare(w, "", ElementType::f32, {1}); });
  expect("tensor 't' is there already",
         [&](GgufWriter& w) { declare(w, "t", ElementType::f32, {1}), declare(w, "t", ElementType::f32, {1}); });
  expect("tensor 't': expected 1 to 4 dimensions, found 0", [&](GgufWriter& w) { declare(w, "t", ElementType::f32, {}); });
  expect("tensor 't': expected 1 to 4 dimensions, found 5", [&](GgufWriter& w) {
    declare(w, "t", ElementType::f32, {1, 1, 1, 1, 1});
  });
  expect("tensor 't': expected sizes of at least 1 whose product fits 64 bits", [&](GgufWriter& w) {
    declare(w, "t", ElementType::f32, {4, 0});
  });
  expect("tensor 't': expected sizes of at least 1 whose product fits 64 bits", [&](GgufWriter& w) {
    declare(w, "t", ElementType::f32, {std::int64_t{1} << 40, std::int64_t{1} << 40});
  });
  expect("tensor 't': expected rows of a multiple of 256 elements for Q4_K, found 128", [&](GgufWriter& w) {
    declare(w, "t", ElementType::q4_k, {128, 2});
  });
  EXPECT_EQ(files(), 0);
  EXPECT_FALSE(GgufWriter::create(path_, {.alignment = 48}));
  EXPECT_FALSE(GgufWriter::create(path_, {.alignment = 4}));
  EXPECT_FALSE(GgufWriter::create((folder_ / "absent" / "model.gguf").string()));
}

TEST_F(GgufWriterTest, DataMustFitTheirTensors) {
  const auto bytes = some_bytes(100, 4);
  GgufWriter writer = create();
  writer.declare_tensor("t", ElementType::f32, std::vector<std::int64_t>{10});
  writer.declare_tensor("u", ElementType::f32, std::vector<std::int64_t>{2});
  EXPECT_EQ(writer.write(bytes).error().message, path_ + ": data before begin_data()");
  ASSERT_TRUE(writer.begin_data());
  EXPECT_FALSE(writer.begin_data());
  EXPECT_EQ(writer.write(std::span(bytes).first(41)).error().message,
            path_ + ": tensor 't': expected at most 40 more bytes, found 41");
  ASSERT_TRUE(writer.write(std::span(bytes).first(30)));
  EXPECT_EQ(writer.finish().error().message, path_ + ": tensor 't': 10 bytes of its data are missing");
  ASSERT_TRUE(writer.write(std::span(bytes).first(10)));
  ASSERT_TRUE(writer.write(std::span(bytes).first(8)));
  EXPECT_EQ(writer.write(std::span(bytes).first(1)).error().message, path_ + ": 1 bytes of data after the last tensor");
  ASSERT_TRUE(writer.write({}));
  ASSERT_TRUE(writer.finish());
  EXPECT_TRUE(GgufFile::open(path_));
}

TEST_F(GgufWriterTest, AnUnfinishedFileReplacesNothing) {
  std::ofstream(path_) << "what was there";
  {
    GgufWriter writer = create();
    writer.declare_tensor("t", ElementType::f32, std::vector<std::int64_t>{1 << 20});
    ASSERT_TRUE(writer.begin_data());
    ASSERT_TRUE(writer.write(some_bytes(3 << 20, 1)));
    EXPECT_FALSE(writer.finish());
    EXPECT_EQ(contents(), "what was there");
  }
  EXPECT_EQ(contents(), "what was there");
  EXPECT_EQ(files(), 1);
}

TEST_F(GgufWriterTest, CopiesEntriesAndTensorsOfAnotherFile) {
  const auto number = [](auto value) { return GgufBuilder::bytes_of_number(value); };
  const std::vector<float> values = {1, 2, 3, 4};
  const auto image = GgufBuilder()
                         .u32("general.alignment", 64)
                         .place_at(64)
                         .raw("f64", gguf::kF64, number(1e-300))
                         .raw("i16", gguf::kI16, number(std::int16_t{-5}))
                         .raw("huge", gguf::kU64, number(~std::uint64_t{0}))
                         .raw("u64s", gguf::kArray, GgufBuilder::array_head(gguf::kU64, 1) + number(~std::uint64_t{0}))
                         .bools("bools", {true, false})
                         .texts("texts", {"a", "b"})
                         .f32("f32", 0.3F)
                         .boolean("bool", true)
                         .u32("split.count", 1)
                         .f32_tensor("t", {2, 2}, values)
                         .build();
  const auto source = GgufFile::parse(image, "source");
  ASSERT_TRUE(source) << source.error().message;
  GgufWriter writer = create();
  for (const GgufValue& entry : source->metadata()) writer.add(entry);
  for (const GgufTensor& tensor : source->tensors()) {
    writer.declare_tensor(tensor.name, tensor.type,
                          std::span(tensor.shape).first(static_cast<std::size_t>(tensor.dimensions)));
  }
  ASSERT_TRUE(writer.begin_data());
  for (const GgufTensor& tensor : source->tensors()) ASSERT_TRUE(writer.write({tensor.data, tensor.bytes}));
  ASSERT_TRUE(writer.finish());
  const auto copy = GgufFile::open(path_);
  ASSERT_TRUE(copy) << copy.error().message;
  EXPECT_EQ(copy->alignment(), 32U);
  EXPECT_EQ(copy->metadata().size(), source->metadata().size() - 2);
  EXPECT_EQ(copy->require_number("f64").value(), 1e-300);
  EXPECT_EQ(std::get<std::uint64_t>(copy->find("huge")->value), ~std::uint64_t{0});
  EXPECT_EQ(copy->find("i16")->type, GgufType::i16);
  EXPECT_EQ(std::memcmp(copy->find_tensor("t")->data, values.data(), 16), 0);
}

TEST_F(GgufWriterTest, CopiesRealFiles) {
  for (const char* name : {"testdata/tiny/tiny-gpt-oss.gguf", "testdata/tokenizers/llama-spm.gguf"}) {
    const auto path = shared_data(name);
    if (!path) GTEST_SKIP() << "shared data absent: " << name;
    const auto source = GgufFile::open(*path);
    ASSERT_TRUE(source) << source.error().message;
    GgufWriter writer = create();
    for (const GgufValue& entry : source->metadata()) writer.add(entry);
    for (const GgufTensor& tensor : source->tensors()) {
      writer.declare_tensor(tensor.name, tensor.type,
                            std::span(tensor.shape).first(static_cast<std::size_t>(tensor.dimensions)));
    }
    ASSERT_TRUE(writer.begin_data());
    for (const GgufTensor& tensor : source->tensors()) ASSERT_TRUE(writer.write({tensor.data, tensor.bytes}));
    ASSERT_TRUE(writer.finish());
    const auto copy = GgufFile::open(path_);
    ASSERT_TRUE(copy) << copy.error().message;
    expect_same(*source, *copy);
  }
}

}  // namespace
}  // namespace quern
