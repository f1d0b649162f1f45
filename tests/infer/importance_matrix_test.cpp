// Files of importance matrices: both forms, what llama.cpp's readers look for, and what is no such file.
#include "infer/importance_matrix.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>

#include "support/gguf_builder.hpp"
#include "support/tests_paths.hpp"

namespace quern {
namespace {

ImportanceMatrix sample() {
  ImportanceMatrix matrix;
  matrix.datasets = {"a.txt", "b.txt"};
  matrix.chunks = 7;
  matrix.chunk_tokens = 512;
  matrix.weights["blk.0.attn_q.weight"] = {.cols = 3, .matrices = 1, .sum2 = {1.5F, 0.0F, 6.0F}, .counts = {4.0F}};
  matrix.weights["blk.0.ffn_down_exps.weight"] = {
      .cols = 2, .matrices = 3, .sum2 = {1, 2, 0, 0, 10, 20}, .counts = {1.0F, 0.0F, 5.0F}};
  return matrix;
}

template <class T>
void append(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

std::string dat_entry(const std::string& name, std::int32_t calls, const std::vector<float>& values) {
  std::string out;
  append(out, static_cast<std::int32_t>(name.size()));
  out += name;
  append(out, calls);
  append(out, static_cast<std::int32_t>(values.size()));
  for (const float value : values) append(out, value);
  return out;
}

std::string dat_file(std::int32_t entries, const std::string& body) {
  std::string out;
  append(out, entries);
  return out + body;
}

TEST(ImportanceMatrix, DividesSumsByCounts) {
  const ImportanceMatrix matrix = sample();
  EXPECT_EQ(matrix.importance("blk.0.attn_q.weight"), (std::vector<float>{0.375F, 0.0F, 1.5F}));
  EXPECT_EQ(matrix.importance("blk.0.ffn_down_exps.weight", 0), (std::vector<float>{1, 2}));
  EXPECT_TRUE(matrix.importance("blk.0.ffn_down_exps.weight", 1).empty()) << "an expert that saw nothing";
  EXPECT_EQ(matrix.importance("blk.0.ffn_down_exps.weight", 2), (std::vector<float>{2, 4}));
  EXPECT_TRUE(matrix.importance("blk.0.ffn_down_exps.weight", 3).empty());
  EXPECT_TRUE(matrix.importance("blk.1.attn_q.weight").empty());
}

TEST(ImportanceMatrix, ComesBackAsItWasSaved) {
  const TemporaryFolder folder;
  const std::string path = (folder / "m.gguf").string();
  ASSERT_TRUE(save_importance_matrix(sample(), path));
  const auto loaded = load_importance_matrix(path);
  ASSERT_TRUE(loaded) << loaded.error().message;
  EXPECT_EQ(loaded->datasets, sample().datasets);
  EXPECT_EQ(loaded->chunks, 7);
  EXPECT_EQ(loaded->chunk_tokens, 512);
  ASSERT_EQ(loaded->weights.size(), 2U);
  for (const auto& [name, sums] : sample().weights) {
    const ActivationSums& read = loaded->weights.at(name);
    EXPECT_EQ(read.cols, sums.cols);
    EXPECT_EQ(read.matrices, sums.matrices);
    EXPECT_EQ(read.sum2, sums.sum2);
    EXPECT_EQ(read.counts, sums.counts);
  }
}

TEST(ImportanceMatrix, FileHasTheNamesThatLlamaCppReads) {
  const TemporaryFolder folder;
  const std::string path = (folder / "m.gguf").string();
  ASSERT_TRUE(save_importance_matrix(sample(), path));
  const auto file = GgufFile::open(path);
  ASSERT_TRUE(file);
  EXPECT_EQ(*file->require_string("general.type"), "imatrix");
  EXPECT_EQ(file->find("imatrix.datasets")->type, GgufType::array);
  EXPECT_EQ(file->find("imatrix.chunk_count")->type, GgufType::u32);
  EXPECT_EQ(file->find("imatrix.chunk_size")->type, GgufType::u32);
  const GgufTensor* sums = file->find_tensor("blk.0.ffn_down_exps.weight.in_sum2");
  const GgufTensor* counts = file->find_tensor("blk.0.ffn_down_exps.weight.counts");
  ASSERT_NE(sums, nullptr);
  ASSERT_NE(counts, nullptr);
  EXPECT_EQ(sums->shape, (std::array<std::int64_t, 4>{2, 3, 1, 1}));
  EXPECT_EQ(counts->shape, (std::array<std::int64_t, 4>{1, 3, 1, 1}));
}

TEST(ImportanceMatrix, ReadsTheOlderForm) {
  const std::string body = dat_entry("blk.0.attn_q.weight", 4, {1.0F, 2.0F}) + dat_entry("x", 0, {3.0F});
  std::string trailer;
  append(trailer, std::int32_t{9});
  append(trailer, std::int32_t{5});
  trailer += "a.txt";
  for (const bool with_trailer : {false, true}) {
    const auto matrix = importance_matrix_from_dat(dat_file(2, body) + (with_trailer ? trailer : ""), "f");
    ASSERT_TRUE(matrix) << matrix.error().message;
    EXPECT_EQ(matrix->importance("blk.0.attn_q.weight"), (std::vector<float>{0.25F, 0.5F}));
    EXPECT_EQ(matrix->importance("x"), (std::vector<float>{3.0F})) << "no calls: as it is";
    EXPECT_EQ(matrix->chunks, with_trailer ? 9 : 0);
    EXPECT_EQ(matrix->datasets.size(), with_trailer ? 1U : 0U);
  }
  const TemporaryFolder folder;
  EXPECT_TRUE(load_importance_matrix(folder.write("m.dat", dat_file(2, body)).string()));
}

TEST(ImportanceMatrix, EveryCutOfTheOlderFormIsRefused) {
  std::string trailer;
  append(trailer, std::int32_t{9});
  append(trailer, std::int32_t{1});
  trailer += "a";
  const std::string whole = dat_file(2, dat_entry("ab", 4, {1.0F, 2.0F}) + dat_entry("c", 1, {3.0F}));
  const std::string all = whole + trailer;
  for (std::size_t length = 0; length < all.size(); ++length) {
    const auto matrix = importance_matrix_from_dat(std::string_view(all).substr(0, length), "f");
    EXPECT_EQ(matrix.has_value(), length == whole.size()) << length;
    if (!matrix) {
      EXPECT_EQ(matrix.error().code, ErrorCode::bad_input);
      EXPECT_EQ(matrix.error().message.rfind("f: ", 0), 0U) << matrix.error().message;
    }
  }
  EXPECT_TRUE(importance_matrix_from_dat(all, "f"));
}

TEST(ImportanceMatrix, LyingNumbersOfTheOlderFormAreRefused) {
  const auto refused = [](const std::string& bytes, const std::string& part) {
    const auto matrix = importance_matrix_from_dat(bytes, "f");
    ASSERT_FALSE(matrix);
    EXPECT_NE(matrix.error().message.find(part), std::string::npos) << matrix.error().message;
  };
  refused(dat_file(-1, ""), "expected an importance matrix");
  refused(dat_file(0, ""), "expected an importance matrix");
  refused(dat_file(1 << 30, dat_entry("a", 1, {1.0F})), "entry 2");
  refused(dat_file(2, dat_entry("a", 1, {1.0F}) + dat_entry("a", 1, {1.0F})), "twice");
  refused(dat_file(1, dat_entry("a", -3, {1.0F})), "-3 calls");
  refused(dat_file(1, dat_entry("a", 1, {NAN})), "expected finite");
  refused(dat_file(1, dat_entry("a", 1, {-1.0F})), "expected finite");
  std::string body;
  append(body, std::int32_t{0x7FFFFFFF});
  refused(dat_file(1, body), "a name of 2147483647 bytes");
  body.clear();
  append(body, std::int32_t{1});
  body += "a";
  append(body, std::int32_t{1});
  append(body, std::int32_t{0x7FFFFFFF});
  refused(dat_file(1, body), "2147483647 values");
}

TEST(ImportanceMatrix, GgufFilesThatAreNoneAreRefused) {
  const std::vector<float> two{1.0F, 2.0F};
  const std::vector<float> one{1.0F};
  const auto refused = [](const GgufBuilder& builder, const std::string& part) {
    const auto image = builder.build();
    const auto file = GgufFile::parse(image, "f");
    ASSERT_TRUE(file) << file.error().message;
    const auto matrix = importance_matrix_from_gguf(*file);
    ASSERT_FALSE(matrix) << part;
    EXPECT_NE(matrix.error().message.find(part), std::string::npos) << matrix.error().message;
  };
  const auto start = [] { return GgufBuilder().text("general.type", "imatrix"); };
  refused(GgufBuilder().text("general.type", "model"), "must be 'imatrix'");
  refused(GgufBuilder().text("general.name", "x"), "general.type");
  refused(start(), "no tensors");
  refused(start().f32_tensor("a.in_sum2", {2, 1}, two), "a.counts is missing");
  refused(start().f32_tensor("a.in_sum2", {2, 1}, two).f32_tensor("a.counts", {1, 2}, two), "1 matrices but 2 counts");
  refused(start().f32_tensor("a.weight", {2, 1}, two), "a.weight is none");
  refused(start().tensor("a.in_sum2", 1, {2, 1}, std::string(4, '\0')).f32_tensor("a.counts", {1, 1}, one), "F32");
  const std::vector<float> bad{1.0F, -2.0F};
  refused(start().f32_tensor("a.in_sum2", {2, 1}, bad).f32_tensor("a.counts", {1, 1}, one), "sums of a: value 1 is -2");
  const std::vector<float> nan{NAN};
  refused(start().f32_tensor("a.in_sum2", {2, 1}, two).f32_tensor("a.counts", {1, 1}, nan), "counts of a");
  refused(start().text("imatrix.chunk_count", "7"), "imatrix.chunk_count");
}

TEST(ImportanceMatrix, TakesTheShapesOfAModel) {
  const std::vector<float> values(12, 1.0F);
  const auto image = GgufBuilder().f32_tensor("e", {2, 2, 3}, values).f32_tensor("d", {4, 3}, values).build();
  const auto model = GgufFile::parse(image, "model");
  ASSERT_TRUE(model) << model.error().message;
  ImportanceMatrix matrix;
  matrix.weights["e"] = {.cols = 6, .matrices = 1, .sum2 = {1, 2, 3, 4, 5, 6}, .counts = {2.0F}};
  matrix.weights["d"] = {.cols = 4, .matrices = 1, .sum2 = {1, 2, 3, 4}, .counts = {1.0F}};
  matrix.weights["elsewhere"] = {.cols = 1, .matrices = 1, .sum2 = {1}, .counts = {1.0F}};
  ASSERT_TRUE(fit_importance_matrix(matrix, *model, "f"));
  EXPECT_EQ(matrix.importance("e", 2), (std::vector<float>{2.5F, 3.0F}));
  EXPECT_EQ(matrix.importance("d").size(), 4U);
  matrix.weights["d"] = {.cols = 3, .matrices = 1, .sum2 = {1, 2, 3}, .counts = {1.0F}};
  const auto refused = fit_importance_matrix(matrix, *model, "f");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message, "f: d has 3 columns of 1 matrices, in model it has 4 of 1");
}

}  // namespace
}  // namespace quern
