// What a decoder-only transformer is, as data: every architecture is a row of values, not a class.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "math/attention_kernels.hpp"
#include "math/element_type.hpp"
#include "math/elementwise_kernels.hpp"
#include "math/result.hpp"

namespace quern {

/// Normalization before attention, before the feed-forward part and before the head.
enum class NormKind : std::uint8_t { layer_norm, rms_norm };

/// How a token's position enters.
enum class PositionKind : std::uint8_t {
  none,
  learned,  ///< a trained table [context, width] added to the embedding
  rope      ///< rotation of queries and keys
};

/// The feed-forward part. Gated kinds compute activation(gate) * up.
enum class MlpKind : std::uint8_t {
  gelu,  ///< GELU (tanh form), as GPT-2
  gelu_erf,
  relu2,          ///< max(x,0)^2 (So et al. 2021)
  swiglu,         ///< SiLU-gated (Shazeer 2020)
  geglu,          ///< GELU(tanh)-gated
  swiglu_clamped  ///< g' sigmoid(1.702 g') (u' + 1) with g' = min(g, 7), u' = clamp(u, -7, 7), as GPT-OSS
};

/// How RoPE's angles are changed for contexts beyond the trained one.
enum class RopeScaling : std::uint8_t {
  none,
  linear,  ///< every angle divided by rope_factor
  yarn,    ///< angles of slow pairs divided by rope_factor, of fast pairs kept, a ramp between (Peng et al. 2023)
  factors  ///< angle i divided by a factor of its own: Llama 3's frequencies, LongRoPE (Ding et al. 2024)
};

/// A model's shape. Field names are the keys of the `model:` section of a YAML run.
struct ModelConfig {
  std::int64_t vocab = 0;      ///< tokens in the vocabulary; taken from the corpus when training
  std::int64_t context = 256;  ///< longest sequence in training; rows of the learned position table
  std::int64_t layers = 4;
  std::int64_t width = 256;  ///< size of the residual stream
  std::int64_t heads = 4;
  std::int64_t kv_heads = 4;   ///< divides heads; 1 is multi-query attention
  std::int64_t head_dim = 64;  ///< heads * head_dim may differ from width
  std::int64_t mlp_width = 1024;

  NormKind norm = NormKind::rms_norm;
  float norm_eps = 1e-5F;
  PositionKind position = PositionKind::rope;
  float rope_base = 10000.0F;
  RopePairing rope_pairing = RopePairing::halves;
  std::int64_t rope_dims = 0;  ///< rotated elements per head; 0: head_dim
  MlpKind mlp = MlpKind::swiglu;
  bool qk_norm = false;         ///< RMS norm of each query and key head before RoPE (Henry et al. 2020; as Qwen3)
  bool attention_bias = false;  ///< biases of the q, k, v and output projections
  bool mlp_bias = false;
  bool norm_bias = false;       ///< layer_norm only
  bool tied_embeddings = true;  ///< the head is the embedding table
  float embedding_scale = 1.0F;
  float final_soft_cap = 0.0F;      ///< logits = cap * tanh(logits / cap); 0: none
  float attention_soft_cap = 0.0F;  ///< the same on attention scores; 0: none
  std::int64_t window = 0;          ///< sliding window of the windowed layers; 0: none
  std::int64_t window_period = 1;   ///< layer i is windowed when i % period < period - 1 (1: every layer, if window > 0)

