// Scoring of chunks, perplexity and KL divergence against plain computations in double precision.
#include "infer/perplexity.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "infer/logits_base.hpp"
#include "support/model_harness.hpp"
#include "support/tests_paths.hpp"

namespace quern {
namespace {

std::vector<std::int32_t> random_tokens(std::int64_t count, std::int64_t vocab, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(count));
  for (auto& token : tokens) token = static_cast<std::int32_t>(random() % static_cast<std::uint64_t>(vocab));
  return tokens;
}

const NamedModel& rope_model() {
  static const std::vector<NamedModel> models = tiny_models();
  const auto found = std::find_if(models.begin(), models.end(),
                                  [](const NamedModel& model) { return model.config.position == PositionKind::rope; });
  return found != models.end() ? *found : models.front();
}

/// log p of every vocabulary entry after each scored position, row by row, by running each chunk alone, whole.
std::vector<std::vector<double>> plain_log_probabilities(ModelHarness& harness, const ScoringChunks& chunks) {
  const Decoder::Limits limits{.batch_tokens = chunks.context, .context_tokens = chunks.context, .all_logits = true};
  auto decoder = Decoder::create(harness.backend, harness.weights, harness.team, limits).value();
  std::vector<std::vector<double>> rows;
  for (std::int64_t chunk = 0; chunk < chunks.count(); ++chunk) {
    const auto sequence = decoder->cache().add_sequence().value();
    const SequenceTokens entry{sequence, chunks.chunk(chunk)};
    EXPECT_TRUE(decoder->forward(std::span(&entry, 1)));
    for (std::int64_t position = chunks.context / 2; position <= chunks.context - 2; ++position) {
      std::vector<double> row(decoder->logits(position).begin(), decoder->logits(position).end());
      double sum = 0.0;
      for (const double logit : row) sum += std::exp(logit);
      for (double& logit : row) logit -= std::log(sum);
      rows.push_back(std::move(row));
    }
    decoder->cache().remove_sequence(sequence);
  }
  return rows;
}

std::int32_t target_of(const ScoringChunks& chunks, std::size_t row) {
  const auto scored = static_cast<std::size_t>(chunks.context - 1 - chunks.context / 2);
  const std::size_t position = static_cast<std::size_t>(chunks.context) / 2 + row % scored;
  return chunks.tokens[row / scored * static_cast<std::size_t>(chunks.context) + position + 1];
}

TEST(ScoringChunks, CutsDropsAndReplaces) {
  const std::vector<std::int32_t> tokens = random_tokens(33, 50, 1);
  const auto chunks = ScoringChunks::cut(tokens, 10, 0, 7, "t");
  ASSERT_TRUE(chunks);
  EXPECT_EQ(chunks->count(), 3);
  EXPECT_EQ(chunks->first_scored(), 5);
  EXPECT_EQ(chunks->scored(), 4);  // positions 5 to 8 predict tokens 6 to 9
  EXPECT_EQ(chunks->rows(), 12);
  for (std::int64_t i = 0; i < 3; ++i) {
    EXPECT_EQ(chunks->chunk(i)[0], 7);
    EXPECT_TRUE(std::equal(chunks->chunk(i).begin() + 1, chunks->chunk(i).end(), tokens.begin() + 10 * i + 1));
  }
  EXPECT_EQ(ScoringChunks::cut(tokens, 10, 2, {}, "t")->count(), 2);
  EXPECT_EQ(ScoringChunks::cut(tokens, 10, 9, {}, "t")->count(), 3);
  EXPECT_EQ(ScoringChunks::cut(tokens, 10, 0, {}, "t")->chunk(1)[0], tokens[10]);
  const auto odd = ScoringChunks::cut(tokens, 11, 0, {}, "t");
  EXPECT_EQ(odd->first_scored(), 5);
  EXPECT_EQ(odd->scored(), 5);
  EXPECT_FALSE(ScoringChunks::cut(tokens, 34, 0, {}, "t"));
  EXPECT_FALSE(ScoringChunks::cut(tokens, 3, 0, {}, "t"));
}

TEST(LogNormalizer, IsExactWhereFloatsAreNot) {
  std::vector<float> logits(1000, 1000.0F);
  EXPECT_NEAR(log_normalizer(logits), 1000.0 + std::log(1000.0), 1e-9);
  logits.assign(1000, -1000.0F);
  logits[3] = -INFINITY;
  EXPECT_NEAR(log_normalizer(logits), -1000.0 + std::log(999.0), 1e-9);
  logits[5] = NAN;
  EXPECT_FALSE(std::isfinite(log_normalizer(logits)));
  logits[5] = INFINITY;
  EXPECT_FALSE(std::isfinite(log_normalizer(logits)));
  EXPECT_FALSE(std::isfinite(log_normalizer(std::vector<float>(3, -INFINITY))));
}

TEST(Perplexity, MeanAndErrorOfKnownValues) {
  const std::vector<double> nll = {1.0, 2.0, 3.0, 6.0};
  const Perplexity perplexity = perplexity_of(nll);
  EXPECT_EQ(perplexity.tokens, 4);
  EXPECT_DOUBLE_EQ(perplexity.mean_nll, 3.0);
  EXPECT_DOUBLE_EQ(perplexity.value, std::exp(3.0));
  // Squares 4 + 1 + 0 + 9 = 14; variance 14 / 3; of the mean 14 / 12.
  EXPECT_DOUBLE_EQ(perplexity.error, std::exp(3.0) * std::sqrt(14.0 / 12.0));
  EXPECT_EQ(perplexity_of(std::vector<double>{2.0}).error, 0.0);
}

TEST(ScoreChunks, EqualsPlainComputationForAnyBatching) {
  const ModelConfig& config = rope_model().config;
  ModelHarness harness(config, {supported_kernels().front(), false}, ComputeType::f32, 2, 80);
  const std::int64_t context = std::min<std::int64_t>(config.context, 14);
  const std::vector<std::int32_t> tokens = random_tokens(5 * context + 3, config.vocab, 2);
  const ScoringChunks chunks = ScoringChunks::cut(tokens, context, 0, 1, "t").value();
  const auto expected = plain_log_probabilities(harness, chunks);
  ASSERT_EQ(std::ssize(expected), chunks.rows());

  Decoder::Limits standard = scoring_limits(chunks, config.vocab);
  EXPECT_EQ(standard.sequences, 5) << "several chunks in one batch";
  std::vector<Decoder::Limits> all{standard};
  for (const auto& [sequences, batch, rows] : {std::tuple{1, 5, 2}, std::tuple{2, 3, 2}, std::tuple{3, 64, 7}}) {
    Decoder::Limits limits = standard;
    limits.sequences = sequences;
    limits.batch_tokens = batch;
    limits.logit_rows = rows;
    all.push_back(limits);
  }
  for (const Decoder::Limits& limits : all) {
    SCOPED_TRACE(limits.batch_tokens);
    auto decoder = Decoder::create(harness.backend, harness.weights, harness.team, limits).value();
    std::int64_t seen = 0, done = 0;
    const auto nll = score_chunks(
        *decoder, harness.team, chunks,
        [&](std::span<const ScoredRow> rows) -> Result<void> {
          for (const ScoredRow& row : rows) {
            EXPECT_EQ(row.target, target_of(chunks, static_cast<std::size_t>(row.index)));
            EXPECT_EQ(std::ssize(row.logits), config.vocab);
          }
          seen += std::ssize(rows);
          return {};
        },
        [&](std::int64_t count) { done = count; });
    ASSERT_TRUE(nll) << nll.error().message;
    EXPECT_EQ(seen, chunks.rows());
    EXPECT_EQ(done, 5);
    for (std::size_t i = 0; i < nll->size(); ++i) {
      EXPECT_NEAR((*nll)[i], -expected[i][static_cast<std::size_t>(target_of(chunks, i))], 1e-9) << i;
    }
  }
}

TEST(ScoreChunks, ErrorsOfTheVisitorEndTheScoringAndGiveTheCacheBack) {
  const ModelConfig& config = rope_model().config;
  ModelHarness harness(config, {supported_kernels().front(), false}, ComputeType::f32, 1, 80);
  const ScoringChunks chunks = ScoringChunks::cut(random_tokens(40, config.vocab, 3), 8, 0, {}, "t").value();
  auto decoder =
      Decoder::create(harness.backend, harness.weights, harness.team, scoring_limits(chunks, config.vocab)).value();
  const std::int64_t free_tokens = decoder->cache().free_tokens();
  const auto nll = score_chunks(*decoder, harness.team, chunks,
                                [](std::span<const ScoredRow>) -> Result<void> { return bad_input("enough"); });
  ASSERT_FALSE(nll);
  EXPECT_EQ(nll.error().message, "enough");
  EXPECT_EQ(decoder->cache().free_tokens(), free_tokens);
  EXPECT_TRUE(score_chunks(*decoder, harness.team, chunks));
}

/// A base file of one model and what another (other parameters) has to do with it, plainly.
class KlDivergence : public testing::Test {
 protected:
  KlDivergence()
      : config_(rope_model().config),
        base_model_(config_, {supported_kernels().front(), false}, ComputeType::f32, 2, 80, 7),
        other_model_(config_, {supported_kernels().front(), false}, ComputeType::f32, 2, 80, 8),
        chunks_(ScoringChunks::cut(random_tokens(50, config_.vocab, 4), 12, 0, {}, "t").value()),
        path_((folder_ / "base.h5").string()) {}

