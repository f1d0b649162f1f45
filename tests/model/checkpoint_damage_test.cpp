// Damaged files are refused before HDF5 opens them, and a failed write replaces nothing.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <vector>

#include "model/checkpoint.hpp"
#include "model/hdf5_user_block.hpp"
#include "support/tests_paths.hpp"

// HDF5 1.10 forgets some of its own memory when a file it reads is malformed; that is not what these tests look for.
extern "C" const char* __lsan_default_suppressions();
extern "C" const char* __lsan_default_suppressions() { return "leak:libhdf5"; }

namespace quern {
namespace {

ModelConfig tiny_model() {
  ModelConfig c;
  c.vocab = 7;
  c.context = 4;
  c.layers = 1;
  c.width = 4;
  c.heads = c.kv_heads = 1;
  c.head_dim = 4;
  c.mlp_width = 4;
  return c;
}

class CheckpointDamageTest : public testing::Test {
 protected:
  void SetUp() override {
    info_.model = tiny_model();
    info_.run_yaml = "train: {steps: 1}";
    info_.step = 3;
    const auto saved = save_checkpoint(path_, info_, layout_, {block_, block_, block_});
    ASSERT_TRUE(saved.has_value()) << saved.error().message;
    bytes_ = contents(path_);
  }
  static std::string contents(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::ostringstream all;
    all << file.rdbuf();
    return all.str();
  }
  void write(const std::string& bytes) const { std::ofstream(path_, std::ios::binary | std::ios::trunc) << bytes; }

  // Both readers refuse the file, in a sentence that names it and holds `part`.
  void expect_refused(const std::string& part) {
    const auto info = read_checkpoint_info(path_);
    ASSERT_FALSE(info.has_value()) << part;
    EXPECT_EQ(info.error().code, ErrorCode::bad_input);
    EXPECT_NE(info.error().message.find(path_), std::string::npos) << info.error().message;
    EXPECT_NE(info.error().message.find(part), std::string::npos) << info.error().message;
    std::vector<float> w(block_.size());
    EXPECT_FALSE(read_checkpoint_tensors(path_, layout_, {w, {}, {}}).has_value());
  }
  std::string with_length(std::uint64_t length) const {
    std::string changed = bytes_;
    for (std::size_t i = 0; i < 8; ++i) changed[16 + i] = static_cast<char>(length >> (8 * i));
    return changed;
  }
  std::size_t files_in_folder() const {
    const auto files = std::filesystem::directory_iterator(folder_.path());
    return static_cast<std::size_t>(std::distance(begin(files), end(files)));
  }