  // What published models add.
  bool qkv_bias = false;            ///< biases of q, k and v without one of the output projection (Qwen2)
  bool post_norms = false;          ///< RMS norms of both halves' outputs before they are added (Gemma 2)
  bool attention_sinks = false;     ///< a logit per head that takes probability and has no value (GPT-OSS)
  float attention_scale = 0.0F;     ///< multiplies q . k; 0: 1/sqrt(head_dim)
  float rope_base_windowed = 0.0F;  ///< of windowed layers, which are not scaled then; 0: as the others (Gemma 3)
  RopeScaling rope_scaling = RopeScaling::none;
  float rope_factor = 1.0F;                ///< linear, yarn
  std::int64_t rope_original_context = 0;  ///< yarn: the context trained before; factors: the longest for rope_factors
  float rope_beta_fast = 32.0F;            ///< yarn: pairs that turn more often than this over the original context keep
  float rope_beta_slow = 1.0F;             ///<   their angles; those that turn less often than this are scaled in full
  float rope_magnitude = 1.0F;             ///< multiplies cosines and sines (yarn: times 1 + 0.1 ln rope_factor)
  std::vector<float> rope_factors{};       ///< factors: [rotated / 2]
  std::vector<float> rope_factors_long{};  ///< factors: used where the context in use exceeds rope_original_context
  std::int64_t experts = 0;                ///< 0: a dense feed-forward part; else mlp_width is one expert's
  std::int64_t experts_used = 0;           ///< experts that a token takes
  bool router_bias = false;

  [[nodiscard]] bool has_qkv_bias() const { return attention_bias || qkv_bias; }
  [[nodiscard]] bool windowed(std::int64_t layer) const {
    return window > 0 && (window_period <= 1 || layer % window_period < window_period - 1);
  }
  [[nodiscard]] std::int64_t rotated() const { return rope_dims > 0 ? rope_dims : head_dim; }
  [[nodiscard]] std::int64_t query_width() const { return heads * head_dim; }
  [[nodiscard]] std::int64_t kv_width() const { return kv_heads * head_dim; }
  [[nodiscard]] std::int64_t qkv_width() const { return query_width() + 2 * kv_width(); }
  [[nodiscard]] bool gated() const {
    return mlp == MlpKind::swiglu || mlp == MlpKind::geglu || mlp == MlpKind::swiglu_clamped;
  }
  [[nodiscard]] Activation activation() const;
  /// Shape of attention in one layer (scale and window by the rules above); sinks are weights and left null.
  [[nodiscard]] AttentionShape attention_shape(std::int64_t layer) const;
};

/// Checks sizes, divisibility and combinations. The error names the field, what is allowed and what was found.
[[nodiscard]] Result<void> validate(const ModelConfig& config);

/// Whether this build has the backward pass of everything the config asks for, and parameter_layout its tensors: it has for
/// every config that validate() accepts. The error would name the first field that stands in the way.
[[nodiscard]] Result<void> trainable(const ModelConfig& config);

/// The config as JSON text and back; what checkpoints store. Unknown fields and missing ones are errors naming the field;
/// fields that only published models use may be missing (version 1 checkpoints lack them) and have their defaults then.
[[nodiscard]] std::string to_json(const ModelConfig& config);
[[nodiscard]] Result<ModelConfig> model_config_from_json(std::string_view json);

/// Field values as the words that YAML and JSON use: "rms_norm", "rope", "swiglu", "halves", ...
[[nodiscard]] std::string_view to_word(NormKind kind);
[[nodiscard]] std::string_view to_word(PositionKind kind);
[[nodiscard]] std::string_view to_word(MlpKind kind);
[[nodiscard]] std::string_view to_word(RopePairing pairing);
[[nodiscard]] std::string_view to_word(RopeScaling scaling);

/// Every value of each kind, for parsers and their messages.
inline constexpr std::array kNormKinds{NormKind::layer_norm, NormKind::rms_norm};
inline constexpr std::array kPositionKinds{PositionKind::none, PositionKind::learned, PositionKind::rope};
inline constexpr std::array kMlpKinds{MlpKind::gelu,   MlpKind::gelu_erf, MlpKind::relu2,
                                      MlpKind::swiglu, MlpKind::geglu,    MlpKind::swiglu_clamped};
inline constexpr std::array kRopeScalings{RopeScaling::none, RopeScaling::linear, RopeScaling::yarn, RopeScaling::factors};
inline constexpr std::array kRopePairings{RopePairing::adjacent, RopePairing::halves};

/// What a parameter is; decides initialization and weight decay.
enum class ParameterKind : std::uint8_t {
  embedding,        ///< token or position table
  matrix,           ///< [outputs, inputs]
  residual_matrix,  ///< a matrix whose output is added to the residual stream (scaled initialization)
  norm,             ///< norm weight, initialized to 1
  bias              ///< initialized to 0
};

/// One trained tensor. Matrices are [rows, cols] = [outputs, inputs] row-major; vectors have rows = size, cols = 1.
struct Parameter {
  std::string name;  ///< GGUF-like: token_embd.weight, blk.0.attn_qkv.weight, ...
  ParameterKind kind = ParameterKind::matrix;
  std::int64_t rows = 0;
  std::int64_t cols = 1;
  std::int64_t offset = 0;   ///< in elements, into the contiguous f32 block of all parameters; multiple of 16
  std::int64_t experts = 1;  ///< equal shares of the rows, of which a token meets experts_used
  std::int64_t experts_used = 1;
  [[nodiscard]] std::int64_t count() const { return rows * cols; }
  [[nodiscard]] bool decays() const {
    return kind == ParameterKind::embedding || kind == ParameterKind::matrix || kind == ParameterKind::residual_matrix;
  }
};

/// Indices into ParameterLayout::parameters; -1 where the model has no such tensor.
struct LayerParameters {
  int norm1 = -1, norm1_bias = -1;
  int qkv = -1, qkv_bias = -1;  ///< rows: query heads, then key heads, then value heads
  int q_norm = -1, k_norm = -1;
  int attention_out = -1, attention_out_bias = -1;
  int sinks = -1;  ///< [heads]; a bias: 0 at first, not decayed
  int post_norm1 = -1, post_norm2 = -1;
  int norm2 = -1, norm2_bias = -1;
  int mlp_in = -1, mlp_in_bias = -1;  ///< [mlp_width, width], or [2 mlp_width, width] gate rows then up rows
  int mlp_out = -1, mlp_out_bias = -1;
  // Models with experts have these instead of mlp_in and mlp_out: all experts' rows, one expert after the other.
  int router = -1, router_bias = -1;          ///< [experts, width]
  int expert_in = -1, expert_in_bias = -1;    ///< [experts * 2 mlp_width, width], per expert gate rows then up rows
  int expert_out = -1, expert_out_bias = -1;  ///< [experts * width, mlp_width]
};

/// Every parameter of a model, in a fixed order with fixed offsets.
struct ParameterLayout {
  std::vector<Parameter> parameters;
  std::vector<LayerParameters> layers;
  int token_embedding = -1;
  int position_embedding = -1;
  int final_norm = -1, final_norm_bias = -1;
  int head = -1;              ///< equals token_embedding when tied
  std::int64_t elements = 0;  ///< size of the block including padding between tensors