  void SetUp() override {
    auto decoder = make_decoder(base_model_);
    auto writer = LogitsBaseWriter::create(path_, chunks_, config_.vocab, "a model");
    ASSERT_TRUE(writer) << writer.error().message;
    const auto nll = score_chunks(*decoder, base_model_.team, chunks_,
                                  [&](std::span<const ScoredRow> rows) { return writer->write(rows, base_model_.team); });
    ASSERT_TRUE(nll) << nll.error().message;
    EXPECT_FALSE(std::filesystem::exists(path_));
    const auto committed = writer->commit();
    ASSERT_TRUE(committed) << committed.error().message;
    base_nll_ = *nll;
  }

  std::unique_ptr<Decoder> make_decoder(ModelHarness& harness) {
    return Decoder::create(harness.backend, harness.weights, harness.team, scoring_limits(chunks_, config_.vocab)).value();
  }
  KlSummary compare(ModelHarness& harness) {
    const auto base = LogitsBase::open(path_);
    EXPECT_TRUE(base) << base.error().message;
    KlComparison comparison(*base);
    auto decoder = make_decoder(harness);
    const auto nll = score_chunks(*decoder, harness.team, chunks_,
                                  [&](std::span<const ScoredRow> rows) { return comparison.add(rows, harness.team); });
    EXPECT_TRUE(nll) << nll.error().message;
    return comparison.summary(*nll);
  }

