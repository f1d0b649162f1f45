// A model's weights as the layers read them: f32 vectors in place, matrices through the matmul front.
#pragma once

#include <cstdint>
#include <vector>

#include "math/exec.hpp"
#include "math/matmul.hpp"
#include "math/memory_plan.hpp"
#include "model/model_config.hpp"

namespace quern {

/// The compute type that a user asks for; `automatic` leaves it to what the machine does best.
enum class Precision : std::uint8_t { automatic, f32, bf16 };

/// One block's weights. Null where the model has no such tensor.
struct LayerWeights {
  const float* norm1 = nullptr;       ///< [width]
  const float* norm1_bias = nullptr;  ///< [width]
  Weight qkv;                         ///< [qkv_width, width], rows: query heads, key heads, value heads
  const float* qkv_bias = nullptr;    ///< [qkv_width]
  const float* q_norm = nullptr;      ///< [head_dim]
  const float* k_norm = nullptr;      ///< [head_dim]
  Weight attention_out;               ///< [width, query_width]
  const float* attention_out_bias = nullptr;
  const float* norm2 = nullptr;
  const float* norm2_bias = nullptr;
  Weight mlp_in;  ///< [mlp_width, width], or [2 mlp_width, width] gate rows then up rows
  const float* mlp_in_bias = nullptr;
  Weight mlp_out;  ///< [width, mlp_width]
  const float* mlp_out_bias = nullptr;
};

/// A view of a whole model. Whoever made it (a trainer, a loaded checkpoint) owns the memory and must outlive it.
struct ModelWeights {
  ModelConfig config;
  ComputeType compute = ComputeType::f32;     ///< what matrices were packed for; activations are stored in it too
  const float* token_embedding = nullptr;     ///< [vocab, width]
  const float* position_embedding = nullptr;  ///< [context, width], learned positions only
  std::vector<LayerWeights> layers;
  const float* final_norm = nullptr;
  const float* final_norm_bias = nullptr;
  Weight head;                    ///< [vocab, width]
  std::vector<float> rope_table;  ///< [positions, rotated]: rotated/2 cosines, then rotated/2 sines; RoPE only
};

/// Cosines and sines of pair i at position p: p * base^(-2i/rotated), computed in double. Empty without RoPE.
[[nodiscard]] std::vector<float> make_rope_table(const ModelConfig& config, std::int64_t positions);

/// The packs of a model's matrices, planned together with the rest of a step or an engine.
class WeightPacks {
 public:
  /// Adds the packs' buffers to `plan`. `for_backward` also plans the packs that dx = dy W reads.
  WeightPacks(const Backend& backend, ComputeType compute, const ModelConfig& config, const ParameterLayout& layout,
              bool for_backward, MemoryPlan& plan);

  /// A view over `parameters` (the f32 block in layout's order) and this plan's packs inside `arena`. The packs hold
  /// nothing until pack() ran. `rope_positions` is the longest position + 1 to be used.
  [[nodiscard]] ModelWeights view(const float* parameters, const MemoryPlan& plan, Arena& arena,
                                  std::int64_t rope_positions) const;

  /// Packs every matrix of `weights` (made by view()) from its f32 block. SPMD; call after each change of parameters.
  void pack(Exec& exec, const float* parameters, const ModelWeights& weights) const;

 private:
  struct Pack {
    int parameter = -1;
    BufferId forward = 0;
    BufferId backward = 0;
  };
  Pack plan_one(int parameter, MemoryPlan& plan) const;
  Weight weight(const Pack& pack, const MemoryPlan& plan, Arena& arena) const;

  Backend backend_;
  ComputeType compute_;
  ModelConfig config_;
  ParameterLayout layout_;
  bool for_backward_;
  struct LayerPacks {
    Pack qkv, attention_out, mlp_in, mlp_out;
  };
  std::vector<LayerPacks> layers_;
  Pack head_;
};

}  // namespace quern
