// Which of Hugging Face's classes expresses a ModelConfig, and the config.json that says so.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "model/huggingface_families.hpp"

namespace quern::internal {
namespace {

using Json = nlohmann::ordered_json;

/// What a class lacks, as a field and its value; empty where it has everything. With `fill`, biases that a class demands
/// may be missing in the model.
class Obstacles {
 public:
  Obstacles(const HuggingFaceFamily& family, const ModelConfig& config, bool fill)
      : f_(family), c_(config), fill_(fill), gpt2_(family.layout == HuggingFaceLayout::gpt2) {}

  [[nodiscard]] std::string first() const {
    if (std::string field = kinds(); !field.empty()) return field;
    if (std::string field = shape(); !field.empty()) return field;
    if (std::string field = biases(); !field.empty()) return field;
    if (std::string field = scales(); !field.empty()) return field;
    if (std::string field = windows(); !field.empty()) return field;
    return rope();
  }

 private:
  [[nodiscard]] std::string kinds() const {
    if (c_.norm != f_.norm) return fmt::format("norm {}", to_word(c_.norm));
    if (c_.position != f_.position) return fmt::format("position {}", to_word(c_.position));
    const bool clamped = c_.mlp == MlpKind::swiglu_clamped;
    const bool fits = f_.layout == HuggingFaceLayout::gpt_oss ? clamped : gpt2_ ? !c_.gated() : c_.gated() && !clamped;
    if (!fits) return fmt::format("mlp {}", to_word(c_.mlp));
    if (c_.qk_norm != f_.qk_norm) return fmt::format("qk_norm {}", c_.qk_norm);
    if (c_.post_norms != f_.post_norms) return fmt::format("post_norms {}", c_.post_norms);
    if (c_.attention_sinks != f_.sinks) return fmt::format("attention_sinks {}", c_.attention_sinks);
    if ((c_.experts > 0) != (f_.experts == Presence::required)) return fmt::format("experts {}", c_.experts);
    return "";
  }

  [[nodiscard]] std::string shape() const {
    if (f_.heads_divide_width && c_.width % c_.heads != 0) return fmt::format("heads {}", c_.heads);
    // The published code sizes these classes' rotation (Phi-3) and projections (GPT-2) by width / heads.
    const bool fixed_head = gpt2_ || f_.layout == HuggingFaceLayout::phi3;
    if (fixed_head && c_.head_dim * c_.heads != c_.width) return fmt::format("head_dim {}", c_.head_dim);
    if (gpt2_ && c_.kv_heads != c_.heads) return fmt::format("kv_heads {}", c_.kv_heads);
    return "";
  }

  [[nodiscard]] bool allows(Presence presence, bool there) const {
    if (presence == Presence::never) return !there;
    return presence == Presence::optional || there || fill_;
  }

  [[nodiscard]] std::string biases() const {
    const bool qkv_alone = c_.has_qkv_bias() && !c_.attention_bias;
    if (f_.qkv_bias != Presence::never) {
      if (c_.attention_bias) return "attention_bias true";
      if (!allows(f_.qkv_bias, c_.qkv_bias)) return "qkv_bias false";
    } else if (f_.attention_bias == Presence::optional) {
      if (qkv_alone && !fill_) return "qkv_bias true";  // the output projection's would be zeros
    } else {
      if (!allows(f_.attention_bias, c_.attention_bias)) return fmt::format("attention_bias {}", c_.attention_bias);
      if (qkv_alone && f_.attention_bias == Presence::never) return "qkv_bias true";
    }
    if (!allows(f_.mlp_bias, c_.mlp_bias)) return fmt::format("mlp_bias {}", c_.mlp_bias);
    if (!allows(f_.router_bias, c_.router_bias)) return fmt::format("router_bias {}", c_.router_bias);
    if (f_.norm == NormKind::layer_norm && !c_.norm_bias && !fill_) return "norm_bias false";
    return "";
  }

