// A training run from its configuration to its last checkpoint.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "math/memory_plan.hpp"
#include "math/operation_profile.hpp"
#include "math/result.hpp"
#include "train/run_config.hpp"

namespace quern {

/// Where the first weights of a run come from that does not start at random ones.
struct StartingPoint {
  std::string checkpoint;
  std::int64_t step = 0;  ///< that the checkpoint was saved after
  double val_loss = 0.0;  ///< its last validation on its own corpus; NaN where none
};

/// What a run will be, before anything is allocated: `quern train --dry-run` prints it.
struct TrainingPlan {
  RunConfig run;  ///< resolved: model.vocab (or all of model, from a checkpoint), context, threads and precision decided
  std::optional<StartingPoint> start;  ///< of train.from; none when the run resumes
  std::string isa;                     ///< instruction-set path in use
  std::string precision_reason;        ///< why this precision
  std::int64_t parameters = 0;
  std::int64_t matmul_parameters = 0;
  double flops_per_token = 0.0;  ///< 6 N_matmul + 6 L C T
  std::int64_t tokens_per_micro_batch = 0;
  std::int64_t train_tokens = 0, validation_tokens = 0;  ///< in the corpus
  std::int64_t validation_windows = 0;      ///< windows of an evaluation: all, or as many as train.eval_tokens allows
  double validation_tokens_per_byte = 0.0;  ///< of the validation text
  MemoryReport memory;                      ///< peak bytes by category
  std::size_t memory_bytes = 0;   ///< of the planned arena; categories that share memory at different times count once
  std::size_t program_bytes = 0;  ///< resident before that: the program, its libraries, the corpus's cache; 0: unknown
  std::size_t memory_limit_bytes = 0;
};

/// Opens the corpus, decides what is left open and plans the memory. Errors: anything wrong with configuration, corpus or
/// the checkpoint of train.from, in whose place `resume` takes the run's own.
[[nodiscard]] Result<TrainingPlan> plan_training(const RunConfig& run, bool resume = false);

/// The error of a plan above its limit: the sum by category and the key to lower. Success where it fits.
[[nodiscard]] Result<void> check_memory(const TrainingPlan& plan);

/// State of a run after a step.
struct TrainProgress {
  std::int64_t step = 0, steps = 0;
  double train_loss = 0.0;  ///< mean over the unmasked tokens of the last step, nats
  double learning_rate = 0.0;
  double gradient_norm = 0.0;      ///< before clipping
  double tokens_per_second = 0.0;  ///< since the last line of metrics.jsonl, evaluations and checkpoints excluded
  double gflops = 0.0;
  double peak_fraction = 0.0;
  double seconds = 0.0;  ///< wall seconds of the run since TrainOptions::started, earlier sessions included
  bool logged = false;   ///< a line of metrics.jsonl was written for this step
};

struct Evaluation {
  std::int64_t step = 0;
  double val_loss = 0.0;  ///< nats per token
  double bits_per_byte = 0.0;
  bool best = false;
  double seconds = 0.0;  ///< that the evaluation took
};

/// Called on the thread that called run(); any may be empty.
struct TrainEvents {
  std::function<void(const TrainProgress&)> step;
  std::function<void(std::int64_t done, std::int64_t total)> evaluating;  ///< windows
  std::function<void(const Evaluation&)> evaluated;
  std::function<void(std::int64_t step, const std::string& text)> sample;
  std::function<void(const std::string& path)> saved;
};

struct TrainOptions {
  bool resume = false;                            ///< go on from the newest checkpoint in run.dir, which must exist
  bool force = false;                             ///< overwrite a run that is there
  const std::atomic<int>* stop_signal = nullptr;  ///< non-zero: finish the step, save and return
  OperationProfile* profile = nullptr;            ///< for system.threads threads: steps are recorded there
  /// When the run's wall time began, such as the program's start; without it, with Trainer::run.
  std::optional<std::chrono::steady_clock::time_point> started{};
};

struct TrainSummary {
  std::int64_t steps = 0;
  double train_loss = 0.0;
  double best_val_loss = 0.0;
  double last_val_loss = 0.0;
  double seconds = 0.0;
  double median_tokens_per_second = 0.0;
  double peak_gflops = 0.0;      ///< register peak measured at the start, at this thread count and compute type
  double end_peak_gflops = 0.0;  ///< the same after the last step, where steps were recorded (TrainOptions::profile)
  int stopped_by_signal = 0;
  bool already_complete = false;  ///< resumed at or past the last step or train.target_loss: nothing was done
  bool reached_target = false;    ///< of this session's validations, the last was at or below train.target_loss
  double target_seconds = 0.0;    ///< `seconds` when that validation ended
};

/// Owns everything of a run: memory, threads, reader, log. Same seed, binary and instruction set give the same bits at any
/// thread count, and a resumed run those of one that never stopped.
class Trainer {
 public:
  virtual ~Trainer() = default;

  /// Plans, allocates, initializes, reads the weights of train.from, or resumes. Writes run.yaml into the run folder.
  [[nodiscard]] static Result<std::unique_ptr<Trainer>> create(const RunConfig& run, const TrainOptions& options,
                                                               TrainEvents events);

  [[nodiscard]] virtual const TrainingPlan& plan() const = 0;
  [[nodiscard]] virtual Result<TrainSummary> run() = 0;

  /// The f32 blocks in the layout's order (v: second_moment_layout's), for tests and tools: valid as long as the trainer.
  struct Blocks {
    std::span<const float> weights, m, v;
  };
  [[nodiscard]] virtual Blocks blocks() const = 0;
};

}  // namespace quern
