// NumPy files as the format's description has them.
#include "infer/npy_file.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <numeric>
#include <string>
#include <vector>

namespace quern {
namespace {

std::string temporary(const std::string& name) { return testing::TempDir() + name + std::to_string(getpid()) + ".npy"; }

std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(NpyWriter, WritesHeaderAndValues) {
  const std::string path = temporary("npy_whole");
  std::vector<float> values(3 * 5);
  std::iota(values.begin(), values.end(), -2.5F);
  auto writer = NpyWriter::create(path, 3, 5);
  ASSERT_TRUE(writer) << writer.error().message;
  ASSERT_TRUE(writer->append(std::span(values).first(10)));
  EXPECT_FALSE(std::filesystem::exists(path)) << "appears only when it is whole";
  ASSERT_TRUE(writer->append(std::span(values).last(5)));
  ASSERT_TRUE(writer->commit());

  const std::string bytes = contents(path);
  ASSERT_GE(bytes.size(), 64U);
  EXPECT_EQ(bytes.substr(0, 8), std::string("\x93NUMPY\x01\x00", 8));
  const std::size_t header = static_cast<unsigned char>(bytes[8]) + 256U * static_cast<unsigned char>(bytes[9]);
  EXPECT_EQ((10 + header) % 64, 0U);
  const std::string dictionary = bytes.substr(10, header);
  EXPECT_EQ(dictionary.back(), '\n');
  EXPECT_EQ(dictionary.rfind("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 5), }", 0), 0U) << dictionary;
  ASSERT_EQ(bytes.size(), 10 + header + values.size() * sizeof(float));
  EXPECT_EQ(std::memcmp(bytes.data() + 10 + header, values.data(), values.size() * sizeof(float)), 0);
  std::filesystem::remove(path);
}

TEST(NpyWriter, HeaderLengthIsAMultipleForEveryShape) {
  for (std::int64_t columns = 1; columns < 2'000'000'000; columns *= 7) {
    const std::string path = temporary("npy_shape");
    auto writer = NpyWriter::create(path, 0, columns);
    ASSERT_TRUE(writer);
    ASSERT_TRUE(writer->commit());
    EXPECT_EQ(std::filesystem::file_size(path) % 64, 0U) << columns;
    std::filesystem::remove(path);
  }
}

TEST(NpyWriter, RefusesWhatDoesNotFit) {
  const std::string path = temporary("npy_refused");
  EXPECT_FALSE(NpyWriter::create(path, -1, 5));
  EXPECT_FALSE(NpyWriter::create(path, std::int64_t{1} << 40, std::int64_t{1} << 40));
  {
    auto writer = NpyWriter::create(path, 2, 3);
    ASSERT_TRUE(writer);
    const std::vector<float> values(9);
    EXPECT_FALSE(writer->append(std::span(values).first(4)));  // no whole row
    EXPECT_FALSE(writer->append(values));                      // three rows
    ASSERT_TRUE(writer->append(std::span(values).first(3)));
    const auto missing = writer->commit();
    ASSERT_FALSE(missing);
    EXPECT_NE(missing.error().message.find("missing"), std::string::npos);
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

}  // namespace
}  // namespace quern
