#include "train/training_memory.hpp"

#include <algorithm>

namespace quern {

Result<TrainingMemory> TrainingMemory::plan(const Backend& backend, ComputeType compute, const ModelConfig& config,
                                            PassShape shape, int threads) {
  shape.threads = threads;
  TrainingMemory memory;
  memory.config_ = config;
  memory.layout_ = parameter_layout(config);
  memory.rope_positions_ = std::max(config.context, shape.max_length);
  const std::size_t block_bytes = static_cast<std::size_t>(memory.layout_.elements) * sizeof(float);
  MemoryPlan& plan = memory.plan_;
  memory.parameters_ = plan.add("parameters", block_bytes, MemoryCategory::weights);
  memory.gradients_ = plan.add("gradients", block_bytes, MemoryCategory::gradients);
  memory.m_ = plan.add("first moments", block_bytes, MemoryCategory::optimizer);
  memory.v_ = plan.add("second moments", block_bytes, MemoryCategory::optimizer);
  memory.packs_ = std::make_unique<WeightPacks>(backend, compute, config, memory.layout_, true, plan);
  memory.pass_ = TrainingPass::create(backend, compute, config, shape, true, plan);
  memory.scratch_bytes_ = (memory.pass_->scratch_bytes() + kBufferAlignment - 1) / kBufferAlignment * kBufferAlignment;
  memory.scratch_ = plan.add("scratch", memory.scratch_bytes_ * static_cast<std::size_t>(threads), MemoryCategory::scratch);
  if (auto placed = plan.place(); !placed) return tl::make_unexpected(placed.error());
  return memory;
}

Result<void> TrainingMemory::allocate() {
  auto arena = Arena::allocate(plan_);
  if (!arena) return tl::make_unexpected(arena.error());
  arena_ = std::move(*arena);
  pass_->bind(plan_, arena_);
  weights_ = std::make_unique<ModelWeights>(packs_->view(parameters(), plan_, arena_, rope_positions_));
  return {};
}

Exec TrainingMemory::exec(TeamMember& member, const Backend& backend) {
  std::byte* scratch = arena_.get<std::byte>(plan_, scratch_);
  return {member, backend, {scratch + static_cast<std::size_t>(member.index()) * scratch_bytes_, scratch_bytes_}};
}

}  // namespace quern
