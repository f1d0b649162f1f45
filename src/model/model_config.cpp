#include "model/model_config.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <set>
#include <type_traits>
#include <variant>

namespace quern {

namespace {

// Bounds on what a file may ask for. They keep every product below in 64 bits: a matrix has at most 2^22 * 2^20 elements
// (three times that for fused rows), and the whole model at most kMaxParameters.
constexpr std::int64_t kMaxVocab = std::int64_t{1} << 24;
constexpr std::int64_t kMaxContext = std::int64_t{1} << 24;
constexpr std::int64_t kMaxLayers = 1024;
constexpr std::int64_t kMaxWidth = std::int64_t{1} << 20;
constexpr std::int64_t kMaxHeads = std::int64_t{1} << 16;
constexpr std::int64_t kMaxMlpWidth = std::int64_t{1} << 22;
constexpr std::int64_t kMaxExperts = 4096;
constexpr std::int64_t kMaxParameters = std::int64_t{1} << 42;

/// A field of ModelConfig by its key; the variant says its type.
struct Field {
  std::string_view key;
  std::variant<std::int64_t ModelConfig::*, float ModelConfig::*, bool ModelConfig::*, NormKind ModelConfig::*,
               PositionKind ModelConfig::*, MlpKind ModelConfig::*, RopePairing ModelConfig::*, RopeScaling ModelConfig::*,
               std::vector<float> ModelConfig::*>
      member;
  bool may_be_missing = false;
};

constexpr std::array kFields{
    Field{"vocab", &ModelConfig::vocab},
    Field{"context", &ModelConfig::context},
    Field{"layers", &ModelConfig::layers},
    Field{"width", &ModelConfig::width},
    Field{"heads", &ModelConfig::heads},
    Field{"kv_heads", &ModelConfig::kv_heads},
    Field{"head_dim", &ModelConfig::head_dim},
    Field{"mlp_width", &ModelConfig::mlp_width},
    Field{"norm", &ModelConfig::norm},
    Field{"norm_eps", &ModelConfig::norm_eps},
    Field{"position", &ModelConfig::position},
    Field{"rope_base", &ModelConfig::rope_base},
    Field{"rope_pairing", &ModelConfig::rope_pairing},
    Field{"rope_dims", &ModelConfig::rope_dims},
    Field{"mlp", &ModelConfig::mlp},
    Field{"qk_norm", &ModelConfig::qk_norm},
    Field{"attention_bias", &ModelConfig::attention_bias},
    Field{"mlp_bias", &ModelConfig::mlp_bias},
    Field{"norm_bias", &ModelConfig::norm_bias},
    Field{"tied_embeddings", &ModelConfig::tied_embeddings},
    Field{"embedding_scale", &ModelConfig::embedding_scale},
    Field{"final_soft_cap", &ModelConfig::final_soft_cap},
    Field{"attention_soft_cap", &ModelConfig::attention_soft_cap},
    Field{"window", &ModelConfig::window},
    Field{"window_period", &ModelConfig::window_period},
    Field{"qkv_bias", &ModelConfig::qkv_bias, true},
    Field{"post_norms", &ModelConfig::post_norms, true},
    Field{"attention_sinks", &ModelConfig::attention_sinks, true},
    Field{"attention_scale", &ModelConfig::attention_scale, true},
    Field{"rope_base_windowed", &ModelConfig::rope_base_windowed, true},
    Field{"rope_scaling", &ModelConfig::rope_scaling, true},
    Field{"rope_factor", &ModelConfig::rope_factor, true},
    Field{"rope_original_context", &ModelConfig::rope_original_context, true},
    Field{"rope_beta_fast", &ModelConfig::rope_beta_fast, true},
    Field{"rope_beta_slow", &ModelConfig::rope_beta_slow, true},
    Field{"rope_magnitude", &ModelConfig::rope_magnitude, true},
    Field{"rope_factors", &ModelConfig::rope_factors, true},
    Field{"rope_factors_long", &ModelConfig::rope_factors_long, true},
    Field{"experts", &ModelConfig::experts, true},
    Field{"experts_used", &ModelConfig::experts_used, true},
    Field{"router_bias", &ModelConfig::router_bias, true},
};

Result<void> check_range(std::string_view key, std::int64_t value, std::int64_t low, std::int64_t high) {
  if (value >= low && value <= high) return {};
  return bad_input(fmt::format("{} must be {} to {}, found {}", key, low, high, value));
}

Result<void> check_sizes(const ModelConfig& c) {
  struct Bound {
    std::string_view key;
    std::int64_t value, low, high;
  };
  const Bound bounds[] = {
      {"vocab", c.vocab, 1, kMaxVocab},
      {"context", c.context, 1, kMaxContext},
      {"layers", c.layers, 1, kMaxLayers},
      {"width", c.width, 1, kMaxWidth},
      {"heads", c.heads, 1, kMaxHeads},
      {"kv_heads", c.kv_heads, 1, kMaxHeads},
      {"head_dim", c.head_dim, 1, kMaxWidth},
      {"mlp_width", c.mlp_width, 1, kMaxMlpWidth},
      {"rope_dims", c.rope_dims, 0, kMaxWidth},
      {"window", c.window, 0, kMaxContext},
      {"window_period", c.window_period, 1, kMaxLayers},
  };
  for (const Bound& bound : bounds) {
    if (auto checked = check_range(bound.key, bound.value, bound.low, bound.high); !checked) return checked;
  }
  if (c.query_width() > kMaxMlpWidth) {
    return bad_input(fmt::format("heads * head_dim must be at most {}, found {}", kMaxMlpWidth, c.query_width()));
  }
  if (c.heads % c.kv_heads != 0) {
    return bad_input(fmt::format("kv_heads must divide heads ({}), found {}", c.heads, c.kv_heads));
  }
  return {};
}

Result<void> check_numbers(const ModelConfig& c) {
  const auto positive = [](float x) { return std::isfinite(x) && x > 0.0F; };
  const auto not_negative = [](float x) { return std::isfinite(x) && x >= 0.0F; };
  if (!positive(c.norm_eps)) return bad_input(fmt::format("norm_eps must be positive and finite, found {}", c.norm_eps));
  if (!std::isfinite(c.rope_base) || c.rope_base < 1.0F) {
    return bad_input(fmt::format("rope_base must be at least 1 and finite, found {}", c.rope_base));
  }
  if (!positive(c.embedding_scale)) {
    return bad_input(fmt::format("embedding_scale must be positive and finite, found {}", c.embedding_scale));
  }
  if (!not_negative(c.final_soft_cap)) {
    return bad_input(fmt::format("final_soft_cap must be 0 (none) or positive, found {}", c.final_soft_cap));
  }
  if (!not_negative(c.attention_soft_cap)) {
    return bad_input(fmt::format("attention_soft_cap must be 0 (none) or positive, found {}", c.attention_soft_cap));
  }
  return {};
}

/// Rejects values of an enumeration outside its list: structs may be filled from anywhere.
template <class Kind, std::size_t N>
Result<void> check_kind(std::string_view key, Kind value, const std::array<Kind, N>& all) {
  for (const Kind kind : all) {
    if (kind == value) return {};
  }
  return bad_input(fmt::format("{} has the unknown value {}", key, static_cast<unsigned>(value)));
}

Result<void> check_combinations(const ModelConfig& c) {
  if (auto ok = check_kind("norm", c.norm, kNormKinds); !ok) return ok;
  if (auto ok = check_kind("position", c.position, kPositionKinds); !ok) return ok;
  if (auto ok = check_kind("mlp", c.mlp, kMlpKinds); !ok) return ok;
  if (auto ok = check_kind("rope_pairing", c.rope_pairing, kRopePairings); !ok) return ok;
  if (c.norm_bias && c.norm == NormKind::rms_norm) {
    return bad_input("norm_bias true needs norm layer_norm: rms_norm has no bias");
  }
  if (c.position == PositionKind::rope) {
    if (c.rotated() > c.head_dim) {
      return bad_input(fmt::format("rope_dims must be at most head_dim ({}), found {}", c.head_dim, c.rope_dims));
    }
    if (c.rotated() % 2 != 0) {
      return bad_input(fmt::format("{} must be even with position rope, found {}",
                                   c.rope_dims > 0 ? "rope_dims" : "head_dim", c.rotated()));
    }
  }
  return {};
}

Result<void> check_rope_scaling(const ModelConfig& c) {
  if (auto ok = check_kind("rope_scaling", c.rope_scaling, kRopeScalings); !ok) return ok;
  const auto positive = [](std::string_view key, float value) -> Result<void> {
    if (std::isfinite(value) && value > 0.0F) return {};
    return bad_input(fmt::format("{} must be positive, found {}", key, value));
  };
  if (auto ok = positive("rope_factor", c.rope_factor); !ok) return ok;
  if (auto ok = positive("rope_beta_fast", c.rope_beta_fast); !ok) return ok;
  if (auto ok = positive("rope_beta_slow", c.rope_beta_slow); !ok) return ok;
  if (auto ok = positive("rope_magnitude", c.rope_magnitude); !ok) return ok;
  if (!(std::isfinite(c.rope_base_windowed) && c.rope_base_windowed >= 0.0F)) {
    return bad_input(
        fmt::format("rope_base_windowed must be 0 (as the others) or positive, found {}", c.rope_base_windowed));
  }
  if (!(std::isfinite(c.attention_scale) && c.attention_scale >= 0.0F)) {
    return bad_input(fmt::format("attention_scale must be 0 (1/sqrt(head_dim)) or positive, found {}", c.attention_scale));
  }
  if (auto ok = check_range("rope_original_context", c.rope_original_context, 0, kMaxContext); !ok) return ok;
  if (c.rope_scaling == RopeScaling::yarn && c.rope_original_context == 0) {
    return bad_input("rope_original_context must be given with rope_scaling yarn, found 0");
  }
  const auto pairs = static_cast<std::size_t>(c.rotated() / 2);
  const auto check_factors = [&](std::string_view key, const std::vector<float>& factors) -> Result<void> {
    if (factors.size() != pairs) {
      return bad_input(fmt::format("{} must hold {} numbers (one a rotated pair), found {}", key, pairs, factors.size()));
    }
    for (const float factor : factors) {
      if (auto ok = positive(key, factor); !ok) return ok;
    }
    return {};
  };
  const bool wanted = c.rope_scaling == RopeScaling::factors;
  if (wanted || !c.rope_factors.empty()) {
    if (auto ok = check_factors("rope_factors", c.rope_factors); !ok) return ok;
  }
  if (!c.rope_factors_long.empty()) return check_factors("rope_factors_long", c.rope_factors_long);
  return {};
}

Result<void> check_experts(const ModelConfig& c) {
  if (auto ok = check_range("experts", c.experts, 0, kMaxExperts); !ok) return ok;
  if (auto ok = check_range("experts_used", c.experts_used, c.experts > 0 ? 1 : 0, c.experts); !ok) return ok;
  if (c.experts > 0 && !c.gated()) return bad_input(fmt::format("experts need a gated mlp, found {}", to_word(c.mlp)));
  return {};
}

/// Number of trained values, in doubles so that it cannot overflow.
Result<void> check_total(const ModelConfig& c) {
  const auto width = static_cast<double>(c.width);
  const double attention = width * static_cast<double>(c.qkv_width()) + width * static_cast<double>(c.query_width());
  const double mlp = width * static_cast<double>(c.mlp_width) * (c.gated() ? 3.0 : 2.0) *
                     static_cast<double>(std::max<std::int64_t>(c.experts, 1));
  const double tables = width * (static_cast<double>(c.vocab) * (c.tied_embeddings ? 1.0 : 2.0) +
                                 (c.position == PositionKind::learned ? static_cast<double>(c.context) : 0.0));
  const double total = static_cast<double>(c.layers) * (attention + mlp) + tables;
  if (total > static_cast<double>(kMaxParameters)) {
    return bad_input(fmt::format("the model would have {:.3g} parameters; at most {:.3g} are supported", total,
                                 static_cast<double>(kMaxParameters)));
  }
  return {};
}

std::string_view json_type_name(const nlohmann::ordered_json& value) {
  if (value.is_number_integer()) return "an integer";
  if (value.is_number()) return "a number";
  if (value.is_string()) return "a string";
  if (value.is_boolean()) return "a boolean";
  if (value.is_null()) return "null";
  return value.is_array() ? "an array" : "an object";
}

template <class Kind, std::size_t N>
Result<void> read_word(std::string_view key, const nlohmann::ordered_json& value, const std::array<Kind, N>& all,
                       Kind& out) {
  std::string allowed;
  for (const Kind kind : all) {
    if (value.is_string() && value.get_ref<const std::string&>() == to_word(kind)) {
      out = kind;
      return {};
    }
    if (!allowed.empty()) allowed += ", ";
    allowed += to_word(kind);
  }
  return bad_input(fmt::format(
      "model JSON: {} must be one of {}, found {}", key, allowed,
      value.is_string() ? '"' + value.get<std::string>().substr(0, 40) + '"' : std::string(json_type_name(value))));
}

Result<void> read_value(std::string_view key, const nlohmann::ordered_json& value, std::int64_t& out) {
  if (!value.is_number_integer() || (value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX)) {
    return bad_input(fmt::format("model JSON: {} must be a 64-bit integer, found {}", key, json_type_name(value)));
  }
  out = value.get<std::int64_t>();
  return {};
}

Result<void> read_value(std::string_view key, const nlohmann::ordered_json& value, float& out) {
  if (!value.is_number()) {
    return bad_input(fmt::format("model JSON: {} must be a number, found {}", key, json_type_name(value)));
  }
  out = static_cast<float>(value.get<double>());
  return {};
}

Result<void> read_value(std::string_view key, const nlohmann::ordered_json& value, bool& out) {
  if (!value.is_boolean()) {
    return bad_input(fmt::format("model JSON: {} must be true or false, found {}", key, json_type_name(value)));
  }
  out = value.get<bool>();
  return {};
}

Result<void> read_value(std::string_view key, const nlohmann::ordered_json& value, NormKind& out) {
  return read_word(key, value, kNormKinds, out);
}
Result<void> read_value(std::string_view key, const nlohmann::ordered_json& value, PositionKind& out) {
  return read_word(key, value, kPositionKinds, out);
}
Result<void> read_value(std::string_view key, const nlohmann::ordered_json& value, MlpKind& out) {
  return read_word(key, value, kMlpKinds, out);
}
Result<void> read_value(std::string_view key, const nlohmann::ordered_json& value, RopePairing& out) {
  return read_word(key, value, kRopePairings, out);
}
Result<void> read_value(std::string_view key, const nlohmann::ordered_json& value, RopeScaling& out) {
  return read_word(key, value, kRopeScalings, out);
}

Result<void> read_value(std::string_view key, const nlohmann::ordered_json& value, std::vector<float>& out) {
  if (!value.is_array()) {
    return bad_input(fmt::format("model JSON: {} must be an array of numbers, found {}", key, json_type_name(value)));
  }
  out.resize(value.size());
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (auto read = read_value(key, value[i], out[i]); !read) return read;
  }
  return {};
}

/// Parses JSON whose top level must be an object without repeated keys. The parser keeps its own stack, so depth is no
/// danger.
Result<nlohmann::ordered_json> parse_object(std::string_view text) {
  std::set<std::string> seen;
  std::string repeated;
  const auto watch = [&](int depth, nlohmann::ordered_json::parse_event_t event, nlohmann::ordered_json& parsed) {
    if (event == nlohmann::ordered_json::parse_event_t::key && depth == 1) {
      if (!seen.insert(parsed.get<std::string>()).second) repeated = parsed.get<std::string>();
    }
    return true;
  };
  auto json = nlohmann::ordered_json::parse(text, watch, /*allow_exceptions=*/false);
  if (json.is_discarded()) return bad_input("model JSON: malformed");
  if (!json.is_object()) return bad_input(fmt::format("model JSON: must be an object, found {}", json_type_name(json)));
  if (!repeated.empty()) return bad_input(fmt::format("model JSON: field {} appears twice", repeated));
  return json;
}

}  // namespace

