// Tensors of a GGUF file as a model's weights: names, shapes and types checked, data used where it lies.
#include <fmt/format.h>

#include <cstring>
#include <string>
#include <unordered_set>

#include "math/block_decode.hpp"
#include "model/gguf_model.hpp"

namespace quern {

namespace {

/// Finds tensors by name and checks them; keeps the first error, so that a model is bound straight through.
class Binder {
 public:
  Binder(const GgufFile& file, WeightPrecision precision, GgufWeights& out)
      : file_(file), precision_(precision), out_(out) {}

  [[nodiscard]] bool has(std::string_view name) const { return file_.find_tensor(name) != nullptr; }
  [[nodiscard]] std::int64_t rows(std::string_view name) const { return has(name) ? file_.find_tensor(name)->shape[1] : 0; }

  /// A matrix [rows, cols], maybe of many experts ([experts, rows, cols] in memory, given as one of experts * rows rows).
  Weight matrix(const std::string& name, std::int64_t rows, std::int64_t cols, std::int64_t experts = 1) {
    const GgufTensor* tensor = take(name, {cols, rows, experts});
    if (tensor == nullptr) return {};
    const BlockFormat& format = block_format(tensor->type);
    const bool floating =
        tensor->type == ElementType::f32 || tensor->type == ElementType::f16 || tensor->type == ElementType::bf16;
    if (!floating && !format.quantized) {
      fail(fmt::format("tensor {} has type {}, which is not one of weights", name, format.name));
      return {};
    }
    if (floating && reinterpret_cast<std::uintptr_t>(tensor->data) % alignof(float) != 0) {
      fail(fmt::format("tensor {} of type {} lies at an address that is no multiple of 4 (general.alignment is {})", name,
                       format.name, file_.alignment()));
      return {};
    }
    Weight weight;
    weight.type = tensor->type;
    weight.rows = rows * experts;
    weight.cols = cols;
    weight.forward = weight.backward = tensor->data;
    weight.precision = precision_;
    return weight;
  }

  /// f32 values [outer, count]: in place where the file holds aligned f32, else decoded.
  const float* vector(const std::string& name, std::int64_t count, std::int64_t outer = 1) {
    const GgufTensor* tensor = take(name, {count, outer, 1});
    if (tensor == nullptr) return nullptr;
    if (tensor->type == ElementType::f32 && reinterpret_cast<std::uintptr_t>(tensor->data) % alignof(float) == 0) {
      return reinterpret_cast<const float*>(tensor->data);
    }
    return keep(decoded(*tensor, name));
  }
  const float* vector_if(bool wanted, const std::string& name, std::int64_t count, std::int64_t outer = 1) {
    return wanted ? vector(name, count, outer) : nullptr;
  }

  /// Values of several tensors of `outer` rows each, side by side: [outer, sum of counts].
  const float* side_by_side(const std::vector<std::pair<std::string, std::int64_t>>& parts, std::int64_t outer) {
    std::int64_t total = 0;
    for (const auto& part : parts) total += part.second;
    std::vector<float> joined(static_cast<std::size_t>(total * outer));
    std::int64_t column = 0;
    for (const auto& [name, count] : parts) {
      const GgufTensor* tensor = take(name, {count, outer, 1});
      if (tensor == nullptr) return nullptr;
      const std::vector<float> values = decoded(*tensor, name);
      if (failed()) return nullptr;
      for (std::int64_t row = 0; row < outer; ++row) {
        std::copy_n(values.begin() + row * count, count, joined.begin() + row * total + column);
      }
      column += count;
    }
    return keep(std::move(joined));
  }

  /// Counts a tensor that was read elsewhere as known.
  void known(const std::string& name) { used_.insert(name); }

  void fail(std::string message) {
    if (!failed()) error_ = Error{ErrorCode::bad_input, file_.name() + ": " + std::move(message)};
  }
  [[nodiscard]] bool failed() const { return !error_.message.empty(); }
  [[nodiscard]] const Error& error() const { return error_; }