  [[nodiscard]] std::string scales() const {
    const float scale = f_.scaled_embedding ? static_cast<float>(std::sqrt(static_cast<double>(c_.width))) : 1.0F;
    if (c_.embedding_scale != scale) return fmt::format("embedding_scale {}", c_.embedding_scale);
    if (!f_.soft_caps && c_.attention_soft_cap != 0.0F) return fmt::format("attention_soft_cap {}", c_.attention_soft_cap);
    if (!f_.soft_caps && c_.final_soft_cap != 0.0F) return fmt::format("final_soft_cap {}", c_.final_soft_cap);
    if (c_.attention_scale == 0.0F) return "";
    const double scalar = 1.0 / (static_cast<double>(c_.attention_scale) * static_cast<double>(c_.attention_scale));
    const double whole = f_.query_scalar ? std::round(scalar) : static_cast<double>(c_.head_dim);  // the key is an integer
    const bool in_range = whole > 0.0 && whole < 0x1p31;
    const auto again = in_range ? static_cast<float>(1.0 / std::sqrt(whole)) : 0.0F;
    return again == c_.attention_scale ? "" : fmt::format("attention_scale {}", c_.attention_scale);
  }

  [[nodiscard]] std::string windows() const {
    if (c_.window == 0) return "";
    if (f_.window == HuggingFaceWindow::none) return fmt::format("window {}", c_.window);
    if (f_.window != HuggingFaceWindow::by_layer && c_.window_period > 1) {
      return fmt::format("window_period {}", c_.window_period);
    }
    return "";
  }

  [[nodiscard]] std::string rope() const {
    if (c_.position != PositionKind::rope) return "";
    if (c_.rotated() != c_.head_dim) {
      if (f_.layout != HuggingFaceLayout::phi3) return fmt::format("rope_dims {}", c_.rope_dims);
      const double part = static_cast<double>(c_.rotated()) / static_cast<double>(c_.head_dim);
      if (static_cast<std::int64_t>(static_cast<double>(c_.head_dim) * part) != c_.rotated()) {
        return fmt::format("rope_dims {}", c_.rope_dims);
      }
    }
    const bool windows = c_.window > 0;
    if (windows && c_.rope_base_windowed != 0.0F && !f_.local_base) {
      return fmt::format("rope_base_windowed {}", c_.rope_base_windowed);
    }
    // The class never scales windowed layers.
    if (windows && c_.rope_base_windowed == 0.0F && f_.local_base && c_.rope_scaling != RopeScaling::none) {
      return "rope_base_windowed 0 with rope_scaling";
    }
    // Other classes can hold two lists as well, but only Phi-3's readers all expect them.
    if (!c_.rope_factors_long.empty() && f_.any_rope_scaling && !fill_) return "rope_scaling factors";
    const bool plain = c_.rope_scaling == RopeScaling::none || c_.rope_scaling == RopeScaling::linear;
    if (plain && c_.rope_magnitude != 1.0F) return fmt::format("rope_magnitude {}", c_.rope_magnitude);
    if (!f_.any_rope_scaling && c_.rope_scaling != RopeScaling::none && c_.rope_scaling != RopeScaling::factors) {
      return fmt::format("rope_scaling {}", to_word(c_.rope_scaling));
    }
    return "";
  }

