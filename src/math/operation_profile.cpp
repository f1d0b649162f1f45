#include "math/operation_profile.hpp"

namespace quern {

namespace {

/// Per thread, of 24 bytes each: 12 MB, and a trace of two threads that a browser still opens.
constexpr std::size_t kMostEvents = 500'000;

/// A wait that begins so soon after a mark follows that operation; one that begins later interrupts the next.
constexpr std::chrono::microseconds kNoWork{2};

double seconds_of(OperationRecorder::Clock::duration time) { return std::chrono::duration<double>(time).count(); }

std::int64_t nanoseconds_of(OperationRecorder::Clock::duration time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time).count();
}

}  // namespace

std::string_view to_word(Operation operation) {
  switch (operation) {
    case Operation::embedding:
      return "embedding";
    case Operation::norm:
      return "norm";
    case Operation::qkv_product:
      return "qkv product";
    case Operation::qk_norm_rope:
      return "qk norm, rope";
    case Operation::attention:
      return "attention";
    case Operation::attention_out_product:
      return "attention out product";
    case Operation::mlp_in_product:
      return "mlp in product";
    case Operation::activation:
      return "activation";
    case Operation::mlp_out_product:
      return "mlp out product";
    case Operation::experts:
      return "experts";
    case Operation::branch:
      return "branch";
    case Operation::head_product:
      return "head product";
    case Operation::loss:
      return "loss";
    case Operation::sums:
      return "sums";
    case Operation::gradient_norm:
      return "gradient norm";
    case Operation::optimizer:
      return "optimizer";
    case Operation::newton_schulz:
      return "Newton-Schulz";
    case Operation::weight_packing:
      return "weight packing";
    case Operation::waiting:
      return "waiting";
  }
  return "";
}

std::string_view to_word(StepPhase phase) {
  switch (phase) {
    case StepPhase::forward:
      return "forward";
    case StepPhase::backward:
      return "backward";
    case StepPhase::weight_gradient:
      return "weight gradient";
    case StepPhase::update:
      return "update";
  }
  return "";
}

OperationRecorder::Total& OperationRecorder::Total::operator+=(const Total& other) {
  seconds += other.seconds;
  flops += other.flops;
  bytes += other.bytes;
  count += other.count;
  return *this;
}

void OperationRecorder::begin() {
  last_ = Clock::now();
  waited_ = {};
}

void OperationRecorder::mark(Operation operation, StepPhase phase, std::int64_t layer, const OperationCost& cost) {
  const Clock::time_point now = Clock::now();
  at(phase, operation) += {seconds_of(now - last_ - waited_), cost.flops, cost.bytes, 1};
  keep_event(last_, now, layer, operation, phase);
  phase_ = phase;
  last_ = now;
  waited_ = {};
}

void OperationRecorder::wait_begin() { wait_start_ = Clock::now(); }

void OperationRecorder::wait_end() {
  const Clock::time_point now = Clock::now();
  const bool at_once = wait_start_ - last_ - waited_ < kNoWork;
  if (at_once) wait_start_ = last_;
  at(phase_, Operation::waiting) += {seconds_of(now - wait_start_ - (at_once ? waited_ : Clock::duration{})), 0.0, 0.0, 1};
  keep_event(wait_start_, now, -1, Operation::waiting, phase_);
  if (at_once) {  // what comes next begins here
    last_ = now;
    waited_ = {};
  } else {
    waited_ += now - wait_start_;
  }
}

void OperationRecorder::keep_event(Clock::time_point begin, Clock::time_point end, std::int64_t layer, Operation operation,
                                   StepPhase phase) {
  if (!traced_) return;
  if (events_.size() == kMostEvents) {
    ++events_left_out_;
    return;
  }
  events_.push_back(
      {nanoseconds_of(begin - origin_), nanoseconds_of(end - origin_), static_cast<std::int32_t>(layer), operation, phase});
}

OperationProfile::OperationProfile(int threads, bool traced)
    : recorders_(static_cast<std::size_t>(threads), OperationRecorder(traced, OperationRecorder::Clock::now())) {}

void OperationProfile::end_step() {
  seconds_ += seconds_of(OperationRecorder::Clock::now() - step_start_);
  ++steps_;
}

OperationRecorder::Total OperationProfile::total(StepPhase phase, Operation operation) const {
  OperationRecorder::Total sum;
  for (const OperationRecorder& recorder : recorders_) sum += recorder.total(phase, operation);
  return sum;
}

}  // namespace quern
