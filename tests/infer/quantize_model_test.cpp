// Quantizing whole files: every mix runs, every tensor is what quantizing it alone gives, errors leave nothing.
#include "infer/quantize_model.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "infer/decoder.hpp"
#include "math/block_formats.hpp"
#include "model/gguf_model.hpp"
#include "model/tensor_checksums.hpp"
#include "support/gguf_builder.hpp"
#include "support/published_models.hpp"

namespace quern {
namespace {

constexpr std::uint32_t kIdF16 = 1;

class QuantizeModelTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(testing::TempDir()) /
              ("quern_quantize_" + std::to_string(getpid()) + "_" +
               std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    out_ = (folder_ / "out.gguf").string();
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  Result<std::vector<QuantizedTensor>> try_quantize(const GgufFile& file, const MixOptions& mix,
                                                    QuantizeOptions options = {}, int threads = 2) const {
    const auto choices = choose_types(file, mix);
    if (!choices) return tl::make_unexpected(choices.error());
    ThreadTeam team(threads);
    options.file_type_name = mix.mix;
    return quantize_model(file, *choices, kernels(), team, out_, options);
  }
  std::vector<QuantizedTensor> quantize_file(const GgufFile& file, const MixOptions& mix,
                                             const QuantizeOptions& options = {}, int threads = 2) const {
    auto done = try_quantize(file, mix, options, threads);
    EXPECT_TRUE(done) << done.error().message;
    return done ? std::move(*done) : std::vector<QuantizedTensor>();
  }
  [[nodiscard]] GgufFile open_out() const {
    auto file = GgufFile::open(out_);
    EXPECT_TRUE(file) << file.error().message;
    return std::move(*file);
  }
  [[nodiscard]] std::string contents() const {
    std::ifstream file(out_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  [[nodiscard]] std::ptrdiff_t files() const {
    return std::distance(std::filesystem::directory_iterator(folder_), std::filesystem::directory_iterator());
  }
  static const KernelTable& kernels() { return **chosen_kernels(); }

  std::filesystem::path folder_;
  std::string out_;
};

GgufFile parse(const std::vector<std::byte>& image) {
  auto file = GgufFile::parse(image, "image");
  EXPECT_TRUE(file) << file.error().message;
  return std::move(*file);
}

std::vector<float> normal_values(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, 0.05F);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

/// A llama of width 256, whose rows every format divides.
std::vector<std::byte> wide_llama(std::int64_t layers) {
  GgufBuilder builder;
  builder.text("general.architecture", "llama").text("general.name", "wide").u32("general.file_type", 0);
  builder.u32("llama.context_length", 64).u32("llama.embedding_length", 256).u32("llama.feed_forward_length", 256);
  builder.u32("llama.block_count", static_cast<std::uint32_t>(layers));
  builder.u32("llama.attention.head_count", 4).u32("llama.attention.head_count_kv", 2);
  builder.f32("llama.attention.layer_norm_rms_epsilon", 1e-5F).u32("llama.vocab_size", 48);
  unsigned seed = 1;
  const auto matrix = [&](const std::string& name, std::int64_t cols, std::int64_t rows) {
    builder.f32_tensor(name, {cols, rows}, normal_values(static_cast<std::size_t>(cols * rows), ++seed));
  };
  const auto norm = [&](const std::string& name) { builder.f32_tensor(name, {256}, std::vector<float>(256, 1.0F)); };
  matrix("token_embd.weight", 256, 48);
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    const std::string at = "blk." + std::to_string(layer) + ".";
    norm(at + "attn_norm.weight");
    matrix(at + "attn_q.weight", 256, 256);
    matrix(at + "attn_k.weight", 256, 128);
    matrix(at + "attn_v.weight", 256, 128);
    matrix(at + "attn_output.weight", 256, 256);
    norm(at + "ffn_norm.weight");
    matrix(at + "ffn_gate.weight", 256, 256);
    matrix(at + "ffn_up.weight", 256, 256);
    matrix(at + "ffn_down.weight", 256, 256);
  }
  norm("output_norm.weight");
  matrix("output.weight", 256, 48);
  return builder.build();
}

std::vector<float> decoded(const GgufTensor& tensor) {
  std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
  supported_kernels().back()->blocks->decode(tensor.type, tensor.data, tensor.elements(), values.data());
  return values;
}

/// Logits of eight tokens, in f32 precision.
std::vector<float> logits_of(const GgufFile& file) {
  const auto config = model_config_from_gguf(file);
  EXPECT_TRUE(config) << config.error().message;
  const auto bound = bind_gguf_weights(file, *config, WeightPrecision::f32, 32);
  EXPECT_TRUE(bound) << bound.error().message;
  ThreadTeam team(1);
  auto decoder = Decoder::create({*chosen_kernels(), false}, bound->weights, team,
                                 {.batch_tokens = 8, .context_tokens = 32, .sequences = 1, .logit_rows = 8});
  EXPECT_TRUE(decoder) << decoder.error().message;
  const std::vector<std::int32_t> tokens{3, 1, 4, 1, 5, 9, 2, 6};
  const SequenceTokens entry{(*decoder)->cache().add_sequence().value(), tokens, LogitRows::all};
  const auto done = (*decoder)->forward(std::span(&entry, 1));
  EXPECT_TRUE(done) << done.error().message;
  std::vector<float> logits;
  for (std::int64_t i = 0; i < 8; ++i) {
    logits.insert(logits.end(), (*decoder)->logits(i).begin(), (*decoder)->logits(i).end());
  }
  return logits;
}

double relative_rms(const std::vector<float>& found, const std::vector<float>& expected) {
  EXPECT_EQ(found.size(), expected.size());
  double error = 0.0, value = 0.0;
  for (std::size_t i = 0; i < std::min(found.size(), expected.size()); ++i) {
    const double x = expected[i], difference = x - static_cast<double>(found[i]);
    error += difference * difference;
    value += x * x;
  }
  return std::sqrt(error / value);
}

// What a type's steps leave of normally distributed values: a uniform error of one step is step / sqrt(12), with about
// 2^bits steps over six standard deviations; half as much again for scales that are quantized too.
double error_bound(ElementType type) {
  switch (type) {
    case ElementType::f32:
      return 0.0;
    case ElementType::f16:
      return 1e-3;
    case ElementType::bf16:
      return 4e-3;
    case ElementType::q8_0:
      return 0.01;
    case ElementType::q6_k:
      return 0.03;
    case ElementType::q5_0:
    case ElementType::q5_1:
    case ElementType::q5_k:
      return 0.06;
    case ElementType::q3_k:
      return 0.25;
    case ElementType::q2_k:
      return 0.45;
    default:
      return 0.13;  // four bits
  }
}

TEST_F(QuantizeModelTest, EveryMixGivesEachTensorItsTypeAndTheErrorThatIsSaid) {
  const auto image = wide_llama(3);
  const GgufFile source = parse(image);
  const std::vector<float> expected = logits_of(source);
  for (const std::string_view name : mix_names()) {
    SCOPED_TRACE(std::string(name));
    const auto tensors = quantize_file(source, {.mix = std::string(name)});
    const GgufFile result = open_out();
    ASSERT_EQ(tensors.size(), source.tensors().size());
    ASSERT_EQ(result.tensors().size(), source.tensors().size());
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const GgufTensor &before = source.tensors()[i], &after = result.tensors()[i];
      EXPECT_EQ(after.name, before.name);
      EXPECT_EQ(after.shape, before.shape);
      EXPECT_EQ(after.type, tensors[i].choice.type);
      EXPECT_EQ(after.bytes, tensors[i].bytes);
      if (!tensors[i].choice.quantize) {
        ASSERT_EQ(after.bytes, before.bytes);
        EXPECT_EQ(std::memcmp(after.data, before.data, after.bytes), 0) << before.name;
        continue;
      }
      const double error = relative_rms(decoded(after), decoded(before));
      EXPECT_NEAR(tensors[i].error.relative_rms(), error, 1e-9 + 1e-6 * error) << before.name;
      EXPECT_EQ(tensors[i].error.weighted_relative_rms(), tensors[i].error.relative_rms());
      EXPECT_LE(error, error_bound(after.type)) << before.name << " " << block_format(after.type).name;
      EXPECT_FALSE(tensors[i].used_importance);
    }
    const std::vector<float> logits = logits_of(result);
    const double drift = relative_rms(logits, expected);
    EXPECT_EQ(drift == 0.0, name == "F32");
    // Errors of layers add up as independent ones do; the largest single one is the default type's or the head's.
    EXPECT_LE(drift, 10.0 * error_bound(result.find_tensor("blk.1.attn_q.weight")->type));
  }
}

TEST_F(QuantizeModelTest, EveryArchitectureRunsQuantized) {
  for (const PublishedModel& model : published_models()) {
    SCOPED_TRACE(model.name);
    const auto image = published_model_image(model);
    const GgufFile source = parse(image);
    const std::vector<float> expected = logits_of(source);
    // Rows of 64 and 96: all K types fall back.
    for (const auto& [mix, bound] :
         std::vector<std::pair<std::string, double>>{{"Q2_K", 2.0}, {"Q8_0", 0.2}, {"F32", 0.0}}) {
      SCOPED_TRACE(mix);
      quantize_file(source, {.mix = mix});
      EXPECT_LE(relative_rms(logits_of(open_out()), expected), bound);
    }
  }
}

TEST_F(QuantizeModelTest, BytesDoNotDependOnThreads) {
  const auto image = wide_llama(2);
  const GgufFile source = parse(image);
  for (const char* mix : {"Q4_K_M", "Q2_K", "IQ4_XS", "Q8_0"}) {
    const auto one = quantize_file(source, {.mix = mix}, {.checksums = true}, 1);
    const std::string bytes = contents();
    const auto three = quantize_file(source, {.mix = mix}, {.checksums = true}, 3);
    EXPECT_TRUE(contents() == bytes) << mix;
    for (std::size_t i = 0; i < one.size(); ++i) {
      EXPECT_EQ(one[i].error.squared_error, three[i].error.squared_error) << mix << " " << one[i].choice.tensor->name;
    }
  }
}

/// What quantize() makes of one matrix alone.
std::vector<std::byte> alone(ElementType type, const float* x, std::int64_t rows, std::int64_t cols,
                             const std::vector<float>& importance) {
  std::vector<std::byte> out(*bytes_of(type, rows * cols));
  ThreadTeam team(1);
  (void)quantize(**chosen_kernels(), team,
                 {.type = type,
                  .x = x,
                  .rows = rows,
                  .cols = cols,
                  .importance = importance.empty() ? nullptr : importance.data(),
                  .out = out.data()});
  return out;
}

TEST_F(QuantizeModelTest, ExpertsHaveImportanceOfTheirOwn) {
  constexpr std::int64_t kCols = 256, kRows = 6, kExperts = 3;
  const std::vector<float> values = normal_values(kCols * kRows * kExperts, 5), plain = normal_values(kCols * kRows, 6);
  GgufBuilder builder;
  builder.f32_tensor("blk.0.ffn_up_exps.weight", {kCols, kRows, kExperts}, values);
  builder.f32_tensor("blk.0.attn_q.weight", {kCols, kRows}, plain);
  builder.f32_tensor("blk.0.attn_k.weight", {kCols, kRows}, plain);
  const auto image = builder.build();
  const GgufFile source = parse(image);

  ImportanceMatrix matrix;
  matrix.datasets = {"text.txt"};
  matrix.chunks = 17;
  ActivationSums experts{.cols = kCols, .matrices = kExperts, .sum2 = {}, .counts = {4.0F, 0.0F, 2.0F}};
  for (std::int64_t i = 0; i < kCols * kExperts; ++i) experts.sum2.push_back(static_cast<float>((i * 37) % 101));
  matrix.weights["blk.0.ffn_up_exps.weight"] = experts;
  ActivationSums one{.cols = kCols, .matrices = 1, .sum2 = {}, .counts = {8.0F}};
  for (std::int64_t i = 0; i < kCols; ++i) one.sum2.push_back(static_cast<float>((i * 53) % 97));
  matrix.weights["blk.0.attn_q.weight"] = one;

  for (const ElementType type : {ElementType::q4_k, ElementType::q4_0, ElementType::iq4_nl}) {
    SCOPED_TRACE(std::string(block_format(type).name));
    const MixOptions mix{.mix = "Q8_0", .overrides = {{"weight", type}}, .has_importance = true};
    const auto tensors = quantize_file(source, mix, {.importance = &matrix, .importance_path = "some/imatrix.gguf"});
    ASSERT_EQ(tensors.size(), 3U);
    const GgufFile result = open_out();
    std::vector<std::byte> expected;
    for (std::int64_t expert = 0; expert < kExperts; ++expert) {
      const auto importance = matrix.importance("blk.0.ffn_up_exps.weight", expert);
      EXPECT_EQ(importance.empty(), expert == 1) << "an expert without rows has equal weights";
      const auto part = alone(type, values.data() + expert * kCols * kRows, kRows, kCols, importance);
      expected.insert(expected.end(), part.begin(), part.end());
    }
    const auto same = [](const GgufTensor& tensor, const std::vector<std::byte>& bytes) {
      return tensor.bytes == bytes.size() && std::memcmp(tensor.data, bytes.data(), bytes.size()) == 0;
    };
    const auto weighted = alone(type, plain.data(), kRows, kCols, matrix.importance("blk.0.attn_q.weight"));
    const auto unweighted = alone(type, plain.data(), kRows, kCols, {});
    EXPECT_TRUE(same(result.tensors()[0], expected));
    EXPECT_TRUE(same(result.tensors()[1], weighted));
    EXPECT_TRUE(same(result.tensors()[2], unweighted));
    EXPECT_FALSE(weighted == unweighted) << "weights that change nothing would test nothing";
    EXPECT_TRUE(tensors[0].used_importance);
    EXPECT_TRUE(tensors[1].used_importance);
    EXPECT_FALSE(tensors[2].used_importance);
    EXPECT_NE(tensors[1].error.weighted_relative_rms(), tensors[1].error.relative_rms());
    EXPECT_LT(tensors[1].error.weighted_relative_rms(), tensors[2].error.relative_rms());
    EXPECT_EQ(result.require_string("quantize.imatrix.file").value_or(""), "some/imatrix.gguf");
    EXPECT_EQ(result.require_string("quantize.imatrix.dataset").value_or(""), "text.txt");
    EXPECT_EQ(result.require_integer("quantize.imatrix.entries_count", 0, 9).value_or(-1), 2);
    EXPECT_EQ(result.require_integer("quantize.imatrix.chunks_count", 0, 99).value_or(-1), 17);
  }
  matrix.weights["blk.0.attn_q.weight"].cols = 128;
  matrix.weights["blk.0.attn_q.weight"].sum2.resize(128);
  const auto wrong = try_quantize(source, {.mix = "Q8_0", .has_importance = true}, {.importance = &matrix});
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().message,
            "image: tensor 'blk.0.attn_q.weight': the importance matrix has 128 columns for it, expected 256");
}

// More than a piece of 2^21 elements: in rows, and in one row.
TEST_F(QuantizeModelTest, PiecesAreJoinedWithoutASeam) {
  constexpr std::int64_t kLong = (std::int64_t{1} << 21) + 512;
  const std::vector<float> rows = normal_values(512 * 5000, 7), row = normal_values(static_cast<std::size_t>(kLong) * 2, 8);
  std::vector<float> halves(rows.size());
  std::string half_bytes(rows.size() * 2, '\0');
  const auto as_half = alone(ElementType::f16, rows.data(), 5000, 512, {});
  supported_kernels().back()->blocks->decode(ElementType::f16, as_half.data(), 512 * 5000, halves.data());
  std::memcpy(half_bytes.data(), as_half.data(), as_half.size());
  const auto image = GgufBuilder()
                         .tensor("blk.0.ffn_up.weight", kIdF16, {512, 5000}, half_bytes)
                         .f32_tensor("blk.0.ffn_down.weight", {kLong, 2}, row)
                         .build();
  const GgufFile source = parse(image);
  ImportanceMatrix matrix;
  ActivationSums sums{.cols = kLong, .matrices = 1, .sum2 = {}, .counts = {1.0F}};
  for (std::int64_t i = 0; i < kLong; ++i) sums.sum2.push_back(static_cast<float>((i * 31) % 89));
  matrix.weights["blk.0.ffn_down.weight"] = sums;
  const auto tensors = quantize_file(source, {.mix = "Q4_0", .pure = true, .has_importance = true}, {.importance = &matrix});
  ASSERT_EQ(tensors.size(), 2U);
  const GgufFile result = open_out();
  const auto up = alone(ElementType::q4_0, halves.data(), 5000, 512, {});
  const auto down = alone(ElementType::q4_0, row.data(), 2, kLong, matrix.importance("blk.0.ffn_down.weight"));
  ASSERT_EQ(result.tensors()[0].bytes, up.size());
  ASSERT_EQ(result.tensors()[1].bytes, down.size());
  EXPECT_EQ(std::memcmp(result.tensors()[0].data, up.data(), up.size()), 0);
  EXPECT_EQ(std::memcmp(result.tensors()[1].data, down.data(), down.size()), 0);
}

TEST_F(QuantizeModelTest, MetadataAreCopiedAndBroughtUpToDate) {
  const auto image = GgufBuilder()
                         .text("general.architecture", "llama")
                         .u32("general.file_type", 1)
                         .text("quern.sha256", "of another file")
                         .texts("some.texts", {"a", "b"})
                         .text("quantize.imatrix.file", "of another file")
                         .u32("last.key", 7)
                         .f32_tensor("output.weight", {256, 2}, normal_values(512, 1))
                         .build();
  const GgufFile source = parse(image);
  quantize_file(source, {.mix = "Q5_K_S"}, {.checksums = true});
  const GgufFile result = open_out();
  EXPECT_EQ(result.require_integer("general.file_type", 0, 99).value_or(-1), 16);
  EXPECT_EQ(result.require_integer("general.quantization_version", 0, 99).value_or(-1), 2);
  EXPECT_EQ(result.require_integer("last.key", 0, 9).value_or(-1), 7);
  EXPECT_EQ(result.strings("some.texts")->size(), 2U);
  EXPECT_EQ(result.require_string("quantize.imatrix.file").value_or(""), "of another file");
  ThreadTeam team(1);
  const auto report = verify_checksums(result, team, {});
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_TRUE(report->intact());

  // Types that no mix has named: the file's is that of most bytes.
  auto choices = choose_types(source, {.mix = "Q6_K"});
  ASSERT_TRUE(choices);
  (*choices)[0].type = ElementType::q4_k;
  ASSERT_TRUE(quantize_model(source, *choices, kernels(), team, out_, {}));
  EXPECT_EQ(open_out().require_integer("general.file_type", 0, 99).value_or(-1), 15);
}

TEST_F(QuantizeModelTest, SplitModelsBecomeOneFile) {
  const auto part = [&](int number, const std::string& name) {
    GgufBuilder builder;
    if (number == 0) builder.text("general.architecture", "llama");
    builder.raw("split.no", gguf::kU16, GgufBuilder::bytes_of_number(static_cast<std::uint16_t>(number)))
        .raw("split.count", gguf::kU16, GgufBuilder::bytes_of_number(std::uint16_t{2}))
        .raw("split.tensors.count", gguf::kI32, GgufBuilder::bytes_of_number(2));
    builder.f32_tensor(name, {256, 3}, normal_values(768, static_cast<unsigned>(number)));
    const std::string path = (folder_ / ("m-0000" + std::to_string(number + 1) + "-of-00002.gguf")).string();
    std::ofstream(path, std::ios::binary) << builder.build_text();
    return path;
  };
  const std::string first = part(0, "blk.0.attn_q.weight");
  part(1, "blk.0.attn_k.weight");
  const auto source = GgufFile::open(first);
  ASSERT_TRUE(source) << source.error().message;
  quantize_file(*source, {.mix = "Q8_0"});
  const GgufFile result = open_out();
  EXPECT_EQ(result.parts(), 1);
  EXPECT_EQ(result.find("split.count"), nullptr);
  ASSERT_EQ(result.tensors().size(), 2U);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_LE(relative_rms(decoded(result.tensors()[i]), decoded(source->tensors()[i])), 0.01);
  }
}

