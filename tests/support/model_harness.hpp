// A tiny model ready to run: parameters, packs, a training pass and a team, for tests of the model and of training.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "math/dispatch.hpp"
#include "math/exec.hpp"
#include "math/memory_plan.hpp"
#include "math/thread_team.hpp"
#include "model/model_config.hpp"
#include "model/weights.hpp"
#include "support/reference_model.hpp"
#include "train/training_pass.hpp"

namespace quern {

/// A named configuration of the sweep.
struct NamedModel {
  std::string name;
  ModelConfig config;
};

/// Tiny models that together use every choice a ModelConfig can make.
[[nodiscard]] std::vector<NamedModel> tiny_models();

/// Parameters as initialize_parameters makes them, with norms and biases moved off 1 and 0 so that tests see them.
[[nodiscard]] std::vector<float> tiny_parameters(const ModelConfig& config, const ParameterLayout& layout,
                                                 std::uint64_t seed);

/// A batch of the reference in the form that a training pass takes.
struct HarnessBatch {
  explicit HarnessBatch(const ReferenceBatch& reference);
  [[nodiscard]] BatchView view() const;
  std::vector<std::int32_t> inputs, targets, positions;
  std::vector<float> weights;
  std::vector<SequenceRows> sequences;
};

/// One model with its pass on `threads` threads. Gradients are in `gradients`, in the layout's order.
class ModelHarness {
 public:
  static constexpr std::uint64_t kSeed = 7;
  ModelHarness(const ModelConfig& config, const Backend& backend, ComputeType compute, int threads, std::int64_t max_rows,
               std::uint64_t seed = kSeed, std::int64_t cached_bytes = PassShape{}.cached_bytes);

  /// Packs the current parameters.
  void pack();
  /// Forward and backward; returns sum(weight * loss).
  double forward_backward(const BatchView& batch, const PassOptions& options = {});
  /// Forward only; returns sum(weight * loss).
  double evaluate(const BatchView& batch);

  /// Of the last pass.
  [[nodiscard]] std::span<const float> row_losses() const { return pass_->row_losses(); }

  ModelConfig config;
  ParameterLayout layout;
  Backend backend;
  std::vector<float> parameters, gradients;
  ThreadTeam team;
  ModelWeights weights;

 private:
  template <class Body>
  void run(Body&& body);
  MemoryPlan plan_;
  Arena arena_;
  std::unique_ptr<WeightPacks> packs_;
  std::unique_ptr<TrainingPass> pass_;
  std::size_t scratch_bytes_ = 0;
  std::byte* scratch_ = nullptr;
};

}  // namespace quern