  /// Refuses tensors that nothing asked for.
  void check_all_used() {
    for (const GgufTensor& tensor : file_.tensors()) {
      const std::string_view name = tensor.name;
      // Written by converters of 2023, computed by everybody: the frequencies of plain RoPE.
      if (name.ends_with(".attn_rot_embd") || name.ends_with("attn.rope.freqs")) continue;
      if (!used_.contains(std::string(name))) {
        fail(fmt::format("tensor {} is not one that Quern knows in this architecture; without it results would be wrong",
                         name));
        return;
      }
    }
  }

 private:
  const GgufTensor* take(const std::string& name, std::array<std::int64_t, 3> shape) {
    if (failed()) return nullptr;
    const GgufTensor* tensor = file_.find_tensor(name);
    if (tensor == nullptr) {
      fail(fmt::format("tensor {} is missing", name));
      return nullptr;
    }
    if (tensor->shape[0] != shape[0] || tensor->shape[1] != shape[1] || tensor->shape[2] != shape[2] ||
        tensor->shape[3] != 1) {
      const auto text = [](std::int64_t a, std::int64_t b, std::int64_t c) {
        return c != 1   ? fmt::format("{{{}, {}, {}}}", a, b, c)
               : b != 1 ? fmt::format("{{{}, {}}}", a, b)
                        : fmt::format("{{{}}}", a);
      };
      fail(fmt::format("tensor {} must have the shape {}, found {}", name, text(shape[0], shape[1], shape[2]),
                       text(tensor->shape[0], tensor->shape[1], tensor->shape[2] * tensor->shape[3])));
      return nullptr;
    }
    used_.insert(name);
    out_.bytes += tensor->bytes;
    return tensor;
  }

  std::vector<float> decoded(const GgufTensor& tensor, const std::string& name) {
    if (block_format(tensor.type).quantized ||
        !(tensor.type == ElementType::f32 || tensor.type == ElementType::f16 || tensor.type == ElementType::bf16)) {
      fail(fmt::format("tensor {} must have type F32, F16 or BF16, found {}", name, block_format(tensor.type).name));
      return {};
    }
    std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
    block_decoder_portable()(tensor.type, tensor.data, tensor.elements(), values.data());
    return values;
  }

  const float* keep(std::vector<float> values) {
    out_.owned.push_back(std::move(values));
    return out_.owned.back().data();
  }

