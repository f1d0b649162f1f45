// Sources: config.json of each model's repository on huggingface.co (meta-llama, mistralai, Qwen, google, microsoft,
// openai, TinyLlama); names of tensors: gguf-py/gguf/constants.py.
#include "model/published_shapes.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>

#include "model/gguf_architectures.hpp"

namespace quern {
namespace {

struct Sizes {
  std::int64_t vocab, context, layers, width, heads, kv_heads, head_dim, mlp_width;
};

/// A model of Llama's kind with these sizes.
ModelConfig sized(const Sizes& sizes) {
  ModelConfig config;
  config.vocab = sizes.vocab;
  config.context = sizes.context;
  config.layers = sizes.layers;
  config.width = sizes.width;
  config.heads = sizes.heads;
  config.kv_heads = sizes.kv_heads;
  config.head_dim = sizes.head_dim;
  config.mlp_width = sizes.mlp_width;
  config.tied_embeddings = false;
  return config;
}

ModelConfig qwen2(const Sizes& sizes) {
  ModelConfig config = sized(sizes);
  config.qkv_bias = true;
  return config;
}

ModelConfig qwen3(const Sizes& sizes) {
  ModelConfig config = sized(sizes);
  config.qk_norm = true;
  return config;
}

ModelConfig qwen3_moe(const Sizes& sizes, std::int64_t experts, std::int64_t used) {
  ModelConfig config = qwen3(sizes);
  config.experts = experts;
  config.experts_used = used;
  return config;
}

ModelConfig llama3(const Sizes& sizes) {
  ModelConfig config = sized(sizes);
  config.rope_base = 500000.0F;
  config.rope_scaling = RopeScaling::factors;  // rope_freqs.weight
  config.rope_factors.assign(static_cast<std::size_t>(sizes.head_dim / 2), 1.0F);
  return config;
}

ModelConfig gemma(const Sizes& sizes, std::int64_t window, std::int64_t period, bool qk_norm) {
  ModelConfig config = sized(sizes);
  config.tied_embeddings = true;
  config.mlp = MlpKind::geglu;
  config.post_norms = true;
  config.qk_norm = qk_norm;
  config.window = window;
  config.window_period = period;
  config.embedding_scale = static_cast<float>(std::sqrt(static_cast<double>(sizes.width)));
  return config;
}

ModelConfig gemma2(const Sizes& sizes) {
  ModelConfig config = gemma(sizes, 4096, 2, false);
  config.attention_soft_cap = 50.0F;
  config.final_soft_cap = 30.0F;
  return config;
}

ModelConfig gpt_oss(const Sizes& sizes, std::int64_t experts, std::int64_t used) {
  ModelConfig config = sized(sizes);
  config.mlp = MlpKind::swiglu_clamped;
  config.attention_bias = true;
  config.mlp_bias = true;
  config.router_bias = true;
  config.attention_sinks = true;
  config.window = 128;
  config.window_period = 2;
  config.experts = experts;
  config.experts_used = used;
  return config;
}

const std::vector<PublishedShape>& all_shapes() {
  static const std::vector<PublishedShape> shapes{
      {"tinyllama-1.1b", "TinyLlama 1.1B", "llama", sized({32000, 2048, 22, 2048, 32, 4, 64, 5632})},
      {"phi3-mini", "Phi-3 mini 3.8B", "phi3", sized({32064, 4096, 32, 3072, 32, 32, 96, 8192})},
      {"llama2-7b", "Llama 2 7B", "llama", sized({32000, 4096, 32, 4096, 32, 32, 128, 11008})},
      {"mistral-7b", "Mistral 7B v0.3", "llama", sized({32768, 32768, 32, 4096, 32, 8, 128, 14336})},
      {"qwen2.5-7b", "Qwen2.5 7B", "qwen2", qwen2({152064, 32768, 28, 3584, 28, 4, 128, 18944})},
      {"llama3.1-8b", "Llama 3.1 8B", "llama", llama3({128256, 131072, 32, 4096, 32, 8, 128, 14336})},
      {"qwen3-8b", "Qwen3 8B", "qwen3", qwen3({151936, 40960, 36, 4096, 32, 8, 128, 12288})},
      {"gemma2-9b", "Gemma 2 9B", "gemma2", gemma2({256000, 8192, 42, 3584, 16, 8, 256, 14336})},
      {"gemma3-12b", "Gemma 3 12B", "gemma3", gemma({262208, 131072, 48, 3840, 16, 8, 256, 15360}, 1024, 6, true)},
      {"phi4", "Phi-4 14B", "phi3", sized({100352, 16384, 40, 5120, 40, 10, 128, 17920})},
      {"qwen2.5-14b", "Qwen2.5 14B", "qwen2", qwen2({152064, 32768, 48, 5120, 40, 8, 128, 13824})},
      {"qwen3-14b", "Qwen3 14B", "qwen3", qwen3({151936, 40960, 40, 5120, 40, 8, 128, 17408})},
      {"gpt-oss-20b", "GPT-OSS 20B", "gpt-oss", gpt_oss({201088, 131072, 24, 2880, 64, 8, 64, 2880}, 32, 4)},
      {"qwen3-30b-a3b", "Qwen3 30B-A3B", "qwen3moe", qwen3_moe({151936, 40960, 48, 2048, 32, 4, 128, 768}, 128, 8)},
  };
  return shapes;
}

/// Collects tensors of a model.
class TensorList {
 public:
  explicit TensorList(const PublishedShape& shape)
      : config_(shape.config), row_(*find_gguf_architecture(shape.architecture)) {}