Activation ModelConfig::activation() const {
  switch (mlp) {
    case MlpKind::gelu:
    case MlpKind::geglu:
      return Activation::gelu_tanh;
    case MlpKind::gelu_erf:
      return Activation::gelu_erf;
    case MlpKind::relu2:
      return Activation::relu2;
    case MlpKind::swiglu:
    case MlpKind::swiglu_clamped:
      return Activation::silu;
  }
  return Activation::none;
}

AttentionShape ModelConfig::attention_shape(std::int64_t layer) const {
  AttentionShape shape;
  shape.heads = heads;
  shape.kv_heads = kv_heads;
  shape.head_dim = head_dim;
  shape.scale =
      attention_scale > 0.0F ? attention_scale : static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim)));
  shape.window = windowed(layer) ? window : 0;
  shape.soft_cap = attention_soft_cap;
  return shape;
}

Result<void> validate(const ModelConfig& config) {
  if (auto ok = check_sizes(config); !ok) return ok;
  if (auto ok = check_numbers(config); !ok) return ok;
  if (auto ok = check_combinations(config); !ok) return ok;
  if (auto ok = check_rope_scaling(config); !ok) return ok;
  if (auto ok = check_experts(config); !ok) return ok;
  return check_total(config);
}

Result<void> trainable(const ModelConfig& /*config*/) { return {}; }

