// quern tune: finds settings that serve a model on this machine, says why, and keeps them for the commands that run it.
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "command.hpp"
#include "infer_sweep.hpp"
#include "math/hardware.hpp"
#include "math/numa_policy.hpp"
#include "math/thread_team.hpp"
#include "model/file_kind.hpp"
#include "random_model.hpp"
#include "run_model.hpp"
#include "summary_report.hpp"
#include "train/run_config.hpp"
#include "train/run_setup.hpp"
#include "tune_measure.hpp"
#include "tuner.hpp"
#include "tuning_file.hpp"
#include "use_tuning.hpp"

namespace quern::tools {

namespace {

using Json = nlohmann::ordered_json;

struct Arguments {
  std::string subject;  // a model's path, or a run's
  std::vector<std::string> overrides;
  ShapeOptions shape;
  std::int64_t prompt = 512, decode = 16, answer = 128, steps = 0;
  TuneRounds rounds;
  std::uint64_t seed = 1337;
  std::string kv_type;
  bool dry_run = false, json = false;
};

/// What is to be tuned, and how it is measured.
struct Job {
  TuningKey key;
  TuneSpace space;
  TuneMeasure measure;
  std::unique_ptr<InferSweep> sweep;  // of inference; `measure` refers to it
};

/// What a subject's choices are made from on this machine.
Result<TuneSpace> space_of_machine() {
  const auto hardware = read_hardware();
  if (!hardware) return tl::make_unexpected(hardware.error());
  const auto numa = plan_numa_here(NumaPolicy::interleave);
  if (!numa) return tl::make_unexpected(numa.error());
  TuneSpace space{.default_threads = default_thread_count(),
                  .topology = hardware->topology,
                  .processors = allowed_processors(),
                  .numa = numa->changes};
  space.cores = cores_among(space.topology, space.processors);
  return space;
}

Result<Job> inference_job(const Arguments& arguments) {
  ModelOptions model;
  model.model = arguments.subject;
  if (auto fine = check_shape_options(model, arguments.shape); !fine) return tl::make_unexpected(fine.error());
  if (!arguments.overrides.empty()) {
    return bad_input(fmt::format("KEY=VALUE is for a run to train, found `{}`", arguments.overrides.front()));
  }
  auto key = tuning_key_of(arguments.subject, arguments.shape);
  if (!key) return tl::make_unexpected(key.error());
  auto space = space_of_machine();
  if (!space) return tl::make_unexpected(space.error());
  Job job{.key = std::move(*key), .space = std::move(*space), .measure = {}, .sweep = nullptr};
  job.space.prompt_tokens = arguments.prompt;
  job.space.file = job.key.types != kPackedTypes;
  if (!arguments.kv_type.empty()) job.space.kv_types = {"f16", "q8_0"};
  const InferBenchOptions work{.prompts = {arguments.prompt},
                               .depths = {arguments.prompt},
                               .sequences = {1},
                               .decode_tokens = arguments.decode,
                               .warmup = 0,
                               .rounds = 1,
                               .seed = arguments.seed};
  if (auto fine = check_infer_bench(work); !fine) return tl::make_unexpected(fine.error());
  job.sweep = std::make_unique<InferSweep>(
      SweepSubject{.model = model, .shape = arguments.shape.shape, .seed = arguments.seed}, work);
  job.measure = inference_measure(*job.sweep, work, arguments.shape, arguments.rounds);
  return job;
}

Result<Job> training_job(const Arguments& arguments) {
  auto run = load_run_config(arguments.subject, arguments.overrides);
  if (!run) return tl::make_unexpected(run.error());
  auto key = tuning_key_of(*run);
  if (!key) return tl::make_unexpected(key.error());
  auto space = space_of_machine();
  if (!space) return tl::make_unexpected(space.error());
  if (run->model.vocab == 0) {  // the corpus says
    auto plan = plan_training(*run, false);
    if (!plan) return tl::make_unexpected(plan.error());
    run->model.vocab = plan->run.model.vocab;
  }
  Job job{.key = std::move(*key), .space = std::move(*space), .measure = {}, .sweep = nullptr};
  job.space.training = true;
  job.measure = training_measure(std::move(*run), arguments.steps, arguments.rounds);
  return job;
}

/// Runs are YAML files; all else is a model.
bool is_run(const std::string& path) { return path.ends_with(".yaml") || path.ends_with(".yml"); }

Json figure_json(const TuneFigure& figure) {
  return {
      {"value", figure.value},
      {"tokens_per_second", summary_json(figure.rate)},
      {"of_first", {{"ratio", figure.beside.ratio}, {"low", figure.beside.ratio_low}, {"high", figure.beside.ratio_high}}}};
}

Json settings_json(const TunedSettings& settings) {
  return {{"threads", settings.threads},
          {"affinity", affinity_name(settings.affinity)},
          {"numa", numa_policy_name(settings.numa)},
          {"weights", settings.weights},
          {"batch", settings.batch},
          {"block_rows", settings.block_rows},
          {"task_bytes", settings.task_bytes},
          {"kv_type", settings.kv_type}};
}

Json outcome_json(const Job& job, const TuneOutcome& outcome, const std::string& path) {
  Json choices = Json::array();
  for (const TuneChoice& choice : outcome.choices) {
    Json figures = Json::array();
    for (const TuneFigure& figure : choice.figures) figures.push_back(figure_json(figure));
    choices.push_back({{"setting", choice.setting},
                       {"by", to_word(choice.metric)},
                       {"value", choice.value},
                       {"changed", choice.changed},
                       {"reason", choice.reason},
                       {"candidates", std::move(figures)}});
  }
  Json ends = Json::array();
  for (const TuneFigure& figure : outcome.before_after) ends.push_back(figure_json(figure));
  return {{"tune", job.key.work},
          {"model", job.key.model},
          {"types", job.key.types},
          {"processor", job.key.processor},
          {"instruction_set", job.key.instruction_set},
          {"interrupted", outcome.stopped},
          {"settings", settings_json(outcome.settings)},
          {"choices", std::move(choices)},
          {"defaults_and_tuned", std::move(ends)},
          {"file", path.empty() ? Json(nullptr) : Json(path)}};
}

std::string ends_text(const TuneOutcome& outcome) {
  if (outcome.before_after.size() != 2) return {};
  const TuneFigure &before = outcome.before_after[0], &after = outcome.before_after[1];
  std::string text = fmt::format("defaults {}, tuned {}", summary_text(before.rate), summary_text(after.rate));
  if (after.beside.difference == Difference::not_told_apart) return text + ": no difference\n";
  return text + fmt::format(": {:.2f} times [{:.2f}, {:.2f}]\n", after.beside.ratio, after.beside.ratio_low,
                            after.beside.ratio_high);
}

Result<int> tune_command(const Arguments& arguments) {
  auto job = is_run(arguments.subject) ? training_job(arguments) : inference_job(arguments);
  if (!job) return tl::make_unexpected(job.error());
  if (!arguments.dry_run && tuning_folder().empty()) {
    return io_error("neither XDG_CONFIG_HOME nor HOME says where settings are kept; --dry-run keeps nothing");
  }
  catch_endings(true);
  if (!arguments.json) {
    fmt::print(
        "{}; {}\n{}, {}; processors {}\n{} rounds in turns, {} to warm up; medians [intervals that hold them with 95 %]\n\n",
        job->key.model, job->key.types, job->key.processor, job->key.instruction_set, job->key.processors,
        arguments.rounds.rounds, arguments.rounds.warmup);
    std::fflush(stdout);
  }
  const std::vector<TuneStage> stages = tune_stages(job->space);
  const TuneOptions options{.prompt_tokens = arguments.prompt,
                            .answer_tokens = arguments.answer,
                            .stop = interrupted,
                            .begin =
                                [&](const TuneStage& stage, std::size_t number, std::size_t count) {
                                  if (job->sweep)
                                    job->sweep->set_label(fmt::format("{} ({}/{})", stage.setting, number + 1, count));
                                },
                            .chosen =
                                [&](const TuneChoice& choice) {
                                  if (arguments.json) return;
                                  fmt::print("{:<11} {}\n", choice.setting, choice.reason);
                                  std::fflush(stdout);
                                }};
  const auto outcome = tune(stages, TunedSettings{}, job->measure, options);
  if (!outcome) return tl::make_unexpected(outcome.error());
  std::string path;
  // What was interrupted is kept as far as it came: each choice stands alone.
  const bool keeps = !arguments.dry_run && !outcome->choices.empty();
  if (keeps) {
    Tuning tuning{.key = job->key,
                  .settings = outcome->settings,
                  .date = fmt::format("{:%Y-%m-%d}", fmt::localtime(std::time(nullptr))),
                  .reasons = {}};
    for (const TuneChoice& choice : outcome->choices) tuning.reasons.emplace_back(choice.setting, choice.reason);
    auto saved = save_tuning(tuning_folder(), tuning);
    if (!saved) return tl::make_unexpected(saved.error());
    path = std::move(*saved);
  }
  if (arguments.json) {
    fmt::print("{}\n", outcome_json(*job, *outcome, path).dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    fmt::print("\n{}{}settings: {}\n", ends_text(*outcome), job->sweep ? job->sweep->remarks() : "",
               settings_text(outcome->settings));
    if (keeps) fmt::print("{}: written\n", path);
  }
  std::fflush(stdout);
  if (!outcome->stopped) return kExitOk;
  return report_interrupt(
      Error{ErrorCode::io, fmt::format("interrupted with {} of {} settings chosen{}", outcome->choices.size(), stages.size(),
                                       keeps ? ", which are kept" : "")});
}

}  // namespace

void add_tune(CLI::App& app, Command& command) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* tune = app.add_subcommand("tune", "Find settings that serve a model or a run on this machine, and keep them");
  tune->footer(
      examples({"quern tune model.gguf", "quern tune model.gguf --kv-type auto --prompt 2048",
                "quern tune --shape tinyllama-1.1b --type q4_k_m --dry-run",
                "quern tune configs/quickstart.yaml train.batch=16"}) +
      "\nOne setting after another, candidates in turns: threads, affinity, NUMA policy, where weights lie, batch,\n"
      "block rows, task bytes. A candidate must be faster beyond both intervals, else the default stays. `quern run`,\n"
      "`chat`, `bench infer` and `train` use what was found. No result changes, but for --kv-type.\n"
      "Ctrl-C keeps the settings that were chosen so far.");
  tune->add_option("SUBJECT", arguments->subject, "A GGUF file, a checkpoint, a run folder, or a run to train (YAML)");
  tune->add_option("KEY=VALUE", arguments->overrides, "With a run to train: keys to set beside the file's");
  add_shape_options(*tune, arguments->shape);
  tune->add_option("--prompt", arguments->prompt, "Tokens of the prompt that is measured, and depth of the decode after it")
      ->check(CLI::Range(std::int64_t{1}, kMaxBenchTokens))
      ->capture_default_str();
  tune->add_option("--decode", arguments->decode, "Tokens decoded in a round")
      ->check(CLI::Range(std::int64_t{1}, kMaxBenchTokens))
      ->capture_default_str();
  tune->add_option("--answer", arguments->answer, "Tokens of the answer, where prefill and decode are weighed as a request")
      ->check(CLI::Range(std::int64_t{1}, kMaxBenchTokens))
      ->capture_default_str();
  tune->add_option("--steps", arguments->steps, "Of a round of training; 0: as many as take about a second")
      ->check(CLI::Range(0, 1000000))
      ->capture_default_str();
  tune->add_option("--warmup", arguments->rounds.warmup, "Rounds of each candidate that do not count")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{10000}))
      ->capture_default_str();
  tune->add_option("--rounds", arguments->rounds.rounds, "Rounds that count; fewer than six tell nothing apart")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{10000}))
      ->capture_default_str();
  tune->add_option("--kv-type", arguments->kv_type,
                   "auto: choose the KV cache's type too, among f16 and q8_0. It changes results (f16 by less than bf16 "
                   "weights do, q8_0 a little more)")
      ->check(CLI::IsMember({"auto"}));
  tune->add_option("--seed", arguments->seed, "Of tokens and random weights")->capture_default_str();
  tune->add_flag("--dry-run", arguments->dry_run, "Keep nothing");
  tune->add_flag("--json", arguments->json, "Print one JSON object");
  tune->callback([&command, arguments] { command.run = [arguments] { return tune_command(*arguments); }; });
}

}  // namespace quern::tools