  TemporaryFolder folder_;
  ModelConfig config_;
  ModelHarness base_model_, other_model_;
  ScoringChunks chunks_;
  std::string path_;
  std::vector<double> base_nll_;
};

TEST_F(KlDivergence, BaseFileKeepsTokensAndLogProbabilitiesWithinHalfAStep) {
  const auto base = LogitsBase::open(path_);
  ASSERT_TRUE(base) << base.error().message;
  EXPECT_EQ(base->chunks().tokens, chunks_.tokens);
  EXPECT_EQ(base->chunks().context, 12);
  EXPECT_EQ(base->vocab(), config_.vocab);
  EXPECT_EQ(base->model(), "a model");
  EXPECT_TRUE(std::equal(base_nll_.begin(), base_nll_.end(), base->negative_log_likelihoods().begin()));
  const auto expected = plain_log_probabilities(base_model_, chunks_);
  std::vector<std::uint16_t> steps(static_cast<std::size_t>(config_.vocab));
  std::vector<float> scales(2);
  for (std::int64_t row = 0; row < chunks_.rows(); ++row) {
    ASSERT_TRUE(base->read(row, 1, steps, scales));
    for (std::size_t i = 0; i < steps.size(); ++i) {
      EXPECT_NEAR(scales[0] + static_cast<double>(scales[1]) * steps[i], expected[static_cast<std::size_t>(row)][i],
                  scales[1] * 0.5001 + 1e-6);
    }
  }
}

TEST_F(KlDivergence, OfAModelFromItselfIsNothing) {
  const KlSummary summary = compare(base_model_);
  EXPECT_LE(summary.largest, 1e-7);  // half a step of less than 24 / 65535, squared
  EXPECT_GE(summary.smallest, -1e-12);
  EXPECT_EQ(summary.top_agreement, 1.0);
  EXPECT_EQ(summary.rms_probability_change, 0.0);
  EXPECT_DOUBLE_EQ(summary.perplexity_ratio, 1.0);
  EXPECT_EQ(summary.model.value, summary.base.value);
}

TEST_F(KlDivergence, OfAnotherModelEqualsPlainComputation) {
  const KlSummary summary = compare(other_model_);
  const auto p = plain_log_probabilities(base_model_, chunks_), q = plain_log_probabilities(other_model_, chunks_);
  std::vector<double> divergence, log_ratio;
  double same = 0.0, squares = 0.0;
  for (std::size_t row = 0; row < p.size(); ++row) {
    double sum = 0.0;
    for (std::size_t i = 0; i < p[row].size(); ++i) sum += std::exp(p[row][i]) * (p[row][i] - q[row][i]);
    divergence.push_back(sum);
    same += std::max_element(p[row].begin(), p[row].end()) - p[row].begin() ==
                    std::max_element(q[row].begin(), q[row].end()) - q[row].begin()
                ? 1.0
                : 0.0;
    const auto target = static_cast<std::size_t>(target_of(chunks_, row));
    squares += std::pow(std::exp(q[row][target]) - std::exp(p[row][target]), 2);
    log_ratio.push_back(p[row][target] - q[row][target]);
  }
  const auto count = static_cast<double>(divergence.size());
  double mean = 0.0, mean_ratio = 0.0;
  for (std::size_t i = 0; i < divergence.size(); ++i) {
    mean += divergence[i] / count;
    mean_ratio += log_ratio[i] / count;
  }
  EXPECT_EQ(summary.rows, std::ssize(divergence));
  EXPECT_GT(mean, 1e-3) << "the models must differ for this test to mean anything";
  EXPECT_NEAR(summary.mean, mean, 1e-4);  // log-probabilities are off by half a step
  EXPECT_NEAR(summary.top_agreement, same / count, 1e-12);
  EXPECT_NEAR(summary.rms_probability_change, std::sqrt(squares / count), 1e-9);
  EXPECT_NEAR(summary.perplexity_ratio, std::exp(mean_ratio), 1e-9);
  EXPECT_NEAR(summary.perplexity_ratio, summary.model.value / summary.base.value, 1e-9);
  std::sort(divergence.begin(), divergence.end());
  EXPECT_NEAR(summary.largest, divergence.back(), 2e-4);
  EXPECT_NEAR(summary.smallest, divergence.front(), 2e-4);
  const std::size_t half = divergence.size() / 2;
  const double median = divergence.size() % 2 == 1 ? divergence[half] : (divergence[half - 1] + divergence[half]) / 2;
  EXPECT_NEAR(summary.median, median, 2e-4);
  const double ordered[] = {summary.percentile_1,  summary.percentile_5,  summary.percentile_10, summary.median,
                            summary.percentile_90, summary.percentile_95, summary.percentile_99, summary.percentile_99_9};
  EXPECT_TRUE(std::is_sorted(std::begin(ordered), std::end(ordered)));
}

TEST_F(KlDivergence, OtherFilesAreRefused) {
  EXPECT_FALSE(LogitsBase::open((folder_ / "absent.h5").string()));
  EXPECT_FALSE(LogitsBase::open(folder_.write("text.h5", "no HDF5 at all").string()));
  auto other = Hdf5File::create((folder_ / "other.h5").string()).value();
  ASSERT_TRUE(other.close());
  const auto opened = LogitsBase::open((folder_ / "other.h5").string());
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, ErrorCode::bad_input);
  EXPECT_NE(opened.error().message.find("--save-base"), std::string::npos) << opened.error().message;
}

}  // namespace
}  // namespace quern
