// quern run: a model continues a text.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "command.hpp"
#include "infer/generator.hpp"
#include "infer/profiler.hpp"
#include "model/atomic_file.hpp"
#include "run_model.hpp"
#include "run_sampling.hpp"
#include "run_speculation.hpp"
#include "run_statistics.hpp"

namespace quern::tools {

namespace {

using Json = nlohmann::ordered_json;

struct Arguments {
  ModelOptions model;
  SamplingOptions sampling;
  SpeculationFlags speculation;
  std::optional<std::string> prompt;
  std::string file;
  std::int64_t tokens = 200;
  std::int64_t context = 0;
  std::vector<std::string> stop;
  bool ignore_eos = false;
  bool context_shift = false;
  std::int64_t keep = 0;
  bool no_bos = false;
  bool plain_prompt = false;
  bool special = false;
  bool echo = false;
  bool quiet = false;
  bool json = false;
  std::int64_t log_probabilities = 0;
  bool profile = false;
  std::string trace;
};

// What `-n 0` means with --context-shift, where nothing else ends the text.
constexpr std::int64_t kEndless = std::int64_t{1} << 40;

/// The prompt where it is at hand; none where standard input has it, which is read when the model is open: a wrong MODEL is
/// told before anything is typed.
Result<std::optional<std::string>> given_prompt(const Arguments& arguments) {
  if (arguments.prompt) return arguments.prompt;
  if (arguments.file.empty()) {
    if (isatty(STDIN_FILENO) == 0) return std::nullopt;
    return bad_input("run: nothing to continue; give -p TEXT, --file FILE or standard input");
  }
  auto text = read_text(arguments.file);
  if (!text) return tl::make_unexpected(text.error());
  return std::move(*text);
}

/// The prompt as tokens, with the beginning-of-text token where the vocabulary puts one and the text has none.
Result<std::vector<std::int32_t>> prompt_tokens(const Tokenizer& tokenizer, const std::string& text,
                                                const Arguments& arguments) {
  std::vector<std::int32_t> tokens;
  if (!text.empty()) {
    auto encoded = tokenizer.encode(text, {.parse_special = !arguments.plain_prompt});
    if (!encoded) return encoded;
    tokens = std::move(*encoded);
  }
  const SpecialTokens& special = tokenizer.special_tokens();
  const bool begins = !tokens.empty() && special.bos && tokens.front() == *special.bos;
  if (special.add_bos && special.bos && !arguments.no_bos && !begins) tokens.insert(tokens.begin(), *special.bos);
  if (tokens.empty()) return encode_prompt(tokenizer, "");
  return tokens;
}

Result<Request> request_of(const Arguments& arguments, const LoadedModel& model, std::vector<std::int32_t> prompt) {
  Request request;
  const auto config = sampler_config(arguments.sampling, model.weights().config.vocab);
  if (!config) return tl::make_unexpected(config.error());
  const std::int64_t context = model.context_tokens();
  if (!arguments.context_shift && std::ssize(prompt) >= context) {
    return bad_input(
        fmt::format("the prompt has {} tokens and leaves no room in a context of {}; a larger --context, or "
                    "--context-shift",
                    prompt.size(), context));
  }
  const std::int64_t keep = std::min(arguments.keep, std::ssize(prompt));
  if (arguments.context_shift && keep > 0 && keep > context - 2) {
    return bad_input(fmt::format("--keep: expected at most {} tokens of the prompt in a context of {}, found {}",
                                 std::max<std::int64_t>(0, context - 2), context, keep));
  }
  request.sampler = *config;
  request.stop.max_tokens = arguments.tokens > 0 ? arguments.tokens : arguments.context_shift ? kEndless : context;
  const std::span<const std::int32_t> ends = model.tokenizer().end_of_generation();
  request.stop.end_tokens.assign(ends.begin(), ends.end());
  for (const std::string& text : arguments.stop) request.stop.strings.push_back(unescape(text));
  request.stop.ignore_end_tokens = arguments.ignore_eos;
  request.stop.special_text = arguments.special;
  request.when_full = arguments.context_shift ? FullContext::shift : FullContext::stop;
  request.keep_tokens = arguments.context_shift ? keep : 0;
  if (arguments.json) request.top_log_probabilities = arguments.log_probabilities;
  request.prompt = std::move(prompt);
  return request;
}

Json log_probability_json(const LogProbabilities& step, const Tokenizer& tokenizer, bool with_top) {
  const auto one = [&](const TokenLogProbability& entry) {
    return Json{
        {"token", entry.token}, {"text", tokenizer.token_bytes(entry.token)}, {"log_probability", entry.log_probability}};
  };
  Json json = one(step.chosen);
  if (with_top) {
    json["top"] = Json::array();
    for (const TokenLogProbability& entry : step.top) json["top"].push_back(one(entry));
  }
  return json;
}

void print_json(const LoadedModel& model, const Arguments& arguments, const std::string& prompt,
                const std::vector<std::int32_t>& prompt_ids, const Generation& generation, const RunStatistics& statistics,
                const Profiler* profiler) {
  Json steps = Json::array();
  for (const LogProbabilities& step : generation.log_probabilities) {
    steps.push_back(log_probability_json(step, model.tokenizer(), arguments.log_probabilities > 0));
  }
  Json json = {{"model", model.path()},
               {"architecture", model.architecture()},
               {"prompt", prompt},
               {"prompt_tokens", prompt_ids},
               {"text", generation.text},
               {"tokens", generation.tokens},
               {"stop", to_word(generation.stop)},
               {"end_token", nullptr},
               {"log_probabilities", std::move(steps)},
               {"timings", statistics_json(statistics)}};
  if (generation.end_token) json["end_token"] = *generation.end_token;
  if (profiler != nullptr) json["profile"] = profile_json(*profiler);
  // Bytes that are no UTF-8 become U+FFFD.
  fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
}

Result<int> run(const Arguments& arguments) {
  const auto given = given_prompt(arguments);
  if (!given) return tl::make_unexpected(given.error());
  if (!arguments.trace.empty()) {  // before the work whose trace it would lose
    if (const auto writable = AtomicFile::create(arguments.trace); !writable) return tl::make_unexpected(writable.error());
  }
  auto running = load_model(arguments.model, arguments.context);
  if (!running) return tl::make_unexpected(running.error());
  const LoadedModel& model = *(*running)->model;
  const auto prompt = *given ? Result<std::string>(**given) : read_text("-");
  if (!prompt) return tl::make_unexpected(prompt.error());
  auto tokens = prompt_tokens(model.tokenizer(), *prompt, arguments);
  if (!tokens) return tl::make_unexpected(tokens.error());
  const std::vector<std::int32_t> prompt_ids = *tokens;
  const auto request = request_of(arguments, model, std::move(*tokens));
  if (!request) return tl::make_unexpected(request.error());
  const auto speculation = open_speculation(**running, arguments.model, arguments.speculation, (*running)->batch);
  if (!speculation) return tl::make_unexpected(speculation.error());

  Profiler profiler;
  const bool profiled = arguments.profile || !arguments.trace.empty();
  auto decoder = (*running)->decoder({.batch_tokens = std::min(model.context_tokens(), (*running)->batch),
                                      .context_tokens = model.context_tokens(),
                                      .logit_rows = speculation->logit_rows(),
                                      .profiler = profiled ? &profiler : nullptr});
  if (!decoder) return tl::make_unexpected(decoder.error());

  catch_interrupts(true);
  if (arguments.echo && !arguments.json) fmt::print("{}", *prompt);
  std::fflush(stdout);
  const auto print_event = [&](const EngineEvent& event) {
    if (!arguments.json && !event.text.empty()) {
      fmt::print("{}", event.text);
      std::fflush(stdout);
    }
    return !interrupted() && std::ferror(stdout) == 0;
  };
  const auto generation = generate(**decoder, &model.tokenizer(), *request, print_event, speculation->options);
  if (!generation) return tl::make_unexpected(generation.error());
  if (std::ferror(stdout) != 0) return io_error("standard output cannot be written");
  if (!arguments.json) fmt::print("\n");
  std::fflush(stdout);

  RunStatistics statistics;
  statistics.speculation = speculation->word();
  add_timings(statistics, generation->timings);
  measure_machine(statistics, **running, !arguments.quiet);
  if (arguments.json) {
    print_json(model, arguments, *prompt, prompt_ids, *generation, statistics, arguments.profile ? &profiler : nullptr);
  } else {
    if (!arguments.quiet) {
      fmt::print(stderr, "\nended: {}\n{}", to_word(generation->stop), statistics_text(statistics));
    }
    if (arguments.profile) fmt::print(stderr, "\n{}", profile_text(profiler));
  }
  if (!arguments.trace.empty()) {
    if (auto written = profiler.write_trace(arguments.trace); !written) return tl::make_unexpected(written.error());
  }
  return generation->stop == StopReason::interrupted && interrupted() ? 128 + SIGINT : kExitOk;
}

}  // namespace

void add_run(CLI::App& app, Command& command) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* run_command = app.add_subcommand("run", "Continue a text with a model");
  run_command->footer(examples({"quern run model.gguf -p \"Once upon a time\" -n 100",
                                "quern run model.gguf --file story.txt --temperature 0 --stop \"\\n\\n\"",
                                "quern run large.gguf --draft small.gguf --file code.txt -n 500",
                                "quern run runs/quickstart -p \"And God said\" --profile --trace trace.json",
                                "echo \"2 + 2 =\" | quern run model.gguf -n 5 --json"}));
  add_model_options(*run_command, arguments->model);
  auto* prompt = run_command->add_option("-p,--prompt", arguments->prompt, "Text to continue; without: standard input");
  run_command->add_option("--file", arguments->file, "File with the text to continue")->excludes(prompt);
  run_command->add_option("-n,--tokens", arguments->tokens, "Tokens to generate at most; 0: until the text or context ends")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 40))
      ->capture_default_str();
  run_command->add_option("--context", arguments->context, "Longest text in tokens; 0: the model's, for GGUF at most 4096")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 24))
      ->capture_default_str();
  add_batch_option(*run_command, arguments->model);
  add_tuned_option(*run_command, arguments->model);
  add_sampling_options(*run_command, arguments->sampling);
  add_speculation_options(*run_command, arguments->speculation);
  add_measuring_options(*run_command, arguments->model);
  run_command->add_option("--stop", arguments->stop, "End before this text (\\n for a line end); can be repeated")
      ->allow_extra_args(false);
  run_command->add_flag("--ignore-eos", arguments->ignore_eos, "Never draw the tokens that end a text");
  run_command->add_flag("--context-shift", arguments->context_shift, "Forget the older half when the context is full");
  run_command->add_option("--keep", arguments->keep, "Tokens of the prompt's beginning that --context-shift keeps")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  run_command->add_flag("--no-bos", arguments->no_bos, "Put no beginning-of-text token in front");
  run_command->add_flag("--plain-prompt", arguments->plain_prompt, "Names of special tokens in the prompt are plain text");
  run_command->add_flag("--special", arguments->special, "Print special tokens");
  run_command->add_flag("--echo", arguments->echo, "Print the prompt first");
  auto* json = run_command->add_flag("--json", arguments->json, "Print one JSON object instead of the text");
  run_command->add_option("--logprobs", arguments->log_probabilities, "With --json: the N likeliest tokens of each step too")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1000}))
      ->needs(json)
      ->capture_default_str();
  run_command->add_flag("--quiet", arguments->quiet,
                        "Print no statistics; with --json: leave the memory's bandwidth unmeasured");
  run_command->add_flag("--profile", arguments->profile, "Print time by kind of work and phase");
  run_command->add_option("--trace", arguments->trace, "Write a trace for Perfetto or chrome://tracing to this file");
  run_command->callback([&command, arguments] { command.run = [arguments] { return run(*arguments); }; });
}

}  // namespace quern::tools
