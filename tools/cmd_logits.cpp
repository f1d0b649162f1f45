// quern logits: what a model predicts after each of some tokens, as a NumPy file.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "command.hpp"
#include "infer/npy_file.hpp"
#include "run_model.hpp"

namespace quern::tools {

namespace {

struct Arguments {
  ModelOptions model;
  std::string tokens;
  std::int64_t chunk = 0;
  std::string out;
};

// Logits of one pass take at most about this much memory.
constexpr std::int64_t kLogitBytes = std::int64_t{64} << 20;

Result<int> logits(const Arguments& arguments) {
  const auto tokens = parse_token_list(arguments.tokens);
  if (!tokens) return tl::make_unexpected(tokens.error());
  const std::int64_t count = std::ssize(*tokens);
  auto running = load_model(arguments.model, count);
  if (!running) return tl::make_unexpected(running.error());
  const std::int64_t vocab = (*running)->model->weights().config.vocab;
  for (const std::int32_t token : *tokens) {
    if (token < 0 || token >= vocab) {
      return bad_input(fmt::format("--tokens: {} is outside the vocabulary of {} tokens", token, vocab));
    }
  }
  const std::int64_t most_rows = std::max<std::int64_t>(1, kLogitBytes / (vocab * static_cast<std::int64_t>(sizeof(float))));
  const std::int64_t chunk = arguments.chunk > 0 ? std::min(arguments.chunk, count) : std::min(count, most_rows);
  auto decoder =
      (*running)->decoder({.batch_tokens = chunk, .context_tokens = count, .logit_rows = chunk, .all_logits = true});
  if (!decoder) return tl::make_unexpected(decoder.error());
  auto file = NpyWriter::create(arguments.out, count, vocab);
  if (!file) return tl::make_unexpected(file.error());
  const auto sequence = (*decoder)->cache().add_sequence();
  if (!sequence) return tl::make_unexpected(sequence.error());
  for (std::int64_t first = 0; first < count; first += chunk) {
    const SequenceTokens entry{*sequence,
                               std::span(*tokens).subspan(static_cast<std::size_t>(first),
                                                          static_cast<std::size_t>(std::min(chunk, count - first))),
                               LogitRows::all};
    if (auto done = (*decoder)->forward(std::span(&entry, 1)); !done) return tl::make_unexpected(done.error());
    for (std::int64_t i = 0; i < std::ssize(entry.tokens); ++i) {
      if (auto done = file->append((*decoder)->logits(i)); !done) return tl::make_unexpected(done.error());
    }
  }
  if (auto done = file->commit(); !done) return tl::make_unexpected(done.error());
  return kExitOk;
}

}  // namespace

void add_logits(CLI::App& app, Command& command) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* logits_command = app.add_subcommand("logits", "Write a model's logits after each token to a NumPy file");
  logits_command->footer(
      examples({"quern logits model.gguf --tokens 1,15043,3186 -o logits.npy",
                "quern logits runs/quickstart --tokens 10,20,30 --chunk 1 --precision f32 -o logits.npy"}));
  add_model_options(*logits_command, arguments->model);
  logits_command->add_option("--tokens", arguments->tokens, "Token ids separated by commas; none is added")->required();
  logits_command->add_option("--chunk", arguments->chunk, "Tokens of one forward pass; 0: as many as fit")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 24))
      ->capture_default_str();
  logits_command
      ->add_option("-o,--out", arguments->out, "The .npy file: float32 [tokens, vocabulary], appears when it is whole")
      ->required();
  logits_command->callback([&command, arguments] { command.run = [arguments] { return logits(*arguments); }; });
}

}  // namespace quern::tools
