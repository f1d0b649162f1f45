// quern bench sweep: tokens per second at every combination of settings, measured in turns.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "command.hpp"
#include "infer_sweep.hpp"
#include "math/dispatch.hpp"
#include "math/hardware.hpp"
#include "math/process_memory.hpp"
#include "progress.hpp"
#include "random_model.hpp"
#include "run_model.hpp"
#include "sweep_report.hpp"
#include "train/run_config.hpp"
#include "train/step_bench.hpp"

namespace quern::tools {

namespace {

struct Output {
  std::int64_t warmup = 5, rounds = 10;
  bool json = false, csv = false;
};

struct InferArguments {
  ModelOptions model;
  std::string shape;
  std::vector<std::string> types, isas, kv_types{"auto"}, affinities{"none"}, numas{"local"}, pages{"off"}, weights{"auto"};
  std::vector<std::int64_t> threads{0}, batches{512}, task_bytes{0}, block_rows{0}, prompts{128}, depths{0}, sequences{1};
  std::int64_t decode = 16;
  std::uint64_t seed = 1337;
  Output output;
};

struct TrainArguments {
  std::string run;
  std::vector<std::string> affinities, precisions;
  std::vector<std::int64_t> threads, batches, contexts;
  std::int64_t steps = 0;
  Output output;
};

void add_output_options(CLI::App& command, Output& output, const char* warmup_help) {
  command.add_option("--warmup", output.warmup, warmup_help)
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{10000}))
      ->capture_default_str();
  command.add_option("--rounds", output.rounds, "Rounds that count; six or more give an interval of 95 %")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{10000}))
      ->capture_default_str();
  CLI::Option* const json = command.add_flag("--json", output.json, "Print one JSON object");
  command.add_flag("--csv", output.csv, "Print comma-separated values")->excludes(json);
}

/// What is printed before and beside the rows.
struct Heading {
  std::string what;  // "infer" or "train"
  std::string name;
  std::string warmed;  // how rounds are warmed up, in words
  std::string remarks;
};

