// Everything that a run keeps in memory, in one plan: parameters, gradients, moments, packs, activations, scratch. (For
// measuring, a micro-batch's activations and scratch can be allocated when it begins, and freed when the next one does.)
#pragma once

#include <cstdint>
#include <memory>

#include "math/exec.hpp"
#include "math/memory_plan.hpp"
#include "model/model_config.hpp"
#include "model/weights.hpp"
#include "train/optimizer.hpp"
#include "train/training_pass.hpp"

namespace quern {

/// Built from shapes alone; nothing is allocated before allocate().
class TrainingMemory {
 public:
  /// `pass_buffers` apart: activations and scratch are no part of the arena but allocated by begin_pass().
  [[nodiscard]] static Result<TrainingMemory> plan(const Backend& backend, ComputeType compute, const ModelConfig& config,
                                                   PassShape shape, OptimizerKind optimizer, int threads,
                                                   Placement pass_buffers = Placement::arena);

  [[nodiscard]] Result<void> allocate();
  /// Before a micro-batch's pass().set_batch(): new memory for its buffers where they are apart, else nothing. Error
  /// no_memory.
  [[nodiscard]] Result<void> begin_pass();

  [[nodiscard]] MemoryReport report() const;
  [[nodiscard]] std::size_t bytes() const { return plan_.arena_bytes() + (apart() ? pass_plan_.arena_bytes() : 0); }

  /// After allocate(): blocks of layout.elements f32 each.
  [[nodiscard]] float* parameters() { return arena_.get<float>(plan_, parameters_); }
  [[nodiscard]] float* gradients() { return arena_.get<float>(plan_, gradients_); }
  [[nodiscard]] float* first_moments() { return arena_.get<float>(plan_, m_); }
  /// In second_moment_layout's order and offsets, of its elements.
  [[nodiscard]] float* second_moments() { return arena_.get<float>(plan_, v_); }
  [[nodiscard]] const ParameterLayout& second_moment_layout() const { return moment_layout_; }
  /// For the update alone: it shares bytes with activations.
  [[nodiscard]] std::byte* muon_workspace() {
    return muon_.bytes() == 0 ? nullptr : arena_.get<std::byte>(plan_, workspace_);
  }
  [[nodiscard]] const MuonMemory& muon() const { return muon_; }
  [[nodiscard]] const ModelWeights& weights() const { return *weights_; }
  [[nodiscard]] const WeightPacks& packs() const { return *packs_; }
  [[nodiscard]] TrainingPass& pass() { return *pass_; }
  [[nodiscard]] const ParameterLayout& layout() const { return layout_; }
  [[nodiscard]] const ModelConfig& config() const { return config_; }
  [[nodiscard]] ComputeType compute() const { return compute_; }

  /// Execution context of a team's member, with its part of the scratch memory.
  [[nodiscard]] Exec exec(TeamMember& member, const Backend& backend);

 private:
  ModelConfig config_;
  ComputeType compute_ = ComputeType::f32;
  ParameterLayout layout_, moment_layout_;
  MuonMemory muon_;
  std::int64_t rope_positions_ = 0;
  [[nodiscard]] bool apart() const { return pass_plan_.placement() == Placement::apart; }
  [[nodiscard]] Result<void> allocate_pass();

  MemoryPlan plan_;
  Arena arena_;
  MemoryPlan pass_plan_;  // empty, unless apart()
  Arena pass_arena_;
  std::unique_ptr<WeightPacks> packs_;
  std::unique_ptr<TrainingPass> pass_;
  std::unique_ptr<ModelWeights> weights_;
  BufferId parameters_ = 0, gradients_ = 0, m_ = 0, v_ = 0, workspace_ = 0, scratch_ = 0;
  std::size_t scratch_bytes_ = 0;
};

}  // namespace quern