  TemporaryFolder folder_;
  const std::string path_ = (folder_ / "last.h5").string();
  const ParameterLayout layout_ = parameter_layout(tiny_model());
  const std::vector<float> block_ = std::vector<float>(static_cast<std::size_t>(layout_.elements), 0.5F);
  CheckpointInfo info_;
  std::string bytes_;
};

TEST_F(CheckpointDamageTest, TruncatedAnywhere) {
  for (const std::size_t length : {std::size_t{0}, std::size_t{1}, std::size_t{7}, std::size_t{8}, std::size_t{31},
                                   std::size_t{100}, std::size_t{511}}) {
    write(bytes_.substr(0, length));
    expect_refused("expected a user block of 512 bytes");
  }
  for (const std::size_t length :
       {std::size_t{512}, std::size_t{513}, std::size_t{1000}, bytes_.size() / 2, bytes_.size() - 8, bytes_.size() - 1}) {
    write(bytes_.substr(0, length));
    expect_refused("truncated");
  }
}

TEST_F(CheckpointDamageTest, BytesAtTheEndAreNoticed) {
  write(bytes_ + "x");
  expect_refused("found " + std::to_string(bytes_.size() - 512 + 1));
}

// Every bit of the user block, and of every 37th byte behind it.
TEST_F(CheckpointDamageTest, EveryFlippedBitIsNoticed) {
  std::fstream file(path_, std::ios::binary | std::ios::in | std::ios::out);
  std::int64_t flips = 0;
  for (std::size_t at = 0; at < bytes_.size(); at += at < 512 ? 1 : 37) {
    for (int bit = 0; bit < 8; ++bit) {
      file.seekp(static_cast<std::streamoff>(at)).put(static_cast<char>(bytes_[at] ^ (1 << bit))).flush();
      ASSERT_FALSE(internal::check_user_block(path_, internal::kCheckpointBlock).has_value())
          << "byte " << at << " bit " << bit;
      ++flips;
    }
    file.seekp(static_cast<std::streamoff>(at)).put(bytes_[at]).flush();
  }
  EXPECT_GT(flips, 5000);
  EXPECT_TRUE(read_checkpoint_info(path_).has_value());
}

TEST_F(CheckpointDamageTest, FlippedBitsAreRefusedByBothReaders) {
  for (const std::size_t at : {std::size_t{600}, bytes_.size() - 1}) {
    std::string changed = bytes_;
    changed[at] = static_cast<char>(changed[at] ^ 4);
    write(changed);
    expect_refused("XXH3");
  }
}

TEST_F(CheckpointDamageTest, WrongMagicAndVersionAreNamed) {
  std::string changed = bytes_;
  changed[0] = 'q';
  write(changed);
  expect_refused("not a Quern checkpoint");
  changed = bytes_;
  changed[8] = 2;
  write(changed);
  expect_refused("expected checkpoint format version 1, found 2");
  write("{\"a text\": \"file\"}");
  expect_refused("not a Quern checkpoint");
}

TEST_F(CheckpointDamageTest, AbsurdLengthsAreRefused) {
  for (const std::uint64_t length :
       {std::uint64_t{0}, std::uint64_t{1}, (std::uint64_t{1} << 63) - 1, std::uint64_t{1} << 63,
        (std::uint64_t{1} << 63) - 512, ~std::uint64_t{0}, ~std::uint64_t{0} - 511}) {
    write(with_length(length));
    expect_refused("expected " + std::to_string(length) + " bytes after the user block");
  }
}

TEST_F(CheckpointDamageTest, NoHdf5BehindARightHash) {
  for (const std::string& rest : {std::string(), std::string("hello"), std::string(5000, '\0'), bytes_.substr(600)}) {
    write(std::string(512, '\0') + rest);
    ASSERT_TRUE(internal::write_user_block(path_, internal::kCheckpointBlock).has_value());
    ASSERT_TRUE(internal::check_user_block(path_, internal::kCheckpointBlock).has_value());
    expect_refused("HDF5");
  }
}

// A forger can make the hash right. Whatever the rest then is, the readers return: a value or an error.
TEST_F(CheckpointDamageTest, RandomDamageBehindARightHashDoesNotCrash) {
  std::mt19937 random(1);
  for (int round = 0; round < 300; ++round) {
    std::string changed = bytes_;
    for (int i = 0; i < 1 + round % 4; ++i) {
      changed[512 + random() % (changed.size() - 512)] = static_cast<char>(random());
    }
    write(changed);
    ASSERT_TRUE(internal::write_user_block(path_, internal::kCheckpointBlock).has_value());
    std::vector<float> w(block_.size()), m(block_.size()), v(block_.size());
    static_cast<void>(read_checkpoint_info(path_));
    static_cast<void>(read_checkpoint_tensors(path_, layout_, {w, m, v}));
  }
}

TEST_F(CheckpointDamageTest, AbsentFilesAndFoldersAreErrors) {
  const auto absent = read_checkpoint_info((folder_ / "absent.h5").string());
  ASSERT_FALSE(absent.has_value());
  EXPECT_EQ(absent.error().code, ErrorCode::io);
  const auto folder = read_checkpoint_info(folder_.path().string());
  ASSERT_FALSE(folder.has_value());
  EXPECT_NE(folder.error().message.find("expected a checkpoint file"), std::string::npos) << folder.error().message;
}

TEST_F(CheckpointDamageTest, UnwritableFoldersAreErrors) {
  const auto save = [&](const std::filesystem::path& path) {
    return save_checkpoint(path.string(), info_, layout_, {block_, {}, {}});
  };
  const auto absent = save(folder_ / "absent/x.h5");
  ASSERT_FALSE(absent.has_value());
  EXPECT_EQ(absent.error().code, ErrorCode::io);
  EXPECT_NE(absent.error().message.find("absent"), std::string::npos);
  EXPECT_FALSE(save(folder_ / "last.h5/x.h5").has_value());  // a file stands where the folder should
  EXPECT_FALSE(save(folder_.path()).has_value());
  if (geteuid() != 0) {  // the superuser may write anywhere
    std::filesystem::create_directory(folder_ / "closed");
    std::filesystem::permissions(folder_ / "closed",
                                 std::filesystem::perms::owner_read | std::filesystem::perms::owner_exec);
    EXPECT_FALSE(save(folder_ / "closed/x.h5").has_value());
  }
  EXPECT_EQ(contents(path_), bytes_);
}

// A limit on file sizes stands for a disk that fills up at some point of the write.
TEST_F(CheckpointDamageTest, FullDiskLeavesTheOldFileAndNothingElse) {
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  CheckpointInfo later = info_;
  later.step = 4;
  for (const std::size_t limit :
       {std::size_t{0}, std::size_t{100}, std::size_t{512}, std::size_t{2000}, bytes_.size() / 2, bytes_.size() - 1}) {
    rlimit small = before;
    small.rlim_cur = limit;
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    const auto saved = save_checkpoint(path_, later, layout_, {block_, block_, block_});
    setrlimit(RLIMIT_FSIZE, &before);
    ASSERT_FALSE(saved.has_value()) << limit;
    EXPECT_EQ(saved.error().code, ErrorCode::io) << saved.error().message;
    EXPECT_EQ(contents(path_), bytes_);
    EXPECT_EQ(files_in_folder(), 1U);
  }
  std::signal(SIGXFSZ, handler);
  // The same process can save again once there is room.
  ASSERT_TRUE(save_checkpoint(path_, later, layout_, {block_, block_, block_}).has_value());
  EXPECT_EQ(read_checkpoint_info(path_)->step, 4);
}

}  // namespace
}  // namespace quern