/// The double nearest to the float's shortest decimal form: prints as 1e-05, reads back to the same float.
[[nodiscard]] static double shortest(float value) { return std::strtod(fmt::format("{}", value).c_str(), nullptr); }

std::string to_json(const ModelConfig& config) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  for (const Field& field : kFields) {
    std::visit(
        [&](auto member) {
          const auto& value = config.*member;
          using Value = std::decay_t<decltype(value)>;
          auto& slot = json[std::string(field.key)];
          if constexpr (std::is_enum_v<Value>) {
            slot = std::string(to_word(value));
          } else if constexpr (std::is_same_v<Value, float>) {
            slot = shortest(value);
          } else if constexpr (std::is_same_v<Value, std::vector<float>>) {
            slot = nlohmann::ordered_json::array();
            for (const float x : value) slot.push_back(shortest(x));
          } else {
            slot = value;
          }
        },
        field.member);
  }
  return json.dump(2);
}

Result<ModelConfig> model_config_from_json(std::string_view text) {
  auto json = parse_object(text);
  if (!json) return tl::make_unexpected(json.error());
  ModelConfig config;
  for (const Field& field : kFields) {
    const auto found = json->find(std::string(field.key));
    if (found == json->end()) {
      if (field.may_be_missing) continue;
      return bad_input(fmt::format("model JSON: field {} is missing", field.key));
    }
    auto read = std::visit([&](auto member) { return read_value(field.key, *found, config.*member); }, field.member);
    if (!read) return tl::make_unexpected(read.error());
  }
  for (const auto& item : json->items()) {
    const auto known = [&](const Field& field) { return field.key == item.key(); };
    if (std::find_if(kFields.begin(), kFields.end(), known) == kFields.end()) {
      return bad_input(fmt::format("model JSON: unknown field {}", item.key().substr(0, 80)));
    }
  }
  if (auto valid = validate(config); !valid) return bad_input("model JSON: " + valid.error().message);
  return config;
}

std::string_view to_word(NormKind kind) { return kind == NormKind::layer_norm ? "layer_norm" : "rms_norm"; }

std::string_view to_word(PositionKind kind) {
  switch (kind) {
    case PositionKind::none:
      return "none";
    case PositionKind::learned:
      return "learned";
    case PositionKind::rope:
      return "rope";
  }
  return "?";
}

std::string_view to_word(MlpKind kind) {
  switch (kind) {
    case MlpKind::gelu:
      return "gelu";
    case MlpKind::gelu_erf:
      return "gelu_erf";
    case MlpKind::relu2:
      return "relu2";
    case MlpKind::swiglu:
      return "swiglu";
    case MlpKind::geglu:
      return "geglu";
    case MlpKind::swiglu_clamped:
      return "swiglu_clamped";
  }
  return "?";
}

std::string_view to_word(RopeScaling scaling) {
  switch (scaling) {
    case RopeScaling::none:
      return "none";
    case RopeScaling::linear:
      return "linear";
    case RopeScaling::yarn:
      return "yarn";
    case RopeScaling::factors:
      return "factors";
  }
  return "?";
}

std::string_view to_word(RopePairing pairing) { return pairing == RopePairing::adjacent ? "adjacent" : "halves"; }

}  // namespace quern
