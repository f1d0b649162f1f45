// llama2.c's checkpoints: both f32 versions, the real one that is shared, and damaged ones.
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "model/model_stream.hpp"
#include "support/shared_data.hpp"
#include "support/tests_paths.hpp"

namespace quern {
namespace {

template <class T>
std::string number(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

/// Floats that say where they stand: `from`, `from` + 1, ...
std::string floats(float from, std::int64_t count) {
  std::string bytes;
  for (std::int64_t i = 0; i < count; ++i) bytes += number(from + static_cast<float>(i));
  return bytes;
}

constexpr std::int32_t kWidth = 8, kMlp = 6, kLayers = 2, kHeads = 2, kKv = 1, kVocab = 259 + 3, kContext = 5;

std::string sizes(std::int32_t vocab) {
  std::string bytes;
  for (const std::int32_t n : {kWidth, kMlp, kLayers, kHeads, kKv, vocab, kContext}) bytes += number(n);
  return bytes;
}

std::string version_0(bool shared_head) {
  std::string bytes = sizes(shared_head ? kVocab : -kVocab);
  bytes += floats(100000, kVocab * kWidth);          // embedding
  bytes += floats(1, kLayers * kWidth);              // attention norms
  bytes += floats(1000, kLayers * kWidth * kWidth);  // wq
  bytes += floats(2000, kLayers * kWidth * 4);       // wk
  bytes += floats(3000, kLayers * kWidth * 4);       // wv
  bytes += floats(4000, kLayers * kWidth * kWidth);  // wo
  bytes += floats(50, kLayers * kWidth);             // feed-forward norms
  bytes += floats(5000, kLayers * kMlp * kWidth);    // w1: gate
  bytes += floats(6000, kLayers * kMlp * kWidth);    // w2: down
  bytes += floats(7000, kLayers * kMlp * kWidth);    // w3: up
  bytes += floats(90, kWidth);                       // final norm
  bytes += floats(-999, 2 * kContext * 2);           // RoPE's table
  if (!shared_head) bytes += floats(200000, kVocab * kWidth);
  return bytes;
}

std::string version_1(bool shared_head) {
  std::string bytes = number(std::uint32_t{0x616b3432}) + number(std::int32_t{1}) + sizes(kVocab);
  bytes += static_cast<char>(shared_head ? 1 : 0);
  bytes.resize(256, '\0');
  bytes += floats(1, kLayers * kWidth) + floats(50, kLayers * kWidth) + floats(90, kWidth) + floats(100000, kVocab * kWidth);
  bytes += floats(1000, kLayers * kWidth * kWidth) + floats(2000, kLayers * kWidth * 4) + floats(3000, kLayers * kWidth * 4);
  bytes += floats(4000, kLayers * kWidth * kWidth) + floats(5000, kLayers * kMlp * kWidth);
  bytes += floats(6000, kLayers * kMlp * kWidth) + floats(7000, kLayers * kMlp * kWidth);
  if (!shared_head) bytes += floats(200000, kVocab * kWidth);
  return bytes;
}

/// Three control tokens, the bytes, and three letters.
std::string vocabulary() {
  std::string bytes = number(std::int32_t{27});
  const auto token = [&](const std::string& text, float score) {
    bytes += number(score) + number(static_cast<std::int32_t>(text.size())) + text;
  };
  token("<unk>", 0), token("\n<s>\n", 0), token("\n</s>\n", 0);
  for (int byte = 0; byte < 256; ++byte) {
    char text[8];
    std::snprintf(text, sizeof text, "<0x%02X>", static_cast<unsigned>(byte));
    token(text, 0);
  }
  token(" ", -1), token("a", -2), token("b", -3);
  return bytes;
}

class Llama2c : public testing::Test {
 protected:
  Llama2c() { folder_.write("tokenizer.bin", vocabulary()); }
  Result<ModelStream> open(const std::string& bytes) {
    return stream_llama2c(folder_.write("model.bin", bytes).string(), "");
  }
  void expect_error(const std::string& bytes, const std::string& part) {
    const auto stream = open(bytes);
    ASSERT_FALSE(stream);
    EXPECT_EQ(stream.error().code, ErrorCode::bad_input);
    EXPECT_NE(stream.error().message.find("model.bin: "), std::string::npos) << stream.error().message;
    EXPECT_NE(stream.error().message.find(part), std::string::npos) << stream.error().message;
  }
  TemporaryFolder folder_;
};

float first_of(const ModelStream& stream, const std::string& name) {
  const StreamTensor* tensor = stream.find(name);
  std::vector<float> row(static_cast<std::size_t>(tensor->cols()));
  EXPECT_TRUE(tensor->read(0, 1, std::as_writable_bytes(std::span(row))));
  return row[0];
}

TEST_F(Llama2c, EveryTensorFindsItsPlace) {
  for (const bool shared : {true, false}) {
    for (const std::string& bytes : {version_0(shared), version_1(shared)}) {
      const auto stream = open(bytes);
      ASSERT_TRUE(stream) << stream.error().message;
      ASSERT_TRUE(check_stream(*stream, "x"));
      EXPECT_EQ(stream->config.tied_embeddings, shared);
      EXPECT_EQ(stream->config.rope_pairing, RopePairing::adjacent);
      EXPECT_EQ(stream->config.context, kContext);
      EXPECT_EQ(first_of(*stream, "token_embd.weight"), 100000.0F);
      EXPECT_EQ(first_of(*stream, "blk.1.attn_norm.weight"), 1.0F + kWidth);
      EXPECT_EQ(first_of(*stream, "blk.1.attn_q.weight"), 1000.0F + kWidth * kWidth);
      EXPECT_EQ(first_of(*stream, "blk.1.attn_k.weight"), 2000.0F + kWidth * 4);
      EXPECT_EQ(first_of(*stream, "blk.1.attn_v.weight"), 3000.0F + kWidth * 4);
      EXPECT_EQ(first_of(*stream, "blk.1.attn_output.weight"), 4000.0F + kWidth * kWidth);
      EXPECT_EQ(first_of(*stream, "blk.1.ffn_norm.weight"), 50.0F + kWidth);
      EXPECT_EQ(first_of(*stream, "blk.1.ffn_gate.weight"), 5000.0F + kMlp * kWidth);
      EXPECT_EQ(first_of(*stream, "blk.1.ffn_down.weight"), 6000.0F + kMlp * kWidth);
      EXPECT_EQ(first_of(*stream, "blk.1.ffn_up.weight"), 7000.0F + kMlp * kWidth);
      EXPECT_EQ(first_of(*stream, "output_norm.weight"), 90.0F);
      if (!shared) {
        EXPECT_EQ(first_of(*stream, "output.weight"), 200000.0F);
      }
    }
  }
}

TEST_F(Llama2c, DamageIsNamed) {
  const std::string good = version_0(true);
  expect_error("", "is empty");
  expect_error(good.substr(0, 20), "header of 28 bytes, found 20");
  expect_error(good.substr(0, good.size() - 1), "has ");
  expect_error(good + "x", "has ");
  const auto changed = [&](int field, std::int32_t value) {
    std::string bytes = good;
    std::memcpy(bytes.data() + 4 * field, &value, sizeof value);
    return bytes;
  };
  expect_error(changed(0, 0), "dim must be 1 to 16777216, found 0");
  expect_error(changed(0, -8), "dim must be 1 to 16777216, found -8");
  expect_error(changed(2, 513), "n_layers must be 1 to 512, found 513");
  expect_error(changed(3, 3), "3 heads must divide dim 8");
  expect_error(changed(4, 3), "3 n_kv_heads divide them");
  expect_error(changed(1, 1 << 20), "has ");
  expect_error(changed(6, 2147483647), "max_seq_len must be");
  std::string versioned = version_1(true);
  versioned[4] = 2;
  expect_error(versioned, "export version must be 0 or 1 (both f32), found 2");
  expect_error(version_1(true).substr(0, 100), "header of 256 bytes, found 100");
}

TEST_F(Llama2c, TheVocabularyMustBeThere) {
  const std::string model = folder_.write("other/model.bin", version_0(true)).string();
  const auto missing = stream_llama2c(model, "");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ErrorCode::bad_input);
  EXPECT_EQ(missing.error().message, model + ": expected its vocabulary beside it, in tok" + std::to_string(kVocab) +
                                         ".bin or tokenizer.bin, found neither");
  const auto absent = stream_llama2c(model, (folder_ / "absent.bin").string());
  ASSERT_FALSE(absent);
  EXPECT_EQ(absent.error().code, ErrorCode::bad_input) << absent.error().message;
  const auto named = stream_llama2c(model, (folder_ / "tokenizer.bin").string());
  ASSERT_TRUE(named) << named.error().message;
  EXPECT_EQ(named->tokenizer->vocab_size(), kVocab);
}

// Issue: stories260K.bin + tok512.bin -> GGUF, equal to the given one: the same weights, bit by bit, and vocabulary.
TEST_F(Llama2c, Stories260KEqualsItsGguf) {
  const auto folder = shared_data("testdata/stories260K");
  if (!folder) GTEST_SKIP() << "shared data absent: testdata/stories260K";
  const auto stream = stream_llama2c((*folder / "stories260K.bin").string(), (*folder / "tok512.bin").string());
  ASSERT_TRUE(stream) << stream.error().message;
  const std::string written = (folder_ / "stories.gguf").string();
  const auto wrote = write_gguf(*stream, written, {});
  ASSERT_TRUE(wrote) << wrote.error().message;
  const auto ours = stream_gguf(written);
  ASSERT_TRUE(ours) << ours.error().message;
  const auto given = stream_gguf((*folder / "stories260K-f32.gguf").string());
  ASSERT_TRUE(given) << given.error().message;
  ASSERT_EQ(ours->tensors.size(), given->tensors.size());
  EXPECT_EQ(ours->config.tied_embeddings, given->config.tied_embeddings);
  for (std::size_t i = 0; i < ours->tensors.size(); ++i) {
    const StreamTensor& a = ours->tensors[i];
    const StreamTensor& b = given->tensors[i];
    ASSERT_EQ(a.name, b.name);
    std::vector<float> x(static_cast<std::size_t>(a.elements()));
    std::vector<float> y(x.size());
    ASSERT_TRUE(read_rows_f32(a, 0, a.rows(), x));
    ASSERT_TRUE(read_rows_f32(b, 0, b.rows(), y));
    EXPECT_EQ(0, std::memcmp(x.data(), y.data(), x.size() * sizeof(float))) << a.name;
  }
  for (const std::string text : {"Once upon a time, there was a little girl named Lily.", "\xc3\xa9\xe2\x82\xac\n\n  x"}) {
    EXPECT_EQ(ours->tokenizer->encode(text, {.add_special = true}).value(),
              given->tokenizer->encode(text, {.add_special = true}).value());
  }
}

}  // namespace
}  // namespace quern
