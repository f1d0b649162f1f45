// Architectures as rows of a table, and the reading of their hyper-parameters.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "model/gguf_architectures.hpp"
#include "model/gguf_model.hpp"

namespace quern {

namespace {

/// Reads keys under an architecture's prefix; keeps the first error, so that a config is read straight through.
class Keys {
 public:
  Keys(const GgufFile& file, std::string_view architecture) : file_(file), prefix_(std::string(architecture) + ".") {}

  [[nodiscard]] bool has(std::string_view key) const { return file_.find(prefix_ + std::string(key)) != nullptr; }
  std::int64_t integer(std::string_view key, std::int64_t min, std::int64_t max) {
    return take(file_.require_integer(full(key), min, max));
  }
  std::int64_t integer_or(std::string_view key, std::int64_t fallback, std::int64_t min, std::int64_t max) {
    return take(file_.integer_or(full(key), fallback, min, max));
  }
  float number(std::string_view key) { return static_cast<float>(take(file_.require_number(full(key)))); }
  float number_or(std::string_view key, float fallback) {
    return static_cast<float>(take(file_.number_or(full(key), static_cast<double>(fallback))));
  }
  bool bool_or(std::string_view key, bool fallback) { return take(file_.bool_or(full(key), fallback)); }
  std::string_view string_or(std::string_view key, std::string_view fallback) {
    return take(file_.string_or(full(key), fallback));
  }

  /// A key that is one integer, or an array of one per layer whose values are all equal (others have no kernel here).
  std::int64_t uniform(std::string_view key, std::int64_t layers, std::int64_t min, std::int64_t max) {
    const GgufValue* value = file_.find(full(key));
    if (value == nullptr || value->type != GgufType::array) return integer(key, min, max);
    const std::vector<std::int64_t> values = take(file_.integers(full(key)));
    if (failed()) return min;
    if (std::ssize(values) != layers) {
      fail(fmt::format("{} must hold one value for each of {} layers, found {}", full(key), layers, values.size()));
      return min;
    }
    for (const std::int64_t v : values) {
      if (v != values[0]) {
        fail(fmt::format("{} differs between layers ({} and {}), which is not supported", full(key), values[0], v));
        return min;
      }
    }
    if (values.empty() || values[0] < min || values[0] > max) {
      fail(fmt::format("{} must be {} to {}, found {}", full(key), min, max, values.empty() ? 0 : values[0]));
      return min;
    }
    return values[0];
  }

  std::vector<bool> bools(std::string_view key) { return take(file_.bools(full(key))); }
  [[nodiscard]] bool is_array(std::string_view key) const {
    const GgufValue* value = file_.find(prefix_ + std::string(key));
    return value != nullptr && value->type == GgufType::array;
  }

  /// Refuses a key whose feature this build lacks.
  void refuse(std::string_view key, std::string_view value) {
    fail(fmt::format("{} is {}, which is not supported", full(key), value));
  }
  void fail(std::string message) {
    if (!failed()) error_ = Error{ErrorCode::bad_input, file_.name() + ": " + std::move(message)};
  }
  [[nodiscard]] bool failed() const { return !error_.message.empty(); }
  [[nodiscard]] const Error& error() const { return error_; }
  [[nodiscard]] std::string full(std::string_view key) const { return prefix_ + std::string(key); }

