// Times whole training steps of a run on random tokens: no corpus, no files, the same TrainingStep that training repeats.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "math/memory_plan.hpp"
#include "math/operation_profile.hpp"
#include "math/result.hpp"
#include "train/run_config.hpp"

namespace quern {

struct StepBenchOptions {
  std::int64_t warmup_steps = 2;  ///< before the first round, not counted
  std::int64_t steps = 0;         ///< of a round; 0: as many as take about a second
  std::int64_t rounds = 5;
  bool peaks = true;  ///< whether the machine is measured between rounds; without, there are no peaks
  bool profile = false;
  /// Asked after each step; true ends the benchmark with the complete rounds. Empty: never.
  std::function<bool()> stop{};
};

/// What was measured. Each list of peaks has one entry before each round and one after the last, so that a machine whose
/// speed drifts is judged by what it could do at the time.
struct StepBench {
  RunConfig run;    ///< resolved: context, threads and precision decided
  std::string isa;  ///< instruction-set path in use
  std::int64_t parameters = 0;
  std::int64_t tokens_per_step = 0;
  double flops_per_token = 0.0;  ///< as training counts them
  std::size_t plan_bytes = 0;    ///< of the planned arena
  MemoryReport plan;
  std::size_t resident_before = 0;  ///< bytes before anything was allocated; 0 where the system does not say
  std::size_t resident_peak = 0;    ///< most bytes resident at once, the program itself included
  std::int64_t steps_per_round = 0;
  std::vector<std::vector<double>> step_seconds;  ///< [round, step]; fewer rounds than asked for where it was stopped
  bool stopped = false;
  std::vector<double> register_peaks;  ///< FLOP/s, see register_peak_flops()
  std::vector<double> tile_peaks;      ///< FLOP/s, see l1_tile_flops(); empty where the run multiplies no tiles
  double last_loss = 0.0;              ///< nats
  std::optional<OperationProfile> profile;

  /// resident_peak over the arena and what was resident before it.
  [[nodiscard]] double resident_of_plan() const;
  [[nodiscard]] double step_median() const;                 ///< seconds, over all steps
  [[nodiscard]] std::vector<double> round_medians() const;  ///< seconds
  [[nodiscard]] double tokens_per_second() const;           ///< of the median step
  [[nodiscard]] double flops() const;                       ///< FLOP/s of the median step
  [[nodiscard]] double register_peak() const;               ///< median
  [[nodiscard]] double tile_peak() const;                   ///< median; 0: none
};

/// The median; of an even number the mean of the two in the middle; 0 of none.
[[nodiscard]] double median_of(std::vector<double> values);

/// Plans, allocates and runs. Tokens are drawn from model.vocab, which must be given, with train.seed; the learning rate is
/// the one after warm-up. run.dir and data.corpus are not touched. Errors: a configuration that cannot be trained, a plan
/// above the memory limit, a loss that is not finite.
[[nodiscard]] Result<StepBench> bench_steps(const RunConfig& run, const StepBenchOptions& options);

}  // namespace quern
