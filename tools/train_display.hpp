// What `quern train` shows: one live line on a terminal, plain lines elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "train/trainer.hpp"

namespace quern::tools {

/// Prints a run's progress to standard output. On a terminal the current step is one line redrawn in place at most ten times
/// a second, and validations, samples and checkpoints scroll above it; elsewhere every logged step is a line.
class TrainDisplay {
 public:
  TrainDisplay();
  /// Events that call this object, which must outlive the run.
  [[nodiscard]] TrainEvents events();
  /// Ends the live line.
  void finish();

 private:
  void step(const TrainProgress& progress);
  void evaluating(std::int64_t done, std::int64_t total);
  void evaluated(const Evaluation& evaluation);
  void sample(std::int64_t step, const std::string& text);
  void live(const std::string& line);
  void line(const std::string& text);

  bool terminal_;
  bool live_shown_ = false;
  bool any_step_ = false;
  std::chrono::steady_clock::time_point last_drawn_;
};

/// The plan as `quern train --dry-run` prints it: sizes, memory by category, FLOP per token.
[[nodiscard]] std::string plan_text(const TrainingPlan& plan);

/// "1:02:03" or "2:03".
[[nodiscard]] std::string duration_text(double seconds);

}  // namespace quern::tools
