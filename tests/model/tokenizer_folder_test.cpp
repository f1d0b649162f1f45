// Tokenizers of Hugging Face folders: each kind of vocabulary file, and what the files beside it add.
#include <gtest/gtest.h>

#include <bit>
#include <filesystem>
#include <fstream>

#include "model/sentencepiece_model.hpp"
#include "model/tokenizer_files.hpp"

namespace quern {
namespace {

using Ids = std::vector<std::int32_t>;

class TokenizerFolder : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "quern_folder_" + testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  void put(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ + "/" + name, std::ios::binary) << text;
  }
  [[nodiscard]] Result<Tokenizer> load() const { return load_huggingface_tokenizer(folder_); }
  void expect_error(const std::string& what) const {
    const auto tokenizer = load();
    ASSERT_FALSE(tokenizer) << what;
    EXPECT_NE(tokenizer.error().message.find(what), std::string::npos) << tokenizer.error().message;
  }
  std::string folder_;
};

constexpr const char* kJson = R"({"added_tokens": [
  {"id": 3, "content": "<bos>", "special": true}, {"id": 4, "content": "<end>", "special": true},
  {"id": 5, "content": "<turn>", "special": true}, {"id": 6, "content": "<message>", "special": true}],
  "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false}, "decoder": {"type": "ByteLevel"},
  "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}})";

TEST_F(TokenizerFolder, RolesComeFromTheFilesBesideTheVocabulary) {
  put("tokenizer.json", kJson);
  put("tokenizer_config.json", R"({"add_bos_token": true, "bos_token": "<bos>", "eos_token": {"content": "<end>"}})");
  put("generation_config.json", R"({"eos_token_id": [4, 5, 6], "pad_token_id": 3})");
  put("config.json", R"({"bos_token_id": 0, "eos_token_id": 1})");
  const auto tokenizer = load();
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  const SpecialTokens& roles = tokenizer->special_tokens();
  EXPECT_EQ(roles.bos, 3) << "the name in tokenizer_config.json counts more than config.json's id";
  EXPECT_EQ(roles.eos, 4);
  EXPECT_EQ(roles.eot, 5);
  EXPECT_EQ(roles.eom, 6);
  EXPECT_EQ(roles.padding, 3);
  EXPECT_EQ(Ids(tokenizer->end_of_generation().begin(), tokenizer->end_of_generation().end()), (Ids{4, 5, 6}));
  EXPECT_EQ(*tokenizer->encode("ab", {.add_special = true}), (Ids{3, 2}));
}

TEST_F(TokenizerFolder, IdsOfConfigurationsServeWhereNoNameDoes) {
  put("tokenizer.json", kJson);
  put("config.json", R"({"bos_token_id": 3, "eos_token_id": 5, "pad_token_id": -1})");
  const auto tokenizer = load();
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  EXPECT_EQ(tokenizer->special_tokens().bos, 3);
  EXPECT_EQ(tokenizer->special_tokens().eos, 5);
  EXPECT_FALSE(tokenizer->special_tokens().padding);
  EXPECT_FALSE(tokenizer->special_tokens().add_bos);
}

TEST_F(TokenizerFolder, ErrorsNameTheFileAndTheKey) {
  expect_error("tokenizer.model");
  put("tokenizer.json", "{");
  expect_error("tokenizer.json");
  put("tokenizer.json", kJson);
  put("tokenizer_config.json", "[]");
  expect_error("tokenizer_config.json");
  put("tokenizer_config.json", R"({"eos_token": "<nobody>"})");
  expect_error("<nobody>");
  put("tokenizer_config.json", R"({"add_bos_token": 1})");
  expect_error("add_bos_token");
  put("tokenizer_config.json", "{}");
  put("generation_config.json", R"({"eos_token_id": "4"})");
  expect_error("eos_token_id");
  EXPECT_FALSE(load_huggingface_tokenizer(folder_ + "/nowhere"));
}

TEST_F(TokenizerFolder, ReadsGpt2sTwoFiles) {
  put("vocab.json", R"({"a": 0, "b": 1, "ab": 2, "\u0120": 3, "\u0120ab": 4, "<|endoftext|>": 5})");
  put("merges.txt", "#version: 0.2\na b\n\u0120 ab\n");
  const auto tokenizer = load();
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  EXPECT_EQ(*tokenizer->encode("ab ab<|endoftext|>", {.parse_special = true}), (Ids{2, 4, 5}));
  EXPECT_EQ(tokenizer->end_of_text(), 5);
  put("tokenizer_config.json", R"({"tokenizer_class": "Qwen2Tokenizer"})");
  expect_error("Qwen2Tokenizer");
}

// ---- SentencePiece's protocol buffer, written by hand

