#include "support/published_models.hpp"

#include <cmath>
#include <random>

#include "support/gguf_builder.hpp"

namespace quern {

namespace {

constexpr std::uint32_t kQ8_0 = 8;
constexpr std::uint32_t kMxfp4 = 39;
constexpr std::int64_t kWidth = 64;
constexpr std::int64_t kHidden = 96;
constexpr std::int64_t kContext = 64;

class Maker {
 public:
  Maker(const PublishedModel& model, std::int64_t vocab) : model_(model), vocab_(vocab) {}

  GgufBuilder make() {
    const std::string& a = model_.architecture;
    gemma_ = a == "gemma2" || a == "gemma3";
    gpt2_ = a == "gpt2";
    heads_ = a == "gemma3" ? 8 : 4;
    kv_heads_ = gpt2_ || a == "phi3" ? 4 : 2;
    head_dim_ = a == "qwen3" || a == "qwen3moe" || a == "gpt-oss" ? 32 : kWidth / heads_;
    layers_ = a == "gemma3" ? 7 : 3;
    metadata();
    matrix("token_embd.weight", kWidth, vocab_);
    if (gpt2_) matrix("position_embd.weight", kWidth, kContext, 1, true);
    factors();
    for (std::int64_t layer = 0; layer < layers_; ++layer) block("blk." + std::to_string(layer) + ".");
    norm("output_norm", kWidth, gpt2_);
    if (!model_.tied) matrix("output.weight", kWidth, vocab_);
    return builder_;
  }