 private:
  template <class T>
  T take(Result<T> result) {
    if (result) return std::move(*result);
    if (!failed()) error_ = result.error();
    return T{};
  }
  const GgufFile& file_;
  std::string prefix_;
  Error error_{ErrorCode::bad_input, ""};
};

constexpr std::int64_t kMaxLayers = 512;
constexpr std::int64_t kMaxSize = std::int64_t{1} << 24;
/// Many times any published one; bounds what a small hostile file can make the RoPE tables and buffers take.
constexpr std::int64_t kMaxHeadDim = 8192;

/// Layers, widths and heads.
void read_shape(Keys& keys, ModelConfig& c) {
  c.context = keys.integer("context_length", 1, kMaxSize);
  c.width = keys.integer("embedding_length", 1, kMaxSize);
  c.layers = keys.integer("block_count", 1, kMaxLayers);
  c.heads = keys.uniform("attention.head_count", c.layers, 1, 65536);
  c.kv_heads = keys.has("attention.head_count_kv") ? keys.uniform("attention.head_count_kv", c.layers, 1, 65536) : c.heads;
  if (keys.failed()) return;
  if (c.heads % c.kv_heads != 0) {
    keys.fail(fmt::format("{} must divide {} ({}), found {}", keys.full("attention.head_count_kv"),
                          keys.full("attention.head_count"), c.heads, c.kv_heads));
    return;
  }
  if (!keys.has("attention.key_length") && c.width % c.heads != 0) {
    keys.fail(fmt::format("{} ({}) must divide {} ({}) where {} is missing", keys.full("attention.head_count"), c.heads,
                          keys.full("embedding_length"), c.width, keys.full("attention.key_length")));
    return;
  }
  c.head_dim = keys.integer_or("attention.key_length", c.width / c.heads, 1, kMaxHeadDim);
  const std::int64_t value_length = keys.integer_or("attention.value_length", c.head_dim, 1, kMaxHeadDim);
  if (value_length != c.head_dim) {
    keys.fail(fmt::format("{} ({}) differs from the key length {}, which is not supported",
                          keys.full("attention.value_length"), value_length, c.head_dim));
  }
}

void read_feed_forward(Keys& keys, const ArchitectureRow& row, ModelConfig& c) {
  c.mlp = row.mlp;
  c.experts = keys.integer_or("expert_count", 0, 0, 4096);
  if (c.experts > 0) {
    c.experts_used = keys.integer("expert_used_count", 1, c.experts);
    c.mlp_width = keys.has("expert_feed_forward_length") ? keys.uniform("expert_feed_forward_length", c.layers, 1, kMaxSize)
                                                         : keys.uniform("feed_forward_length", c.layers, 1, kMaxSize);
    for (const std::string_view key : {"expert_shared_count", "leading_dense_block_count", "expert_group_count"}) {
      const std::int64_t value = keys.integer_or(key, 0, 0, kMaxSize);
      if (value > 0 && !(key == "expert_group_count" && value == 1)) keys.refuse(key, std::to_string(value));
    }
    // 1: softmax over all, 3: softmax over the chosen; with renormalized weights they are the same.
    const std::int64_t gating = keys.integer_or("expert_gating_func", 1, 0, 255);
    if (gating != 0 && gating != 1 && gating != 3) keys.refuse("expert_gating_func", std::to_string(gating));
    if (!keys.bool_or("expert_weights_norm", true)) keys.refuse("expert_weights_norm", "false");
    const float scale = keys.number_or("expert_weights_scale", 1.0F);
    if (scale != 0.0F && scale != 1.0F) keys.refuse("expert_weights_scale", fmt::format("{}", scale));
  } else {
    c.mlp_width = keys.uniform("feed_forward_length", c.layers, 1, kMaxSize);
  }
}

/// Windows: the key's length, and a pattern that is a period or a list of booleans which must follow one.
void read_windows(Keys& keys, const ArchitectureRow& row, ModelConfig& c) {
  if (!row.windowed) return;
  c.window = keys.integer_or("attention.sliding_window", row.window, 0, kMaxSize);
  c.window_period = row.window_period;
  const std::string_view key = "attention.sliding_window_pattern";
  if (!keys.has(key)) return;
  if (!keys.is_array(key)) {  // 0: every layer is windowed, 1: none
    c.window_period = keys.integer(key, 0, kMaxLayers);
    if (c.window_period == 1) c.window = 0;
    if (c.window_period == 0) c.window_period = 1;
    return;
  }
  const std::vector<bool> pattern = keys.bools(key);
  if (keys.failed()) return;
  if (std::ssize(pattern) != c.layers) {
    keys.fail(
        fmt::format("{} must hold one value for each of {} layers, found {}", keys.full(key), c.layers, pattern.size()));
    return;
  }
  if (std::find(pattern.begin(), pattern.end(), true) == pattern.end()) {
    c.window = 0;
    return;
  }
  for (c.window_period = 1; c.window_period <= c.layers + 1; ++c.window_period) {
    bool follows = true;
    for (std::int64_t i = 0; i < c.layers; ++i) {
      const bool windowed = c.window_period == 1 || i % c.window_period < c.window_period - 1;
      follows = follows && windowed == pattern[static_cast<std::size_t>(i)];
    }
    if (follows) return;
  }
  keys.fail(fmt::format("{} follows no period, which is not supported", keys.full(key)));
}

Result<std::vector<float>> frequency_factors(const GgufFile& file, std::string_view name, std::int64_t pairs) {
  const GgufTensor* tensor = file.find_tensor(name);
  if (tensor == nullptr) return std::vector<float>{};
  if (tensor->type != ElementType::f32 || tensor->elements() != pairs) {
    return bad_input(fmt::format("{}: tensor {} must hold {} F32 values (one a rotated pair), found {} of type {}",
                                 file.name(), name, pairs, tensor->elements(), block_format(tensor->type).name));
  }
  std::vector<float> factors(static_cast<std::size_t>(pairs));
  std::memcpy(factors.data(), tensor->data, tensor->bytes);
  return factors;
}

void read_rope(const GgufFile& file, Keys& keys, const ArchitectureRow& row, ModelConfig& c) {
  c.position = row.position;
  if (row.position != PositionKind::rope) return;
  c.rope_pairing = row.pairing;
  c.rope_dims = keys.integer_or("rope.dimension_count", c.head_dim, 2, kMaxHeadDim);
  c.rope_base = keys.number_or("rope.freq_base", 10000.0F);
  if (c.window > 0) {
    const float base = keys.number_or("rope.freq_base_swa", row.base_windowed);
    c.rope_base_windowed = base == c.rope_base && row.base_windowed == 0.0F ? 0.0F : base;
  }
  const float factor = keys.number_or("rope.scaling.factor", keys.number_or("rope.scale_linear", 1.0F));
  c.rope_factor = factor == 0.0F ? 1.0F : factor;
  c.rope_original_context = keys.integer_or("rope.scaling.original_context_length", c.context, 0, kMaxSize);
  c.rope_magnitude =
      keys.number_or("rope.scaling.attn_factor", 1.0F) * keys.number_or("rope.scaling.yarn_attn_factor", 1.0F);
  const std::string_view type = keys.string_or("rope.scaling.type", "linear");
  if (type == "yarn") {
    c.rope_scaling = RopeScaling::yarn;
    c.rope_beta_fast = keys.number_or("rope.scaling.yarn_beta_fast", 32.0F);
    c.rope_beta_slow = keys.number_or("rope.scaling.yarn_beta_slow", 1.0F);
    const float extrapolation = keys.number_or("rope.scaling.yarn_ext_factor", 1.0F);
    if (extrapolation != 1.0F && extrapolation >= 0.0F) {
      keys.refuse("rope.scaling.yarn_ext_factor", fmt::format("{}", extrapolation));
    }
    const float multiplier = keys.number_or("rope.scaling.yarn_log_multiplier", 0.0F);
    if (multiplier != 0.0F) keys.refuse("rope.scaling.yarn_log_multiplier", fmt::format("{}", multiplier));
  } else if (type == "linear" || type == "longrope") {
    if (c.rope_factor != 1.0F) c.rope_scaling = RopeScaling::linear;
  } else if (type != "none") {
    keys.refuse("rope.scaling.type", fmt::format("\"{}\"", type));
  }
  if (keys.failed()) return;

  const auto pairs = c.rotated() / 2;
  const auto read = [&](std::string_view name, std::vector<float>& out) {
    auto factors = frequency_factors(file, name, pairs);
    if (!factors) return keys.fail(factors.error().message.substr(file.name().size() + 2));
    out = std::move(*factors);
  };
  read("rope_freqs.weight", c.rope_factors);
  if (c.rope_factors.empty()) {
    read("rope_factors_short.weight", c.rope_factors);
    read("rope_factors_long.weight", c.rope_factors_long);
    if (c.rope_factors.empty() != c.rope_factors_long.empty()) {
      keys.fail("tensors rope_factors_short.weight and rope_factors_long.weight must come together, found one");
    }
  }
  if (c.rope_factors.empty()) return;
  if (c.rope_scaling == RopeScaling::yarn) return keys.refuse("rope.scaling.type", "yarn beside tensors of RoPE factors");
  c.rope_scaling = RopeScaling::factors;
  for (float& f : c.rope_factors) f *= c.rope_factor;
  for (float& f : c.rope_factors_long) f *= c.rope_factor;
  c.rope_factor = 1.0F;
}

}  // namespace

std::vector<std::string_view> gguf_architectures() {
  std::vector<std::string_view> names;
  for (const ArchitectureRow& row : gguf_architecture_rows()) names.push_back(row.name);
  return names;
}

Result<ModelConfig> model_config_from_gguf(const GgufFile& file) {
  const auto architecture = file.require_string("general.architecture");
  if (!architecture) return tl::make_unexpected(architecture.error());
  const auto kind = file.string_or("general.type", "model");
  if (!kind) return tl::make_unexpected(kind.error());
  if (*kind != "model") {
    return bad_input(fmt::format("{}: general.type must be \"model\" to be run, found \"{}\"", file.name(), *kind));
  }
  const ArchitectureRow* const row = find_gguf_architecture(*architecture);
  if (row == nullptr) {
    return bad_input(fmt::format("{}: general.architecture must be one of {}, found \"{}\"", file.name(),
                                 fmt::join(gguf_architectures(), ", "), architecture->substr(0, 60)));
  }

  ModelConfig c;
  Keys keys(file, row->name);
  read_shape(keys, c);
  if (!keys.failed()) read_feed_forward(keys, *row, c);
  if (!keys.failed()) read_windows(keys, *row, c);
  if (!keys.failed()) read_rope(file, keys, *row, c);
  c.norm = row->norm;
  c.norm_bias = row->norm == NormKind::layer_norm;
  c.norm_eps = keys.number(c.norm_bias ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon");
  c.qk_norm = row->qk_norm;
  c.post_norms = row->post_norms;
  c.attention_sinks = row->sinks;
  c.attention_soft_cap = keys.number_or("attn_logit_softcapping", row->attention_cap);
  c.final_soft_cap = keys.number_or("final_logit_softcapping", row->final_cap);
  if (!keys.failed() && row->wide_scale_layers == c.layers) {
    c.attention_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(c.width / c.heads)));
  }
  c.attention_scale = keys.number_or("attention.scale", c.attention_scale);
  if (!keys.bool_or("attention.causal", true)) keys.refuse("attention.causal", "false");
  if (row->scaled_embedding) c.embedding_scale = static_cast<float>(std::sqrt(static_cast<double>(c.width)));
  if (keys.failed()) return tl::make_unexpected(keys.error());

  // What tensors say: vocabulary, ties and biases.
  const GgufTensor* embedding = file.find_tensor("token_embd.weight");
  if (embedding == nullptr) return bad_input(fmt::format("{}: tensor token_embd.weight is missing", file.name()));
  c.vocab = embedding->shape[1];
  const auto present = [&](std::string_view name) { return file.find_tensor(name) != nullptr; };
  c.tied_embeddings = !present("output.weight");
  const bool qkv_bias = present("blk.0.attn_qkv.bias") || present("blk.0.attn_q.bias");
  c.attention_bias = present("blk.0.attn_output.bias");
  c.qkv_bias = qkv_bias && !c.attention_bias;
  if (c.attention_bias && !qkv_bias) {
    return bad_input(
        fmt::format("{}: tensor blk.0.attn_output.bias without biases of q, k and v is not supported", file.name()));
  }
  c.mlp_bias = present(c.experts > 0 ? "blk.0.ffn_down_exps.bias" : "blk.0.ffn_down.bias");
  c.router_bias = present("blk.0.ffn_gate_inp.bias");
  if (auto valid = validate(c); !valid) return bad_input(file.name() + ": " + valid.error().message);
  return c;
}

}  // namespace quern
