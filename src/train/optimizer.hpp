// AdamW over all parameters of a model, with global-norm clipping.
#pragma once

#include <cstdint>
#include <vector>

#include "math/exec.hpp"
#include "model/model_config.hpp"
#include "model/weights.hpp"

namespace quern {

/// What stays the same from step to step.
struct AdamWSettings {
  float beta1 = 0.9F;
  float beta2 = 0.99F;
  float eps = 1e-8F;
  float weight_decay = 0.1F;  ///< only where Parameter::decays()
  float clip_norm = 1.0F;     ///< 0: no clipping
};

/// The blocks of one model, f32 in ParameterLayout's order and offsets.
struct OptimizerBlocks {
  float* weights = nullptr;
  const float* gradients = nullptr;
  float* m = nullptr;
  float* v = nullptr;
};

/// AdamW (Loshchilov & Hutter 2019) with decoupled decay and clipping by the global gradient norm (Pascanu et al. 2013).
/// Work is cut into fixed pieces of each parameter, so results do not depend on threads. Weights are packed again as they
/// change, while they are in cache: `packs` (borrowed) must be of the same layout. Allocates only at construction.
class AdamW {
 public:
  AdamW(const ParameterLayout& layout, const WeightPacks& packs, const AdamWSettings& settings);

  /// One update with gradients multiplied by `gradient_scale`: SPMD. `step` counts from 1. Returns, on every member, the
  /// norm of the scaled gradients before clipping. A norm that is not finite leaves weights and moments as they were.
  double step(Exec& exec, const OptimizerBlocks& blocks, double gradient_scale, float learning_rate, std::int64_t step);

 private:
  struct Piece {
    std::int64_t offset;
    std::int64_t count;
    bool decays;
    int parameter;
    std::int64_t first_row;
    std::int64_t packed_rows;  ///< 0: of a parameter that is not packed
  };
  const WeightPacks& packs_;
  AdamWSettings settings_;
  std::vector<Piece> pieces_;
  std::vector<double> squares_;  // one sum per piece
};

}  // namespace quern
