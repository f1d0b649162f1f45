// Checksums of tensors: the hashes themselves, how the writer keeps them, and what verification says about damage.
#include "model/tensor_checksums.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "model/gguf_writer.hpp"
#include "support/gguf_builder.hpp"

namespace quern {
namespace {

using Verdict = TensorCheck::Verdict;

std::span<const std::byte> bytes_of_text(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

// FIPS 180-4's examples.
TEST(Sha256Test, GivesThePublishedHashes) {
  Sha256 hash;
  EXPECT_EQ(hash.finish(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  hash.update(bytes_of_text("abc"));
  EXPECT_EQ(hash.finish(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  hash.update(bytes_of_text("abcdbcdecdefdefgefghfghighijhijk"));
  hash.update(bytes_of_text("ijkljklmklmnlmnomnopnopq"));
  EXPECT_EQ(hash.finish(), "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

TEST(Sha256Test, SaysALineInTheOrderOfTheHeader) {
  const std::vector<std::int64_t> shape{256, 3};
  EXPECT_EQ(checksum_line(std::string(64, 'a'), ElementType::q4_k, shape, "blk.0.ffn up"),
            std::string(64, 'a') + " Q4_K 256x3 blk.0.ffn up");
}

class ChecksumFileTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(testing::TempDir()) /
              ("quern_checksums_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    path_ = (folder_ / "model.gguf").string();
    write(true);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void write(bool checksums) const {
    auto writer = GgufWriter::create(path_, {.checksums = checksums});
    ASSERT_TRUE(writer) << writer.error().message;
    writer->add_string("general.architecture", "llama");
    const std::vector<std::int64_t> norm{5}, matrix{32, 3};
    writer->declare_tensor("norm", ElementType::f32, norm);
    writer->add_u32("after.a.tensor", 7);
    writer->declare_tensor("a matrix", ElementType::q4_0, matrix);
    writer->declare_tensor("last", ElementType::iq4_nl, matrix);
    ASSERT_TRUE(writer->begin_data());
    for (const std::size_t size : {20, 54, 54}) {
      std::vector<std::byte> data(size);
      for (std::size_t i = 0; i < size; ++i) data[i] = static_cast<std::byte>(i * 7 + size + writer->left_in_tensor());
      if (size == 54 && first_matrix_) data[3] = std::byte{0x55};
      first_matrix_ = size == 20;
      ASSERT_TRUE(writer->write(std::span(data).first(9)));
      ASSERT_TRUE(writer->write(std::span(data).subspan(9)));
    }
    const auto done = writer->finish();
    ASSERT_TRUE(done) << done.error().message;
  }
  [[nodiscard]] std::string contents() const {
    std::ifstream file(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void replace(const std::string& bytes) const { std::ofstream(path_, std::ios::binary) << bytes; }
  [[nodiscard]] ChecksumReport verify(int threads = 2) const {
    const auto file = GgufFile::open(path_);
    EXPECT_TRUE(file) << file.error().message;
    ThreadTeam team(threads);
    auto report = verify_checksums(*file, team, {});
    EXPECT_TRUE(report) << report.error().message;
    return report ? *report : ChecksumReport{};
  }
  // Puts `after` in place of the only `before`, which is as long.
  [[nodiscard]] static std::string swapped(std::string text, const std::string& before, const std::string& after) {
    EXPECT_EQ(before.size(), after.size());
    const std::size_t at = text.find(before);
    EXPECT_NE(at, std::string::npos);
    EXPECT_EQ(text.find(before, at + 1), std::string::npos);
    return text.replace(at, after.size(), after);
  }

  std::filesystem::path folder_;
  std::string path_;
  mutable bool first_matrix_ = false;
};

TEST_F(ChecksumFileTest, AGoodFileIsIntactWithAnyNumberOfThreads) {
  for (const int threads : {1, 3}) {
    const ChecksumReport report = verify(threads);
    ASSERT_EQ(report.tensors.size(), 3U);
    EXPECT_TRUE(report.intact());
    EXPECT_EQ(report.tensors[1].name, "a matrix");
    EXPECT_EQ(report.tensors[1].bytes, 54U);
  }
}

TEST_F(ChecksumFileTest, TheMetadataHoldOneLineATensorWithTheHashOfItsDataAlone) {
  const auto file = GgufFile::open(path_);
  ASSERT_TRUE(file);
  const auto lines = file->strings(kChecksumKey);
  ASSERT_TRUE(lines);
  ASSERT_EQ(lines->size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) {
    const GgufTensor& tensor = file->tensors()[i];
    Sha256 hash;
    hash.update({tensor.data, tensor.bytes});
    const std::vector<std::int64_t> shape(tensor.shape.begin(), tensor.shape.begin() + tensor.dimensions);
    EXPECT_EQ((*lines)[i], checksum_line(hash.finish(), tensor.type, shape, tensor.name));
  }
  EXPECT_EQ(file->integer_or("after.a.tensor", 0, 0, 9).value_or(-1), 7);
}

TEST_F(ChecksumFileTest, EveryBitOfTheDataCounts) {
  const std::string good = contents();
  const auto file = GgufFile::open(path_);
  ASSERT_TRUE(file);
  // Data of a tensor from the end of the file: 54 bytes, padded to 64, twice; 20 padded to 32.
  const std::size_t data = good.size() - 64 - 64 - 32;
  for (const auto& [at, name] : std::vector<std::pair<std::size_t, std::string>>{
           {data, "norm"}, {data + 19, "norm"}, {data + 32, "a matrix"}, {data + 96 + 53, "last"}}) {
    for (const int bit : {0, 5, 7}) {
      std::string bad = good;
      bad[at] = static_cast<char>(bad[at] ^ (1 << bit));
      replace(bad);
      const ChecksumReport report = verify();
      EXPECT_EQ(report.count(Verdict::changed), 1U);
      EXPECT_EQ(report.count(Verdict::intact), 2U);
      for (const TensorCheck& check : report.tensors) {
        EXPECT_EQ(check.verdict == Verdict::changed, check.name == name) << check.name << " with byte " << at;
        EXPECT_EQ(check.note.starts_with("expected SHA-256 "), check.name == name) << check.note;
      }
    }
  }
  std::string padding = good;
  padding[data + 20] = 'x';
  replace(padding);
  EXPECT_TRUE(verify().intact()) << "padding is not data";
}

// Q4_0 and IQ4_NL have blocks of the same size: the data alone do not tell them apart.
TEST_F(ChecksumFileTest, AnotherTypeOverTheSameDataIsNoticed) {
  std::string bad = contents();
  const std::size_t name = bad.rfind("last");  // the descriptor: name, dimensions, sizes, type
  ASSERT_NE(name, std::string::npos);
  const std::size_t type = name + 4 + 4 + 16;
  ASSERT_EQ(bad[type], '\x14');
  bad[type] = '\x02';
  replace(bad);
  const ChecksumReport report = verify();
  EXPECT_EQ(report.tensors[2].verdict, Verdict::described);
  EXPECT_EQ(report.tensors[2].note, "expected IQ4_NL 32x3, found Q4_0 32x3");
  EXPECT_EQ(report.count(Verdict::intact), 2U);
}

TEST_F(ChecksumFileTest, RenamedMissingAndUnlistedTensorsAreTold) {
  // Only the descriptor's name has its length in front.
  const std::string length(1, '\4');
  replace(swapped(contents(), length + std::string(7, '\0') + "last", length + std::string(7, '\0') + "lost"));
  const ChecksumReport renamed = verify();
  ASSERT_EQ(renamed.tensors.size(), 3U);
  EXPECT_EQ(renamed.tensors[2].verdict, Verdict::renamed);
  EXPECT_EQ(renamed.tensors[2].note, "these are the data of 'last', which is not there");

  write(true);
  std::string other = swapped(contents(), length + std::string(7, '\0') + "last", length + std::string(7, '\0') + "lost");
  other[other.size() - 64] = static_cast<char>(other[other.size() - 64] ^ 1);
  replace(other);
  const ChecksumReport report = verify();
  ASSERT_EQ(report.tensors.size(), 4U);
  EXPECT_EQ(report.tensors[2].verdict, Verdict::not_listed);
  EXPECT_EQ(report.tensors[3].verdict, Verdict::missing);
  EXPECT_EQ(report.tensors[3].name, "last");
}

TEST_F(ChecksumFileTest, WithoutChecksumsThereIsNothingToVerify) {
  write(false);
  const auto file = GgufFile::open(path_);
  ASSERT_TRUE(file);
  EXPECT_EQ(file->find(kChecksumKey), nullptr);
  ThreadTeam team(1);
  const auto report = verify_checksums(*file, team, {});
  ASSERT_FALSE(report);
  EXPECT_EQ(report.error().message, path_ + ": there are no checksums (key 'quern.sha256') to verify");
}

TEST_F(ChecksumFileTest, AnErrorOfTheCallbackEndsTheWork) {
  const auto file = GgufFile::open(path_);
  ASSERT_TRUE(file);
  ThreadTeam team(2);
  const auto report = verify_checksums(*file, team, [](std::size_t done, std::size_t all) -> Result<void> {
    EXPECT_LE(done, all);
    return io_error("interrupted");
  });
  ASSERT_FALSE(report);
  EXPECT_EQ(report.error().message, "interrupted");
}

TEST(ChecksumLinesTest, LinesThatAreNoneAreRefused) {
  const std::string hash(64, '0');
  const std::vector<float> values(4, 1.0F);
  for (const std::string& line : {std::string("x"), hash + " F32 4", hash + " F32  a", hash.substr(1) + " F32 4 a",
                                  std::string(64, 'G') + " F32 4 a", std::string()}) {
    const auto image = GgufBuilder().texts("quern.sha256", {line}).f32_tensor("a", {4}, values).build();
    const auto file = GgufFile::parse(image, "image");
    ASSERT_TRUE(file);
    ThreadTeam team(1);
    const auto report = verify_checksums(*file, team, {});
    ASSERT_FALSE(report) << line;
    EXPECT_TRUE(report.error().message.starts_with("image: key 'quern.sha256': expected 'HASH TYPE SHAPE NAME', found '"));
  }
  const auto twice =
      GgufBuilder().texts("quern.sha256", {hash + " F32 4 a", hash + " F32 4 a"}).f32_tensor("a", {4}, values).build();
  const auto file = GgufFile::parse(twice, "image");
  ASSERT_TRUE(file);
  ThreadTeam team(1);
  const auto report = verify_checksums(*file, team, {});
  ASSERT_FALSE(report);
  EXPECT_EQ(report.error().message, "image: key 'quern.sha256': tensor 'a' is there twice");
}

TEST(ChecksumCopyTest, AnotherFilesChecksumsAreNotCopied) {
  const std::vector<float> values(4, 1.0F);
  const auto image = GgufBuilder().texts("quern.sha256", {"x"}).f32_tensor("a", {4}, values).build();
  const auto file = GgufFile::parse(image, "image");
  ASSERT_TRUE(file);
  const std::string path = testing::TempDir() + "/quern_checksum_copy.gguf";
  auto writer = GgufWriter::create(path, {.checksums = true});
  ASSERT_TRUE(writer);
  for (const GgufValue& entry : file->metadata()) writer->add(entry);
  const std::vector<std::int64_t> shape{4};
  writer->declare_tensor("a", ElementType::f32, shape);
  ASSERT_TRUE(writer->begin_data());
  ASSERT_TRUE(writer->write({file->tensors()[0].data, 16}));
  ASSERT_TRUE(writer->finish());
  const auto copy = GgufFile::open(path);
  ASSERT_TRUE(copy);
  ThreadTeam team(1);
  const auto report = verify_checksums(*copy, team, {});
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_TRUE(report->intact());
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace quern
