// Published architectures end to end: every tiny model against reference logits on every instruction set, in one piece, in
// chunks, and in the company of other sequences.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "infer/decoder.hpp"
#include "model/gguf_model.hpp"
#include "support/published_models.hpp"
#include "support/published_reference.hpp"
#include "support/shared_data.hpp"

namespace quern {
namespace {

constexpr const char* kArchitectures[] = {"llama",  "mixtral", "qwen2", "qwen3", "qwen3moe",
                                          "gemma2", "gemma3",  "phi3",  "gpt2",  "gpt-oss"};
constexpr std::int64_t kContext = 64;

/// The tokens of the shared reference logits.
std::vector<std::int32_t> reference_tokens() {
  std::vector<std::int32_t> tokens;
  for (std::int64_t i = 0; i < 48; ++i) tokens.push_back(static_cast<std::int32_t>(300 + (7919 * i + 31 * i * i) % 200));
  return tokens;
}

std::vector<float> read_floats(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  std::vector<float> values(static_cast<std::size_t>(file.tellg()) / sizeof(float));
  file.seekg(0);
  file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(float)));
  return values;
}

struct OpenModel {
  GgufFile file;
  GgufWeights bound;
};

OpenModel bind_model(Result<GgufFile> file, WeightPrecision precision = WeightPrecision::f32) {
  if (!file) throw std::runtime_error(file.error().message);
  auto config = model_config_from_gguf(*file);
  if (!config) throw std::runtime_error(config.error().message);
  auto bound = bind_gguf_weights(*file, *config, precision, kContext);
  if (!bound) throw std::runtime_error(bound.error().message);
  return {std::move(*file), std::move(*bound)};
}

/// Logits [tokens, vocab] of one sequence in chunks.
std::vector<float> logits_of(Decoder& decoder, std::span<const std::int32_t> tokens, std::int64_t chunk) {
  std::vector<float> all;
  const KvCache::SequenceId sequence = decoder.cache().add_sequence().value();
  while (!tokens.empty()) {
    const SequenceTokens entry{sequence, tokens.first(std::min(static_cast<std::size_t>(chunk), tokens.size())),
                               LogitRows::all};
    const Result<void> done = decoder.forward(std::span(&entry, 1));
    EXPECT_TRUE(done) << done.error().message;
    for (std::int64_t i = 0; i < std::ssize(entry.tokens); ++i) {
      all.insert(all.end(), decoder.logits(i).begin(), decoder.logits(i).end());
    }
    tokens = tokens.subspan(entry.tokens.size());
  }
  decoder.cache().remove_sequence(sequence);
  return all;
}

/// The same in steps of 5 tokens, between two other sequences that are at other positions.
std::vector<float> logits_in_company(Decoder& decoder, std::span<const std::int32_t> tokens) {
  std::vector<float> all;
  std::vector<std::int32_t> other(tokens.rbegin(), tokens.rend());
  const auto before = decoder.cache().add_sequence().value();
  const auto mine = decoder.cache().add_sequence().value();
  const auto after = decoder.cache().add_sequence().value();
  const SequenceTokens start[] = {{before, std::span(other).first(11)}, {after, std::span(other).first(3)}};
  EXPECT_TRUE(decoder.forward(start));
  for (std::size_t at = 0; at < tokens.size(); at += 5) {
    const std::size_t count = std::min<std::size_t>(5, tokens.size() - at);
    const std::size_t step = at / 5;
    const SequenceTokens batch[] = {{before, std::span(other).subspan(11 + step, 1), LogitRows::last},
                                    {mine, tokens.subspan(at, count), LogitRows::all},
                                    {after, std::span(other).subspan(3 + 2 * step, 2), LogitRows::none}};
    const Result<void> done = decoder.forward(batch);
    EXPECT_TRUE(done) << done.error().message;
    for (std::size_t i = 0; i < count; ++i) {
      const auto row = decoder.logits(static_cast<std::int64_t>(1 + i));
      all.insert(all.end(), row.begin(), row.end());
    }
  }
  for (const auto sequence : {before, mine, after}) decoder.cache().remove_sequence(sequence);
  return all;
}

template <class A, class B>
double largest_difference(const std::vector<A>& a, const std::vector<B>& b) {
  EXPECT_EQ(a.size(), b.size());
  double largest = 0.0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    largest = difference <= largest ? largest : difference;  // NaN counts as a difference
    if (std::isnan(difference)) return INFINITY;
  }
  return largest;
}

