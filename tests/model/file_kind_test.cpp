#include "model/file_kind.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace quern {
namespace {

class FileKindTest : public testing::Test {
 protected:
  FileKindTest() { std::filesystem::create_directories(folder_); }
  ~FileKindTest() override { std::filesystem::remove_all(folder_); }
  [[nodiscard]] FileStart start_of(const std::string& bytes) const {
    const std::string path = (folder_ / "file").string();
    std::ofstream(path, std::ios::binary) << bytes;
    return read_file_start(path).value();
  }
  std::filesystem::path folder_ = std::filesystem::temp_directory_path() / ("quern_file_kind_" + std::to_string(::getpid()));
};

TEST_F(FileKindTest, FirstBytesDecide) {
  EXPECT_EQ(start_of("GGUF\x03").kind, FileKind::gguf);
  EXPECT_EQ(start_of("QUERNCKP....").kind, FileKind::checkpoint);
  EXPECT_EQ(start_of("QUERNCRP....").kind, FileKind::corpus);
  EXPECT_EQ(start_of("\x89HDF\r\n\x1a\n....").kind, FileKind::corpus);
  EXPECT_EQ(start_of(" \n{\"a\": 1}").kind, FileKind::json);
  EXPECT_EQ(start_of("GGU").kind, FileKind::other);
  EXPECT_EQ(start_of("QUERNCK").kind, FileKind::other);
  EXPECT_EQ(start_of("  ").kind, FileKind::other);
  EXPECT_EQ(start_of("plain text").bytes, "plain te");
  EXPECT_EQ(read_file_start(folder_.string()).value().kind, FileKind::folder);
}

TEST_F(FileKindTest, WhatCannotBeReadGetsASentence) {
  const auto nothing = read_file_start((folder_ / "nothing").string());
  ASSERT_FALSE(nothing);
  EXPECT_EQ(nothing.error().code, ErrorCode::bad_input);
  EXPECT_NE(nothing.error().message.find("nothing: no such file or folder"), std::string::npos);
  std::ofstream(folder_ / "empty").flush();
  const auto empty = read_file_start((folder_ / "empty").string());
  ASSERT_FALSE(empty);
  EXPECT_EQ(empty.error().code, ErrorCode::bad_input);
  EXPECT_NE(empty.error().message.find("empty: the file is empty"), std::string::npos);
  const auto device = read_file_start("/dev/null");
  ASSERT_FALSE(device);
  EXPECT_EQ(device.error().message, "/dev/null: expected a regular file, found a device or pipe");
}

}  // namespace
}  // namespace quern