  const GgufFile& file_;
  WeightPrecision precision_;
  GgufWeights& out_;
  std::unordered_set<std::string> used_;
  Error error_{ErrorCode::bad_input, ""};
};

void bind_attention(Binder& bind, const ModelConfig& c, const std::string& block, LayerWeights& w) {
  w.norm1 = bind.vector(block + "attn_norm.weight", c.width);
  w.norm1_bias = bind.vector_if(c.norm_bias, block + "attn_norm.bias", c.width);
  if (bind.has(block + "attn_qkv.weight")) {
    w.qkv = bind.matrix(block + "attn_qkv.weight", c.qkv_width(), c.width);
    w.qkv_bias = bind.vector_if(c.has_qkv_bias(), block + "attn_qkv.bias", c.qkv_width());
  } else {
    w.qkv.append(bind.matrix(block + "attn_q.weight", c.query_width(), c.width));
    w.qkv.append(bind.matrix(block + "attn_k.weight", c.kv_width(), c.width));
    w.qkv.append(bind.matrix(block + "attn_v.weight", c.kv_width(), c.width));
    if (c.has_qkv_bias()) {
      w.qkv_bias = bind.side_by_side({{block + "attn_q.bias", c.query_width()},
                                      {block + "attn_k.bias", c.kv_width()},
                                      {block + "attn_v.bias", c.kv_width()}},
                                     1);
    }
  }
  w.q_norm = bind.vector_if(c.qk_norm, block + "attn_q_norm.weight", c.head_dim);
  w.k_norm = bind.vector_if(c.qk_norm, block + "attn_k_norm.weight", c.head_dim);
  w.attention_out = bind.matrix(block + "attn_output.weight", c.width, c.query_width());
  w.attention_out_bias = bind.vector_if(c.attention_bias, block + "attn_output.bias", c.width);
  w.sinks = bind.vector_if(c.attention_sinks, block + "attn_sinks.weight", c.heads);
}

void bind_norm2(Binder& bind, const ModelConfig& c, const std::string& block, LayerWeights& w) {
  w.post_norm1 = bind.vector_if(c.post_norms, block + "post_attention_norm.weight", c.width);
  w.post_norm2 = bind.vector_if(c.post_norms, block + "post_ffw_norm.weight", c.width);
  // GPT-OSS names the norm before its feed-forward part after what stands before it.
  const bool named_after_attention =
      !c.post_norms && !bind.has(block + "ffn_norm.weight") && bind.has(block + "post_attention_norm.weight");
  w.norm2 = bind.vector(block + (named_after_attention ? "post_attention_norm.weight" : "ffn_norm.weight"), c.width);
  w.norm2_bias = bind.vector_if(c.norm_bias, block + "ffn_norm.bias", c.width);
}

void bind_dense(Binder& bind, const ModelConfig& c, const std::string& block, LayerWeights& w) {
  const std::int64_t hidden = c.mlp_width;
  const bool fused = bind.rows(block + "ffn_up.weight") == 2 * hidden && !bind.has(block + "ffn_gate.weight");
  if (c.gated() && !fused) {
    w.mlp_in.append(bind.matrix(block + "ffn_gate.weight", hidden, c.width));
    w.mlp_in.append(bind.matrix(block + "ffn_up.weight", hidden, c.width));
    if (c.mlp_bias) {
      w.mlp_in_bias = bind.side_by_side({{block + "ffn_gate.bias", hidden}, {block + "ffn_up.bias", hidden}}, 1);
    }
  } else {
    const std::int64_t rows = c.gated() ? 2 * hidden : hidden;  // Phi-3: gate rows, then up rows
    w.mlp_in = bind.matrix(block + "ffn_up.weight", rows, c.width);
    w.mlp_in_bias = bind.vector_if(c.mlp_bias, block + "ffn_up.bias", rows);
  }
  w.mlp_out = bind.matrix(block + "ffn_down.weight", c.width, hidden);
  w.mlp_out_bias = bind.vector_if(c.mlp_bias, block + "ffn_down.bias", c.width);
}

void bind_experts(Binder& bind, const ModelConfig& c, const std::string& block, LayerWeights& w) {
  const std::int64_t hidden = c.mlp_width;
  w.router = bind.matrix(block + "ffn_gate_inp.weight", c.experts, c.width);
  // A wrong choice of experts costs more than the few products. f32 is multiplied in f32 either way; fast takes few rows of x
  // against its rows as they lie, where the other packs them for each token (8 % of decode with 128 experts).
  if (w.router.type != ElementType::f32) w.router.precision = WeightPrecision::f32;
  w.router_bias = bind.vector_if(c.router_bias, block + "ffn_gate_inp.bias", c.experts);
  if (bind.has(block + "ffn_gate_up_exps.weight")) {
    w.expert_in = bind.matrix(block + "ffn_gate_up_exps.weight", 2 * hidden, c.width, c.experts);
    w.expert_in_bias = bind.vector_if(c.mlp_bias, block + "ffn_gate_up_exps.bias", 2 * hidden, c.experts);
  } else {
    w.expert_in.append(bind.matrix(block + "ffn_gate_exps.weight", hidden, c.width, c.experts));
    w.expert_in.append(bind.matrix(block + "ffn_up_exps.weight", hidden, c.width, c.experts));
    if (c.mlp_bias) {
      w.expert_in_bias =
          bind.side_by_side({{block + "ffn_gate_exps.bias", hidden}, {block + "ffn_up_exps.bias", hidden}}, c.experts);
    }
  }
  w.expert_out = bind.matrix(block + "ffn_down_exps.weight", c.width, hidden, c.experts);
  w.expert_out_bias = bind.vector_if(c.mlp_bias, block + "ffn_down_exps.bias", c.width, c.experts);
}

/// 4 GiB, two of which one model may hold: 8 million positions of 128 rotated elements.
constexpr std::int64_t kMaxRopeTable = std::int64_t{1} << 30;

std::size_t weight_bytes(const Weight& w) { return bytes_of(w.type, w.rows * w.cols).value_or(0); }
std::size_t weight_bytes(const StackedWeight& w) {
  std::size_t bytes = 0;
  for (const Weight& part : w.pieces()) bytes += weight_bytes(part);
  return bytes;
}

/// Matrices that one token's products read; norms and biases are left out (less than a thousandth).
std::size_t bytes_read_per_token(const ModelWeights& weights) {
  const ModelConfig& c = weights.config;
  std::size_t bytes = weight_bytes(weights.head) + bytes_of(weights.embedding_table.type, c.width).value_or(0);
  for (const LayerWeights& w : weights.layers) {
    bytes += weight_bytes(w.qkv) + weight_bytes(w.attention_out) + weight_bytes(w.mlp_in) + weight_bytes(w.mlp_out);
    if (c.experts == 0) continue;
    const std::size_t all = weight_bytes(w.expert_in) + weight_bytes(w.expert_out);
    bytes += weight_bytes(w.router) + all / static_cast<std::size_t>(c.experts) * static_cast<std::size_t>(c.experts_used);
  }
  return bytes;
}

}  // namespace

Result<GgufWeights> bind_gguf_weights(const GgufFile& file, const ModelConfig& config, WeightPrecision precision,
                                      std::int64_t rope_positions) {
  GgufWeights out;
  Binder bind(file, precision, out);
  ModelWeights& weights = out.weights;
  weights.config = config;
  weights.compute = ComputeType::f32;
  weights.embedding_table = bind.matrix("token_embd.weight", config.vocab, config.width);
  weights.head = config.tied_embeddings ? weights.embedding_table : bind.matrix("output.weight", config.vocab, config.width);
  weights.position_embedding =
      bind.vector_if(config.position == PositionKind::learned, "position_embd.weight", config.width, config.context);
  weights.final_norm = bind.vector("output_norm.weight", config.width);
  weights.final_norm_bias = bind.vector_if(config.norm_bias, "output_norm.bias", config.width);
  weights.layers.resize(static_cast<std::size_t>(config.layers));
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    const std::string block = fmt::format("blk.{}.", layer);
    LayerWeights& w = weights.layers[static_cast<std::size_t>(layer)];
    bind_attention(bind, config, block, w);
    bind_norm2(bind, config, block, w);
    if (config.experts > 0) {
      bind_experts(bind, config, block, w);
    } else {
      bind_dense(bind, config, block, w);
    }
  }
  for (const char* name : {"rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"}) bind.known(name);
  bind.check_all_used();
  if (bind.failed()) return tl::make_unexpected(bind.error());
  if (config.position == PositionKind::rope && rope_positions > kMaxRopeTable / config.rotated()) {
    return no_memory(fmt::format("{}: a context of {} tokens needs a RoPE table of more than {} entries", file.name(),
                                 rope_positions, kMaxRopeTable));
  }
  weights.rope_table = make_rope_table(config, rope_positions);
  weights.rope_table_windowed = make_windowed_rope_table(config, rope_positions);
  out.bytes_per_token = bytes_read_per_token(weights);
  return out;
}

}  // namespace quern
