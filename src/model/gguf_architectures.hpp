// The architectures of GGUF files that Quern knows, as rows of a table: what each fixes, for reading and for writing.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "model/model_config.hpp"

namespace quern {

/// Whether an architecture has a part.
enum class Presence : std::uint8_t {
  never,
  optional,
  required,
  filled  ///< required; a model without it is written with zeros, which change nothing
};

/// What an architecture fixes; the rest are keys of the file.
struct ArchitectureRow {
  std::string_view name;
  NormKind norm = NormKind::rms_norm;
  PositionKind position = PositionKind::rope;
  RopePairing pairing = RopePairing::halves;
  MlpKind mlp = MlpKind::swiglu;
  bool qk_norm = false;
  bool post_norms = false;
  bool sinks = false;
  bool scaled_embedding = false;  // by sqrt(width)
  bool windowed = false;          // whether `attention.sliding_window` is applied
  std::int64_t window = 0;        // where the key is missing
  std::int64_t window_period = 1;
  float base_windowed = 0.0F;  // RoPE base of windowed layers where the key is missing; 0: as the others
  float attention_cap = 0.0F;  // where the key is missing
  float final_cap = 0.0F;
  std::int64_t wide_scale_layers = 0;  // with this many layers q . k is scaled by 1/sqrt(width / heads)

  // What only writing asks for: readers take what is there.
  Presence experts = Presence::never;
  Presence qkv_bias = Presence::never;
  Presence output_bias = Presence::never;  // of the attention's output projection
  Presence mlp_bias = Presence::never;
  Presence router_bias = Presence::never;
  Presence attention_soft_cap = Presence::never;
  Presence final_soft_cap = Presence::never;
  Presence head = Presence::optional;       // a matrix of its own; filled: written twice where it is tied
  Presence rope_factors = Presence::never;  // frequency factors, one set
  Presence long_rope_factors = Presence::never;
  bool partly_rotated = true;          // rope.dimension_count may be less than the head
  bool fused_qkv = false;              // one tensor attn_qkv
  bool fused_gate_up = false;          // ffn_up holds gate rows, then up rows
  bool norm2_after_attention = false;  // the norm before the feed-forward part is called post_attention_norm
  bool always_windowed = false;        // readers take a window of their own, or fail, where the key is missing
};

/// Every architecture, in the order in which a writer tries them.
[[nodiscard]] std::span<const ArchitectureRow> gguf_architecture_rows();
/// By GGUF's name; null where it is unknown.
[[nodiscard]] const ArchitectureRow* find_gguf_architecture(std::string_view name);

/// The first field of a config that an architecture cannot express, as "field word": "mlp relu2"; empty where it can express
/// all of it. RoPE's pairing is no obstacle: rows can be put in order.
[[nodiscard]] std::string obstacle_to(const ArchitectureRow& row, const ModelConfig& config);

}  // namespace quern
