#include "train/step_bench.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <random>

#include "math/peak.hpp"
#include "math/process_memory.hpp"
#include "train/batch_source.hpp"
#include "train/run_setup.hpp"
#include "train/training_step.hpp"

namespace quern {

namespace {

using Clock = std::chrono::steady_clock;

/// Of a round whose number of steps is not given.
constexpr double kRoundSeconds = 1.0;
/// Batches that take turns, so that not every step finds the same embedding rows in cache.
constexpr std::size_t kBatches = 4;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

Batch random_batch(const RunConfig& run, std::mt19937_64& random) {
  const std::int64_t context = run.context();
  const auto rows = static_cast<std::size_t>(run.train.batch * context);
  const auto token = [&] { return static_cast<std::int32_t>(random() % static_cast<std::uint64_t>(run.model.vocab)); };
  Batch batch;
  batch.number = 0;
  for (std::size_t row = 0; row < rows; ++row) {
    batch.inputs.push_back(token());
    batch.targets.push_back(token());
    batch.weights.push_back(1.0F);
    batch.positions.push_back(static_cast<std::int32_t>(static_cast<std::int64_t>(row) % context));
  }
  for (std::int64_t i = 0; i < run.train.batch; ++i) batch.sequences.push_back({.first_row = i * context, .rows = context});
  batch.target_count = std::ssize(batch.inputs);
  return batch;
}

/// Everything that a step needs.
class Bench {
 public:
  Bench(StepBench& bench, const RunDecisions& decisions, TrainingMemory& memory)
      : bench_(bench),
        run_(bench.run),
        decisions_(decisions),
        memory_(memory),
        team_(static_cast<int>(run_.system.threads), decisions.processors),
        step_(team_, decisions.backend, memory, run_.optimizer, bench.tokens_per_step) {
    std::mt19937_64 random(run_.train.seed);
    for (Batch& batch : batches_) batch = random_batch(run_, random);
    initialize_parameters(run_.model, memory.layout(), {.standard_deviation = run_.train.init_std}, run_.train.seed,
                          memory.parameters());
    team_.run([&](TeamMember& member) {
      Exec exec = memory.exec(member, decisions.backend);
      memory.packs().pack(exec);
    });
  }

  /// Seconds of one step.
  Result<double> step() {
    const auto start = Clock::now();
    step_.begin();
    for (std::int64_t i = 0; i < run_.train.accumulation; ++i) {
      const Batch& batch = batches_[micro_batch_ % kBatches];
      const BlockDropout dropout{
          .probability = run_.train.dropout, .seed = run_.train.seed, .step = micro_batch_, .layer = 0};
      if (auto added = step_.add(batch.view(), batch.target_count, dropout); !added)
        return tl::make_unexpected(added.error());
      ++micro_batch_;
    }
    const TrainingStep::Outcome outcome = step_.update(run_.optimizer.learning_rate, ++steps_);
    const double seconds = seconds_since(start);
    if (!std::isfinite(outcome.loss) || !std::isfinite(outcome.gradient_norm)) {
      return bad_input(fmt::format("the loss of step {} is not finite; lower `optimizer.learning_rate`", steps_));
    }
    bench_.last_loss = outcome.loss;
    return seconds;
  }

  void measure_peaks() {
    bench_.register_peaks.push_back(register_peak_flops(team_, decisions_.backend, decisions_.compute));
    if (decisions_.compute != ComputeType::bf16 || decisions_.backend.eigen) return;
    if (const double tiles = l1_tile_flops(team_, decisions_.backend); tiles > 0.0) bench_.tile_peaks.push_back(tiles);
  }

  void record_to(OperationProfile* profile) { step_.record_to(profile); }

