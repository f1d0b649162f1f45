#include "model/gguf_architectures.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace quern {

namespace {

// Phi-3 comes last, because only its RoPE sets it apart from Llama.
constexpr std::array kArchitectures{
    ArchitectureRow{.name = "llama",
                    .pairing = RopePairing::adjacent,
                    .experts = Presence::optional,
                    .qkv_bias = Presence::optional,
                    .output_bias = Presence::optional,
                    .mlp_bias = Presence::optional,
                    .rope_factors = Presence::optional,
                    .partly_rotated = false},
    ArchitectureRow{.name = "qwen2", .qkv_bias = Presence::required},
    ArchitectureRow{.name = "qwen3", .qk_norm = true},
    ArchitectureRow{.name = "qwen3moe", .qk_norm = true, .experts = Presence::required},
    ArchitectureRow{.name = "gemma2",
                    .mlp = MlpKind::geglu,
                    .post_norms = true,
                    .scaled_embedding = true,
                    .windowed = true,
                    .window = 4096,
                    .window_period = 2,
                    .attention_cap = 50.0F,
                    .final_cap = 30.0F,
                    .wide_scale_layers = 46,
                    .attention_soft_cap = Presence::required,
                    .final_soft_cap = Presence::required,
                    .head = Presence::never,
                    .always_windowed = true},
    ArchitectureRow{.name = "gemma3",
                    .mlp = MlpKind::geglu,
                    .qk_norm = true,
                    .post_norms = true,
                    .scaled_embedding = true,
                    .windowed = true,
                    .window_period = 6,
                    .base_windowed = 10000.0F,
                    .wide_scale_layers = 62,
                    .final_soft_cap = Presence::optional},
    ArchitectureRow{.name = "gpt2",
                    .norm = NormKind::layer_norm,
                    .position = PositionKind::learned,
                    .mlp = MlpKind::gelu,
                    .qkv_bias = Presence::filled,
                    .output_bias = Presence::filled,
                    .mlp_bias = Presence::filled,
                    .fused_qkv = true},
    ArchitectureRow{.name = "gpt-oss",
                    .mlp = MlpKind::swiglu_clamped,
                    .sinks = true,
                    .windowed = true,
                    .window_period = 2,
                    .experts = Presence::required,
                    .qkv_bias = Presence::filled,
                    .output_bias = Presence::filled,
                    .mlp_bias = Presence::filled,
                    .router_bias = Presence::filled,
                    .head = Presence::filled,
                    .norm2_after_attention = true,
                    .always_windowed = true},
    // Its sliding window key is not applied, as in llama.cpp.
    ArchitectureRow{.name = "phi3", .long_rope_factors = Presence::optional, .fused_qkv = true, .fused_gate_up = true},
};

bool excluded(Presence presence, bool there) { return there ? presence == Presence::never : presence == Presence::required; }

/// The scale that the architecture applies by itself.
float own_attention_scale(const ArchitectureRow& row, const ModelConfig& c) {
  const bool wide = row.wide_scale_layers == c.layers && c.heads > 0;
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(wide ? c.width / c.heads : c.head_dim)));
}

