// Where a training step spends its time: what each thread did, for how long, and what that had to compute and move.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <string_view>
#include <vector>

namespace quern {

/// Kinds of work of a step.
enum class Operation : std::uint8_t {
  embedding,
  norm,
  qkv_product,
  qk_norm_rope,  ///< QK norm and rotation
  attention,
  attention_out_product,
  mlp_in_product,
  activation,
  mlp_out_product,
  experts,  ///< everything between norm and residual in models that have them
  branch,   ///< dropout and post norms of a half's output and its gradient, and that gradient's conversion
  head_product,
  loss,
  sums,  ///< of the chunks' gradients of norm weights
  gradient_norm,
  optimizer,
  newton_schulz,  ///< Muon's orthogonalization
  weight_packing,
  waiting  ///< for other threads, at barriers
};
inline constexpr int kOperations = 19;
[[nodiscard]] std::string_view to_word(Operation operation);

/// Parts of a step.
enum class StepPhase : std::uint8_t { forward, backward, weight_gradient, update };
inline constexpr int kStepPhases = 4;
[[nodiscard]] std::string_view to_word(StepPhase phase);

/// What an operation takes whatever computes it.
struct OperationCost {
  double flops = 0.0;  ///< of matrix products and attention, multiplication and addition counted apart
  double bytes = 0.0;  ///< of its operands and results, each read or written once
};

/// y [m, n] = x [m, k] w [n, k]^T: elements of x and w of `in_bytes` each, of y of `out_bytes`.
[[nodiscard]] constexpr OperationCost product_cost(std::int64_t m, std::int64_t n, std::int64_t k, std::size_t in_bytes,
                                                   std::size_t out_bytes) {
  const auto M = static_cast<double>(m);
  const auto N = static_cast<double>(n);
  const auto K = static_cast<double>(k);
  return {2.0 * M * N * K, static_cast<double>(in_bytes) * (M * K + N * K) + static_cast<double>(out_bytes) * M * N};
}

/// dw [n, k] f32 = dy [m, n]^T x [m, k]: elements of dy and x of `in_bytes` each; `accumulate` reads dw too.
[[nodiscard]] constexpr OperationCost weight_gradient_cost(std::int64_t m, std::int64_t n, std::int64_t k,
                                                           std::size_t in_bytes, bool accumulate) {
  const auto M = static_cast<double>(m);
  const auto N = static_cast<double>(n);
  const auto K = static_cast<double>(k);
  return {2.0 * M * N * K, static_cast<double>(in_bytes) * M * (N + K) + (accumulate ? 8.0 : 4.0) * N * K};
}

/// `elements` numbers of `bytes_each`: for operations that only move and transform.
[[nodiscard]] constexpr OperationCost moved_cost(std::int64_t elements, std::size_t bytes_each) {
  return {0.0, static_cast<double>(elements) * static_cast<double>(bytes_each)};
}

/// Collects the marks of one thread; not thread-safe. A mark says what the time since begin() or the mark before went to;
/// barriers are taken out of it and counted as `waiting`, in the phase of the mark before.
class OperationRecorder {
 public:
  using Clock = std::chrono::steady_clock;

  /// Events are kept from `origin` on where `traced`.
  OperationRecorder(bool traced, Clock::time_point origin) : traced_(traced), origin_(origin) {}

  /// Work that counts begins: what passed since the last mark belongs to nothing.
  void begin();
  /// `layer` -1: none. `cost` is this thread's part.
  void mark(Operation operation, StepPhase phase, std::int64_t layer, const OperationCost& cost);
  /// Around a barrier.
  void wait_begin();
  void wait_end();

  struct Total {
    double seconds = 0.0;
    double flops = 0.0;
    double bytes = 0.0;
    std::int64_t count = 0;
    Total& operator+=(const Total& other);
  };
  [[nodiscard]] const Total& total(StepPhase phase, Operation operation) const {
    return totals_[static_cast<std::size_t>(phase)][static_cast<std::size_t>(operation)];
  }

  struct Event {
    std::int64_t begin_ns = 0;  ///< since the origin
    std::int64_t end_ns = 0;
    std::int32_t layer = -1;
    Operation operation = Operation::embedding;
    StepPhase phase = StepPhase::forward;
  };
  [[nodiscard]] const std::vector<Event>& events() const { return events_; }
  [[nodiscard]] std::int64_t events_left_out() const { return events_left_out_; }

 private:
  Total& at(StepPhase phase, Operation operation) {
    return totals_[static_cast<std::size_t>(phase)][static_cast<std::size_t>(operation)];
  }
  void keep_event(Clock::time_point begin, Clock::time_point end, std::int64_t layer, Operation operation, StepPhase phase);

  bool traced_;
  Clock::time_point origin_;
  Clock::time_point last_{};
  Clock::time_point wait_start_{};
  Clock::duration waited_{};  // since `last_`
  StepPhase phase_ = StepPhase::forward;
  std::array<std::array<Total, kOperations>, kStepPhases> totals_{};
  std::vector<Event> events_;
  std::int64_t events_left_out_ = 0;
};

/// The recorders of a team's threads and the steps that they saw.
class OperationProfile {
 public:
  explicit OperationProfile(int threads, bool traced = false);

  [[nodiscard]] OperationRecorder* recorder(int thread) { return &recorders_[static_cast<std::size_t>(thread)]; }
  [[nodiscard]] int threads() const { return static_cast<int>(recorders_.size()); }

  /// Around each step, on one thread.
  void begin_step() { step_start_ = OperationRecorder::Clock::now(); }
  void end_step();

  [[nodiscard]] std::int64_t steps() const { return steps_; }
  /// Wall time of the steps.
  [[nodiscard]] double seconds() const { return seconds_; }
  /// Over all threads.
  [[nodiscard]] OperationRecorder::Total total(StepPhase phase, Operation operation) const;

  [[nodiscard]] const std::vector<OperationRecorder>& recorders() const { return recorders_; }

 private:
  std::vector<OperationRecorder> recorders_;
  OperationRecorder::Clock::time_point step_start_{};
  double seconds_ = 0.0;
  std::int64_t steps_ = 0;
};

}  // namespace quern