  const HuggingFaceFamily& f_;
  const ModelConfig& c_;
  bool fill_;
  bool gpt2_;
};

/// The class whose lack says most to a person: the one that shares the config's main parts.
std::string_view nearest_type(const ModelConfig& c) {
  if (c.norm == NormKind::layer_norm || c.position == PositionKind::learned) return "gpt2";
  if (c.attention_sinks || c.mlp == MlpKind::swiglu_clamped) return "gpt_oss";
  if (c.post_norms) return c.qk_norm ? "gemma3_text" : "gemma2";
  if (c.experts > 0) return c.qk_norm ? "qwen3_moe" : "mixtral";
  if (c.qk_norm) return "qwen3";
  if (c.rotated() != c.head_dim) return "phi3";
  return c.window > 0 ? "qwen2" : "llama";
}

/// The double that prints as the float does, so that files say 1e-05 and not 9.999999747378752e-06.
double shortest(float value) { return std::strtod(fmt::format("{}", value).c_str(), nullptr); }

Json numbers(const std::vector<float>& values) {
  Json list = Json::array();
  for (const float value : values) list.push_back(shortest(value));
  return list;
}

/// Llama 3's scaling if these are its factors.
std::optional<Llama3Scaling> as_llama3(const ModelConfig& c) {
  if (!c.rope_factors_long.empty() || c.rope_factors.empty()) return {};
  if (c.rope_magnitude != 1.0F) return {};
  for (const std::int64_t original : {8192, 4096, 2048, 16384, 32768}) {
    Llama3Scaling scaling{.factor = shortest(c.rope_factors.back()), .original_context = original};
    if (llama3_rope_factors(scaling, static_cast<double>(c.rope_base), c.rotated()) == c.rope_factors) return scaling;
  }
  return {};
}

Json rope_scaling_json(const HuggingFaceFamily& family, const ModelConfig& c) {
  switch (c.rope_scaling) {
    case RopeScaling::none:
      break;
    case RopeScaling::linear:
      return {{"rope_type", "linear"}, {"factor", shortest(c.rope_factor)}};
    case RopeScaling::yarn: {
      Json json{{"rope_type", "yarn"},
                {"factor", shortest(c.rope_factor)},
                {"original_max_position_embeddings", c.rope_original_context},
                {"beta_fast", shortest(c.rope_beta_fast)},
                {"beta_slow", shortest(c.rope_beta_slow)},
                {"truncate", true}};
      if (c.rope_magnitude != 1.0F) {
        const double own = 1.0 + 0.1 * std::log(std::max(1.0, static_cast<double>(c.rope_factor)));
        json["attention_factor"] = shortest(c.rope_magnitude) * own;
      }
      return json;
    }
    case RopeScaling::factors: {
      const auto llama3 = family.any_rope_scaling ? as_llama3(c) : std::nullopt;
      if (llama3) {
        return {{"rope_type", "llama3"},
                {"factor", llama3->factor},
                {"low_freq_factor", llama3->low},
                {"high_freq_factor", llama3->high},
                {"original_max_position_embeddings", llama3->original_context}};
      }
      const std::vector<float>& longer = c.rope_factors_long.empty() ? c.rope_factors : c.rope_factors_long;
      const auto original = static_cast<double>(std::max<std::int64_t>(1, c.rope_original_context));
      const double factor = std::max(1.0, static_cast<double>(c.context) / original);
      const bool phi3 = family.layout == HuggingFaceLayout::phi3;  // older versions of its class want these three keys only
      Json json{{phi3 ? "type" : "rope_type", "longrope"},
                {"short_factor", numbers(c.rope_factors)},
                {"long_factor", numbers(longer)}};
      const double own = factor > 1.0 ? std::sqrt(1.0 + std::log(factor) / std::log(original)) : 1.0;
      if (static_cast<float>(own) != c.rope_magnitude) json["attention_factor"] = shortest(c.rope_magnitude);
      if (!phi3) {
        json["factor"] = factor;
        json["original_max_position_embeddings"] = static_cast<std::int64_t>(original);
      }
      return json;
    }
  }
  if (family.layout == HuggingFaceLayout::gpt_oss) return {{"rope_type", "default"}};  // the class scales by itself
  return nullptr;
}

void add_windows(Json& json, const HuggingFaceFamily& family, const ModelConfig& c) {
  switch (family.window) {
    case HuggingFaceWindow::none:
      return;
    case HuggingFaceWindow::every_layer:
      json["sliding_window"] = c.window > 0 ? Json(c.window) : Json(nullptr);
      return;
    case HuggingFaceWindow::switched:
    case HuggingFaceWindow::by_layer:
      break;
  }
  const bool has_switch = family.window == HuggingFaceWindow::switched || family.window_period == 1;
  if (has_switch) json["use_sliding_window"] = c.window > 0;
  // Classes without the switch demand a size even where no layer has a window.
  const bool is_null = c.window == 0 && has_switch;
  json["sliding_window"] = is_null ? Json(nullptr) : Json(c.window > 0 ? c.window : family.window_tokens);
  if (family.window != HuggingFaceWindow::by_layer) return;
  if (has_switch) json["max_window_layers"] = c.window > 0 ? 0 : c.layers;
  Json types = Json::array();
  for (std::int64_t i = 0; i < c.layers; ++i) types.push_back(c.windowed(i) ? "sliding_attention" : "full_attention");
  json["layer_types"] = std::move(types);
}

Json gpt2_json(const ModelConfig& c) {
  const char* const activation = c.mlp == MlpKind::gelu ? "gelu_new" : c.mlp == MlpKind::gelu_erf ? "gelu" : "relu2";
  return {{"vocab_size", c.vocab},
          {"n_positions", c.context},
          {"n_ctx", c.context},
          {"n_embd", c.width},
          {"n_layer", c.layers},
          {"n_head", c.heads},
          {"n_inner", c.mlp_width},
          {"activation_function", activation},
          {"layer_norm_epsilon", shortest(c.norm_eps)},
          {"resid_pdrop", 0.0},
          {"embd_pdrop", 0.0},
          {"attn_pdrop", 0.0},
          {"tie_word_embeddings", c.tied_embeddings}};
}

void add_experts(Json& json, const HuggingFaceFamily& family, const ModelConfig& c) {
  if (c.experts == 0) return;
  if (family.layout == HuggingFaceLayout::qwen_moe) {
    json["moe_intermediate_size"] = c.mlp_width;
    json["num_experts"] = c.experts;
    json["norm_topk_prob"] = true;
    json["decoder_sparse_step"] = 1;
    json["mlp_only_layers"] = Json::array();
  } else {
    json["num_local_experts"] = c.experts;
  }
  json["num_experts_per_tok"] = c.experts_used;
  if (family.layout == HuggingFaceLayout::gpt_oss) json["swiglu_limit"] = 7.0;
}

}  // namespace

Result<HuggingFaceChoice> choose_huggingface_family(const ModelConfig& config) {
  for (const bool fill : {false, true}) {
    for (const HuggingFaceFamily& family : huggingface_families()) {
      if (Obstacles(family, config, fill).first().empty()) return HuggingFaceChoice{&family, fill};
    }
  }
  const HuggingFaceFamily& nearest = *find_huggingface_family(nearest_type(config));
  return bad_input(fmt::format("no class of Hugging Face's expresses this model: the nearest, {}, does not have {}",
                               nearest.class_name, Obstacles(nearest, config, true).first()));
}

Json huggingface_config_json(const HuggingFaceFamily& family, const ModelConfig& c) {
  Json json{{"architectures", {std::string(family.class_name)}}, {"model_type", std::string(family.model_type)}};
  if (family.layout == HuggingFaceLayout::gpt2) {
    json.update(gpt2_json(c));
    return json;
  }
  json["vocab_size"] = c.vocab;
  json["hidden_size"] = c.width;
  json["intermediate_size"] = c.mlp_width;
  json["num_hidden_layers"] = c.layers;
  json["num_attention_heads"] = c.heads;
  json["num_key_value_heads"] = c.kv_heads;
  json["head_dim"] = c.head_dim;
  json["max_position_embeddings"] = c.context;
  json["rms_norm_eps"] = shortest(c.norm_eps);
  const std::string activation = c.mlp == MlpKind::geglu ? "gelu_pytorch_tanh" : "silu";
  json["hidden_act"] = activation;
  if (family.layout == HuggingFaceLayout::gemma) json["hidden_activation"] = activation;
  json["tie_word_embeddings"] = c.tied_embeddings;
  if (family.attention_bias == Presence::optional) json["attention_bias"] = c.has_qkv_bias();
  if (family.layout == HuggingFaceLayout::gpt_oss) json["attention_bias"] = true;
  if (family.mlp_bias == Presence::optional) json["mlp_bias"] = c.mlp_bias;
  json["attention_dropout"] = 0.0;
  add_experts(json, family, c);
  add_windows(json, family, c);

  json["rope_theta"] = shortest(c.rope_base);
  json["rope_scaling"] = rope_scaling_json(family, c);
  if (family.local_base) {
    const float local = c.window > 0 && c.rope_base_windowed != 0.0F ? c.rope_base_windowed : c.rope_base;
    json["rope_local_base_freq"] = shortest(local);
    if (c.window > 0 && c.window_period > 1) json["sliding_window_pattern"] = c.window_period;  // before layer_types
  }
  if (family.layout == HuggingFaceLayout::phi3) {
    const bool longrope = c.rope_scaling == RopeScaling::factors;
    json["original_max_position_embeddings"] = longrope && c.rope_original_context > 0 ? c.rope_original_context : c.context;
    if (c.rotated() != c.head_dim) {
      json["partial_rotary_factor"] = static_cast<double>(c.rotated()) / static_cast<double>(c.head_dim);
    }
    json["resid_pdrop"] = 0.0;
    json["embd_pdrop"] = 0.0;
  }
  if (family.layout == HuggingFaceLayout::gpt_oss && c.rope_scaling == RopeScaling::yarn) {
    json["initial_context_length"] = c.rope_original_context;
  }
  if (family.query_scalar) {
    const auto scale = static_cast<double>(c.attention_scale);
    json["query_pre_attn_scalar"] =
        c.attention_scale == 0.0F ? c.head_dim : static_cast<std::int64_t>(std::llround(1.0 / (scale * scale)));
  }
  if (family.soft_caps) {
    const auto cap = [](float value) { return value != 0.0F ? Json(shortest(value)) : Json(nullptr); };
    json["attn_logit_softcapping"] = cap(c.attention_soft_cap);
    json["final_logit_softcapping"] = cap(c.final_soft_cap);
  }
  return json;
}

}  // namespace quern::internal
