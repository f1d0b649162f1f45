#include "train/corpus.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <thread>

#include "model/hdf5_file.hpp"
#include "model/hdf5_user_block.hpp"

// The HDF5 library leaks a little when it meets damaged metadata, which these tests make it do.
extern "C" const char* __lsan_default_suppressions();
extern "C" const char* __lsan_default_suppressions() { return "leak:libhdf5"; }

namespace quern {
namespace {

constexpr std::int64_t kChunk = 32768;

class CorpusTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(::testing::TempDir()) / ("quern_corpus_" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string path(const std::string& name = "x.h5") const { return (folder_ / name).string(); }
  std::size_t files() const {
    return static_cast<std::size_t>(
        std::distance(std::filesystem::directory_iterator(folder_), std::filesystem::directory_iterator()));
  }
  std::filesystem::path folder_;
};

std::vector<std::int32_t> random_tokens(std::int64_t count, std::int32_t vocab, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(count));
  for (auto& token : tokens) token = static_cast<std::int32_t>(random() % static_cast<unsigned>(vocab));
  return tokens;
}

Tokenizer wide_tokenizer(std::int32_t characters) {
  std::vector<std::int32_t> points;
  for (std::int32_t point = 0; std::ssize(points) < characters; ++point) {
    if (point < 0xD800 || point > 0xDFFF) points.push_back(point);
  }
  return *Tokenizer::characters(points, false);
}

TEST_F(CorpusTest, RoundTripsAcrossChunkBorders) {
  for (const std::int32_t vocab : {257, 70000}) {
    const Tokenizer tokenizer = vocab == 257 ? Tokenizer::bytes(true) : wide_tokenizer(vocab);
    const auto train = random_tokens(3 * kChunk + 17, vocab, 1);
    const auto validation = random_tokens(kChunk, vocab, 2);
    {
      auto writer = CorpusWriter::create(path(), tokenizer);
      ASSERT_TRUE(writer) << writer.error().message;
      std::mt19937 random(3);
      writer->begin_document(Split::train);
      writer->begin_document(Split::validation);
      for (std::size_t at = 0; at < train.size();) {
        if (at > 0 && random() % 2 == 0) writer->begin_document(Split::train);
        const std::size_t part = std::min<std::size_t>(random() % 50'000, train.size() - at);
        ASSERT_TRUE(writer->append(Split::train, std::span(train).subspan(at, part), 2 * static_cast<std::int64_t>(part)));
        at += part;
      }
      writer->begin_document(Split::train);  // gets no tokens: leaves no trace
      ASSERT_TRUE(writer->append(Split::validation, validation, 5));
      EXPECT_FALSE(std::filesystem::exists(path()) && vocab == 257) << "nothing is at the target before finish()";
      ASSERT_TRUE(writer->finish({"a source", 1'000'000, "0123456789abcdef", "1.2.3"}));
    }
    for (const std::size_t cache_bytes : {std::size_t{0}, std::size_t{2 * 4 * kChunk}, std::size_t{16} << 20}) {
      const auto corpus = Corpus::open(path(), {.cache_bytes = cache_bytes});
      ASSERT_TRUE(corpus) << corpus.error().message;
      EXPECT_TRUE(corpus->tokenizer() == tokenizer);
      EXPECT_EQ(corpus->info().source, "a source");
      EXPECT_EQ(corpus->info().source_bytes, 1'000'000);
      EXPECT_EQ(corpus->info().source_xxh3, "0123456789abcdef");
      EXPECT_EQ(corpus->info().quern_version, "1.2.3");
      EXPECT_EQ(corpus->tokens(Split::train), std::ssize(train));
      EXPECT_EQ(corpus->tokens(Split::validation), std::ssize(validation));
      EXPECT_EQ(corpus->text_bytes(Split::train), 2 * std::ssize(train));
      EXPECT_EQ(corpus->text_bytes(Split::validation), 5);
      EXPECT_GT(corpus->documents(Split::train).size(), 1u);
      EXPECT_LT(corpus->documents(Split::train).back(), std::ssize(train));
      EXPECT_EQ(corpus->documents(Split::validation).size(), 1u);
      std::vector<std::int32_t> all(train.size());
      ASSERT_TRUE(corpus->read(Split::train, 0, all));
      EXPECT_EQ(all, train);
      std::mt19937 random(4);
      for (int round = 0; round < 60; ++round) {
        const auto count = static_cast<std::int64_t>(random() % (round % 2 == 0 ? 300 : 70'000));
        const auto offset = round % 3 == 0 ? kChunk - count / 2 : static_cast<std::int64_t>(random() % 28'000);
        std::vector<std::int32_t> part(static_cast<std::size_t>(count));
        ASSERT_TRUE(corpus->read(Split::train, std::max<std::int64_t>(offset, 0), part));
        ASSERT_TRUE(std::equal(part.begin(), part.end(), train.begin() + std::max<std::int64_t>(offset, 0)));
      }
      std::vector<std::int32_t> part(10);
      EXPECT_TRUE(corpus->read(Split::validation, kChunk - 10, part));
      EXPECT_FALSE(corpus->read(Split::validation, kChunk - 9, part));
      EXPECT_FALSE(corpus->read(Split::validation, -1, part));
      EXPECT_FALSE(corpus->read(Split::validation, INT64_MAX - 3, part));
    }
  }
}

TEST_F(CorpusTest, ThreadsShareACorpus) {
  const auto train = random_tokens(6 * kChunk, 256, 5);
  {
    auto writer = CorpusWriter::create(path(), Tokenizer());
    writer->begin_document(Split::train);
    writer->begin_document(Split::validation);
    ASSERT_TRUE(writer->append(Split::train, train, std::ssize(train)));
    ASSERT_TRUE(writer->append(Split::validation, random_tokens(9, 256, 1), 9));
    ASSERT_TRUE(writer->finish({"s", std::ssize(train) + 9, "", ""}));
  }
  const auto corpus = Corpus::open(path(), {.cache_bytes = 0});
  ASSERT_TRUE(corpus);
  std::array<bool, 3> good = {true, true, true};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      std::vector<std::int32_t> part(500);
      for (int round = 0; round < 60; ++round) {
        const auto offset = static_cast<std::int64_t>(random() % (train.size() - 500));
        good[t] = good[t] && corpus->read(Split::train, offset, part) &&
                  std::equal(part.begin(), part.end(), train.begin() + offset);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(good[0] && good[1] && good[2]);
}

TEST_F(CorpusTest, AnUnfinishedWriterLeavesNothing) {
  {
    auto writer = CorpusWriter::create(path(), Tokenizer());
    ASSERT_TRUE(writer);
    writer->begin_document(Split::train);
    ASSERT_TRUE(writer->append(Split::train, random_tokens(99, 256, 1), 99));
    const auto finished = writer->finish({"notes.txt", 99, "", ""});
    ASSERT_FALSE(finished);
    EXPECT_EQ(finished.error().message, "notes.txt: the validation split has no tokens");
  }
  EXPECT_EQ(files(), 0u);
  auto writer = CorpusWriter::create(path(), Tokenizer());
  writer->begin_document(Split::train);
  EXPECT_FALSE(writer->append(Split::train, std::vector<std::int32_t>(kChunk, 256), 1)) << "not below vocab_size";
}

// ---- files that are not what they must be

// A corpus as plain data, to be bent before it is written.
struct Raw {
  std::string format = "quern-corpus";
  std::int64_t version = 2;
  std::int64_t vocab_size = 256;
  std::int64_t source_bytes = 100;
  std::int64_t text_bytes = 50;
  std::string tokenizer = Tokenizer().to_json();
  std::vector<std::uint16_t> tokens = std::vector<std::uint16_t>(100, 7);
  std::vector<std::int64_t> documents = {0, 30, 60};
  int deflate = 0;
  std::int64_t claimed_tokens = -1;  // more than are written
  std::function<void(Hdf5Group&)> extra = [](Hdf5Group&) {};
  std::string leave_out = {};
};

void write_raw(const std::string& path, const Raw& raw) {
  auto file = Hdf5File::create(path, internal::kUserBlockBytes);
  ASSERT_TRUE(file);
  Hdf5Group& root = file->root();
  const auto wanted = [&raw](const std::string& name) { return raw.leave_out != name; };
  if (wanted("format")) {
    ASSERT_TRUE(root.set_attribute("format", raw.format));
  }
  if (wanted("format_version")) {
    ASSERT_TRUE(root.set_attribute("format_version", raw.version));
  }
  if (wanted("vocab_size")) {
    ASSERT_TRUE(root.set_attribute("vocab_size", raw.vocab_size));
  }
  if (wanted("quern_version")) {
    ASSERT_TRUE(root.set_attribute("quern_version", "0"));
  }
  if (wanted("source")) {
    ASSERT_TRUE(root.set_attribute("source", "s"));
  }
  if (wanted("source_xxh3")) {
    ASSERT_TRUE(root.set_attribute("source_xxh3", "0"));
  }
  if (wanted("source_bytes")) {
    ASSERT_TRUE(root.set_attribute("source_bytes", raw.source_bytes));
  }
  if (wanted("/tokenizer")) {
    ASSERT_TRUE(root.write_text("tokenizer", raw.tokenizer));
  }
  for (const std::string split : {"train", "validation"}) {
    if (!wanted("/" + split)) continue;
    auto group = root.create_group(split);
    if (wanted("text_bytes")) {
      ASSERT_TRUE(group->set_attribute("text_bytes", raw.text_bytes));
    }
    const auto count = raw.claimed_tokens >= 0 ? raw.claimed_tokens : std::ssize(raw.tokens);
    if (wanted("/" + split + "/tokens")) {
      auto tokens = group->create_dataset(
          "tokens", {.type = Hdf5Type::u16, .shape = {count}, .chunk_rows = 64, .growable = true, .deflate = raw.deflate});
      ASSERT_TRUE(tokens);
      ASSERT_TRUE(tokens->write_rows(0, std::ssize(raw.tokens), std::span<const std::uint16_t>(raw.tokens)));
    }
    if (wanted("/" + split + "/documents")) {
      auto documents = group->create_dataset("documents", {.type = Hdf5Type::i64, .shape = {std::ssize(raw.documents)}});
      ASSERT_TRUE(documents);
      ASSERT_TRUE(documents->write(std::span<const std::int64_t>(raw.documents)));
    }
  }
  raw.extra(root);
  ASSERT_TRUE(file->close());
  ASSERT_TRUE(internal::write_user_block(path, internal::kCorpusBlock));
}

TEST_F(CorpusTest, EveryFaultHasItsSentence) {
  const auto fault = [this](const Raw& raw) {
    write_raw(path(), raw);
    const auto corpus = Corpus::open(path());
    return corpus ? std::string("opened") : corpus.error().message;
  };
  EXPECT_EQ(fault(Raw{}), "opened");
  EXPECT_EQ(fault({.format = "quern-checkpoint"}),
            path() + ": attribute \"format\": expected \"quern-corpus\", found \"quern-checkpoint\"");
  EXPECT_EQ(fault({.version = 1}), path() + ": attribute \"format_version\": expected 2, found 1");
  EXPECT_EQ(fault({.vocab_size = 255}),
            path() + ": attribute \"vocab_size\": expected 256, as the tokenizer has, found 255");
  EXPECT_EQ(fault({.source_bytes = -1}), path() + ": attribute \"source_bytes\": expected at least 0, found -1");
  EXPECT_EQ(fault({.text_bytes = 101}), path() + ": /train: attribute \"text_bytes\": expected 0 to 100, found 101");
  EXPECT_EQ(fault({.tokenizer = "{"}), path() + ": /tokenizer: tokenizer: expected JSON, found a syntax error");
  EXPECT_EQ(fault({.tokens = {}, .documents = {}}), path() + ": /train/tokens: expected at least one entry, found none");
  EXPECT_EQ(fault({.documents = {}}), path() + ": /train/documents: expected at least one entry, found none");
  EXPECT_EQ(fault({.documents = {1, 2}}),
            path() + ": /train/documents: entry 0: expected ascending starts from 0 below 100, found 1 after -1");
  EXPECT_EQ(fault({.documents = {0, 5, 5}}),
            path() + ": /train/documents: entry 2: expected ascending starts from 0 below 100, found 5 after 5");
  EXPECT_EQ(fault({.documents = {0, 100}}),
            path() + ": /train/documents: entry 1: expected ascending starts from 0 below 100, found 100 after 0");
  EXPECT_EQ(fault({.documents = {0, INT64_MIN}}),
            path() +
                ": /train/documents: entry 1: expected ascending starts from 0 below 100, found -9223372036854775808 "
                "after 0");
  EXPECT_EQ(fault({.documents = std::vector<std::int64_t>(101)}),
            path() + ": /train/documents: expected at most 100 entries, one per token, found 101");
  EXPECT_EQ(fault({.claimed_tokens = std::int64_t{1} << 50}),
            path() + ": /train/tokens: expected 2251799813685248 bytes in the file, found 256");
  EXPECT_NE(fault({.deflate = 1}).find("/train/tokens: expected uncompressed chunks"), std::string::npos);
  EXPECT_EQ(fault({.leave_out = "format"}),
            path() + ": expected a corpus made by `quern data prepare`, found another HDF5 file");
  for (const std::string name : {"format_version", "vocab_size", "quern_version", "source", "source_xxh3", "source_bytes"}) {
    EXPECT_EQ(fault({.leave_out = name}), path() + ": /: attribute \"" + name + "\" is missing");
  }
  EXPECT_EQ(fault({.leave_out = "text_bytes"}), path() + ": /train: attribute \"text_bytes\" is missing");
  for (const std::string name :
       {"/tokenizer", "/train", "/validation", "/train/tokens", "/train/documents", "/validation/tokens"}) {
    EXPECT_EQ(fault({.leave_out = name}), path() + ": " + name + " is missing");
  }
}

TEST_F(CorpusTest, WrongTypesAreRefused) {
  const auto with_tokens = [this](Hdf5Type type, std::vector<std::int64_t> shape) {
    write_raw(path(), {.extra =
                           [&](Hdf5Group& root) {
                             ASSERT_TRUE(root.create_dataset("validation/tokens", {.type = type, .shape = shape}));
                           },
                       .leave_out = "/validation/tokens"});
    return Corpus::open(path()).error().message;
  };
  EXPECT_EQ(with_tokens(Hdf5Type::u32, {100}), path() + ": /validation/tokens: expected uint16, found uint32");
  EXPECT_EQ(with_tokens(Hdf5Type::f32, {100}), path() + ": /validation/tokens: expected uint16, found float32");
  EXPECT_EQ(with_tokens(Hdf5Type::u16, {10, 10}), path() + ": /validation/tokens: expected shape [any], found [10, 10]");
}

TEST_F(CorpusTest, TokensOutsideTheVocabularyAreFoundWhenRead) {
  Raw raw;
  raw.tokens[90] = 256;
  write_raw(path(), raw);
  const auto corpus = Corpus::open(path());
  ASSERT_TRUE(corpus);
  std::vector<std::int32_t> part(4);
  for (int twice = 0; twice < 2; ++twice) {
    const auto read = corpus->read(Split::train, 0, part);
    ASSERT_FALSE(read) << "a bad block is never cached";
    EXPECT_EQ(read.error().message,
              path() + ": /train/tokens: token 90: expected less than the vocabulary's 256, found 256");
  }
}

TEST_F(CorpusTest, DamageIsSeenBeforeTheHdf5Library) {
  write_raw(path(), {});
  std::string whole;
  {
    std::ifstream in(path(), std::ios::binary);
    whole.assign(std::istreambuf_iterator<char>(in), {});
  }
  ASSERT_GT(whole.size(), 1000u);
  const auto try_all = [this](const std::string& bytes) {
    { std::ofstream(path("damaged.h5"), std::ios::binary) << bytes; }
    const auto corpus = Corpus::open(path("damaged.h5"));
    if (!corpus) return false;
    for (const Split split : kSplits) {
      std::vector<std::int32_t> all(static_cast<std::size_t>(corpus->tokens(split)));
      (void)corpus->read(split, 0, all);
    }
    return true;
  };
  EXPECT_TRUE(try_all(whole));
  for (std::size_t keep = 0; keep < whole.size(); keep += 61) EXPECT_FALSE(try_all(whole.substr(0, keep))) << keep;
  std::mt19937 random(8);
  for (int round = 0; round < 200; ++round) {
    std::string damaged = whole;
    for (int i = 0; i < 1 + round % 4; ++i)
      damaged[random() % (damaged.size() / 4) * 4 + static_cast<std::size_t>(i)] ^= static_cast<char>(1 << random() % 8);
    EXPECT_FALSE(try_all(damaged));
  }
}

}  // namespace
}  // namespace quern