  std::vector<ShapeTensor> make() {
    const ModelConfig& c = config_;
    add("token_embd.weight", {c.width, c.vocab});
    if (c.rope_scaling == RopeScaling::factors) add("rope_freqs.weight", {c.rotated() / 2});
    for (std::int64_t layer = 0; layer < c.layers; ++layer) {
      prefix_ = fmt::format("blk.{}.", layer);
      attention();
      feed_forward();
    }
    prefix_.clear();
    add("output_norm.weight", {c.width});
    if (!c.tied_embeddings) add("output.weight", {c.width, c.vocab});
    return std::move(tensors_);
  }

 private:
  void add(std::string_view name, std::initializer_list<std::int64_t> sizes) {
    ShapeTensor tensor{
        .name = prefix_ + std::string(name), .dimensions = static_cast<int>(sizes.size()), .shape = {1, 1, 1, 1}};
    std::copy(sizes.begin(), sizes.end(), tensor.shape.begin());
    tensors_.push_back(std::move(tensor));
  }
  /// NAME.weight [rows, cols] and, with `bias`, NAME.bias [rows].
  void matrix(std::string_view name, std::int64_t cols, std::int64_t rows, bool bias) {
    add(fmt::format("{}.weight", name), {cols, rows});
    if (bias) add(fmt::format("{}.bias", name), {rows});
  }

  void attention() {
    const ModelConfig& c = config_;
    add("attn_norm.weight", {c.width});
    if (row_.fused_qkv) {
      matrix("attn_qkv", c.width, c.qkv_width(), c.has_qkv_bias());
    } else {
      matrix("attn_q", c.width, c.query_width(), c.has_qkv_bias());
      matrix("attn_k", c.width, c.kv_width(), c.has_qkv_bias());
      matrix("attn_v", c.width, c.kv_width(), c.has_qkv_bias());
    }
    if (c.qk_norm) add("attn_q_norm.weight", {c.head_dim});
    if (c.qk_norm) add("attn_k_norm.weight", {c.head_dim});
    if (c.attention_sinks) add("attn_sinks.weight", {c.heads});
    matrix("attn_output", c.query_width(), c.width, c.attention_bias);
    if (c.post_norms) add("post_attention_norm.weight", {c.width});
  }

  void feed_forward() {
    const ModelConfig& c = config_;
    add(row_.norm2_after_attention ? "post_attention_norm.weight" : "ffn_norm.weight", {c.width});
    if (c.experts > 0) {
      matrix("ffn_gate_inp", c.width, c.experts, c.router_bias);
      for (const char* name : {"ffn_gate_exps", "ffn_up_exps"}) experts(name, c.width, c.mlp_width);
      experts("ffn_down_exps", c.mlp_width, c.width);
    } else if (row_.fused_gate_up) {
      matrix("ffn_up", c.width, 2 * c.mlp_width, c.mlp_bias);
      matrix("ffn_down", c.mlp_width, c.width, c.mlp_bias);
    } else {
      if (c.gated()) matrix("ffn_gate", c.width, c.mlp_width, c.mlp_bias);
      matrix("ffn_up", c.width, c.mlp_width, c.mlp_bias);
      matrix("ffn_down", c.mlp_width, c.width, c.mlp_bias);
    }
    if (c.post_norms) add("post_ffw_norm.weight", {c.width});
  }

  void experts(std::string_view name, std::int64_t cols, std::int64_t rows) {
    add(fmt::format("{}.weight", name), {cols, rows, config_.experts});
    if (config_.mlp_bias) add(fmt::format("{}.bias", name), {rows, config_.experts});
  }

  const ModelConfig& config_;
  const ArchitectureRow& row_;
  std::string prefix_;
  std::vector<ShapeTensor> tensors_;
};

}  // namespace

std::span<const PublishedShape> published_shapes() { return all_shapes(); }

const PublishedShape* find_published_shape(std::string_view name) {
  const auto same = [](char a, char b) {
    return std::tolower(static_cast<unsigned char>(a)) == std::tolower(static_cast<unsigned char>(b));
  };
  for (const PublishedShape& shape : all_shapes()) {
    if (std::equal(shape.name.begin(), shape.name.end(), name.begin(), name.end(), same)) return &shape;
  }
  return nullptr;
}

std::vector<ShapeTensor> tensors_of(const PublishedShape& shape) { return TensorList(shape).make(); }

}  // namespace quern