 private:
  void metadata() {
    const std::string& a = model_.architecture;
    const auto key = [&](const char* name) { return a + "." + name; };
    builder_.text("general.architecture", a);
    builder_.u32(key("context_length"), kContext).u32(key("embedding_length"), kWidth);
    builder_.u32(key("block_count"), static_cast<std::uint32_t>(layers_));
    builder_.u32(key("feed_forward_length"), kHidden);
    builder_.u32(key("attention.head_count"), static_cast<std::uint32_t>(heads_));
    builder_.u32(key("attention.head_count_kv"), static_cast<std::uint32_t>(kv_heads_));
    if (head_dim_ * heads_ != kWidth) {
      builder_.u32(key("attention.key_length"), static_cast<std::uint32_t>(head_dim_));
      builder_.u32(key("attention.value_length"), static_cast<std::uint32_t>(head_dim_));
    }
    builder_.f32(key(gpt2_ ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon"), 1e-5F);
    if (!gpt2_) builder_.f32(key("rope.freq_base"), a == "gemma3" ? 1e6F : 5e4F);
    if (gemma_ || a == "gpt-oss") builder_.u32(key("attention.sliding_window"), 9);
    if (a == "gpt-oss") {
      builder_.text(key("rope.scaling.type"), "yarn").f32(key("rope.scaling.factor"), 8.0F);
      builder_.u32(key("rope.scaling.original_context_length"), 24);
      builder_.u32(key("expert_feed_forward_length"), kHidden);
    }
    if (model_.linear_factor != 1.0F) {
      builder_.text(key("rope.scaling.type"), "linear").f32(key("rope.scaling.factor"), model_.linear_factor);
    }
    if (a == "phi3" && model_.frequency_factors) {
      builder_.u32(key("rope.scaling.original_context_length"), 16).f32(key("rope.scaling.attn_factor"), 1.19F);
    }
    if (a == "gemma2") builder_.f32(key("attn_logit_softcapping"), 5.0F).f32(key("final_logit_softcapping"), 4.0F);
    if (model_.experts > 0) {
      builder_.u32(key("expert_count"), static_cast<std::uint32_t>(model_.experts)).u32(key("expert_used_count"), 2);
    }
  }

  void factors() {
    if (!model_.frequency_factors) return;
    const std::int64_t pairs = head_dim_ / 2;
    const auto list = [&](const std::string& name, float growth) {
      std::vector<float> values;
      for (std::int64_t i = 0; i < pairs; ++i) values.push_back(1.0F + growth * static_cast<float>(i));
      builder_.f32_tensor(name, {pairs}, values);
    };
    if (model_.architecture == "phi3") {
      list("rope_factors_long.weight", 0.7F);
      list("rope_factors_short.weight", 0.1F);
    } else {
      list("rope_freqs.weight", 0.5F);
    }
  }

  void block(const std::string& b) {
    const std::string& a = model_.architecture;
    const std::int64_t q = heads_ * head_dim_;
    const std::int64_t kv = kv_heads_ * head_dim_;
    const bool biased = a == "qwen2" || a == "gpt-oss" || gpt2_;
    norm(b + "attn_norm", kWidth, gpt2_);
    if (gpt2_ || a == "phi3" || model_.fused_qkv) {
      linear(b + "attn_qkv", kWidth, q + 2 * kv, biased);
    } else {
      linear(b + "attn_q", kWidth, q, biased);
      linear(b + "attn_k", kWidth, kv, biased);
      linear(b + "attn_v", kWidth, kv, biased);
    }
    if (a == "qwen3" || a == "qwen3moe" || a == "gemma3") {
      norm(b + "attn_q_norm", head_dim_, false);
      norm(b + "attn_k_norm", head_dim_, false);
    }
    if (a == "gpt-oss") values(b + "attn_sinks.weight", heads_, 0.0F, 1.0F);
    linear(b + "attn_output", q, kWidth, gpt2_ || a == "gpt-oss");
    if (gemma_ || a == "gpt-oss") norm(b + "post_attention_norm", kWidth, false);
    if (a != "gpt-oss") norm(b + "ffn_norm", kWidth, gpt2_);
    if (gemma_) norm(b + "post_ffw_norm", kWidth, false);
    if (model_.experts > 0) {
      const bool oss = a == "gpt-oss";
      matrix(b + "ffn_gate_inp.weight", kWidth, model_.experts, 1, true);
      if (oss) values(b + "ffn_gate_inp.bias", model_.experts, 0.0F, 0.5F);
      struct Expert {
        const char* name;
        std::int64_t in, out;
      };
      const Expert all[] = {
          {"ffn_gate_exps", kWidth, kHidden}, {"ffn_up_exps", kWidth, kHidden}, {"ffn_down_exps", kHidden, kWidth}};
      for (const auto& [name, in, out] : all) {
        matrix(b + name + ".weight", in, out, model_.experts);
        if (oss) bias(b + name + ".bias", out, model_.experts);
      }
      return;
    }
    if (!gpt2_ && a != "phi3") linear(b + "ffn_gate", kWidth, kHidden, false);
    linear(b + "ffn_up", kWidth, a == "phi3" ? 2 * kHidden : kHidden, gpt2_);
    linear(b + "ffn_down", kHidden, kWidth, gpt2_);
  }

  void linear(const std::string& name, std::int64_t in, std::int64_t out, bool with_bias) {
    matrix(name + ".weight", in, out);
    if (with_bias) bias(name + ".bias", out);
  }
  void norm(const std::string& name, std::int64_t n, bool with_bias) {
    values(name + ".weight", n, 1.0F, 0.3F);
    if (with_bias) bias(name + ".bias", n);
  }
  void bias(const std::string& name, std::int64_t n, std::int64_t outer = 1) {
    std::vector<float> v = normal(n * outer, 0.0F, 0.2F);
    builder_.f32_tensor(name, outer > 1 ? std::vector<std::int64_t>{n, outer} : std::vector<std::int64_t>{n}, v);
  }
  void values(const std::string& name, std::int64_t n, float mean, float deviation) {
    builder_.f32_tensor(name, {n}, normal(n, mean, deviation));
  }

  /// {in, out} or {in, out, experts}, with outputs of about the inputs' size.
  void matrix(const std::string& name, std::int64_t in, std::int64_t out, std::int64_t experts = 1,
              bool always_f32 = false) {
    const std::vector<std::int64_t> shape =
        experts > 1 ? std::vector<std::int64_t>{in, out, experts} : std::vector<std::int64_t>{in, out};
    const float deviation = 1.5F / std::sqrt(static_cast<float>(in));
    const std::int64_t count = in * out * experts;
    if (!model_.block_weights || always_f32) {
      builder_.f32_tensor(name, shape, normal(count, 0.0F, deviation));
    } else if (experts > 1 && model_.architecture == "gpt-oss") {
      std::string blocks;
      for (std::int64_t i = 0; i < count / 32; ++i) {
        blocks.push_back(static_cast<char>(124 + random_() % 2));  // 2^-3 and 2^-2 times values up to 6
        for (int byte = 0; byte < 16; ++byte) blocks.push_back(static_cast<char>(random_() & 0xff));
      }
      builder_.tensor(name, kMxfp4, shape, blocks);
    } else {
      std::string blocks;
      for (std::int64_t i = 0; i < count / 32; ++i) {
        // Half-precision 2^-9 (0x1800) or 2^-8: int8 of deviation 74 then gives about 0.15 to 0.3.
        blocks += GgufBuilder::bytes_of_number(static_cast<std::uint16_t>(random_() % 2 == 0 ? 0x1800 : 0x1400));
        for (int byte = 0; byte < 32; ++byte) blocks.push_back(static_cast<char>(static_cast<int>(random_() % 255) - 127));
      }
      builder_.tensor(name, kQ8_0, shape, blocks);
    }
  }

  std::vector<float> normal(std::int64_t n, float mean, float deviation) {
    std::normal_distribution<float> draw(mean, deviation);
    std::vector<float> v(static_cast<std::size_t>(n));
    for (float& x : v) x = draw(random_);
    return v;
  }

  const PublishedModel& model_;
  std::int64_t vocab_;
  GgufBuilder builder_;
  std::mt19937 random_{12345};
  bool gemma_ = false, gpt2_ = false;
  std::int64_t heads_ = 0, kv_heads_ = 0, head_dim_ = 0, layers_ = 0;
};

/// GPT-2's printable character of a byte, as UTF-8.
std::string printable(int byte) {
  int code = byte;
  const bool itself = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
  if (!itself) {
    code = 256;
    for (int b = 0; b < byte; ++b) {
      if (!((b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255))) ++code;
    }
  }
  if (code < 128) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3F))};
}

}  // namespace