/// A model on every path and in every company, against `expected` [tokens, vocab]. In f32 precision a row does not depend
/// on its neighbours, so all ways of feeding it give the same bits.
template <class Value>
void expect_logits_everywhere(const ModelWeights& weights, std::span<const std::int32_t> tokens,
                              const std::vector<Value>& expected, double tolerance) {
  ThreadTeam team(2);
  for (const KernelTable* table : supported_kernels()) {
    SCOPED_TRACE(std::string(isa_name(table->isa)));
    const Decoder::Limits limits{.batch_tokens = 64, .context_tokens = kContext, .sequences = 3, .logit_rows = 64};
    auto decoder = Decoder::create({table, false}, weights, team, limits);
    ASSERT_TRUE(decoder) << decoder.error().message;
    const std::vector<float> whole = logits_of(**decoder, tokens, 64);
    EXPECT_LE(largest_difference(whole, expected), tolerance);
    for (const std::int64_t chunk : {1, 7, 32}) EXPECT_TRUE(logits_of(**decoder, tokens, chunk) == whole) << chunk;
    EXPECT_TRUE(logits_in_company(**decoder, tokens) == whole);
  }
}

class SharedTinyModel : public testing::TestWithParam<const char*> {};

TEST_P(SharedTinyModel, GivesTheReferenceLogitsOnEveryPathInEveryCompany) {
  const auto path = shared_data(std::string("testdata/tiny/tiny-") + GetParam() + ".gguf");
  if (!path) GTEST_SKIP() << "shared data absent: testdata/tiny";
  const OpenModel model = bind_model(GgufFile::open(*path));
  std::filesystem::path logits = *path;
  const std::vector<float> expected = read_floats(logits.replace_extension(".logits.f32"));
  ASSERT_EQ(expected.size(), 48U * 512U);
  const std::vector<std::int32_t> tokens = reference_tokens();
  EXPECT_LE(largest_difference(published_reference_logits(model.file, tokens), expected), 1e-5) << "of our own reference";
  expect_logits_everywhere(model.bound.weights, tokens, expected, 1e-3);
}

INSTANTIATE_TEST_SUITE_P(All, SharedTinyModel, testing::ValuesIn(kArchitectures), [](const auto& test) {
  std::string name = test.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

class OwnModel : public testing::TestWithParam<PublishedModel> {};

TEST_P(OwnModel, GivesTheReferenceLogitsOnEveryPathInEveryCompany) {
  const std::vector<std::byte> image = published_model_image(GetParam());
  const OpenModel model = bind_model(GgufFile::parse(image, "image"));
  std::vector<std::int32_t> tokens;
  for (std::int64_t i = 0; i < 40; ++i) tokens.push_back(static_cast<std::int32_t>((7 * i + i * i / 3) % kPublishedVocab));
  const std::vector<double> expected = published_reference_logits(model.file, tokens, kContext);
  expect_logits_everywhere(model.bound.weights, tokens, expected, 5e-4);
}

/// Fast products over blocks round activations to int8: logits near the exact ones, and the same whatever shares a batch.
TEST_P(OwnModel, FastProductsStayNearAndKeepRowsIndependent) {
  const std::vector<std::byte> image = published_model_image(GetParam());
  const OpenModel exact = bind_model(GgufFile::parse(image, "image"));
  const OpenModel fast = bind_model(GgufFile::parse(image, "image"), WeightPrecision::fast);
  std::vector<std::int32_t> tokens;
  for (std::int64_t i = 0; i < 30; ++i) tokens.push_back(static_cast<std::int32_t>((11 * i + 5) % kPublishedVocab));
  const std::vector<double> expected = published_reference_logits(exact.file, tokens, kContext);
  double square = 0.0;
  for (const double v : expected) square += v * v;
  const double deviation = std::sqrt(square / static_cast<double>(expected.size()));
  ThreadTeam team(2);
  for (const KernelTable* table : supported_kernels()) {
    SCOPED_TRACE(std::string(isa_name(table->isa)));
    const Decoder::Limits limits{.batch_tokens = 32, .context_tokens = kContext, .sequences = 3, .logit_rows = 32};
    auto decoder = Decoder::create({table, false}, fast.bound.weights, team, limits);
    ASSERT_TRUE(decoder) << decoder.error().message;
    const std::vector<float> whole = logits_of(**decoder, tokens, 32);
    double error = 0.0;
    for (std::size_t i = 0; i < whole.size(); ++i) {
      error += (static_cast<double>(whole[i]) - expected[i]) * (static_cast<double>(whole[i]) - expected[i]);
    }
    EXPECT_LE(std::sqrt(error / static_cast<double>(whole.size())), 0.05 * deviation);
    for (const std::int64_t chunk : {1, 7}) EXPECT_TRUE(logits_of(**decoder, tokens, chunk) == whole) << chunk;
    EXPECT_TRUE(logits_in_company(**decoder, tokens) == whole);
  }
}

INSTANTIATE_TEST_SUITE_P(All, OwnModel, testing::ValuesIn(published_models()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace quern
