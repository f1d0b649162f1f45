// quern sample: text from a trained model.
#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "command.hpp"
#include "infer/decoder.hpp"
#include "infer/generator.hpp"
#include "infer/loaded_model.hpp"
#include "infer/sampler.hpp"
#include "math/dispatch.hpp"
#include "math/thread_team.hpp"
#include "run_model.hpp"

namespace quern::tools {

namespace {

struct Arguments {
  std::string model;
  std::string prompt;
  std::int64_t tokens = 200;
  std::int64_t context = 0;
  SamplerConfig sampler{.temperature = 0.8F, .top_k = 0, .top_p = 1.0F, .seed = 1};
  std::int64_t threads = 0;
  std::string precision = "auto";
  std::string backend = "kernels";
  bool json = false;
};

/// Tokens as the JSON of a string may hold them: bytes that are no UTF-8 become U+FFFD.
void print_json(const LoadedModel& model, const Arguments& arguments, const Generation& generation) {
  const nlohmann::ordered_json json = {
      {"model", model.path()},
      {"prompt", arguments.prompt},
      {"text", model.tokenizer().decode(generation.tokens, {.text_start = arguments.prompt.empty()})},
      {"tokens", generation.tokens},
      {"stop", to_word(generation.stop)},
      {"prompt_tokens", generation.prompt_tokens},
      {"prefill_seconds", generation.prefill_seconds},
      {"decode_seconds", generation.decode_seconds}};
  fmt::print("{}\n", json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
}

Result<int> sample(const Arguments& arguments) {
  const auto kernels = chosen_kernels();
  if (!kernels) return tl::make_unexpected(kernels.error());
  const Backend backend{*kernels, arguments.backend == "eigen"};
  ThreadTeam team(arguments.threads > 0 ? static_cast<int>(arguments.threads) : default_thread_count());
  LoadOptions load;
  if (arguments.precision != "auto") load.precision = arguments.precision == "bf16" ? Precision::bf16 : Precision::f32;
  load.context_tokens = arguments.context;
  const auto model = LoadedModel::load(arguments.model, backend, team, load);
  if (!model) return tl::make_unexpected(model.error());
  const std::int64_t context = (*model)->context_tokens();
  auto decoder = Decoder::create(backend, (*model)->weights(), team,
                                 {.batch_tokens = std::min<std::int64_t>(context, 256), .context_tokens = context});
  if (!decoder) return tl::make_unexpected(decoder.error());
  const auto prompt = encode_prompt((*model)->tokenizer(), arguments.prompt);
  if (!prompt) return tl::make_unexpected(prompt.error());

  catch_interrupts(true);
  Sampler sampler((*model)->weights().config.vocab, arguments.sampler);
  StreamingDecoder text((*model)->tokenizer(), {.text_start = arguments.prompt.empty()});
  GenerateOptions options;
  options.max_tokens = arguments.tokens;
  const auto ends = (*model)->tokenizer().end_of_generation();
  options.end_tokens.assign(ends.begin(), ends.end());
  options.vocab = std::min(drawn_vocab((*model)->tokenizer()), (*model)->weights().config.vocab);
  const bool stream = !arguments.json;
  if (stream) fmt::print("{}", arguments.prompt);
  const auto generation = generate(**decoder, *prompt, sampler, options, [&](std::int32_t token) {
    if (stream) {
      fmt::print("{}", text.push(token));
      std::fflush(stdout);
    }
    return !interrupted();
  });
  if (!generation) return tl::make_unexpected(generation.error());
  if (stream) {
    fmt::print("{}\n", text.finish());
  } else {
    print_json(**model, arguments, *generation);
  }
  return generation->stop == StopReason::interrupted ? 128 + SIGINT : kExitOk;
}

}  // namespace

void add_sample(CLI::App& app, Command& command) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* sample_command = app.add_subcommand("sample", "Generate text with a trained run or checkpoint");
  sample_command->footer(
      examples({"quern sample runs/quickstart -p \"In the beginning\"",
                "quern sample runs/quickstart -p \"And\" -n 100 --temperature 0",
                "quern sample runs/quickstart/checkpoints/last.h5 -p \"And\" --top-k 40 --seed 7 --json"}));
  sample_command->add_option("MODEL", arguments->model, "A run folder (its best checkpoint) or a checkpoint file")
      ->required();
  sample_command->add_option("-p,--prompt", arguments->prompt, "Text to continue");
  sample_command->add_option("-n,--tokens", arguments->tokens, "Tokens to generate at most")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 24))
      ->capture_default_str();
  sample_command->add_option("--temperature", arguments->sampler.temperature, "0: always the likeliest token")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  sample_command->add_option("--top-k", arguments->sampler.top_k, "Draw among the K likeliest tokens; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  sample_command
      ->add_option("--top-p", arguments->sampler.top_p, "Draw among the likeliest tokens of this total probability")
      ->check(CLI::Range(1e-6, 1.0))
      ->capture_default_str();
  sample_command->add_option("--seed", arguments->sampler.seed, "Of the draws")->capture_default_str();
  sample_command->add_option("--context", arguments->context, "Longest context in tokens; 0: the model's")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 24))
      ->capture_default_str();
  sample_command->add_option("--precision", arguments->precision, "Compute type")
      ->check(CLI::IsMember({"auto", "f32", "bf16"}))
      ->capture_default_str();
  sample_command->add_option("--backend", arguments->backend, "Who computes products")
      ->check(CLI::IsMember({"kernels", "eigen"}))
      ->capture_default_str();
  sample_command->add_option("--threads", arguments->threads, "0: the processors this process may use")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  sample_command->add_flag("--json", arguments->json, "Print one JSON object with text, tokens and timings");
  sample_command->callback([&command, arguments] { command.run = [arguments] { return sample(*arguments); }; });
}

}  // namespace quern::tools
