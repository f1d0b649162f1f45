#include "bench_report.hpp"

#include <fmt/format.h>

#include <vector>

#include "math/sample_statistics.hpp"
#include "step_profile.hpp"
#include "summary_report.hpp"

namespace quern::tools {

namespace {

using Json = nlohmann::ordered_json;

double mebibytes(std::size_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024.0); }

Json list_of_gflops(const std::vector<double>& rates) {
  Json list = Json::array();
  for (const double rate : rates) list.push_back(rate * 1e-9);
  return list;
}

/// Tokens a second by the median step of each round.
Summary rate_of(const StepBench& bench) {
  return summarize_rates(static_cast<double>(bench.tokens_per_step), bench.round_medians());
}

}  // namespace

std::string step_bench_csv_head() {
  return "run,precision,instruction set,threads,batch,context,tokens_per_step,rounds,ms_per_step,tokens_per_second,low,high,"
         "coverage,spread,gflops,register_peak_gflops,tile_peak_gflops,plan_bytes,resident_bytes\n";
}

std::string step_bench_csv(const std::string& name, const StepBench& bench) {
  const Summary rate = rate_of(bench);
  std::string quoted = "\"";  // names of runs may hold commas
  for (const char c : name) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return fmt::format("{}\",{},{},{},{},{},{},{},{:.6g},{:.6g},{:.6g},{:.6g},{:.4g},{:.4g},{:.6g},{:.6g},{:.6g},{},{}\n",
                     quoted, to_word(bench.run.train.precision), bench.isa, bench.run.system.threads, bench.run.train.batch,
                     bench.run.context(), bench.tokens_per_step, rate.count, bench.step_median() * 1e3, rate.median,
                     rate.low, rate.high, rate.coverage, rate.spread(), bench.flops() * 1e-9, bench.register_peak() * 1e-9,
                     bench.tile_peak() * 1e-9, bench.plan_bytes + bench.resident_before, bench.resident_peak);
}

std::string step_bench_header(const StepBench& bench, std::int64_t rounds) {
  std::string text =
      fmt::format("{}, {} thread{}, {} round{}, seed {}\n", bench.isa, bench.run.system.threads,
                  bench.run.system.threads == 1 ? "" : "s", rounds, rounds == 1 ? "" : "s", bench.run.train.seed);
  text +=
      "ms: the median step. tokens/s: the median round [interval that holds it with 95 %; of fewer than six rounds\n"
      "slowest-fastest]; spread: the middle half of the rounds over the median. Peaks: medians of measurements before, "
      "between and after "
      "the\n"
      "rounds; multiply-adds on registers, and 2 x 2 matrix tiles fed from L1. The plan is the arena and the program with "
      "its\n"
      "libraries; resident is the most that was at once.\n\n"
      "| run | precision | tokens/step | ms/step | tokens/s | spread | GFLOP/s | register peak | of it | L1 tiles | of them "
      "| plan MiB | resident MiB | resident/plan |\n"
      "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n";
  return text;
}

std::string step_bench_row(const std::string& name, const StepBench& bench) {
  const Summary rate = rate_of(bench);
  std::string row = fmt::format("| {} | {} | {} | {:.2f} | {} | {} | {:.1f} | {:.0f} | {:.1f} % |", name,
                                to_word(bench.run.train.precision), bench.tokens_per_step, bench.step_median() * 1e3,
                                summary_text(rate), spread_text(rate), bench.flops() * 1e-9, bench.register_peak() * 1e-9,
                                100.0 * bench.flops() / bench.register_peak());
  if (const double tiles = bench.tile_peak(); tiles > 0.0) {
    row += fmt::format(" {:.0f} | {:.1f} % |", tiles * 1e-9, 100.0 * bench.flops() / tiles);
  } else {
    row += " - | - |";
  }
  row += fmt::format(" {:.1f} | {:.1f} | {:.2f} |\n", mebibytes(bench.plan_bytes + bench.resident_before),
                     mebibytes(bench.resident_peak), bench.resident_of_plan());
  return row;
}

std::string step_bench_profile(const std::string& name, const StepBench& bench) {
  if (!bench.profile) return "";
  return fmt::format("\n{}, {}: shares of the register peak, {:.0f} GFLOP/s\n{}", name, to_word(bench.run.train.precision),
                     bench.register_peak() * 1e-9, step_profile_text(*bench.profile, bench.register_peak() * 1e-9));
}

Json step_bench_json(const std::string& name, const StepBench& bench) {
  Json rounds = Json::array();
  for (const double seconds : bench.round_medians()) rounds.push_back(static_cast<double>(bench.tokens_per_step) / seconds);
  Json json = {{"run", name},
               {"precision", to_word(bench.run.train.precision)},
               {"isa", bench.isa},
               {"threads", bench.run.system.threads},
               {"fused", bench.run.system.fused},
               {"arena", bench.run.system.arena},
               {"seed", bench.run.train.seed},
               {"parameters", bench.parameters},
               {"vocab", bench.run.model.vocab},
               {"batch", bench.run.train.batch},
               {"context", bench.run.context()},
               {"dropout", bench.run.train.dropout},
               {"clip_norm", bench.run.optimizer.clip_norm},
               {"tokens_per_step", bench.tokens_per_step},
               {"flops_per_token", bench.flops_per_token},
               {"steps_per_round", bench.steps_per_round},
               {"ms_per_step", bench.step_median() * 1e3},
               {"tokens_per_second", bench.tokens_per_second()},
               {"tokens_per_second_of_rounds", std::move(rounds)},
               {"tokens_per_second_summary", summary_json(rate_of(bench))},
               {"gflops", bench.flops() * 1e-9},
               {"register_peak_gflops", bench.register_peak() * 1e-9},
               {"register_peaks_gflops", list_of_gflops(bench.register_peaks)},
               {"register_peak_fraction", bench.flops() / bench.register_peak()}};
  if (const double tiles = bench.tile_peak(); tiles > 0.0) {
    json["tile_peak_gflops"] = tiles * 1e-9;
    json["tile_peaks_gflops"] = list_of_gflops(bench.tile_peaks);
    json["tile_peak_fraction"] = bench.flops() / tiles;
  }
  Json plan = Json::object();
  for (std::size_t i = 0; i < kMemoryCategories; ++i) {
    const auto category = static_cast<MemoryCategory>(i);
    if (bench.plan[category] > 0) plan[std::string(category_name(category))] = bench.plan[category];
  }
  json["plan_bytes"] = bench.plan_bytes;
  json["plan_bytes_by_category"] = std::move(plan);
  json["program_bytes"] = bench.resident_before;
  json["peak_resident_bytes"] = bench.resident_peak;
  json["resident_of_plan"] = bench.resident_of_plan();
  json["last_loss"] = bench.last_loss;
  if (bench.profile) json["profile"] = step_profile_json(*bench.profile, bench.register_peak() * 1e-9);
  return json;
}

}  // namespace quern::tools
