// config.json of Hugging Face folders, read into a ModelConfig. Keys and their defaults are those of transformers, in the
// forms of its versions 4 (rope_theta, rope_scaling) and 5 (rope_parameters).
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "model/gguf_values.hpp"
#include "model/huggingface_families.hpp"
#include "model/huggingface_keys.hpp"
#include "model/json_document.hpp"

namespace quern::internal {
namespace {

using Json = nlohmann::ordered_json;
using Keys = HuggingFaceKeys;

constexpr std::int64_t kMaxLayers = 1024;
constexpr std::int64_t kMaxSize = std::int64_t{1} << 24;
constexpr std::int64_t kMaxHeadDim = 8192;

void read_shape(Keys& keys, const HuggingFaceFamily& family, ModelConfig& c) {
  const bool gpt2 = family.layout == HuggingFaceLayout::gpt2;
  // The language models of Gemma 3 with vision leave out what the class gives by itself.
  const bool gemma3 = family.local_base;
  const auto size = [&](std::string_view key, std::int64_t max, std::int64_t fallback) {
    return gemma3 ? keys.integer_or(key, fallback, 1, max) : keys.integer(key, 1, max);
  };
  c.vocab = size("vocab_size", kMaxSize, 262208);
  c.width = size(gpt2 ? "n_embd" : "hidden_size", kMaxSize, 2304);
  c.layers = size(gpt2 ? "n_layer" : "num_hidden_layers", kMaxLayers, 26);
  c.heads = size(gpt2 ? "n_head" : "num_attention_heads", 65536, 8);
  c.context = size(gpt2 ? "n_positions" : "max_position_embeddings", kMaxSize, 131072);
  c.kv_heads = gpt2 ? c.heads : keys.integer_or("num_key_value_heads", gemma3 ? 4 : c.heads, 1, 65536);
  if (keys.failed()) return;
  if (c.heads % c.kv_heads != 0) {
    return keys.fail(fmt::format("{} must divide num_attention_heads ({}), found {}", keys.full("num_key_value_heads"),
                                 c.heads, c.kv_heads));
  }
  c.head_dim = gpt2 ? 0 : keys.integer_or("head_dim", family.head_dim, 0, kMaxHeadDim);
  if (c.head_dim == 0) {
    if (c.width % c.heads != 0) {
      return keys.fail(fmt::format("{} ({}) must be a multiple of the number of attention heads, found {}",
                                   keys.full(gpt2 ? "n_embd" : "hidden_size"), c.width, c.heads));
    }
    c.head_dim = c.width / c.heads;
  }
  if (gpt2) {
    c.mlp_width = keys.integer_or("n_inner", 4 * c.width, 1, kMaxSize);
  } else if (family.layout == HuggingFaceLayout::qwen_moe) {
    c.mlp_width = keys.integer("moe_intermediate_size", 1, kMaxSize);
  } else {
    c.mlp_width = size("intermediate_size", kMaxSize, 9216);
  }
}

void read_activation(Keys& keys, const HuggingFaceFamily& family, ModelConfig& c) {
  const bool gpt2 = family.layout == HuggingFaceLayout::gpt2;
  const bool gemma = family.layout == HuggingFaceLayout::gemma;
  std::string_view key = gpt2 ? "activation_function" : "hidden_act";
  if (gemma) key = "hidden_activation";  // an older hidden_act beside it is not used
  const std::string word = keys.string_or(key, gpt2 ? "gelu_new" : gemma ? "gelu_pytorch_tanh" : "silu");
  const bool tanh = word == "gelu_new" || word == "gelu_pytorch_tanh" || word == "gelu_fast";
  if (gpt2) {
    if (!tanh && word != "gelu" && word != "relu2") return keys.refuse(key);
    c.mlp = tanh ? MlpKind::gelu : word == "gelu" ? MlpKind::gelu_erf : MlpKind::relu2;
    return;
  }
  const bool silu = word == "silu" || word == "swish";
  if (family.layout == HuggingFaceLayout::gpt_oss) {
    if (!silu) return keys.refuse(key);
    c.mlp = MlpKind::swiglu_clamped;
    if (keys.number_or("swiglu_limit", 7.0) != 7.0) return keys.refuse("swiglu_limit");
    if (keys.number_or("swiglu_alpha", 1.702) != 1.702) return keys.refuse("swiglu_alpha");
    return;
  }
  if (!silu && !tanh) return keys.refuse(key);
  c.mlp = silu ? MlpKind::swiglu : MlpKind::geglu;
}

void read_experts(Keys& keys, const HuggingFaceFamily& family, ModelConfig& c) {
  for (const std::string_view key : {"n_shared_experts", "num_shared_experts", "shared_expert_intermediate_size"}) {
    if (keys.integer_or(key, 0, 0, kMaxSize) > 0) keys.refuse(key);
  }
  if (family.experts == Presence::never) return;
  const bool qwen = family.layout == HuggingFaceLayout::qwen_moe;
  const std::string_view key = qwen && keys.has("num_experts") ? "num_experts" : "num_local_experts";
  c.experts = keys.integer(key, 1, 4096);
  c.experts_used = keys.integer("num_experts_per_tok", 1, c.experts);
  if (!qwen) return;
  // The class's own default is false: published files say true.
  if (!keys.bool_or("norm_topk_prob", false)) {
    keys.fail(fmt::format("{} must be true: expert weights that are not normalized are not supported",
                          keys.full("norm_topk_prob")));
  }
  if (keys.integer_or("decoder_sparse_step", 1, 0, kMaxSize) != 1) keys.refuse("decoder_sparse_step");
  if (const Json* list = keys.find("mlp_only_layers"); list != nullptr && !list->empty()) keys.refuse("mlp_only_layers");
}

void read_biases(Keys& keys, const HuggingFaceFamily& family, ModelConfig& c) {
  const auto is_there = [&](Presence presence, std::string_view key, bool fallback) {
    if (presence == Presence::never) return false;
    return presence == Presence::optional ? keys.bool_or(key, fallback) : true;
  };
  c.attention_bias = is_there(family.attention_bias, "attention_bias", false);
  if (family.layout == HuggingFaceLayout::gpt_oss) c.attention_bias = keys.bool_or("attention_bias", true);
  c.qkv_bias = !c.attention_bias && is_there(family.qkv_bias, "", true);
  c.mlp_bias = is_there(family.mlp_bias, "mlp_bias", false);
  c.router_bias = is_there(family.router_bias, "", true);
  c.norm = family.norm;
  c.norm_bias = family.norm == NormKind::layer_norm;
}

/// Which layers are windowed, by `layer_types` or by the family's older keys.
std::vector<bool> windowed_layers(Keys& keys, const HuggingFaceFamily& family, const ModelConfig& c) {
  std::vector<bool> windowed(static_cast<std::size_t>(c.layers));
  if (keys.has("layer_types")) {
    const std::vector<std::string> words = keys.strings("layer_types");
    if (keys.failed()) return windowed;
    if (std::ssize(words) != c.layers) {
      keys.fail(fmt::format("{} must hold one word for each of {} layers, found {}", keys.full("layer_types"), c.layers,
                            words.size()));
      return windowed;
    }
    for (std::size_t i = 0; i < words.size(); ++i) {
      if (words[i] != "sliding_attention" && words[i] != "full_attention") {
        keys.fail(fmt::format("{} holds \"{}\", which is not supported", keys.full("layer_types"), shown(words[i])));
        return windowed;
      }
      windowed[i] = words[i] == "sliding_attention";
    }
    return windowed;
  }
  if (family.window_period == 1) {  // Qwen: the first layers see everything
    const std::int64_t first = keys.integer_or("max_window_layers", 28, 0, kMaxSize);
    for (std::int64_t i = first; i < c.layers; ++i) windowed[static_cast<std::size_t>(i)] = true;
    return windowed;
  }
  const std::string_view key = keys.has("_sliding_window_pattern") ? "_sliding_window_pattern" : "sliding_window_pattern";
  const std::int64_t period = keys.integer_or(key, family.window_period, 1, kMaxLayers);
  for (std::int64_t i = 0; i < c.layers; ++i) windowed[static_cast<std::size_t>(i)] = (i + 1) % period != 0;
  return windowed;
}

/// The period that gives these layers; 0 where none does.
std::int64_t window_period_of(const std::vector<bool>& windowed) {
  const auto layers = std::ssize(windowed);
  for (std::int64_t period = 1; period <= layers + 1; ++period) {
    bool follows = true;
    for (std::int64_t i = 0; i < layers && follows; ++i) {
      follows = windowed[static_cast<std::size_t>(i)] == (period == 1 || i % period < period - 1);
    }
    if (follows) return period;
  }
  return 0;
}

void read_window(Keys& keys, const HuggingFaceFamily& family, ModelConfig& c, std::vector<std::string>& remarks) {
  if (keys.bool_or("use_bidirectional_attention", false)) return keys.refuse("use_bidirectional_attention");
  if (keys.has("attention_chunk_size")) return keys.refuse("attention_chunk_size");
  if (family.window == HuggingFaceWindow::none) return;
  if (family.window == HuggingFaceWindow::every_layer) {
    const std::int64_t window = keys.integer_or("sliding_window", 0, 0, kMaxSize);
    if (window > 0 && window < c.context) {
      remarks.push_back(
          fmt::format("{}: sliding_window {} is not applied, as in GGUF files of this family: texts longer than "
                      "that see more than the model was trained with",
                      keys.where(), window));
    }
    return;
  }
  const bool has_switch = family.window == HuggingFaceWindow::switched || family.window_period == 1;
  if (has_switch && !keys.bool_or("use_sliding_window", false)) return;
  if (keys.given("sliding_window") && !keys.has("sliding_window")) return;  // null
  const std::int64_t window = keys.integer_or("sliding_window", family.window_tokens, 1, kMaxSize);
  std::vector<bool> windowed(static_cast<std::size_t>(c.layers), true);
  if (family.window == HuggingFaceWindow::by_layer) windowed = windowed_layers(keys, family, c);
  if (keys.failed() || std::find(windowed.begin(), windowed.end(), true) == windowed.end()) return;
  c.window = window;
  c.window_period = window_period_of(windowed);
  if (c.window_period == 0) {
    const std::string_view key = keys.has("layer_types") ? "layer_types" : "max_window_layers";
    keys.fail(
        fmt::format("{}: windowed layers that follow no period (all but every n-th) are not supported", keys.full(key)));
  }
}

/// The object that says how RoPE is scaled, entered; null where there is none.
const Json* enter_rope_object(Keys& rope, const HuggingFaceFamily& family, ModelConfig& c) {
  const std::string_view key = rope.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  const Json* object = rope.object_or_null(key);
  if (object == nullptr) return nullptr;
  rope.enter(*object, key);
  if (!rope.has("full_attention") && !rope.has("sliding_attention")) return object;
  if (!family.local_base) {
    rope.refuse(rope.has("full_attention") ? "full_attention" : "sliding_attention");
    return nullptr;
  }
  if (const Json* local = rope.object_or_null("sliding_attention")) {
    Keys keys = rope;
    keys.enter(*local, "sliding_attention");
    c.rope_base_windowed = static_cast<float>(keys.number_or("rope_theta", 10000.0));
    const std::string type = keys.string_or("rope_type", "default");
    if (keys.failed()) {
      rope = keys;
      return nullptr;
    }
    if (type != "default") {
      rope.fail(fmt::format("{} is \"{}\", which is not supported", keys.full("rope_type"), shown(type)));
      return nullptr;
    }
  }
  object = rope.object_or_null("full_attention");
  if (object != nullptr) rope.enter(*object, "full_attention");
  return object;
}

void read_longrope(Keys& rope, const Json& top, ModelConfig& c) {
  c.rope_scaling = RopeScaling::factors;
  c.rope_factors = rope.floats("short_factor");
  c.rope_factors_long = rope.floats("long_factor");
  Keys outer(top, rope.where());
  const bool outside = outer.has("original_max_position_embeddings");
  Keys& holder = outside ? outer : rope;
  c.rope_original_context = holder.integer_or("original_max_position_embeddings", c.context, 1, kMaxSize);
  if (holder.failed()) return rope.fail(holder.error().message.substr(rope.where().size() + 2));
  const double stretch = static_cast<double>(c.context) / static_cast<double>(c.rope_original_context);
  const double factor = outside ? stretch : rope.number_or("factor", stretch);
  double magnitude = 1.0;
  if (factor > 1.0) {
    magnitude = std::sqrt(1.0 + std::log(factor) / std::log(static_cast<double>(c.rope_original_context)));
  }
  c.rope_magnitude = static_cast<float>(rope.number_or("attention_factor", magnitude));
  for (const std::string_view key : {"short_factor", "long_factor"}) {
    const std::size_t found = key == "short_factor" ? c.rope_factors.size() : c.rope_factors_long.size();
    if (!rope.failed() && std::cmp_not_equal(found, c.rotated() / 2)) {
      rope.fail(
          fmt::format("{} must hold {} numbers (one a rotated pair), found {}", rope.full(key), c.rotated() / 2, found));
    }
  }
}

void read_yarn(Keys& rope, const Json& top, ModelConfig& c, std::vector<std::string>& remarks) {
  c.rope_scaling = RopeScaling::yarn;
  c.rope_factor = static_cast<float>(rope.number("factor"));
  Keys outer(top, rope.where());
  const std::int64_t fallback = outer.integer_or("initial_context_length", c.context, 1, kMaxSize);
  c.rope_original_context = rope.integer_or("original_max_position_embeddings", fallback, 1, kMaxSize);
  c.rope_beta_fast = static_cast<float>(rope.number_or("beta_fast", 32.0));
  c.rope_beta_slow = static_cast<float>(rope.number_or("beta_slow", 1.0));
  if (rope.has("attention_factor")) {
    const double own = 1.0 + 0.1 * std::log(std::max(1.0, static_cast<double>(c.rope_factor)));
    c.rope_magnitude = static_cast<float>(rope.number("attention_factor") / own);
  }
  for (const std::string_view key : {"mscale", "mscale_all_dim"}) {
    if (rope.has(key)) rope.refuse(key);
  }
  if (!rope.bool_or("truncate", true)) {
    remarks.push_back(fmt::format("{}: {} false: the ends of YaRN's ramp are rounded to whole pairs, as GGUF engines do",
                                  rope.where(), rope.full("truncate")));
  }
}

void read_rope(Keys& keys, const HuggingFaceFamily& family, ModelConfig& c, std::vector<std::string>& remarks) {
  c.position = family.position;
  if (c.position != PositionKind::rope) return;
  c.rope_pairing = RopePairing::halves;
  c.rope_original_context = c.context;
  if (family.local_base) c.rope_base_windowed = static_cast<float>(keys.number_or("rope_local_base_freq", 10000.0));
  Keys rope = keys;
  const Json* object = rope.failed() ? nullptr : enter_rope_object(rope, family, c);
  if (rope.failed()) return keys.fail(rope.error().message.substr(keys.where().size() + 2));
  double base = keys.number_or("rope_theta", family.rope_theta);
  double part = keys.number_or("partial_rotary_factor", 1.0);
  if (object != nullptr) {
    base = rope.number_or("rope_theta", base);
    part = rope.number_or("partial_rotary_factor", part);
  } else if (family.layout == HuggingFaceLayout::gpt_oss) {
    return keys.fail("rope_scaling (or rope_parameters) is missing; without scaling it must say rope_type \"default\"");
  }
  c.rope_base = static_cast<float>(base);
  if (!(part > 0.0 && part <= 1.0)) {
    return keys.fail(fmt::format("{} must be above 0 and at most 1, found {}", keys.full("partial_rotary_factor"), part));
  }
  c.rope_dims = static_cast<std::int64_t>(static_cast<double>(c.head_dim) * part);
  if (c.rope_dims < 2) return keys.fail(fmt::format("partial_rotary_factor {} leaves nothing of a head to rotate", part));
  if (c.window == 0) c.rope_base_windowed = 0.0F;
  if (object == nullptr) return;

  constexpr std::array known{"type",           "rope_type",         "factor",
                             "rope_theta",     "beta_fast",         "beta_slow",
                             "truncate",       "attention_factor",  "original_max_position_embeddings",
                             "short_factor",   "long_factor",       "low_freq_factor",
                             "mscale",         "mscale_all_dim",    "high_freq_factor",
                             "full_attention", "sliding_attention", "partial_rotary_factor"};
  for (const auto& item : object->items()) {
    if (std::find(known.begin(), known.end(), item.key()) == known.end() && !item.value().is_null()) {
      return keys.fail(fmt::format("{} is not known", rope.full(shown(item.key()))));
    }
  }
  const std::string_view type_key = rope.has("rope_type") ? "rope_type" : "type";
  std::string type = rope.string_or(type_key, "default");
  if (family.layout == HuggingFaceLayout::phi3 && (type == "su" || type == "yarn")) type = "longrope";
  if (type == "linear") {
    c.rope_factor = static_cast<float>(rope.number("factor"));
    if (c.rope_factor != 1.0F) c.rope_scaling = RopeScaling::linear;
  } else if (type == "llama3") {
    const Llama3Scaling scaling{
        .factor = rope.number("factor"),
        .low = rope.number("low_freq_factor"),
        .high = rope.number("high_freq_factor"),
        .original_context = rope.integer("original_max_position_embeddings", 1, kMaxSize),
    };
    if (!rope.failed() && !(scaling.factor > 0.0 && scaling.low > 0.0 && scaling.high > scaling.low)) {
      rope.fail(fmt::format("{} must be above {}, and both positive", rope.full("high_freq_factor"),
                            rope.full("low_freq_factor")));
    }
    if (!rope.failed()) {
      c.rope_scaling = RopeScaling::factors;
      c.rope_factors = llama3_rope_factors(scaling, static_cast<double>(c.rope_base), c.rope_dims);
    }
  } else if (type == "yarn") {
    read_yarn(rope, keys.object(), c, remarks);
  } else if (type == "longrope") {
    read_longrope(rope, keys.object(), c);
  } else if (type != "default") {
    rope.refuse(type_key);
  }
  if (rope.failed()) keys.fail(rope.error().message.substr(keys.where().size() + 2));
}

void read_scales(Keys& keys, const HuggingFaceFamily& family, ModelConfig& c) {
  const bool gpt2 = family.layout == HuggingFaceLayout::gpt2;
  c.norm_eps = static_cast<float>(keys.number_or(gpt2 ? "layer_norm_epsilon" : "rms_norm_eps", family.norm_eps));
  c.tied_embeddings = keys.bool_or("tie_word_embeddings", family.tied);
  if (family.scaled_embedding) c.embedding_scale = static_cast<float>(std::sqrt(static_cast<double>(c.width)));
  if (family.query_scalar) {
    const double scalar = keys.number_or("query_pre_attn_scalar", 256.0);
    if (!keys.failed() && scalar <= 0.0) {
      return keys.fail(fmt::format("{} must be positive, found {}", keys.full("query_pre_attn_scalar"), scalar));
    }
    if (scalar != static_cast<double>(c.head_dim)) c.attention_scale = static_cast<float>(1.0 / std::sqrt(scalar));
  }
  if (family.soft_caps) {
    const auto cap = [&](std::string_view key, double fallback) {
      return static_cast<float>(keys.given(key) ? keys.number_or(key, 0.0) : fallback);  // null: none
    };
    c.attention_soft_cap = cap("attn_logit_softcapping", family.attention_cap);
    c.final_soft_cap = cap("final_logit_softcapping", family.final_cap);
  }
  if (gpt2) {
    if (!keys.bool_or("scale_attn_weights", true)) keys.refuse("scale_attn_weights");
    for (const std::string_view key : {"scale_attn_by_inverse_layer_idx", "add_cross_attention"}) {
      if (keys.bool_or(key, false)) keys.refuse(key);
    }
  }
}

Result<HuggingFaceConfig> read_keys(const Json& json, std::string_view where) {
  Keys keys(json, std::string(where));
  const std::string type = keys.string_or("model_type", "");
  HuggingFaceConfig config;
  config.family = find_huggingface_family(type);
  if (config.family == nullptr && !keys.failed()) {
    std::vector<std::string_view> known;
    for (const HuggingFaceFamily& family : huggingface_families()) known.push_back(family.model_type);
    keys.fail(fmt::format("model_type must be one of {}, gemma3, found {}", fmt::join(known, ", "),
                          keys.has("model_type") ? "\"" + shown(type) + "\"" : "none"));
  }
  if (keys.failed()) return tl::make_unexpected(keys.error());
  const HuggingFaceFamily& family = *config.family;
  if (const Json* quantization = keys.object_or_null("quantization_config")) {
    Keys inner = keys;
    inner.enter(*quantization, "quantization_config");
    const std::string method = inner.string_or("quant_method", "none");
    if (family.layout != HuggingFaceLayout::gpt_oss || method != "mxfp4") {
      keys.fail(fmt::format("quantization_config.quant_method is \"{}\", which is not supported", shown(method)));
    }
  }
  if (type == "gemma3") {
    if (const Json* text = keys.object_or_null("text_config")) keys.enter(*text, "text_config");
  }
  ModelConfig& c = config.model;
  if (!keys.failed()) read_shape(keys, family, c);
  if (!keys.failed()) read_activation(keys, family, c);
  if (!keys.failed()) read_experts(keys, family, c);
  if (!keys.failed()) read_biases(keys, family, c);
  if (!keys.failed()) read_window(keys, family, c, config.remarks);
  if (!keys.failed()) read_rope(keys, family, c, config.remarks);
  if (!keys.failed()) read_scales(keys, family, c);
  if (keys.failed()) return tl::make_unexpected(keys.error());
  c.qk_norm = family.qk_norm;
  c.post_norms = family.post_norms;
  c.attention_sinks = family.sinks;
  if (auto valid = validate(c); !valid) return bad_input(fmt::format("{}: {}", where, valid.error().message));
  return config;
}

}  // namespace

Result<HuggingFaceConfig> read_huggingface_config(const Json& json, std::string_view where) {
  auto config = read_keys(json, where);
  if (!config) return config;
  const auto own = json.find("quern");
  if (own == json.end()) return config;
  // What a folder written by Quern says beyond the class's keys counts only where it says the same model.
  const auto disagrees = [&](std::string_view why) {
    config->remarks.push_back(fmt::format("{}: the object quern is not used: {}", where, why));
    return config;
  };
  const auto model = own->is_object() ? own->find("model") : own->end();
  if (!own->is_object() || model == own->end() || !model->is_object()) return disagrees("it has no object model");
  auto exact = model_config_from_json(model->dump(-1, ' ', true, Json::error_handler_t::replace));
  if (!exact) return disagrees(exact.error().message);
  const auto choice = choose_huggingface_family(*exact);
  if (!choice || choice->family != config->family) return disagrees("another class expresses it");
  const auto again = read_keys(huggingface_config_json(*choice->family, *exact), where);
  if (!again || to_json(again->model) != to_json(config->model)) return disagrees("the other keys have changed since");
  config->exact = std::move(*exact);
  config->remarks = {};  // the exact model has what the remarks are about
  return config;
}

}  // namespace quern::internal