TEST_F(QuantizeModelTest, QuantizedSourcesAreDecodedOrCopied) {
  PublishedModel model = published_models().front();
  model.block_weights = true;
  const auto image = published_model_image(model);
  const GgufFile source = parse(image);
  for (const QuantizedTensor& tensor : quantize_file(source, {.mix = "Q8_0"})) {
    EXPECT_EQ(tensor.choice.quantize, tensor.choice.type != tensor.choice.tensor->type);
  }
  const GgufFile copy = open_out();
  for (const GgufTensor& tensor : source.tensors()) {
    if (tensor.type == ElementType::q8_0) {
      EXPECT_EQ(std::memcmp(copy.find_tensor(tensor.name)->data, tensor.data, tensor.bytes), 0) << tensor.name;
    }
  }
  for (const QuantizedTensor& tensor : quantize_file(source, {.mix = "Q5_1"})) {
    EXPECT_LE(tensor.error.relative_rms(), 0.06) << tensor.choice.tensor->name;
  }
}

TEST_F(QuantizeModelTest, NanAndInfinityAreRefusedByNameAndLeaveNothing) {
  std::ofstream(out_, std::ios::binary) << "what was there";
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (const char* mix : {"Q4_K_S", "Q8_0", "IQ4_NL", "F16", "BF16", "MXFP4"}) {
      std::vector<float> values = normal_values(512 * 3, 3);
      values[1000] = bad;
      const auto image = GgufBuilder()
                             .f32_tensor("blk.0.ffn_up.weight", {512, 3}, normal_values(512 * 3, 2))
                             .f32_tensor("blk.0.ffn_down.weight", {512, 3}, values)
                             .build();
      const auto done = try_quantize(parse(image), {.mix = mix});
      ASSERT_FALSE(done) << mix;
      EXPECT_EQ(done.error().code, ErrorCode::bad_input);
      EXPECT_EQ(done.error().message, "image: tensor 'blk.0.ffn_down.weight' holds NaN or infinity in elements 0 to 1535");
      EXPECT_EQ(files(), 1);
      EXPECT_EQ(contents(), "what was there");
    }
  }
}

