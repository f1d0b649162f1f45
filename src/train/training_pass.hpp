// One micro-batch through the model and back: plans its buffers, runs forward, loss and backward on a team of threads.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "math/exec.hpp"
#include "math/memory_plan.hpp"
#include "model/layers.hpp"
#include "model/weights.hpp"

namespace quern {

/// Consecutive rows of a micro-batch that attend to each other; positions start at 0.
struct SequenceRows {
  std::int64_t first_row = 0;
  std::int64_t rows = 0;
};

/// A micro-batch of `rows` tokens: one row per token. Views; the caller owns the memory for the length of the pass.
struct BatchView {
  std::int64_t rows = 0;
  const std::int32_t* inputs = nullptr;     ///< [rows]
  const std::int32_t* targets = nullptr;    ///< [rows]
  const float* weights = nullptr;           ///< [rows] weight of each target's loss; 0 masks it
  const std::int32_t* positions = nullptr;  ///< [rows]
  std::span<const SequenceRows> sequences;  ///< cover all rows, in order
};

/// What one pass does besides the forward computation.
struct PassOptions {
  BlockDropout dropout{};       ///< layer is set by the pass
  float gradient_scale = 1.0F;  ///< gradients are those of gradient_scale * sum(weight * loss)
  bool accumulate = false;      ///< add to the gradient block instead of overwriting it
};

/// Sizes that fix the plan.
struct PassShape {
  std::int64_t rows = 0;           ///< tokens of a micro-batch (at most)
  std::int64_t max_length = 0;     ///< longest sequence
  std::int64_t max_sequences = 0;  ///< sequences in a micro-batch (at most)
  int threads = 1;                 ///< among which the work is cut; changes speed only
  /// What grows beyond this has left the last-level cache before it is read again, and is written past the caches. Changes
  /// speed only; the default is a guess that suits two cores' share of one.
  std::int64_t cached_bytes = std::int64_t{32} << 20;
};

/// Forward and backward over planned memory; f32 or bf16 activations behind one interface. After bind() nothing allocates.
class TrainingPass {
 public:
  virtual ~TrainingPass() = default;

  /// `backward` false plans evaluation only. Adds buffers to `plan`; call bind() with the placed plan's arena before use.
  [[nodiscard]] static std::unique_ptr<TrainingPass> create(const Backend& backend, ComputeType compute,
                                                            const ModelConfig& config, const PassShape& shape, bool backward,
                                                            MemoryPlan& plan);

  virtual void bind(const MemoryPlan& plan, Arena& arena) = 0;

  /// Scratch bytes per thread.
  [[nodiscard]] virtual std::size_t scratch_bytes() const = 0;

  /// Sets the batch for the following calls; not SPMD: called by one thread, outside the team.
  virtual void set_batch(const BatchView& batch, const PassOptions& options) = 0;

  /// SPMD: losses only.
  virtual void evaluate(Exec& exec, const ModelWeights& weights) = 0;

  /// SPMD: losses, and gradients into `gradients` (f32, layout's order).
  virtual void forward_backward(Exec& exec, const ModelWeights& weights, const ParameterLayout& layout,
                                float* gradients) = 0;

  /// sum(weight * loss) of the last evaluate or forward_backward, in nats, summed in row order in double.
  [[nodiscard]] virtual double loss_sum() const = 0;

  /// Cross-entropy of each row in nats, 0 where masked; valid until the next pass.
  [[nodiscard]] virtual std::span<const float> row_losses() const = 0;
};

}  // namespace quern