std::string obstacle_of_shape(const ArchitectureRow& row, const ModelConfig& c) {
  if (c.norm != row.norm) return fmt::format("norm {}", to_word(c.norm));
  if (c.position != row.position) return fmt::format("position {}", to_word(c.position));
  if (c.mlp != row.mlp) return fmt::format("mlp {}", to_word(c.mlp));
  if (c.qk_norm != row.qk_norm) return fmt::format("qk_norm {}", c.qk_norm);
  if (c.post_norms != row.post_norms) return fmt::format("post_norms {}", c.post_norms);
  if (c.attention_sinks != row.sinks) return fmt::format("attention_sinks {}", c.attention_sinks);
  if (excluded(row.experts, c.experts > 0)) return fmt::format("experts {}", c.experts);
  if (excluded(row.qkv_bias, c.has_qkv_bias())) {
    return fmt::format("{} {}", c.attention_bias ? "attention_bias" : "qkv_bias", c.has_qkv_bias());
  }
  if (excluded(row.output_bias, c.attention_bias)) return fmt::format("attention_bias {}", c.attention_bias);
  const bool expert_bias = c.mlp_bias && c.experts > 0 && row.mlp_bias == Presence::optional;  // only dense ones have it
  if (excluded(row.mlp_bias, c.mlp_bias) || expert_bias) return fmt::format("mlp_bias {}", c.mlp_bias);
  if (excluded(row.router_bias, c.router_bias)) return fmt::format("router_bias {}", c.router_bias);
  if (excluded(row.head, !c.tied_embeddings)) return fmt::format("tied_embeddings {}", c.tied_embeddings);
  if (row.fused_qkv && row.position == PositionKind::learned && (c.kv_heads != c.heads)) {
    return fmt::format("kv_heads {} of {} heads", c.kv_heads, c.heads);
  }
  if (row.position == PositionKind::learned && c.query_width() != c.width) return fmt::format("head_dim {}", c.head_dim);
  return "";
}

std::string obstacle_of_scales(const ArchitectureRow& row, const ModelConfig& c) {
  const float embedding_scale = row.scaled_embedding ? static_cast<float>(std::sqrt(static_cast<double>(c.width))) : 1.0F;
  if (c.embedding_scale != embedding_scale) return fmt::format("embedding_scale {}", c.embedding_scale);
  if (excluded(row.attention_soft_cap, c.attention_soft_cap != 0.0F)) {
    return fmt::format("attention_soft_cap {}", c.attention_soft_cap);
  }
  if (excluded(row.final_soft_cap, c.final_soft_cap != 0.0F)) return fmt::format("final_soft_cap {}", c.final_soft_cap);
  if (c.attention_scale != 0.0F || row.wide_scale_layers == c.layers) {
    const float own = own_attention_scale(row, c);
    const float wanted =
        c.attention_scale != 0.0F ? c.attention_scale : static_cast<float>(1.0 / std::sqrt(static_cast<double>(c.head_dim)));
    if (std::abs(wanted - own) > 1e-6F * own) return fmt::format("attention_scale {}", wanted);
  }
  if (c.window > 0 && !row.windowed) return fmt::format("window {}", c.window);
  return "";
}

std::string obstacle_of_rope(const ArchitectureRow& row, const ModelConfig& c) {
  if (c.position != PositionKind::rope) return "";
  if (!row.partly_rotated && c.rotated() != c.head_dim) return fmt::format("rope_dims {}", c.rope_dims);
  if (c.rope_scaling == RopeScaling::factors) {
    const bool two_sets = !c.rope_factors_long.empty();
    if (excluded(two_sets ? row.long_rope_factors : row.rope_factors, true)) return "rope_scaling factors";
  }
  if (c.window > 0 && c.rope_base_windowed != 0.0F && row.base_windowed == 0.0F && c.rope_base_windowed != c.rope_base) {
    return fmt::format("rope_base_windowed {}", c.rope_base_windowed);
  }
  return "";
}

}  // namespace

std::span<const ArchitectureRow> gguf_architecture_rows() { return kArchitectures; }

const ArchitectureRow* find_gguf_architecture(std::string_view name) {
  const auto at = std::find_if(kArchitectures.begin(), kArchitectures.end(),
                               [&](const ArchitectureRow& row) { return row.name == name; });
  return at == kArchitectures.end() ? nullptr : &*at;
}

std::string obstacle_to(const ArchitectureRow& row, const ModelConfig& config) {
  if (std::string obstacle = obstacle_of_shape(row, config); !obstacle.empty()) return obstacle;
  if (std::string obstacle = obstacle_of_scales(row, config); !obstacle.empty()) return obstacle;
  return obstacle_of_rope(row, config);
}

}  // namespace quern
