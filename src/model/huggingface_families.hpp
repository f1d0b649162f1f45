// The model families of Hugging Face's transformers that Quern knows, as rows of a table: what each class fixes.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "math/result.hpp"
#include "model/gguf_architectures.hpp"
#include "model/model_config.hpp"

namespace quern::internal {

/// How a class applies `sliding_window`.
enum class HuggingFaceWindow : std::uint8_t {
  none,         ///< not at all
  every_layer,  ///< where it is not null. Not applied in reading, as in GGUF files of these models
  switched,     ///< where use_sliding_window is true, in every layer
  by_layer      ///< as `layer_types`, or an older key, says
};

/// How a class names and lays out its tensors.
enum class HuggingFaceLayout : std::uint8_t { llama, phi3, gemma, gpt2, mixtral, qwen_moe, gpt_oss };

/// One class.
struct HuggingFaceFamily {
  std::string_view model_type;    ///< of config.json
  std::string_view class_name;    ///< of config.json's `architectures`
  std::string_view architecture;  ///< GGUF's word for it
  HuggingFaceLayout layout = HuggingFaceLayout::llama;
  NormKind norm = NormKind::rms_norm;
  PositionKind position = PositionKind::rope;
  HuggingFaceWindow window = HuggingFaceWindow::none;
  std::int64_t window_period = 1;  ///< by_layer, where no key says more
  std::int64_t window_tokens = 0;  ///< where the key is missing
  bool qk_norm = false;
  bool post_norms = false;
  bool sinks = false;
  bool scaled_embedding = false;  ///< by sqrt(width)
  bool query_scalar = false;      ///< has query_pre_attn_scalar
  bool soft_caps = false;         ///< has attn_logit_softcapping and final_logit_softcapping
  bool local_base = false;        ///< RoPE of windowed layers has a base of its own and is not scaled
  bool any_rope_scaling = true;   ///< false: only none and longrope
  bool heads_divide_width = false;
  Presence experts = Presence::never;
  Presence qkv_bias = Presence::never;        ///< biases of q, k and v alone
  Presence attention_bias = Presence::never;  ///< of q, k, v and the output projection; optional: key attention_bias
  Presence mlp_bias = Presence::never;        ///< optional: key mlp_bias
  Presence router_bias = Presence::never;
  double norm_eps = 1e-6;  ///< where the key is missing; so are the following
  double rope_theta = 10000.0;
  bool tied = false;
  std::int64_t head_dim = 0;  ///< 0: width / heads
  double attention_cap = 0.0, final_cap = 0.0;
};

/// In the order in which a writer tries them.
[[nodiscard]] std::span<const HuggingFaceFamily> huggingface_families();
/// By config.json's model_type; null where it is unknown.
[[nodiscard]] const HuggingFaceFamily* find_huggingface_family(std::string_view model_type);

/// What config.json says.
struct HuggingFaceConfig {
  const HuggingFaceFamily* family = nullptr;
  ModelConfig model;                 ///< pairing halves
  std::optional<ModelConfig> exact;  ///< of the object `quern`, where it agrees with the rest
  std::vector<std::string> remarks;
};

/// Reads config.json's document. Errors begin with `where` and name the key.
[[nodiscard]] Result<HuggingFaceConfig> read_huggingface_config(const nlohmann::ordered_json& json, std::string_view where);

/// The family that expresses a config: the first that has all of it, else the first that has it with biases of zeros
/// (`fills`). The error names the field that stands in the way of the nearest one.
struct HuggingFaceChoice {
  const HuggingFaceFamily* family = nullptr;
  bool fills = false;
};
[[nodiscard]] Result<HuggingFaceChoice> choose_huggingface_family(const ModelConfig& config);

/// config.json of a config in a family that expresses it, without `quern`, tokens and dtype.
[[nodiscard]] nlohmann::ordered_json huggingface_config_json(const HuggingFaceFamily& family, const ModelConfig& config);

/// Llama 3's frequency factors for `pairs` pairs: wavelengths beyond original / low are
/// stretched by `factor`, those below original / high kept, a ramp between.
struct Llama3Scaling {
  double factor = 8.0, low = 1.0, high = 4.0;
  std::int64_t original_context = 8192;
};
[[nodiscard]] std::vector<float> llama3_rope_factors(const Llama3Scaling& scaling, double base, std::int64_t rotated);

}  // namespace quern::internal