  /// Trained numbers, padding not counted.
  [[nodiscard]] std::int64_t parameter_count() const;
  /// Parameters that enter matrix products per token: all matrices (of experts those that a token takes) and the head, not
  /// the embedding lookup or position table.
  [[nodiscard]] std::int64_t matmul_parameter_count() const;
};
[[nodiscard]] ParameterLayout parameter_layout(const ModelConfig& config);

/// Keys that a query sees on average over a context of T tokens, in the continuous limit: T / 2, less with a window
/// (0: none).
[[nodiscard]] double mean_visible_keys(std::int64_t context, std::int64_t window);

/// Training FLOP per token: 6 N_matmul + 6 L C T (forward and backward, causal attention counted once, recomputation
/// not counted). C is heads * head_dim, T the context. (Peers often count 12 L C T.) A windowed layer counts the keys that
/// its window shows, on average w - w^2 / (2 T) instead of T / 2.
[[nodiscard]] double train_flops_per_token(const ModelConfig& config, std::int64_t context);

/// Fills the f32 block: matrices normal(0, 0.02) (residual_matrix: divided by sqrt(2 layers), Radford et al. 2019),
/// embeddings normal(0, 0.02), norms 1, biases 0. Philox streams by parameter index: independent of order and threads.
struct Initialization {
  float standard_deviation = 0.02F;
  bool scale_residual = true;
};
void initialize_parameters(const ModelConfig& config, const ParameterLayout& layout, const Initialization& init,
                           std::uint64_t seed, float* parameters);

}  // namespace quern