 private:
  StepBench& bench_;
  const RunConfig& run_;
  const RunDecisions& decisions_;
  TrainingMemory& memory_;
  ThreadTeam team_;
  TrainingStep step_;
  std::array<Batch, kBatches> batches_;
  std::uint32_t micro_batch_ = 0;
  std::int64_t steps_ = 0;
};

}  // namespace

double median_of(std::vector<double> values) {
  if (values.empty()) return 0.0;
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : 0.5 * (values[half - 1] + values[half]);
}

double StepBench::resident_of_plan() const {
  return static_cast<double>(resident_peak) / static_cast<double>(plan_bytes + resident_before);
}

double StepBench::step_median() const {
  std::vector<double> all;
  for (const auto& round : step_seconds) all.insert(all.end(), round.begin(), round.end());
  return median_of(std::move(all));
}

std::vector<double> StepBench::round_medians() const {
  std::vector<double> medians;
  for (const auto& round : step_seconds) medians.push_back(median_of(round));
  return medians;
}

double StepBench::tokens_per_second() const { return static_cast<double>(tokens_per_step) / step_median(); }
double StepBench::flops() const { return tokens_per_second() * flops_per_token; }
double StepBench::register_peak() const { return median_of(register_peaks); }
double StepBench::tile_peak() const { return median_of(tile_peaks); }

Result<StepBench> bench_steps(const RunConfig& requested, const StepBenchOptions& options) {
  StepBench bench;
  bench.run = requested;
  RunConfig& run = bench.run;
  if (run.model.vocab == 0) {
    return bad_input(
        run.at_key("model.vocab", "is 0, as many as the corpus has tokens; no corpus is read here, so give a number"));
  }
  const auto decisions = decide_run(run);
  if (!decisions) return tl::make_unexpected(decisions.error());
  forget_peak_resident();
  bench.resident_before = peak_resident_bytes();
  const PassShape shape{
      .rows = run.train.batch * run.context(), .max_length = run.context(), .max_sequences = run.train.batch};
  auto memory = TrainingMemory::plan(decisions->backend, decisions->compute, run.model, shape, run.optimizer.kind,
                                     static_cast<int>(run.system.threads), pass_buffers(run));
  if (!memory) return tl::make_unexpected(memory.error());
  TrainingPlan limits;
  limits.run = run;
  limits.memory = bench.plan = memory->report();
  limits.memory_bytes = bench.plan_bytes = memory->bytes();
  limits.memory_limit_bytes = memory_limit(run);
  if (auto fits = check_memory(limits); !fits) return tl::make_unexpected(fits.error());
  bench.isa = decisions->isa;
  bench.parameters = memory->layout().parameter_count();
  bench.tokens_per_step = shape.rows * run.train.accumulation;
  bench.flops_per_token = train_flops_per_token(run.model, run.context());
  if (auto applied = use_memory_policy(run); !applied) return tl::make_unexpected(applied.error());
  if (auto allocated = memory->allocate(); !allocated) return tl::make_unexpected(allocated.error());

  Bench work(bench, *decisions, *memory);
  double last = 0.0;
  const auto stop = [&] { return bench.stopped = bench.stopped || (options.stop && options.stop()); };
  for (std::int64_t i = 0; i < std::max<std::int64_t>(options.warmup_steps, 1) && !stop(); ++i) {
    const auto seconds = work.step();
    if (!seconds) return tl::make_unexpected(seconds.error());
    last = *seconds;
  }
  bench.steps_per_round = options.steps;
  if (options.steps == 0) {
    bench.steps_per_round = std::clamp<std::int64_t>(std::llround(kRoundSeconds / std::max(last, 1e-6)), 1, 1000);
  }
  if (options.profile) {
    bench.profile.emplace(static_cast<int>(run.system.threads));
    work.record_to(&*bench.profile);
  }
  for (std::int64_t round = 0; round < options.rounds && !stop(); ++round) {
    if (options.peaks) work.measure_peaks();
    std::vector<double>& seconds_of_round = bench.step_seconds.emplace_back();
    seconds_of_round.reserve(static_cast<std::size_t>(bench.steps_per_round));
    for (std::int64_t i = 0; i < bench.steps_per_round && !bench.stopped; ++i) {
      const auto seconds = work.step();
      if (!seconds) return tl::make_unexpected(seconds.error());
      seconds_of_round.push_back(*seconds);
      if (i + 1 < bench.steps_per_round && stop()) bench.step_seconds.pop_back();
    }
  }
  if (options.peaks) work.measure_peaks();
  bench.resident_peak = peak_resident_bytes();
  return bench;
}

}  // namespace quern
