// quern bench train: how fast this machine takes training steps.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "bench_report.hpp"
#include "command.hpp"
#include "report/page.hpp"
#include "report/report_option.hpp"
#include "run_model.hpp"
#include "train/run_config.hpp"
#include "train/step_bench.hpp"

namespace quern::tools {

namespace {

struct Arguments {
  std::vector<std::string> words;  // files and KEY=VALUE
  std::string precision = "auto";
  std::int64_t threads = 0, steps = 0, warmup = 5, rounds = 10;
  std::vector<std::string> sweeps;
  bool no_fused = false, no_arena = false, profile = false, json = false, csv = false;
  std::string report;
};

constexpr const char* kDefaultRuns[] = {"configs/shakespeare_char_cpu.yaml", "configs/loop_small.yaml",
                                        "configs/loop_base.yaml", "configs/shakespeare_char.yaml", "configs/gpt2_124m.yaml"};

struct Sweep {
  std::string key;
  std::vector<std::string> values;
};

Result<std::vector<Sweep>> parse_sweeps(const std::vector<std::string>& texts) {
  std::vector<Sweep> sweeps;
  for (const std::string& text : texts) {
    const std::size_t equals = text.find('=');
    Sweep sweep;
    if (equals != std::string::npos) sweep.key = text.substr(0, equals);
    for (std::size_t at = equals; at != std::string::npos;) {
      const std::size_t comma = text.find(',', at + 1);
      sweep.values.push_back(text.substr(at + 1, comma == std::string::npos ? comma : comma - at - 1));
      at = comma;
    }
    const bool hole = std::any_of(sweep.values.begin(), sweep.values.end(), [](const std::string& v) { return v.empty(); });
    if (sweep.key.empty() || sweep.values.empty() || hole) {
      return bad_input(fmt::format("--sweep: expected KEY=VALUE,VALUE,... as in train.batch=1,4,16, found `{}`", text));
    }
    if (!sweeps.empty() && sweep.values.size() != sweeps.front().values.size()) {
      return bad_input(fmt::format("--sweep: lists advance together: {} has {} values, {} has {}", sweeps.front().key,
                                   sweeps.front().values.size(), sweep.key, sweep.values.size()));
    }
    sweeps.push_back(std::move(sweep));
  }
  return sweeps;
}

/// A run to time, and what its row is called.
struct Job {
  std::string name;
  RunConfig run;
};

std::string stem(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  const std::string file = slash == std::string::npos ? path : path.substr(slash + 1);
  return file.size() > 5 && file.ends_with(".yaml") ? file.substr(0, file.size() - 5) : file;
}

/// Every file, at every point of the sweeps, in every precision; all are read before the first is timed.
Result<std::vector<Job>> jobs_of(const Arguments& arguments) {
  std::vector<std::string> files, overrides;
  for (const std::string& word : arguments.words) {
    (word.find('=') == std::string::npos ? files : overrides).push_back(word);
  }
  if (files.empty()) files.assign(std::begin(kDefaultRuns), std::end(kDefaultRuns));
  if (arguments.threads > 0) overrides.push_back(fmt::format("system.threads={}", arguments.threads));
  if (arguments.no_fused) overrides.emplace_back("system.fused=false");
  if (arguments.no_arena) overrides.emplace_back("system.arena=false");
  const auto sweeps = parse_sweeps(arguments.sweeps);
  if (!sweeps) return tl::make_unexpected(sweeps.error());
  std::vector<std::string> precisions{""};
  if (arguments.precision == "both") {
    precisions = {"train.precision=f32", "train.precision=bf16"};
  } else if (arguments.precision != "auto") {
    precisions = {"train.precision=" + arguments.precision};
  }
  std::vector<Job> jobs;
  for (const std::string& file : files) {
    const std::size_t points = sweeps->empty() ? 1 : sweeps->front().values.size();
    for (std::size_t point = 0; point < points; ++point) {
      for (const std::string& precision : precisions) {
        Job job{.name = stem(file), .run = {}};
        std::vector<std::string> words = overrides;
        for (const Sweep& sweep : *sweeps) {
          words.push_back(sweep.key + "=" + sweep.values[point]);
          job.name += " " + words.back();
        }
        if (!precision.empty()) words.push_back(precision);
        auto run = load_run_config(file, words);
        if (!run) return tl::make_unexpected(run.error());
        job.run = std::move(*run);
        jobs.push_back(std::move(job));
      }
    }
  }
  return jobs;
}

Result<int> bench_train(const Arguments& arguments) {
  const auto jobs = jobs_of(arguments);
  if (!jobs) return tl::make_unexpected(jobs.error());
  if (auto fine = check_report(arguments.report); !fine) return tl::make_unexpected(fine.error());
  catch_interrupts(true);
  auto json = nlohmann::ordered_json::array();
  std::string profiles;
  std::size_t rows = 0;
  std::optional<Error> failure;
  for (const Job& job : *jobs) {
    auto bench = bench_steps(job.run, {.warmup_steps = arguments.warmup,
                                       .steps = arguments.steps,
                                       .rounds = arguments.rounds,
                                       .profile = arguments.profile,
                                       .stop = interrupted});
    if (!bench) {
      failure = Error{bench.error().code, fmt::format("{}: {}", job.name, bench.error().message)};
      break;
    }
    if (bench->step_seconds.empty()) break;  // stopped before a round was complete
    ++rows;
    json.push_back(step_bench_json(job.name, *bench));
    if (arguments.csv) {
      fmt::print("{}{}", rows == 1 ? step_bench_csv_head() : "", step_bench_csv(job.name, *bench));
      std::fflush(stdout);
    } else if (!arguments.json) {
      if (rows == 1) fmt::print("{}", step_bench_header(*bench, arguments.rounds));
      fmt::print("{}", step_bench_row(job.name, *bench));
      std::fflush(stdout);
    }
    if (bench->profile) profiles += step_bench_profile(job.name, *bench);
    if (interrupted()) break;
  }
  // What was measured is kept, whatever ended the work.
  if (arguments.json && !(failure && json.empty())) {
    fmt::print("{}\n", json.dump(2));
  } else if (!arguments.csv) {
    fmt::print("{}", profiles);
  }
  if (!json.empty()) {
    if (auto written = write_report_of(json, arguments.report); !written) return tl::make_unexpected(written.error());
  }
  if (failure) return tl::make_unexpected(*failure);
  if (!interrupted()) return kExitOk;
  return report_interrupt(Error{ErrorCode::io, fmt::format("interrupted with {} of {} rows measured", rows, jobs->size())});
}

}  // namespace

void add_bench_train(CLI::App& bench, Command& command) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* train =
      bench.add_subcommand("train", "Time training steps of runs on random tokens, beside this machine's peaks");
  train->footer(examples({"quern bench train configs/loop_small.yaml --precision both",
                          "quern bench train configs/loop_small.yaml --profile train.dropout=0",
                          "quern bench train configs/loop_small.yaml --sweep train.batch=4,16,64 --json"}) +
                "\nWithout a file: five of configs/, from shakespeare_char_cpu to gpt2_124m.");
  train->add_option("RUN|KEY=VALUE", arguments->words,
                    "Runs (YAML), of which no corpus is read, and keys to set beside theirs, such as train.batch=4");
  train->add_option("--precision", arguments->precision, "auto: each run's own; both: f32, then bf16")
      ->check(CLI::IsMember({"auto", "f32", "bf16", "both"}))
      ->capture_default_str();
  train->add_option("-t,--threads", arguments->threads, "Threads; 0: each run's own")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  train->add_option("--rounds", arguments->rounds, "Rounds of steps; peaks are measured before each and after the last")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  train->add_option("--steps", arguments->steps, "Steps of a round; 0: as many as take about a second")
      ->check(CLI::Range(0, 1000000))
      ->capture_default_str();
  train->add_option("--warmup", arguments->warmup, "Steps before the first round, at least one")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  train
      ->add_option("--sweep", arguments->sweeps,
                   "KEY=VALUE,VALUE,...: a row for each value; given more than once, the lists advance together")
      ->type_name("TEXT")
      ->allow_extra_args(false);
  train->add_flag("--no-fused", arguments->no_fused,
                  "To measure: what follows a product, the loss and packing are passes of their own (system.fused=false)");
  train->add_flag("--no-arena", arguments->no_arena,
                  "To measure: buffers are allocated and freed for each micro-batch (system.arena=false)");
  train->add_flag("--profile", arguments->profile, "Print time, FLOP and bytes by operation and phase of each row");
  CLI::Option* const json = train->add_flag("--json", arguments->json, "Print JSON");
  train->add_flag("--csv", arguments->csv, "Print comma-separated values")->excludes(json);
  add_report_option(*train, arguments->report);
  train->callback([&command, arguments] { command.run = [arguments] { return bench_train(*arguments); }; });
}

}  // namespace quern::tools
