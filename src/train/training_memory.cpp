#include "train/training_memory.hpp"

#include <algorithm>

namespace quern {

Result<TrainingMemory> TrainingMemory::plan(const Backend& backend, ComputeType compute, const ModelConfig& config,
                                            PassShape shape, OptimizerKind optimizer, int threads, Placement pass_buffers) {
  /// Of the plan's times: after the pass, whose buffers that do not live forever are free then.
  constexpr std::int64_t kUpdate = MemoryPlan::kForever - 1;
  shape.threads = threads;
  TrainingMemory memory;
  memory.config_ = config;
  memory.compute_ = compute;
  memory.layout_ = parameter_layout(config);
  memory.moment_layout_ = quern::second_moment_layout(config, memory.layout_, optimizer);
  memory.muon_ = MuonMemory(backend, compute, config, memory.layout_, optimizer, threads);
  memory.rope_positions_ = std::max(config.context, shape.max_length);
  const std::size_t block_bytes = static_cast<std::size_t>(memory.layout_.elements) * sizeof(float);
  MemoryPlan& plan = memory.plan_;
  memory.parameters_ = plan.add("parameters", block_bytes, MemoryCategory::weights);
  memory.gradients_ = plan.add("gradients", block_bytes, MemoryCategory::gradients);
  memory.m_ = plan.add("first moments", block_bytes, MemoryCategory::optimizer);
  const std::size_t moment_bytes = static_cast<std::size_t>(memory.moment_layout_.elements) * sizeof(float);
  memory.v_ = plan.add("second moments", moment_bytes, MemoryCategory::optimizer);
  if (memory.muon_.bytes() > 0) {
    memory.workspace_ = plan.add("orthogonalization", memory.muon_.bytes(), MemoryCategory::scratch, kUpdate, kUpdate);
  }
  memory.packs_ = std::make_unique<WeightPacks>(backend, compute, config, memory.layout_, true, plan);
  memory.pass_plan_ = MemoryPlan(pass_buffers);
  MemoryPlan& pass_plan = memory.apart() ? memory.pass_plan_ : plan;
  memory.pass_ = TrainingPass::create(backend, compute, config, shape, true, pass_plan);
  const std::size_t scratch_bytes = std::max(memory.pass_->scratch_bytes(), memory.muon_.scratch_bytes());
  memory.scratch_bytes_ = (scratch_bytes + kBufferAlignment - 1) / kBufferAlignment * kBufferAlignment;
  memory.scratch_ =
      pass_plan.add("scratch", memory.scratch_bytes_ * static_cast<std::size_t>(threads), MemoryCategory::scratch);
  for (MemoryPlan* each : {&plan, &memory.pass_plan_}) {
    if (auto placed = each->place(); !placed) return tl::make_unexpected(placed.error());
  }
  return memory;
}

Result<void> TrainingMemory::allocate() {
  auto arena = Arena::allocate(plan_);
  if (!arena) return tl::make_unexpected(arena.error());
  arena_ = std::move(*arena);
  if (apart()) {
    if (auto allocated = allocate_pass(); !allocated) return allocated;
  } else {
    pass_->bind(plan_, arena_);
  }
  weights_ = std::make_unique<ModelWeights>(packs_->view(parameters(), plan_, arena_, rope_positions_));
  return {};
}

Result<void> TrainingMemory::allocate_pass() {
  pass_arena_ = Arena();
  auto arena = Arena::allocate(pass_plan_);
  if (!arena) return tl::make_unexpected(arena.error());
  pass_arena_ = std::move(*arena);
  pass_->bind(pass_plan_, pass_arena_);
  return {};
}

Result<void> TrainingMemory::begin_pass() { return apart() ? allocate_pass() : Result<void>(); }

MemoryReport TrainingMemory::report() const {
  MemoryReport all = plan_.report();
  const MemoryReport pass = pass_plan_.report();
  for (std::size_t i = 0; i < kMemoryCategories; ++i) all.bytes[i] += pass.bytes[i];
  return all;
}

Exec TrainingMemory::exec(TeamMember& member, const Backend& backend) {
  std::byte* scratch = apart() ? pass_arena_.get<std::byte>(pass_plan_, scratch_) : arena_.get<std::byte>(plan_, scratch_);
  return {member, backend, {scratch + static_cast<std::size_t>(member.index()) * scratch_bytes_, scratch_bytes_}};
}

}  // namespace quern
