#include "model/atomic_file.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace quern {
namespace {

class AtomicFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(::testing::TempDir()) / ("quern_atomic_" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  std::size_t files() const {
    return static_cast<std::size_t>(
        std::distance(std::filesystem::directory_iterator(folder_), std::filesystem::directory_iterator()));
  }
  std::filesystem::path folder_;
};

TEST_F(AtomicFileTest, TheTargetChangesOnlyAtCommit) {
  ASSERT_TRUE(write_file_atomically(path("a"), "old"));
  auto file = AtomicFile::create(path("a"));
  ASSERT_TRUE(file) << file.error().message;
  ASSERT_TRUE(file->write("new "));
  ASSERT_TRUE(file->write("text"));
  EXPECT_EQ(*read_whole_file(path("a"), 100), "old");
  EXPECT_EQ(files(), 2u);
  ASSERT_TRUE(file->commit());
  EXPECT_EQ(*read_whole_file(path("a"), 100), "new text");
  EXPECT_EQ(files(), 1u);
  EXPECT_FALSE(file->commit()) << "a second commit has nothing to commit";
}

TEST_F(AtomicFileTest, AnAbandonedFileLeavesNothing) {
  ASSERT_TRUE(write_file_atomically(path("a"), "old"));
  {
    auto file = AtomicFile::create(path("a"));
    ASSERT_TRUE(file);
    ASSERT_TRUE(file->write("half"));
    AtomicFile moved = std::move(*file);
    EXPECT_EQ(files(), 2u);
  }
  EXPECT_EQ(files(), 1u);
  EXPECT_EQ(*read_whole_file(path("a"), 100), "old");
}

TEST_F(AtomicFileTest, OtherLibrariesWriteThroughTheTemporaryName) {
  auto file = AtomicFile::create(path("b"));
  ASSERT_TRUE(file);
  std::ofstream(file->temporary_path()) << "by name";
  ASSERT_TRUE(file->commit());
  EXPECT_EQ(*read_whole_file(path("b"), 100), "by name");
}

TEST_F(AtomicFileTest, ASymbolicLinkStaysALink) {
  ASSERT_TRUE(write_file_atomically(path("real"), "1"));
  std::filesystem::create_symlink("real", path("link"));
  ASSERT_TRUE(write_file_atomically(path("link"), "2"));
  EXPECT_TRUE(std::filesystem::is_symlink(path("link")));
  EXPECT_EQ(*read_whole_file(path("real"), 100), "2");
}

TEST_F(AtomicFileTest, WhatCannotBeReplacedIsRefused) {
  const auto missing = AtomicFile::create(path("no/such/folder/x"));
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ErrorCode::io);
  EXPECT_NE(missing.error().message.find(path("no/such/folder/x")), std::string::npos);
  const auto folder = AtomicFile::create(folder_.string());
  ASSERT_FALSE(folder);
  EXPECT_NE(folder.error().message.find("found a folder"), std::string::npos);
  EXPECT_FALSE(AtomicFile::create("/dev/null"));
}

TEST_F(AtomicFileTest, ReadingKnowsItsLimit) {
  ASSERT_TRUE(write_file_atomically(path("a"), std::string(1000, 'x')));
  EXPECT_EQ(read_whole_file(path("a"), 1000)->size(), 1000u);
  EXPECT_FALSE(read_whole_file(path("a"), 999));
  EXPECT_FALSE(read_whole_file(path("none"), 999));
}

}  // namespace
}  // namespace quern