/// Prints what was measured, and says how the work ended.
Result<int> report(const Output& output, const Heading& heading, const std::vector<SweepRow>& rows) {
  const bool stopped = interrupted();
  const auto hardware = read_hardware();
  const std::string processor = hardware ? hardware->processor : "";
  if (output.json) {
    const nlohmann::ordered_json json = {{"bench", "sweep"},       {"what", heading.what},       {"name", heading.name},
                                         {"processor", processor}, {"warmup", output.warmup},    {"rounds", output.rounds},
                                         {"interrupted", stopped}, {"remarks", heading.remarks}, {"rows", sweep_json(rows)}};
    fmt::print("{}\n", json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
  } else if (output.csv) {
    fmt::print("{}", sweep_csv(rows));
    fmt::print(stderr, "{}", heading.remarks);
  } else {
    fmt::print(
        "{}; {}; rounds in turns: {}, {} that count\n"
        "Speeds: the median round [interval that holds it with 95 %]; spread: the middle half of the rounds over the "
        "median.\n"
        "A row is slower only where its interval lies below that of the highest median at the same work; else it is among "
        "the fastest.\n{}{}",
        heading.name, processor, heading.warmed, output.rounds, heading.remarks, sweep_table(rows));
  }
  std::fflush(stdout);
  if (!stopped) return kExitOk;
  const auto whole =
      std::count_if(rows.begin(), rows.end(), [&](const SweepRow& row) { return std::ssize(row.rates) == output.rounds; });
  return report_interrupt(Error{ErrorCode::io, fmt::format("interrupted with {} of {} rows complete", whole, rows.size())});
}

/// Every combination of lists, the last list fastest: calls `take` with the index into each list.
template <class Take>
Result<void> for_combinations(const std::vector<std::size_t>& sizes, const Take& take) {
  std::vector<std::size_t> at(sizes.size(), 0);
  while (true) {
    if (auto taken = take(at); !taken) return taken;
    std::size_t list = sizes.size();
    while (list > 0 && ++at[list - 1] == sizes[list - 1]) at[--list] = 0;
    if (list == 0) return {};
  }
}

Result<std::vector<const KernelTable*>> instruction_sets(const std::vector<std::string>& names) {
  std::vector<const KernelTable*> tables;
  if (names.empty()) {
    const auto kernels = chosen_kernels();
    if (!kernels) return tl::make_unexpected(kernels.error());
    tables.push_back(*kernels);
  }
  for (const std::string& name : names) {
    const auto kernels = kernels_named(name);
    if (!kernels) return tl::make_unexpected(kernels.error());
    tables.push_back(*kernels);
  }
  return tables;
}

BlockSizes blocks_of(std::int64_t task_bytes, std::int64_t block_rows) {
  BlockSizes blocks{.block_rows = block_rows};
  if (task_bytes > 0) blocks.task_bytes = task_bytes;
  return blocks;
}

/// All combinations, none twice. NUMA policies that come to the same here count as one; `remark` says so.
Result<std::vector<InferSetting>> infer_settings(const InferArguments& arguments, std::string& remark) {
  const auto tables = instruction_sets(arguments.isas);
  if (!tables) return tl::make_unexpected(tables.error());
  std::vector<std::string> types = arguments.types, numas = arguments.numas;
  if (types.empty()) types.emplace_back();
  if (std::find(numas.begin(), numas.end(), "interleave") != numas.end()) {
    const auto plan = plan_numa_here(NumaPolicy::interleave);
    if (!plan) return tl::make_unexpected(plan.error());
    if (!plan->changes) {
      remark = fmt::format("NUMA: {}; measured once.\n", plan->remark);
      numas = {"local"};
    }
  }
  std::vector<InferSetting> settings;
  const auto add = [&](const std::vector<std::size_t>& at) -> Result<void> {
    const std::int64_t threads = arguments.threads[at[4]];
    const InferSetting setting{.type = types[at[0]],
                               .huge_pages = arguments.pages[at[1]] == "on",
                               .numa = numa_policy_named(numas[at[2]]).value_or(NumaPolicy::local),
                               .kernels = (*tables)[at[3]],
                               .threads = threads > 0 ? threads : default_thread_count(),
                               .affinity = affinity_named(arguments.affinities[at[5]]).value_or(Affinity::none),
                               .kv_type = arguments.kv_types[at[6]],
                               .batch_tokens = arguments.batches[at[7]],
                               .weights = arguments.weights[at[8]],
                               .blocks = blocks_of(arguments.task_bytes[at[9]], arguments.block_rows[at[10]])};
    if (std::find(settings.begin(), settings.end(), setting) == settings.end()) settings.push_back(setting);
    return {};
  };
  const auto done =
      for_combinations({types.size(), arguments.pages.size(), numas.size(), tables->size(), arguments.threads.size(),
                        arguments.affinities.size(), arguments.kv_types.size(), arguments.batches.size(),
                        arguments.weights.size(), arguments.task_bytes.size(), arguments.block_rows.size()},
                       add);
  if (!done) return tl::make_unexpected(done.error());
  return settings;
}

Result<int> sweep_infer(const InferArguments& arguments) {
  const bool pages = std::find(arguments.pages.begin(), arguments.pages.end(), "on") != arguments.pages.end();
  const ShapeOptions shape{.shape = arguments.shape,
                           .type = arguments.types.empty() ? std::string() : arguments.types.front(),
                           .huge_pages = pages};
  if (auto fine = check_shape_options(arguments.model, shape); !fine) return tl::make_unexpected(fine.error());
  InferBenchOptions work{.prompts = arguments.prompts,
                         .depths = arguments.depths,
                         .sequences = arguments.sequences,
                         .decode_tokens = arguments.decode,
                         .warmup = 0,
                         .rounds = 1,
                         .seed = arguments.seed};
  if (work.prompts == std::vector<std::int64_t>{0}) work.prompts.clear();
  if (auto fine = check_infer_bench(work); !fine) return tl::make_unexpected(fine.error());
  std::string remark;
  const auto settings = infer_settings(arguments, remark);
  if (!settings) return tl::make_unexpected(settings.error());
  catch_interrupts(true);
  InferSweep sweep({.model = arguments.model, .shape = arguments.shape, .seed = arguments.seed}, work);
  const auto rows = sweep.measure(*settings, arguments.output.warmup, arguments.output.rounds);
  if (!rows) return tl::make_unexpected(rows.error());
  return report(arguments.output,
                {.what = "infer",
                 .name = arguments.shape.empty() ? arguments.model.model : arguments.shape,
                 .warmed = fmt::format("{} to warm up", arguments.output.warmup),
                 .remarks = remark + sweep.remarks()},
                *rows);
}

struct TrainJob {
  RunConfig run;
  SweepRow row;
};

/// Every combination of the lists; an empty one leaves the run's own value.
Result<std::vector<TrainJob>> train_jobs(const TrainArguments& arguments) {
  struct Axis {
    const char* key;
    std::vector<std::string> values;
  };
  const auto words = [](const std::vector<std::int64_t>& numbers) {
    std::vector<std::string> texts;
    for (const std::int64_t number : numbers) texts.push_back(std::to_string(number));
    return texts;
  };
  const std::vector<Axis> axes = {{"train.precision", arguments.precisions},
                                  {"system.threads", words(arguments.threads)},
                                  {"system.affinity", arguments.affinities},
                                  {"train.batch", words(arguments.batches)},
                                  {"model.context", words(arguments.contexts)}};
  std::vector<std::size_t> sizes;
  for (const Axis& axis : axes) sizes.push_back(std::max<std::size_t>(1, axis.values.size()));
  std::vector<TrainJob> jobs;
  const auto add = [&](const std::vector<std::size_t>& at) -> Result<void> {
    std::vector<std::string> overrides;
    for (std::size_t i = 0; i < axes.size(); ++i) {
      if (!axes[i].values.empty()) overrides.push_back(fmt::format("{}={}", axes[i].key, axes[i].values[at[i]]));
    }
    auto run = load_run_config(arguments.run, overrides);
    if (!run) return tl::make_unexpected(run.error());
    jobs.push_back({.run = std::move(*run), .row = {.kind = "train"}});
    return {};
  };
  if (auto done = for_combinations(sizes, add); !done) return tl::make_unexpected(done.error());
  return jobs;
}

Result<int> sweep_train(const TrainArguments& arguments) {
  auto jobs = train_jobs(arguments);
  if (!jobs) return tl::make_unexpected(jobs.error());
  catch_interrupts(true);
  Progress progress(stderr);
  const std::int64_t rounds = arguments.output.rounds, count = std::ssize(*jobs);
  // The program's own memory, before any row left some of its own with the allocator.
  const std::size_t program_bytes = peak_resident_bytes();
  for (std::int64_t round = 0; round < rounds && !interrupted(); ++round) {
    for (std::int64_t turn = 0; turn < count && !interrupted(); ++turn) {
      TrainJob& job = (*jobs)[static_cast<std::size_t>(round % 2 == 0 ? turn : count - 1 - turn)];
      progress.update("sweep", round * count + turn, rounds * count, "rounds");
      // A round builds its trainer, so steps warm it up each time.
      const auto bench = bench_steps(job.run, {.warmup_steps = std::max<std::int64_t>(1, arguments.output.warmup),
                                               .steps = arguments.steps,
                                               .rounds = 1,
                                               .peaks = false,
                                               .profile = false,
                                               .stop = interrupted});
      if (!bench) return tl::make_unexpected(bench.error());
      job.row.settings = {{"precision", std::string(to_word(bench->run.train.precision))},
                          {"threads", std::to_string(bench->run.system.threads)},
                          {"affinity", std::string(affinity_name(bench->run.affinity()))},
                          {"batch", std::to_string(bench->run.train.batch)},
                          {"context", std::to_string(bench->run.context())}};
      job.row.memory_bytes = bench->plan_bytes + program_bytes;
      for (const double seconds : bench->round_medians()) {
        job.row.rates.push_back(static_cast<double>(bench->tokens_per_step) / seconds);
      }
    }
  }
  progress.finish();
  std::vector<SweepRow> rows;
  for (TrainJob& job : *jobs) rows.push_back(std::move(job.row));
  return report(arguments.output,
                {.what = "train",
                 .name = arguments.run,
                 .warmed = fmt::format("each after {} steps", std::max<std::int64_t>(1, arguments.output.warmup)),
                 .remarks = {}},
                rows);
}

void add_sweep_infer(CLI::App& sweep, Command& command) {
  const auto arguments = std::make_shared<InferArguments>();
  CLI::App* infer = sweep.add_subcommand("infer", "Prefill and decode of a model at every combination of settings");
  infer->footer(
      examples({"quern bench sweep infer model.gguf --threads 1,2 --affinity none,compact,spread",
                "quern bench sweep infer model.gguf --prompt 0 --depth 0,1024,4096 --kv-type f32,f16,q8_0",
                "quern bench sweep infer --shape llama2-7b --type q4_0,q4_k_m --prompt 0 --csv",
                "quern bench sweep infer model.gguf --isa avx2,avx512 --sequences 1,8 --json"}) +
      "\nLists are separated by commas. Ctrl-C keeps the rows that have a round. Memory: weights, KV cache of the\n"
      "row's tokens and working memory. MODEL's pages are its file's; huge ones are for --shape.");
  infer->add_option("MODEL", arguments->model.model, "A GGUF file, a checkpoint or a run folder");
  infer->add_option("--shape", arguments->shape, "In the place of MODEL: a published shape with random weights");
  const auto words = [&](const char* name, std::vector<std::string>& values, const char* help,
                         std::vector<std::string> known = {}) {
    CLI::Option* option = infer->add_option(name, values, help)->delimiter(',')->allow_extra_args(false);
    if (!known.empty()) option->check(CLI::IsMember(std::move(known)))->capture_default_str();
  };
  const auto numbers = [&](const char* name, std::vector<std::int64_t>& values, const char* help, std::int64_t least,
                           std::int64_t most) {
    infer->add_option(name, values, help)
        ->delimiter(',')
        ->allow_extra_args(false)
        ->check(CLI::Range(least, most))
        ->capture_default_str();
  };
  words("--type", arguments->types, "With --shape: of its weights, as `quern quantize` names types");
  words("--huge-pages", arguments->pages, "With --shape: off, on", {"off", "on"});
  words("--numa", arguments->numas, "Of memory: local, interleave", {"local", "interleave"});
  words("--isa", arguments->isas, "Instruction sets, as QUERN_ISA names them; none: the one in use");
  numbers("--threads", arguments->threads, "0: the processors this process may use", 0, 1024);
  words("--affinity", arguments->affinities, "Of threads: none, compact, spread", {"none", "compact", "spread"});
  words("--kv-type", arguments->kv_types, "Of the KV cache", {"auto", "f32", "f16", "bf16", "q8_0", "q4_0"});
  numbers("--batch", arguments->batches, "Tokens of a prompt that are computed together", 1, kMaxBenchTokens);
  words("--weights", arguments->weights, "Where they lie; auto: with --shape mapped, else as with `quern run`",
        {"auto", "mapped", "interleaved", "cached"});
  numbers("--task-bytes", arguments->task_bytes, "Of weights that a thread takes at a time in decode; 0: the default", 0,
          BlockSizes::kMostTaskBytes);
  numbers("--block-rows", arguments->block_rows,
          "Tokens of a prompt for which a thread reads weights once; 0: by the kernels", 0, BlockSizes::kMostBlockRows);
  numbers("--prompt", arguments->prompts, "Lengths of prompts; 0: none", 0, kMaxBenchTokens);
  numbers("--depth", arguments->depths, "Tokens that sequences have before decode: the context", 0, kMaxBenchTokens);
  numbers("--sequences", arguments->sequences, "Sequences decoded together", 1, kMaxBenchTokens);
  infer->add_option("--decode", arguments->decode, "Tokens that each sequence gets in a round; 0: no decode")
      ->check(CLI::Range(std::int64_t{0}, kMaxBenchTokens))
      ->capture_default_str();
  infer->add_option("--seed", arguments->seed, "Of tokens and random weights")->capture_default_str();
  add_output_options(*infer, arguments->output, "Rounds of each combination that do not count");
  infer->callback([&command, arguments] { command.run = [arguments] { return sweep_infer(*arguments); }; });
}

void add_sweep_train(CLI::App& sweep, Command& command) {
  const auto arguments = std::make_shared<TrainArguments>();
  CLI::App* train = sweep.add_subcommand("train", "Training steps of a run at every combination of settings");
  train->footer(examples({"quern bench sweep train configs/loop_small.yaml --threads 1,2 --batch 8,32 --context 64,128",
                          "quern bench sweep train configs/loop_small.yaml --precision f32,bf16 --csv"}) +
                "\nLists are separated by commas; what is not given stays the run's. No corpus is read. Memory: what a run\n"
                "plans, and the program. Ctrl-C keeps the rows that have a round.");
  train->add_option("RUN", arguments->run, "A YAML run")->required();
  const auto words = [&](const char* name, std::vector<std::string>& values, const char* help,
                         std::vector<std::string> known) {
    train->add_option(name, values, help)->delimiter(',')->allow_extra_args(false)->check(CLI::IsMember(std::move(known)));
  };
  const auto numbers = [&](const char* name, std::vector<std::int64_t>& values, const char* help, std::int64_t most) {
    train->add_option(name, values, help)->delimiter(',')->allow_extra_args(false)->check(CLI::Range(std::int64_t{1}, most));
  };
  words("--precision", arguments->precisions, "Of products", {"f32", "bf16"});
  numbers("--threads", arguments->threads, "Threads", 1024);
  words("--affinity", arguments->affinities, "Of threads", {"none", "compact", "spread"});
  numbers("--batch", arguments->batches, "Sequences of a micro-batch", kMaxBenchTokens);
  numbers("--context", arguments->contexts, "Tokens of a sequence", kMaxBenchTokens);
  train->add_option("--steps", arguments->steps, "Steps of a round; 0: as many as take about a second")
      ->check(CLI::Range(0, 1000000))
      ->capture_default_str();
  add_output_options(*train, arguments->output, "Steps before each round, at least one");
  train->callback([&command, arguments] { command.run = [arguments] { return sweep_train(*arguments); }; });
}

}  // namespace

void add_bench_sweep(CLI::App& bench, Command& command) {
  CLI::App* sweep = bench.add_subcommand("sweep", "Compare settings: a row for each combination, measured in turns");
  sweep->require_subcommand(1);
  sweep->footer("Each subcommand has --help with an example: quern bench sweep infer --help");
  add_sweep_infer(*sweep, command);
  add_sweep_train(*sweep, command);
}

}  // namespace quern::tools
