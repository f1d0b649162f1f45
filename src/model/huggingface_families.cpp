#include "model/huggingface_families.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

namespace quern::internal {
namespace {

using Window = HuggingFaceWindow;
using Layout = HuggingFaceLayout;

// Defaults are those of the configuration classes in transformers (configuration_*.py).
constexpr std::array kFamilies{
    HuggingFaceFamily{.model_type = "llama",
                      .class_name = "LlamaForCausalLM",
                      .architecture = "llama",
                      .heads_divide_width = true,
                      .attention_bias = Presence::optional,
                      .mlp_bias = Presence::optional},
    HuggingFaceFamily{
        .model_type = "mistral", .class_name = "MistralForCausalLM", .architecture = "llama", .window = Window::every_layer},
    HuggingFaceFamily{.model_type = "mixtral",
                      .class_name = "MixtralForCausalLM",
                      .architecture = "llama",
                      .layout = Layout::mixtral,
                      .window = Window::every_layer,
                      .experts = Presence::required,
                      .norm_eps = 1e-5,
                      .rope_theta = 1e6},
    HuggingFaceFamily{.model_type = "qwen2",
                      .class_name = "Qwen2ForCausalLM",
                      .architecture = "qwen2",
                      .window = Window::by_layer,
                      .window_tokens = 4096,
                      .qkv_bias = Presence::filled},
    HuggingFaceFamily{.model_type = "qwen3",
                      .class_name = "Qwen3ForCausalLM",
                      .architecture = "qwen3",
                      .window = Window::by_layer,
                      .window_tokens = 4096,
                      .qk_norm = true,
                      .attention_bias = Presence::optional,
                      .head_dim = 128},
    HuggingFaceFamily{.model_type = "qwen3_moe",
                      .class_name = "Qwen3MoeForCausalLM",
                      .architecture = "qwen3moe",
                      .layout = Layout::qwen_moe,
                      .window = Window::switched,
                      .window_tokens = 4096,
                      .qk_norm = true,
                      .experts = Presence::required,
                      .attention_bias = Presence::optional},
    HuggingFaceFamily{.model_type = "gemma2",
                      .class_name = "Gemma2ForCausalLM",
                      .architecture = "gemma2",
                      .layout = Layout::gemma,
                      .window = Window::by_layer,
                      .window_period = 2,
                      .window_tokens = 4096,
                      .post_norms = true,
                      .scaled_embedding = true,
                      .query_scalar = true,
                      .soft_caps = true,
                      .heads_divide_width = true,
                      .attention_bias = Presence::optional,
                      .tied = true,
                      .head_dim = 256,
                      .attention_cap = 50.0,
                      .final_cap = 30.0},
    HuggingFaceFamily{.model_type = "gemma3_text",
                      .class_name = "Gemma3ForCausalLM",
                      .architecture = "gemma3",
                      .layout = Layout::gemma,
                      .window = Window::by_layer,
                      .window_period = 6,
                      .window_tokens = 4096,
                      .qk_norm = true,
                      .post_norms = true,
                      .scaled_embedding = true,
                      .query_scalar = true,
                      .soft_caps = true,
                      .local_base = true,
                      .attention_bias = Presence::optional,
                      .rope_theta = 1e6,
                      .tied = true,
                      .head_dim = 256},
    HuggingFaceFamily{.model_type = "phi3",
                      .class_name = "Phi3ForCausalLM",
                      .architecture = "phi3",
                      .layout = Layout::phi3,
                      .window = Window::every_layer,
                      .any_rope_scaling = false,
                      .heads_divide_width = true,
                      .norm_eps = 1e-5},
    HuggingFaceFamily{.model_type = "gpt2",
                      .class_name = "GPT2LMHeadModel",
                      .architecture = "gpt2",
                      .layout = Layout::gpt2,
                      .norm = NormKind::layer_norm,
                      .position = PositionKind::learned,
                      .heads_divide_width = true,
                      .attention_bias = Presence::filled,
                      .mlp_bias = Presence::filled,
                      .norm_eps = 1e-5,
                      .tied = true},
    HuggingFaceFamily{.model_type = "gpt_oss",
                      .class_name = "GptOssForCausalLM",
                      .architecture = "gpt-oss",
                      .layout = Layout::gpt_oss,
                      .window = Window::by_layer,
                      .window_period = 2,
                      .window_tokens = 128,
                      .sinks = true,
                      .experts = Presence::required,
                      .attention_bias = Presence::filled,
                      .mlp_bias = Presence::filled,
                      .router_bias = Presence::filled,
                      .norm_eps = 1e-5,
                      .rope_theta = 150000.0,
                      .head_dim = 64},
};

}  // namespace

std::span<const HuggingFaceFamily> huggingface_families() { return kFamilies; }

const HuggingFaceFamily* find_huggingface_family(std::string_view model_type) {
  if (model_type == "gemma3") model_type = "gemma3_text";  // with a vision tower beside the language model
  const auto at = std::find_if(kFamilies.begin(), kFamilies.end(),
                               [&](const HuggingFaceFamily& family) { return family.model_type == model_type; });
  return at == kFamilies.end() ? nullptr : &*at;
}

std::vector<float> llama3_rope_factors(const Llama3Scaling& scaling, double base, std::int64_t rotated) {
  std::vector<float> factors;
  const auto original = static_cast<double>(scaling.original_context);
  for (std::int64_t pair = 0; pair < rotated / 2; ++pair) {
    const double turn = 2.0 * static_cast<double>(pair) / static_cast<double>(rotated);
    const double wavelength = 2.0 * std::numbers::pi * std::pow(base, turn);
    double factor = 1.0;
    if (wavelength > original / scaling.low) {
      factor = scaling.factor;
    } else if (wavelength >= original / scaling.high) {
      const double smooth = (original / wavelength - scaling.low) / (scaling.high - scaling.low);
      factor = 1.0 / ((1.0 - smooth) / scaling.factor + smooth);
    }
    factors.push_back(static_cast<float>(factor));
  }
  return factors;
}

}  // namespace quern::internal
