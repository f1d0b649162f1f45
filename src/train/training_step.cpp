#include "train/training_step.hpp"

namespace quern {

TrainingStep::TrainingStep(ThreadTeam& team, const Backend& backend, TrainingMemory& memory,
                           const OptimizerConfig& optimizer, std::int64_t nominal_tokens)
    : team_(team),
      backend_(backend),
      memory_(memory),
      optimizer_(memory.config(), memory.layout(), memory.packs(), memory.compute(), memory.muon(), optimizer),
      nominal_tokens_(static_cast<double>(nominal_tokens)) {}

void TrainingStep::record(TeamMember& member) const {
  if (profile_ == nullptr) return;
  OperationRecorder* const recorder = profile_->recorder(member.index());
  member.record_to(recorder);
  recorder->begin();
}

void TrainingStep::begin() {
  if (profile_ != nullptr) profile_->begin_step();
  loss_sum_ = 0.0;
  weight_sum_ = 0.0;
  first_ = true;
}

// Gradients are summed at a nominal scale and corrected by the real count of unmasked tokens at the end, so that the loss is
// a mean over all of them whatever the accumulation.
Result<void> TrainingStep::add(const BatchView& batch, std::int64_t targets, const BlockDropout& dropout) {
  PassOptions options;
  options.gradient_scale = static_cast<float>(1.0 / nominal_tokens_);
  options.accumulate = !first_;
  options.dropout = dropout;
  if (auto begun = memory_.begin_pass(); !begun) return begun;
  memory_.pass().set_batch(batch, options);
  team_.run([&](TeamMember& member) {
    record(member);
    Exec exec = memory_.exec(member, backend_);
    memory_.pass().forward_backward(exec, memory_.weights(), memory_.layout(), memory_.gradients());
  });
  loss_sum_ += memory_.pass().loss_sum();
  weight_sum_ += static_cast<double>(targets);
  first_ = false;
  return {};
}

TrainingStep::Outcome TrainingStep::update(double learning_rate, std::int64_t step) {
  Outcome outcome;
  if (weight_sum_ > 0.0) {
    outcome.updated = true;
    outcome.loss = loss_sum_ / weight_sum_;
    team_.run([&](TeamMember& member) {
      record(member);
      Exec exec = memory_.exec(member, backend_);
      const double norm = optimizer_.step(exec,
                                          {memory_.parameters(), memory_.gradients(), memory_.first_moments(),
                                           memory_.second_moments(), memory_.muon_workspace()},
                                          nominal_tokens_ / weight_sum_, static_cast<float>(learning_rate), step);
      if (member.index() == 0) outcome.gradient_norm = norm;
    });
  }
  if (profile_ != nullptr) profile_->end_step();
  return outcome;
}

}  // namespace quern