std::vector<PublishedModel> published_models() {
  return {{.name = "llama", .architecture = "llama"},
          {.name = "llama3", .architecture = "llama", .tied = true, .frequency_factors = true},
          {.name = "llama_linear_q8_0", .architecture = "llama", .linear_factor = 4.0F, .block_weights = true},
          {.name = "mixtral", .architecture = "llama", .experts = 4},
          {.name = "qwen2", .architecture = "qwen2", .tied = true},
          {.name = "qwen2_fused", .architecture = "qwen2", .fused_qkv = true},
          {.name = "qwen3", .architecture = "qwen3"},
          {.name = "qwen3moe", .architecture = "qwen3moe", .experts = 5},
          {.name = "gemma2", .architecture = "gemma2", .tied = true},
          {.name = "gemma3", .architecture = "gemma3", .tied = true, .linear_factor = 8.0F},
          {.name = "phi3", .architecture = "phi3"},
          {.name = "phi3_longrope", .architecture = "phi3", .frequency_factors = true},
          {.name = "gpt2", .architecture = "gpt2", .tied = true},
          {.name = "gpt_oss", .architecture = "gpt-oss", .experts = 4},
          {.name = "gpt_oss_mxfp4", .architecture = "gpt-oss", .experts = 4, .block_weights = true}};
}

std::vector<std::byte> published_model_image(const PublishedModel& model, bool with_tokenizer) {
  GgufBuilder builder = Maker(model, with_tokenizer ? 257 : kPublishedVocab).make();
  if (with_tokenizer) {
    std::vector<std::string> tokens;
    std::vector<std::int32_t> types(257, 1);
    for (int byte = 0; byte < 256; ++byte) tokens.push_back(printable(byte));
    tokens.emplace_back("<|endoftext|>");
    types.back() = 3;
    builder.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "gpt-2").texts("tokenizer.ggml.tokens", tokens);
    builder.i32s("tokenizer.ggml.token_type", types).texts("tokenizer.ggml.merges", {});
    builder.u32("tokenizer.ggml.eos_token_id", 256).u32("tokenizer.ggml.bos_token_id", 256);
  }
  return builder.build();
}

}  // namespace quern
