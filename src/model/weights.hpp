// A model's weights as the layers read them: f32 vectors in place, matrices through the matmul front.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "math/exec.hpp"
#include "math/matmul.hpp"
#include "math/memory_plan.hpp"
#include "model/model_config.hpp"

namespace quern {

/// The compute type that a user asks for; `automatic` leaves it to what the machine does best.
enum class Precision : std::uint8_t { automatic, f32, bf16 };

/// A matrix whose rows lie in up to three pieces of memory, in the order of its outputs: a file's separate q, k and v, or
/// gate and up. What is trained is always one piece.
struct StackedWeight {
  std::array<Weight, 3> parts;
  int count = 0;

  StackedWeight() = default;
  StackedWeight(const Weight& whole) : parts{whole}, count(1) {}  // NOLINT: a matrix in one piece is the common case
  void append(const Weight& part) { parts[static_cast<std::size_t>(count++)] = part; }
  [[nodiscard]] std::span<const Weight> pieces() const { return {parts.data(), static_cast<std::size_t>(count)}; }
  /// The matrix where it is one piece.
  [[nodiscard]] const Weight& whole() const { return parts[0]; }
};

/// One block's weights. Null where the model has no such tensor.
struct LayerWeights {
  const float* norm1 = nullptr;       ///< [width]
  const float* norm1_bias = nullptr;  ///< [width]
  StackedWeight qkv;                  ///< [qkv_width, width], rows: query heads, key heads, value heads
  const float* qkv_bias = nullptr;    ///< [qkv_width]
  const float* q_norm = nullptr;      ///< [head_dim]
  const float* k_norm = nullptr;      ///< [head_dim]
  Weight attention_out;               ///< [width, query_width]
  const float* attention_out_bias = nullptr;
  const float* norm2 = nullptr;
  const float* norm2_bias = nullptr;
  StackedWeight mlp_in;  ///< [mlp_width, width], or [2 mlp_width, width] gate rows then up rows
  const float* mlp_in_bias = nullptr;
  Weight mlp_out;  ///< [width, mlp_width]
  const float* mlp_out_bias = nullptr;
  const float* post_norm1 = nullptr;  ///< [width] of the attention output, before it is added (post_norms)
  const float* post_norm2 = nullptr;  ///< [width] of the feed-forward output
  const float* sinks = nullptr;       ///< [heads]
  // Experts: each piece holds all experts' rows, one expert after the other; see expert_slice. Packs are one after the other
  // too: of so many bytes each.
  Weight router;                       ///< [experts, width]
  const float* router_bias = nullptr;  ///< [experts]
  PackedWeightBytes expert_in_pack, expert_out_pack;
  StackedWeight expert_in;                 ///< [experts * 2 mlp_width, width]; per expert gate rows then up rows
  const float* expert_in_bias = nullptr;   ///< [experts, 2 mlp_width]
  Weight expert_out;                       ///< [experts * width, mlp_width]
  const float* expert_out_bias = nullptr;  ///< [experts, width]
};

/// A view of a whole model. Whoever made it (a trainer, a loaded checkpoint) owns the memory and must outlive it.
struct ModelWeights {
  ModelConfig config;
  ComputeType compute = ComputeType::f32;     ///< what matrices were packed for; activations are stored in it too
  const float* token_embedding = nullptr;     ///< [vocab, width]; null where embedding_table is in use
  Weight embedding_table;                     ///< [vocab, width] of any type, plain
  const float* position_embedding = nullptr;  ///< [context, width], learned positions only
  std::vector<LayerWeights> layers;
  const float* final_norm = nullptr;
  const float* final_norm_bias = nullptr;
  Weight head;                             ///< [vocab, width]
  std::vector<float> rope_table;           ///< [positions, rotated]: rotated/2 cosines, then rotated/2 sines; RoPE only
  std::vector<float> rope_table_windowed;  ///< the same for windowed layers; empty: rope_table

  [[nodiscard]] const float* rope_of(std::int64_t layer) const {
    return config.windowed(layer) && !rope_table_windowed.empty() ? rope_table_windowed.data() : rope_table.data();
  }
};

/// Cosines and sines of pair i at positions 0 .. positions-1: angle p * base^(-2i/rotated) with the config's scaling,
/// computed in double, times its magnitude. `positions` is the context in use, which decides between LongRoPE's factors.
/// Empty without RoPE.
[[nodiscard]] std::vector<float> make_rope_table(const ModelConfig& config, std::int64_t positions);
/// The same for windowed layers where they differ (rope_base_windowed); empty where not.
[[nodiscard]] std::vector<float> make_windowed_rope_table(const ModelConfig& config, std::int64_t positions);

/// Expert `expert` of a weight that holds `experts` of them, one after the other; `pack`: bytes of one's packs, read where
/// the weight is packed.
[[nodiscard]] Weight expert_slice(const Weight& all, std::int64_t experts, std::int64_t expert,
                                  const PackedWeightBytes& pack = {});

/// The packs of a model's matrices, planned together with the rest of a step or an engine.
class WeightPacks {
 public:
  /// Adds the packs' buffers to `plan`. `for_backward` also plans the packs that dx = dy W reads.
  WeightPacks(const Backend& backend, ComputeType compute, const ModelConfig& config, const ParameterLayout& layout,
              bool for_backward, MemoryPlan& plan);

  /// A view over `parameters` (the f32 block in layout's order) and this plan's packs inside `arena`, which is where the
  /// functions below pack to from then on. The packs hold nothing until pack() ran. `rope_positions` is the longest
  /// position + 1 to be used.
  [[nodiscard]] ModelWeights view(const float* parameters, const MemoryPlan& plan, Arena& arena,
                                  std::int64_t rope_positions);

  /// Packs every matrix of the parameters that view() was given, as they are now. SPMD.
  void pack(Exec& exec) const;

  /// Rows of a parameter that are packed together, or 0 where it is not packed (a vector, say).
  [[nodiscard]] std::int64_t rows_per_part(int parameter) const;
  /// The same for rows first .. first + count - 1 of one parameter, on one thread. They lie in one part of rows_per_part()
  /// rows and begin, counted from its first, at a multiple of kWeightRowUnit, and end at one or with the part.
  void pack_rows(int parameter, std::int64_t first, std::int64_t count) const;
  /// Bytes of its packs for an element of a parameter.
  [[nodiscard]] std::size_t bytes_per_element() const;

 private:
  struct Pack {
    int parameter = -1;         ///< -1: the model has no such matrix
    std::int64_t parts = 1;     ///< packed one by one: equal shares of the rows
    PackedWeightBytes bytes{};  ///< of a part
    BufferId forward = 0;
    BufferId backward = 0;
    std::byte* forward_data = nullptr;
    std::byte* backward_data = nullptr;
  };
  Pack plan_one(int parameter, MemoryPlan& plan);
  Weight weight(const Pack& pack, const MemoryPlan& plan, Arena& arena) const;

  Backend backend_;
  ComputeType compute_;
  ModelConfig config_;
  ParameterLayout layout_;
  bool for_backward_;
  struct LayerPacks {
    Pack qkv, attention_out, mlp_in, mlp_out, router, expert_in, expert_out;
  };
  std::vector<LayerPacks> layers_;
  Pack head_;
  std::vector<Pack> by_parameter_;  ///< [layout.parameters], with their memory
  const float* parameters_ = nullptr;
};

}  // namespace quern
