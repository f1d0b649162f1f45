#include "tune_measure.hpp"

#include <memory>
#include <utility>

#include "math/dispatch.hpp"
#include "math/thread_team.hpp"
#include "progress.hpp"
#include "train/step_bench.hpp"

namespace quern::tools {

namespace {

BlockSizes blocks_of(const TunedSettings& settings) {
  BlockSizes blocks{.block_rows = settings.block_rows};
  if (settings.task_bytes > 0) blocks.task_bytes = settings.task_bytes;
  return blocks;
}

}  // namespace

TuneMeasure inference_measure(InferSweep& sweep, InferBenchOptions work, const ShapeOptions& shape, TuneRounds rounds) {
  return [&sweep, work = std::move(work), shape, rounds](std::span<const TunedSettings> all,
                                                         TuneMetric metric) -> Result<std::vector<TuneSample>> {
    const auto kernels = chosen_kernels();
    if (!kernels) return tl::make_unexpected(kernels.error());
    InferBenchOptions needed = work;
    if (metric == TuneMetric::decode) needed.prompts.clear();
    if (metric == TuneMetric::prefill) needed.decode_tokens = 0;
    sweep.set_work(needed);
    std::vector<InferSetting> settings;
    for (const TunedSettings& one : all) {
      settings.push_back({.type = shape.type,
                          .huge_pages = shape.huge_pages,
                          .numa = one.numa,
                          .kernels = *kernels,
                          .threads = one.threads > 0 ? one.threads : default_thread_count(),
                          .affinity = one.affinity,
                          .kv_type = one.kv_type,
                          .batch_tokens = one.batch,
                          .weights = !shape.shape.empty() && one.weights == "auto" ? "interleaved" : one.weights,
                          .blocks = blocks_of(one)});
    }
    const auto rows = sweep.measure(settings, rounds.warmup, rounds.rounds);
    if (!rows) return tl::make_unexpected(rows.error());
    std::vector<TuneSample> samples(settings.size());
    const std::size_t rows_of_each = rows->size() / settings.size();
    for (std::size_t i = 0; i < rows->size(); ++i) {
      const SweepRow& row = (*rows)[i];
      TuneSample& sample = samples[i / rows_of_each];
      (row.kind == "prefill" ? sample.prefill : sample.decode) = row.rates;
      for (const auto& [name, value] : row.settings) {
        if (name == "weights") sample.weights = value;
      }
    }
    return samples;
  };
}

TuneMeasure training_measure(RunConfig run, std::int64_t steps, TuneRounds rounds) {
  return [run = std::move(run), steps, rounds](std::span<const TunedSettings> all,
                                               TuneMetric) -> Result<std::vector<TuneSample>> {
    std::vector<TuneSample> samples(all.size());
    Progress progress(stderr);
    const auto count = std::ssize(all);
    for (std::int64_t round = 0; round < rounds.rounds; ++round) {
      for (std::int64_t turn = 0; turn < count; ++turn) {
        if (interrupted()) return samples;
        const auto i = static_cast<std::size_t>(round % 2 == 0 ? turn : count - 1 - turn);
        progress.update("steps", round * count + turn, rounds.rounds * count, "rounds");
        RunConfig one = run;
        one.system.threads = all[i].threads;
        one.system.affinity = all[i].affinity == Affinity::compact  ? AffinityKind::compact
                              : all[i].affinity == Affinity::spread ? AffinityKind::spread
                                                                    : AffinityKind::none;
        one.system.numa = all[i].numa;
        one.origins["system.numa"] = "quern tune";
        one.system.block_rows = all[i].block_rows;
        const auto bench = bench_steps(one, {.warmup_steps = std::max<std::int64_t>(1, rounds.warmup),
                                             .steps = steps,
                                             .rounds = 1,
                                             .peaks = false,
                                             .profile = false,
                                             .stop = interrupted});
        if (!bench) return tl::make_unexpected(bench.error());
        for (const double seconds : bench->round_medians()) {
          samples[i].train.push_back(static_cast<double>(bench->tokens_per_step) / seconds);
        }
      }
    }
    progress.finish();
    return samples;
  };
}

}  // namespace quern::tools