std::string varint(std::uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(0x80 | (value & 0x7F));
  return out + static_cast<char>(value);
}
std::string number(std::uint64_t field, std::uint64_t value) { return varint(field << 3) + varint(value); }
std::string bytes(std::uint64_t field, const std::string& value) {
  return varint(field << 3 | 2) + varint(value.size()) + value;
}
std::string piece(const std::string& text, float score, int type) {
  std::string score_bytes;
  for (int shift = 0; shift < 32; shift += 8) score_bytes += static_cast<char>(std::bit_cast<std::uint32_t>(score) >> shift);
  return bytes(1, bytes(1, text) + varint(2 << 3 | 5) + score_bytes + number(3, static_cast<std::uint64_t>(type)));
}

std::string small_pieces() {
  std::string model = piece("<unk>", 0, 2) + piece("<s>", 0, 3) + piece("</s>", 0, 3);
  for (int byte = 0; byte < 256; ++byte) {
    char text[8];
    std::snprintf(text, sizeof text, "<0x%02X>", static_cast<unsigned>(byte));
    model += piece(text, 0, 6);
  }
  return model + piece("\u2581a", -1, 1) + piece("a", -2, 1) + piece("\u2581", -3, 1) + piece("<tag>", 0, 4);
}
const std::string kTrainer = bytes(2, number(3, 2) + number(35, 1) + number(43, static_cast<std::uint64_t>(-1)));
const std::string kNormalizer = bytes(3, bytes(1, "identity") + number(4, 0));

TEST_F(TokenizerFolder, ReadsSentencePiecesOwnFile) {
  put("tokenizer.model", small_pieces() + kTrainer + kNormalizer);
  const auto tokenizer = load();
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  EXPECT_EQ(tokenizer->kind(), TokenizerKind::sentencepiece);
  EXPECT_EQ(*tokenizer->encode("a a\n<tag>", {.add_special = true}), (Ids{1, 259, 259, 3 + '\n', 262}));
  EXPECT_EQ(tokenizer->special_tokens().eos, 2);
  EXPECT_FALSE(tokenizer->special_tokens().padding);
  // Tokens that were added later.
  put("tokenizer_config.json", R"({"add_bos_token": false, "eos_token": "<over>",
                                   "added_tokens_decoder": {"264": {"content": "<over>", "special": true}}})");
  const auto more = load();
  ASSERT_TRUE(more) << more.error().message;
  EXPECT_EQ(more->vocab_size(), 265);
  EXPECT_EQ(*more->encode("a<over>", {.parse_special = true, .add_special = true}), (Ids{259, 264}));
  EXPECT_EQ(more->special_tokens().eos, 264);
}

TEST_F(TokenizerFolder, TextNeverBecomesAControlTokenForWantOfAnother) {
  const std::string trainer = bytes(2, number(3, 2) + number(40, 1));  // unk_id is <s>
  put("tokenizer.model", piece("<unk>", 0, 2) + piece("<s>", 0, 3) + piece("</s>", 0, 3) + piece("a", 0, 1) + trainer +
                             bytes(3, number(3, 0) + number(4, 0)));
  const auto tokenizer = load();
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  EXPECT_EQ(*tokenizer->encode("a"), (Ids{3}));
  EXPECT_FALSE(tokenizer->encode("ab"));
}

TEST(SentencePieceModel, DamageAndWhatIsNotSupportedAreErrors) {
  const std::string good = small_pieces() + kTrainer + kNormalizer;
  ASSERT_TRUE(internal::parse_sentencepiece_model(good));
  std::size_t read = 0;
  for (std::size_t size = 0; size < good.size(); ++size) {
    read += internal::parse_sentencepiece_model(std::string_view(good).substr(0, size)).has_value() ? 1 : 0;
  }
  EXPECT_EQ(read, 0U) << "the normalizer stands last, so every cut is seen";
  const auto expect_error = [](const std::string& model, const std::string& what) {
    const auto made = internal::parse_sentencepiece_model(model);
    ASSERT_FALSE(made) << what;
    EXPECT_NE(made.error().message.find(what), std::string::npos) << made.error().message;
  };
  expect_error(small_pieces() + bytes(2, number(3, 1)) + kNormalizer, "unigram");
  expect_error(small_pieces() + bytes(2, number(4, 9)) + kNormalizer, "unigram");
  expect_error(small_pieces() + kTrainer + bytes(3, bytes(2, "table") + number(4, 0)), "table");
  expect_error(small_pieces() + kTrainer + bytes(3, ""), "repeated spaces");
  expect_error(small_pieces() + bytes(2, number(3, 2) + number(42, 5000)) + kNormalizer, "eos_id");
  expect_error(piece("x", std::bit_cast<float>(0x7FC00000U), 1) + kTrainer + kNormalizer, "score");
  expect_error(piece("x", 0, 7) + kTrainer + kNormalizer, "type");
  expect_error(varint(1 << 3 | 2) + varint(UINT64_MAX) + "abc", "cut short");
  expect_error(std::string(12, '\xFF'), "cut short");
}

}  // namespace
}  // namespace quern