TEST_F(QuantizeModelTest, ProgressReachesAllBytesAndItsErrorEndsTheWork) {
  const auto image = wide_llama(1);
  const GgufFile source = parse(image);
  std::size_t bytes = 0, last = 0, tensors = 0;
  for (const GgufTensor& tensor : source.tensors()) bytes += tensor.bytes;
  QuantizeOptions options;
  options.progress = [&](std::size_t done_tensors, std::size_t done, std::size_t all) -> Result<void> {
    EXPECT_EQ(all, bytes);
    EXPECT_GT(done, last);
    EXPECT_GE(done_tensors, tensors);
    last = done;
    tensors = done_tensors;
    return {};
  };
  quantize_file(source, {.mix = "Q4_0"}, options);
  EXPECT_EQ(last, bytes);
  EXPECT_EQ(tensors, source.tensors().size());
  std::filesystem::remove(out_);

  options.progress = [](std::size_t done_tensors, std::size_t, std::size_t) -> Result<void> {
    return done_tensors == 3 ? Result<void>(io_error("interrupted")) : Result<void>();
  };
  const auto stopped = try_quantize(source, {.mix = "Q4_0"}, options);
  ASSERT_FALSE(stopped);
  EXPECT_EQ(stopped.error().message, "interrupted");
  EXPECT_EQ(files(), 0);
}

TEST_F(QuantizeModelTest, ChoicesThatCannotBeWrittenAreRefused) {
  const auto image = wide_llama(1);
  const GgufFile source = parse(image);
  auto choices = choose_types(source, {.mix = "Q8_0"});
  ASSERT_TRUE(choices);
  (*choices)[0].type = ElementType::iq2_s;
  ThreadTeam team(1);
  const auto done = quantize_model(source, *choices, kernels(), team, out_, {});
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().message, "image: tensor 'token_embd.weight': rows of 256 cannot be written as IQ2_S");
  const auto nowhere = quantize_model(source, {}, kernels(), team, (folder_ / "no" / "where").string(), {});
  EXPECT_FALSE(nowhere);
  EXPECT_EQ(files(), 0);
}

}  // namespace
}  // namespace quern
