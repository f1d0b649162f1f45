// quern bench infer: how fast this machine runs a model, beside what it reads and multiplies.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "command.hpp"
#include "infer/infer_bench.hpp"
#include "infer_bench_report.hpp"
#include "math/process_memory.hpp"
#include "progress.hpp"
#include "random_model.hpp"
#include "report/page.hpp"
#include "report/report_option.hpp"
#include "run_model.hpp"
#include "use_tuning.hpp"

namespace quern::tools {

namespace {

struct Arguments {
  ModelOptions model;
  ShapeOptions shape;
  std::string prompts = "512", depths = "0", sequences = "1";
  std::int64_t decode = 64, warmup = 5, rounds = 10, context = 0;
  std::uint64_t seed = 1337;
  bool json = false, csv = false;
  std::string report;
};

/// "512,2048" as numbers.
Result<std::vector<std::int64_t>> numbers(std::string_view option, std::string_view text) {
  std::vector<std::int64_t> values;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (true) {
    std::int64_t value = 0;
    const auto [next, error] = std::from_chars(at, end, value);
    if (error != std::errc() || (next != end && *next != ',')) {
      return bad_input(fmt::format("{}: expected numbers as in 512,2048, found `{}`", option, text));
    }
    values.push_back(value);
    if (next == end) return values;
    at = next + 1;
  }
}

Result<InferBenchOptions> options_of(const Arguments& arguments) {
  InferBenchOptions options{.decode_tokens = arguments.decode,
                            .warmup = arguments.warmup,
                            .rounds = arguments.rounds,
                            .seed = arguments.seed,
                            .kv_cache = !arguments.model.no_kv_cache};
  auto prompts = numbers("--prompt", arguments.prompts);
  if (!prompts) return tl::make_unexpected(prompts.error());
  options.prompts = std::move(*prompts);
  if (options.prompts == std::vector<std::int64_t>{0}) options.prompts.clear();
  auto depths = numbers("--depth", arguments.depths);
  if (!depths) return tl::make_unexpected(depths.error());
  options.depths = std::move(*depths);
  auto sequences = numbers("--sequences", arguments.sequences);
  if (!sequences) return tl::make_unexpected(sequences.error());
  options.sequences = std::move(*sequences);
  if (auto fine = check_infer_bench(options); !fine) return tl::make_unexpected(fine.error());
  if (arguments.context > 0 && arguments.context < options.context_tokens()) {
    return bad_input(
        fmt::format("--context: {} tokens, but the longest row has {}", arguments.context, options.context_tokens()));
  }
  return options;
}

std::size_t row_count(const InferBenchOptions& options) {
  return options.prompts.size() + (options.decodes() ? options.depths.size() * options.sequences.size() : 0);
}

Result<int> bench_infer(const Arguments& arguments) {
  const auto options = options_of(arguments);
  if (!options) return tl::make_unexpected(options.error());
  if (auto fine = check_shape_options(arguments.model, arguments.shape); !fine) return tl::make_unexpected(fine.error());
  if (auto fine = check_report(arguments.report); !fine) return tl::make_unexpected(fine.error());
  ModelOptions model = arguments.model;
  use_tuning(model, arguments.shape);
  const std::int64_t context = std::max(arguments.context, options->context_tokens());
  const std::int64_t batch = model.batch > 0 ? model.batch : kDefaultBatch;
  const Decoder::Limits limits{.batch_tokens = std::max(std::min(batch, context), options->most_sequences()),
                               .context_tokens = context,
                               .sequences = options->most_sequences(),
                               .cache_tokens = options->cache_tokens()};
  // Memory suffices, and the weights are nobody else's.
  if (!arguments.shape.shape.empty() && model.weights == "auto") model.weights = "interleaved";
  auto running = arguments.shape.shape.empty() ? load_model(model, context)
                                               : make_random_model(model, arguments.shape, arguments.seed, limits);
  if (!running) return tl::make_unexpected(running.error());
  RunningModel& run = **running;
  auto decoder = run.decoder(limits);
  if (!decoder) return tl::make_unexpected(decoder.error());

  catch_interrupts(true);
  Progress progress(stderr);
  std::optional<InferBenchKind> table;
  const bool table_wanted = !arguments.json && !arguments.csv;
  if (table_wanted) fmt::print("{}", infer_bench_header(run, **decoder, *options));
  std::fflush(stdout);
  const auto bench = bench_inference(**decoder, run.backend, run.team, run.model->bytes_per_token(), *options,
                                     {.progress = [&](std::string_view stage, std::int64_t done,
                                                      std::int64_t total) { progress.update(stage, done, total, "tokens"); },
                                      .stop = interrupted,
                                      .row =
                                          [&](const InferBenchRow& row) {
                                            progress.finish();
                                            if (!table_wanted) return;
                                            if (table != row.kind) fmt::print("{}", infer_bench_table_head(row.kind));
                                            table = row.kind;
                                            fmt::print("{}", infer_bench_line(row));
                                            std::fflush(stdout);
                                          }});
  progress.finish();
  if (!bench) return tl::make_unexpected(bench.error());
  const auto result = infer_bench_json(run, **decoder, *options, *bench, peak_resident_bytes());
  if (arguments.json) {
    fmt::print("{}\n", result.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
    std::fflush(stdout);
  }
  if (arguments.csv) fmt::print("{}", infer_bench_csv(*bench));
  std::fflush(stdout);
  if (auto written = write_report_of(result, arguments.report); !written) return tl::make_unexpected(written.error());
  if (!bench->stopped) return kExitOk;
  const auto whole = std::count_if(bench->rows.begin(), bench->rows.end(),
                                   [&](const InferBenchRow& row) { return std::ssize(row.rounds) == options->rounds; });
  return report_interrupt(
      Error{ErrorCode::io, fmt::format("interrupted with {} of {} rows complete", whole, row_count(*options))});
}

}  // namespace

void add_bench_infer(CLI::App& bench, Command& command) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* infer = bench.add_subcommand("infer", "Time a model on random tokens, beside this machine's memory and peaks");
  infer->footer(
      examples({"quern bench infer model.gguf", "quern bench infer model.gguf --prompt 512,2048 --depth 0,4096,16384",
                "quern bench infer model.gguf --prompt 0 --sequences 1,8,32 --rounds 5 --json",
                "quern bench infer --shape llama2-7b --type q4_k_m", "quern bench infer --shape gpt-oss-20b --type mxfp4"}) +
      "\nPrefill computes one prompt; decode appends one token a step to each sequence. Ctrl-C keeps the rows that\n"
      "have a round. With --shape no file is read or written: weights of a published shape (quern hardware lists them) are\n"
      "random numbers in memory, in the types that `quern quantize` gives such a model.");
  add_model_options(*infer, arguments->model);
  infer->get_option("MODEL")->required(false);
  add_shape_options(*infer, arguments->shape);
  add_measuring_options(*infer, arguments->model);
  infer->add_option("--prompt", arguments->prompts, "Lengths of prompts, a row each; 0: none")->capture_default_str();
  infer->add_option("--decode", arguments->decode, "Tokens that each sequence gets in a round of decode; 0: no decode")
      ->check(CLI::Range(std::int64_t{0}, kMaxBenchTokens))
      ->capture_default_str();
  infer->add_option("--depth", arguments->depths, "Tokens that sequences have before, a row each")->capture_default_str();
  infer->add_option("--sequences", arguments->sequences, "Sequences decoded together, a row each at every depth")
      ->capture_default_str();
  infer->add_option("--rounds", arguments->rounds, "Measured rounds of each row; six or more give an interval of 95 %")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{10000}))
      ->capture_default_str();
  infer->add_option("--warmup", arguments->warmup, "Rounds of each row before them")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{10000}))
      ->capture_default_str();
  add_batch_option(*infer, arguments->model);
  add_tuned_option(*infer, arguments->model);
  infer->add_option("--context", arguments->context, "Positions to prepare for; 0: as many as the longest row has")
      ->check(CLI::Range(std::int64_t{0}, kMaxBenchTokens))
      ->capture_default_str();
  infer->add_option("--seed", arguments->seed, "Of the tokens, and of the weights of --shape")->capture_default_str();
  CLI::Option* const json = infer->add_flag("--json", arguments->json, "Print one JSON object");
  infer->add_flag("--csv", arguments->csv, "Print comma-separated values")->excludes(json);
  add_report_option(*infer, arguments->report);
  infer->callback([&command, arguments] { command.run = [arguments] { return bench_infer(*arguments); }; });
}

}  // namespace quern::tools
