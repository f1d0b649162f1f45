// Models in several files: found by name, checked against each other, read as one.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "model/gguf_file.hpp"
#include "support/gguf_builder.hpp"

namespace quern {
namespace {

class GgufSplit : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(testing::TempDir()) /
              ("quern_gguf_split_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    for (int part = 0; part < 3; ++part) write_part(part, part_of(part));
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  static std::string tensor_name(int part) { return "tensor" + std::to_string(part); }
  [[nodiscard]] std::string path_of(int part) const {
    return (folder_ / ("model-0000" + std::to_string(part + 1) + "-of-00003.gguf")).string();
  }
  static GgufBuilder without_tensor(int number, int count, int tensors) {
    GgufBuilder builder;
    if (number == 0) builder.text("general.architecture", "llama");
    builder.raw("split.no", gguf::kU16, GgufBuilder::bytes_of_number(static_cast<std::uint16_t>(number)))
        .raw("split.count", gguf::kU16, GgufBuilder::bytes_of_number(static_cast<std::uint16_t>(count)))
        .raw("split.tensors.count", gguf::kI32, GgufBuilder::bytes_of_number(tensors));
    return builder;
  }
  static GgufBuilder part_of(int part) {
    return without_tensor(part, 3, 3)
        .tensor(tensor_name(part), 24, {5 + part},
                std::string(static_cast<std::size_t>(5 + part), static_cast<char>('a' + part)));
  }
  void write_part(int part, const GgufBuilder& builder) const {
    std::ofstream(path_of(part), std::ios::binary | std::ios::trunc) << builder.build_text();
  }
  void expect_error(const std::string& path, const std::string& sentence) const {
    const auto file = GgufFile::open(path);
    ASSERT_FALSE(file);
    EXPECT_EQ(file.error().code, ErrorCode::bad_input);
    EXPECT_EQ(file.error().message, sentence);
  }
  std::filesystem::path folder_;
};

TEST_F(GgufSplit, AnyPartOpensTheWhole) {
  std::size_t bytes = 0;
  for (int part = 0; part < 3; ++part) bytes += std::filesystem::file_size(path_of(part));
  for (int named = 0; named < 3; ++named) {
    const auto file = GgufFile::open(path_of(named));
    ASSERT_TRUE(file) << file.error().message;
    EXPECT_EQ(file->parts(), 3);
    EXPECT_EQ(file->file_bytes(), bytes);
    EXPECT_EQ(file->name(), path_of(named));
    EXPECT_EQ(file->require_string("general.architecture").value(), "llama");
    EXPECT_EQ(file->metadata().size(), 4U);
    ASSERT_EQ(file->tensors().size(), 3U);
    for (int part = 0; part < 3; ++part) {
      const GgufTensor* const tensor = file->find_tensor(tensor_name(part));
      ASSERT_NE(tensor, nullptr);
      EXPECT_EQ(tensor, &file->tensors()[static_cast<std::size_t>(part)]);
      EXPECT_EQ(tensor->part, part);
      file->will_need(*tensor);
      file->release(*tensor);
      EXPECT_EQ(tensor->data[4 + part], static_cast<std::byte>('a' + part));
    }
  }
}

TEST_F(GgufSplit, AMissingPartIsNamed) {
  std::filesystem::remove(path_of(1));
  expect_error(path_of(2), path_of(2) + ": the model has 3 parts, of which " + path_of(1) + " is missing");
}

TEST_F(GgufSplit, TheNameMustSayWhichPartItIs) {
  const std::string other = (folder_ / "renamed.gguf").string();
  std::filesystem::copy_file(path_of(1), other);
  expect_error(other,
               other +
                   ": it is part 2 of 3 of a split model, expected a name that ends in -00002-of-00003.gguf, by which "
                   "the other parts are found");
  std::filesystem::copy_file(path_of(1), path_of(2), std::filesystem::copy_options::overwrite_existing);
  expect_error(path_of(2), path_of(2) +
                               ": it is part 2 of 3 of a split model, expected a name that ends in -00002-of-00003.gguf, by "
                               "which the other parts are found");
}

TEST_F(GgufSplit, PartsMustAgree) {
  const std::string expected =
      path_of(1) + ": expected part 2 of 3 with 3 tensors in all (as " + path_of(0) + " says), found ";
  write_part(1, part_of(0));
  expect_error(path_of(0), expected + "part 1 of 3 with 3");
  write_part(1, without_tensor(1, 4, 3));
  expect_error(path_of(0), expected + "part 2 of 4 with 3");
  write_part(1, without_tensor(1, 3, 2));
  expect_error(path_of(0), expected + "part 2 of 3 with 2");
  write_part(1, GgufBuilder().text("no", "split"));
  expect_error(path_of(0), expected + "part 1 of 1 with 0");
  std::ofstream(path_of(1), std::ios::trunc) << "no model";
  expect_error(path_of(0), path_of(1) + ": expected a GGUF file, found 8 bytes, fewer than its header of 24");
}

TEST_F(GgufSplit, TensorsAreCountedAndUnique) {
  write_part(2, without_tensor(2, 3, 3));
  expect_error(path_of(0),
               path_of(0) + ": key 'split.tensors.count': expected the number of tensors in all parts, 2, found 3");
  write_part(2, without_tensor(2, 3, 3).tensor("x", 24, {1}, "x").tensor("y", 24, {1}, "x"));
  expect_error(path_of(0),
               path_of(0) + ": key 'split.tensors.count': expected the number of tensors in all parts, 4, found 3");
  write_part(2, without_tensor(2, 3, 3).tensor(tensor_name(0), 24, {1}, "x"));
  expect_error(path_of(0), path_of(0) + ": tensor 'tensor0' occurs in two parts");
}

TEST_F(GgufSplit, FilesThatCannotBeOpened) {
  const std::string absent = (folder_ / "absent.gguf").string(), empty = (folder_ / "empty.gguf").string();
  expect_error(absent, absent + ": no such file");
  expect_error(folder_.string(), folder_.string() + ": expected a file, found a folder");
  std::ofstream(empty, std::ios::trunc).flush();
  expect_error(empty, empty + ": the file is empty");
  expect_error("/dev/null", "/dev/null: expected a regular file, found a device or pipe");
}

}  // namespace
}  // namespace quern
