#include "train/batch_source.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <set>

#include "model/hdf5_file.hpp"
#include "model/hdf5_user_block.hpp"

namespace quern {
namespace {

class BatchSourceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(::testing::TempDir()) / ("quern_batch_" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // A corpus whose token i is its own index (mod the vocabulary), so that a token says where it stood.
  Corpus counting_corpus(std::int64_t train, std::int64_t validation, const std::vector<std::int64_t>& documents = {0}) {
    const std::string path = (folder_ / "x.h5").string();
    std::vector<std::int32_t> points(2000);
    for (std::int32_t i = 0; i < 2000; ++i) points[i] = i;
    auto writer = CorpusWriter::create(path, *Tokenizer::characters(points, false));
    for (const Split split : kSplits) {
      const std::int64_t count = split == Split::train ? train : validation;
      for (std::size_t d = 0; d < documents.size() && documents[d] < count; ++d) {
        const std::int64_t end = d + 1 < documents.size() ? std::min(documents[d + 1], count) : count;
        std::vector<std::int32_t> tokens;
        for (std::int64_t i = documents[d]; i < end; ++i) tokens.push_back(static_cast<std::int32_t>(i % 2000));
        writer->begin_document(split);
        EXPECT_TRUE(writer->append(split, tokens, 0));
      }
    }
    EXPECT_TRUE(writer->finish({"s", 0, "", ""}));
    return *Corpus::open(path);
  }
  std::filesystem::path folder_;
};

// Everything that must hold for any batch, and the windows' first tokens.
std::vector<std::int32_t> check_batch(const Batch& batch, const BatchSource& source) {
  const std::int64_t context = source.options().context;
  EXPECT_EQ(batch.rows(), source.rows());
  EXPECT_LE(std::ssize(batch.sequences), source.max_sequences());
  std::int64_t row = 0;
  for (const SequenceRows& sequence : batch.sequences) {
    EXPECT_EQ(sequence.first_row, row);
    EXPECT_GT(sequence.rows, 0);
    EXPECT_EQ(sequence.first_row / context, (sequence.first_row + sequence.rows - 1) / context) << "crosses a window";
    for (std::int64_t i = 0; i < sequence.rows; ++i) EXPECT_EQ(batch.positions[row + i], i);
    row += sequence.rows;
  }
  EXPECT_EQ(row, batch.rows());
  std::vector<std::int32_t> starts;
  double weights = 0;
  for (std::int64_t i = 0; i < batch.rows(); ++i) {
    weights += batch.weights[i];
    if (i % context == 0) starts.push_back(batch.inputs[i]);
    if (batch.weights[i] != 0) {
      EXPECT_EQ(batch.targets[i], (batch.inputs[i] + 1) % 2000);
    }
    if (i % context > 0 && batch.weights[i] != 0) {
      EXPECT_EQ(batch.inputs[i], batch.targets[i - 1]);
    }
  }
  EXPECT_EQ(weights, static_cast<double>(batch.target_count));
  return starts;
}

TEST(KeyedPermutation, IsABijectionThatDependsOnItsKey) {
  for (const std::uint64_t count : {1, 2, 3, 4, 5, 15, 16, 17, 1000, 4096, 4097}) {
    std::vector<bool> seen(count);
    std::uint64_t fixed = 0;
    for (std::uint64_t i = 0; i < count; ++i) {
      const std::uint64_t image = keyed_permutation(i, count, 99);
      ASSERT_LT(image, count);
      ASSERT_FALSE(seen[image]) << count;
      seen[image] = true;
      fixed += image == i ? 1 : 0;
    }
    // A random permutation has one fixed point on average.
    EXPECT_TRUE(count < 1000 || fixed < 10) << fixed;
  }
  int same = 0;
  for (std::uint64_t i = 0; i < 1000; ++i) same += keyed_permutation(i, 1000, 1) == keyed_permutation(i, 1000, 2) ? 1 : 0;
  EXPECT_LT(same, 12);
  EXPECT_LT(keyed_permutation(12345, std::uint64_t{1} << 62, 7), std::uint64_t{1} << 62);
}

TEST(KeyedPermutation, SpreadsEvenly) {
  // Where do the first 100 of 10,000 go, over 400 keys? Chi-square over 20 bins: mean 19, deviation 6.2; 50 is five of them.
  std::vector<double> bins(20);
  for (std::uint64_t key = 0; key < 400; ++key) {
    for (std::uint64_t i = 0; i < 100; ++i) ++bins[keyed_permutation(i, 10'000, key) / 500];
  }
  double chi_square = 0;
  for (const double bin : bins) chi_square += (bin - 2000) * (bin - 2000) / 2000;
  EXPECT_LT(chi_square, 50);
}

TEST(WindowSchedule, AnEpochVisitsEveryWindowOnce) {
  for (const std::int64_t context : {1, 2, 7, 64}) {
    for (const std::int64_t tokens :
         {context + 1, 2 * context - 1, 2 * context, 2 * context + 1, 10 * context + 3, std::int64_t{1000}}) {
      if (tokens <= context) continue;
      const WindowSchedule schedule(tokens, context, 5, WindowOrder::shuffled);
      const std::int64_t windows = schedule.windows_per_epoch();
      ASSERT_GE(windows, 1);
      ASSERT_GE(windows, (tokens - 1) / context - 1);
      for (std::int64_t epoch = 0; epoch < 5; ++epoch) {
        std::set<std::int64_t> starts;
        for (std::int64_t i = 0; i < windows; ++i) starts.insert(schedule.start(epoch * windows + i));
        ASSERT_EQ(std::ssize(starts), windows);
        ASSERT_GE(*starts.begin(), 0);
        ASSERT_LT(*starts.begin(), context);
        ASSERT_LE(*starts.rbegin() + context, tokens - 1) << "the last target";
        for (auto at = starts.begin(); std::next(at) != starts.end(); ++at) ASSERT_EQ(*std::next(at) - *at, context);
      }
    }
  }
}

TEST(WindowSchedule, EpochsDifferInOriginAndOrder) {
  const WindowSchedule schedule(100'000, 64, 5, WindowOrder::shuffled);
  const std::int64_t windows = schedule.windows_per_epoch();
  std::set<std::int64_t> origins;
  for (std::int64_t epoch = 0; epoch < 50; ++epoch) origins.insert(schedule.start(epoch * windows) % 64);
  EXPECT_GT(origins.size(), 25u);
  const WindowSchedule other(100'000, 64, 6, WindowOrder::shuffled);
  EXPECT_NE(schedule.start(0), other.start(0));
}

TEST(WindowSchedule, RandomStartsAreUniform) {
  constexpr std::int64_t kTokens = 110;
  constexpr std::int64_t kContext = 10;
  const WindowSchedule schedule(kTokens, kContext, 3, WindowOrder::random);
  std::map<std::int64_t, double> counts;
  for (std::int64_t i = 0; i < 100'000; ++i) ++counts[schedule.start(i)];
  EXPECT_EQ(counts.begin()->first, 0);
  EXPECT_EQ(counts.rbegin()->first, kTokens - kContext - 1);
  EXPECT_EQ(counts.size(), 100u);
  // Each count is 1000 with a deviation of 31.5; the largest of 100 lies within 4.5 of them.
  for (const auto& [start, count] : counts) EXPECT_NEAR(count, 1000, 142) << start;
}

TEST_F(BatchSourceTest, BatchesAreAFunctionOfTheirNumber) {
  const Corpus corpus = counting_corpus(1777, 300);
  for (const WindowOrder order : {WindowOrder::shuffled, WindowOrder::random}) {
    const auto source = BatchSource::create(corpus, {.batch = 3, .context = 16, .seed = 42, .order = order});
    ASSERT_TRUE(source) << source.error().message;
    EXPECT_EQ(source->max_sequences(), 3);
    EXPECT_EQ(source->micro_batches_per_epoch(), 37);  // (1777 - 16) / 16 = 110 windows
    Batch forward;
    std::vector<std::vector<std::int32_t>> inputs;
    for (std::int64_t number = 0; number < 80; ++number) {
      ASSERT_TRUE(source->fill(number, forward));
      EXPECT_EQ(forward.number, number);
      EXPECT_EQ(forward.target_count, 48);
      check_batch(forward, *source);
      inputs.push_back(forward.inputs);
    }
    Batch backward;
    for (std::int64_t number = 79; number >= 0; number -= 7) {
      ASSERT_TRUE(source->fill(number, backward));
      EXPECT_EQ(backward.inputs, inputs[number]);
    }
    EXPECT_NE(inputs[0], inputs[37]);
  }
}

TEST_F(BatchSourceTest, OneEpochCoversTheText) {
  const auto source = BatchSource::create(counting_corpus(1777, 300), {.batch = 2, .context = 16, .seed = 1});
  ASSERT_TRUE(source);
  Batch batch;
  std::vector<int> seen(1777);
  for (std::int64_t number = 0; number < 55; ++number) {
    ASSERT_TRUE(source->fill(number, batch));
    for (const std::int32_t token : batch.inputs) ++seen[token];
  }
  EXPECT_EQ(*std::max_element(seen.begin(), seen.end()), 1);
  EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), 110 * 16);
}

TEST_F(BatchSourceTest, FillingAllocatesOnlyOnce) {
  const auto source = BatchSource::create(counting_corpus(1777, 300, {0, 2, 4, 6, 8, 30, 31, 32, 400}),
                                          {.batch = 2, .context = 16, .documents = DocumentAttention::isolate});
  ASSERT_TRUE(source);
  Batch batch;
  source->prepare(batch);
  const auto* inputs = batch.inputs.data();
  const auto* sequences = batch.sequences.data();
  for (std::int64_t number = 0; number < 200; ++number) ASSERT_TRUE(source->fill(number, batch));
  EXPECT_EQ(batch.inputs.data(), inputs);
  EXPECT_EQ(batch.sequences.data(), sequences);
  EXPECT_EQ(batch.view().inputs, inputs);
  EXPECT_EQ(batch.view().sequences.size(), batch.sequences.size());
  EXPECT_EQ(batch.view().rows, 32);
}

TEST_F(BatchSourceTest, IsolationCutsAtDocuments) {
  const std::vector<std::int64_t> documents = {0, 3, 4, 20, 36, 37, 38, 39, 150, 1000};
  const std::set<std::int64_t> starts(documents.begin(), documents.end());
  const Corpus corpus = counting_corpus(1500, 300, documents);
  for (const std::int64_t context : {1, 2, 5, 16, 64}) {
    for (const bool validation : {false, true}) {
      const auto source =
          BatchSource::create(corpus, {.batch = 3, .context = context, .seed = 9, .documents = DocumentAttention::isolate});
      ASSERT_TRUE(source);
      Batch batch;
      std::int64_t most = 0;
      for (std::int64_t number = 0; number < 600; ++number) {
        if (validation && number >= source->validation_windows()) break;
        ASSERT_TRUE(validation ? source->fill_validation(number, batch) : source->fill(number, batch));
        check_batch(batch, *source);
        most = std::max(most, std::ssize(batch.sequences));
        // The reference, token by token.
        for (std::int64_t row = 0; row < batch.rows(); ++row) {
          const std::int64_t token = batch.inputs[row];
          const bool padding = validation && number * context + row >= 299;
          if (padding) {
            ASSERT_EQ(batch.weights[row], 0.0F);
            continue;
          }
          const bool begins = row % context == 0 || starts.count(token) > 0;
          ASSERT_EQ(batch.positions[row], begins ? 0 : batch.positions[row - 1] + 1) << token;
          ASSERT_EQ(batch.weights[row], starts.count(token + 1) > 0 ? 0.0F : 1.0F) << token;
        }
      }
      EXPECT_LE(most, source->max_sequences());
    }
  }
  const auto small = BatchSource::create(corpus, {.batch = 1, .context = 5, .documents = DocumentAttention::isolate});
  EXPECT_EQ(small->max_sequences(), 5) << "36, 37, 38 and 39 begin inside the window from 35";
}

TEST_F(BatchSourceTest, ValidationCountsEveryTokenOnce) {
  for (const std::int64_t validation : {2, 16, 17, 18, 32, 33, 34, 300}) {
    const auto source = BatchSource::create(counting_corpus(100, validation), {.batch = 4, .context = 16});
    ASSERT_TRUE(source);
    EXPECT_EQ(source->validation_windows(), (validation - 2) / 16 + 1);
    std::vector<int> targets(static_cast<std::size_t>(validation));
    Batch batch;
    std::int64_t counted = 0;
    for (std::int64_t first = 0; first < source->validation_windows(); first += 4) {
      ASSERT_TRUE(source->fill_validation(first, batch));
      check_batch(batch, *source);
      counted += batch.target_count;
      for (std::int64_t row = 0; row < batch.rows(); ++row) {
        if (batch.weights[row] == 0) continue;
        EXPECT_EQ(batch.inputs[row], first * 16 + row);
        ++targets[batch.targets[row]];
      }
    }
    EXPECT_EQ(counted, validation - 1);
    EXPECT_EQ(targets[0], 0);
    EXPECT_EQ(std::count(targets.begin(), targets.end(), 1), validation - 1);
    ASSERT_TRUE(source->fill_validation(1'000'000, batch));
    EXPECT_EQ(batch.target_count, 0);
  }
}

TEST_F(BatchSourceTest, BadOptionsAreErrors) {
  const Corpus corpus = counting_corpus(100, 50);
  EXPECT_TRUE(BatchSource::create(corpus, {.batch = 1, .context = 99}));
  const auto long_context = BatchSource::create(corpus, {.batch = 1, .context = 100});
  ASSERT_FALSE(long_context);
  EXPECT_NE(long_context.error().message.find("the train split has 100 tokens; a context of 100 needs at least 101"),
            std::string::npos);
  EXPECT_FALSE(BatchSource::create(corpus, {.batch = 0, .context = 10}));
  EXPECT_FALSE(BatchSource::create(corpus, {.batch = 1, .context = 0}));
  EXPECT_FALSE(BatchSource::create(corpus, {.batch = INT64_MAX, .context = 2}));
  EXPECT_FALSE(BatchSource::create(counting_corpus(100, 1), {.batch = 1, .context = 10}));
}

TEST_F(BatchSourceTest, PrefetchingEqualsFilling) {
  const auto source = BatchSource::create(counting_corpus(1777, 300), {.batch = 3, .context = 16, .seed = 4});
  ASSERT_TRUE(source);
  Batch expected;
  BatchPrefetcher prefetcher(*source, 11);
  for (std::int64_t number = 11; number < 211; ++number) {
    const auto batch = prefetcher.next();
    ASSERT_TRUE(batch);
    ASSERT_TRUE(source->fill(number, expected));
    ASSERT_EQ((*batch)->number, number);
    ASSERT_EQ((*batch)->inputs, expected.inputs);
    ASSERT_EQ((*batch)->targets, expected.targets);
  }
}

TEST_F(BatchSourceTest, APrefetcherStopsAtAnyTime) {
  const auto source = BatchSource::create(counting_corpus(1777, 300), {.batch = 3, .context = 16});
  ASSERT_TRUE(source);
  for (int taken = 0; taken < 6; ++taken) {
    BatchPrefetcher prefetcher(*source, 0);
    for (int i = 0; i < taken; ++i) ASSERT_TRUE(prefetcher.next());
  }
}

TEST_F(BatchSourceTest, APrefetcherReportsWhatTheCorpusReports) {
  // A corpus with a token outside its vocabulary: 300 bytes' ids in a tokenizer of 256.
  const std::string path = (folder_ / "bad.h5").string();
  {
    auto file = Hdf5File::create(path, internal::kUserBlockBytes);
    Hdf5Group& root = file->root();
    ASSERT_TRUE(root.write_text("tokenizer", Tokenizer().to_json()));
    for (const std::string split : {"train", "validation"}) {
      auto group = root.create_group(split);
      auto tokens = group->create_dataset("tokens", {.type = Hdf5Type::u16, .shape = {100}});
      auto documents = group->create_dataset("documents", {.type = Hdf5Type::i64, .shape = {1}});
      const std::vector<std::uint16_t> bad(100, 300);
      const std::vector<std::int64_t> zero = {0};
      ASSERT_TRUE(tokens->write(std::span<const std::uint16_t>(bad)));
      ASSERT_TRUE(documents->write(std::span<const std::int64_t>(zero)));
      ASSERT_TRUE(group->set_attribute("text_bytes", std::int64_t{0}));
    }
    for (const std::string name : {"quern_version", "source", "source_xxh3"}) ASSERT_TRUE(root.set_attribute(name, "x"));
    ASSERT_TRUE(root.set_attribute("format", "quern-corpus"));
    ASSERT_TRUE(root.set_attribute("format_version", std::int64_t{2}));
    ASSERT_TRUE(root.set_attribute("source_bytes", std::int64_t{0}));
    ASSERT_TRUE(root.set_attribute("vocab_size", std::int64_t{256}));
    ASSERT_TRUE(file->close());
    ASSERT_TRUE(internal::write_user_block(path, internal::kCorpusBlock));
  }
  const auto corpus = Corpus::open(path);
  ASSERT_TRUE(corpus) << corpus.error().message;
  const auto source = BatchSource::create(*corpus, {.batch = 1, .context = 8});
  ASSERT_TRUE(source);
  BatchPrefetcher prefetcher(*source, 0);
  for (int twice = 0; twice < 2; ++twice) {
    const auto batch = prefetcher.next();
    ASSERT_FALSE(batch);
    EXPECT_NE(batch.error().message.find("expected less than the vocabulary's 256, found 300"), std::string::npos);
  }
}

}  // namespace
}  // namespace quern
