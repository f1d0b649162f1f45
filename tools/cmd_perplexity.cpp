// quern perplexity: how well a model predicts a text, and how far its predictions are from another model's.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "command.hpp"
#include "infer/logits_base.hpp"
#include "infer/perplexity.hpp"
#include "progress.hpp"
#include "run_model.hpp"

namespace quern::tools {

namespace {

using Json = nlohmann::ordered_json;

struct Arguments {
  ModelOptions model;
  std::string file;
  std::optional<std::int64_t> context;
  std::int64_t chunks = 0;
  std::string base;
  std::string save_base;
  bool json = false;
};

/// The chunks of a text, or of the base file where no text is given; an error where both are and differ.
Result<ScoringChunks> chunks_of(const Arguments& arguments, std::int64_t context, const LoadedModel& model,
                                const LogitsBase* base) {
  if (arguments.file.empty()) return base->chunks();
  const auto text = read_text(arguments.file);
  if (!text) return tl::make_unexpected(text.error());
  const Tokenizer& tokenizer = model.tokenizer();
  const SpecialTokens& special = tokenizer.special_tokens();
  auto tokens = tokenizer.encode(*text, {.parse_special = false, .add_special = true});
  if (!tokens) return tl::make_unexpected(tokens.error());
  auto chunks =
      ScoringChunks::cut(*tokens, context, arguments.chunks, special.add_bos ? special.bos : std::nullopt, arguments.file);
  if (!chunks || base == nullptr) return chunks;
  const std::vector<std::int32_t>& theirs = base->chunks().tokens;
  if (chunks->context != base->chunks().context) {
    return bad_input(
        fmt::format("{}: made with --context {}, not {}", base->path(), base->chunks().context, chunks->context));
  }
  const auto [mine, other] = std::mismatch(chunks->tokens.begin(), chunks->tokens.end(), theirs.begin(), theirs.end());
  if (mine != chunks->tokens.end() || other != theirs.end()) {
    return bad_input(fmt::format("{}: made from other tokens than {} gives, from token {} of {} on ({} there)", base->path(),
                                 arguments.file, mine - chunks->tokens.begin(), chunks->tokens.size(), theirs.size()));
  }
  return chunks;
}

Json to_json(const Perplexity& perplexity) {
  return {{"perplexity", perplexity.value},
          {"error", perplexity.error},
          {"mean_negative_log_likelihood", perplexity.mean_nll},
          {"tokens", perplexity.tokens}};
}

Json to_json(const KlSummary& kl) {
  return {{"rows", kl.rows},
          {"mean", kl.mean},
          {"mean_error", kl.mean_error},
          {"max", kl.largest},
          {"percentile_99.9", kl.percentile_99_9},
          {"percentile_99", kl.percentile_99},
          {"percentile_95", kl.percentile_95},
          {"percentile_90", kl.percentile_90},
          {"median", kl.median},
          {"percentile_10", kl.percentile_10},
          {"percentile_5", kl.percentile_5},
          {"percentile_1", kl.percentile_1},
          {"min", kl.smallest},
          {"top_1_agreement", kl.top_agreement},
          {"top_1_agreement_error", kl.top_agreement_error},
          {"rms_probability_change", kl.rms_probability_change},
          {"mean_probability_change", kl.mean_probability_change},
          {"base_perplexity", kl.base.value},
          {"base_perplexity_error", kl.base.error},
          {"perplexity_ratio", kl.perplexity_ratio},
          {"perplexity_ratio_error", kl.perplexity_ratio_error}};
}

void print_table(const KlSummary& kl, const std::string& base_path) {
  const auto row = [](std::string_view name, const std::string& value) { fmt::print("{:<28}{:>22}\n", name, value); };
  const auto with_error = [](double value, double error) { return fmt::format("{:.6f} +/- {:.6f}", value, error); };
  fmt::print("Against {} ({} predictions; divergence in nats)\n", base_path, kl.rows);
  row("mean KL divergence", with_error(kl.mean, kl.mean_error));
  row("maximum", fmt::format("{:.6f}", kl.largest));
  row("99.9th percentile", fmt::format("{:.6f}", kl.percentile_99_9));
  row("99th percentile", fmt::format("{:.6f}", kl.percentile_99));
  row("95th percentile", fmt::format("{:.6f}", kl.percentile_95));
  row("90th percentile", fmt::format("{:.6f}", kl.percentile_90));
  row("median", fmt::format("{:.6f}", kl.median));
  row("10th percentile", fmt::format("{:.6f}", kl.percentile_10));
  row("5th percentile", fmt::format("{:.6f}", kl.percentile_5));
  row("1st percentile", fmt::format("{:.6f}", kl.percentile_1));
  row("minimum", fmt::format("{:.6f}", kl.smallest));
  row("same most likely token",
      fmt::format("{:.3f} +/- {:.3f} %", 100.0 * kl.top_agreement, 100.0 * kl.top_agreement_error));
  row("RMS change of probability", fmt::format("{:.3f} %", 100.0 * kl.rms_probability_change));
  row("mean change of probability", fmt::format("{:.3f} %", 100.0 * kl.mean_probability_change));
  row("perplexity of the base", with_error(kl.base.value, kl.base.error));
  row("perplexity / base's", with_error(kl.perplexity_ratio, kl.perplexity_ratio_error));
}

Result<int> perplexity(const Arguments& arguments) {
  if (arguments.file.empty() && arguments.base.empty()) {
    return bad_input("perplexity: --file with a text is required (or --kl, whose base file holds the tokens)");
  }
  std::optional<LogitsBase> base;
  if (!arguments.base.empty()) {
    auto opened = LogitsBase::open(arguments.base);
    if (!opened) return tl::make_unexpected(opened.error());
    base = std::move(*opened);
  }
  const std::int64_t context =
      base && (arguments.file.empty() || !arguments.context) ? base->chunks().context : arguments.context.value_or(512);
  auto running = load_model(arguments.model, context);
  if (!running) return tl::make_unexpected(running.error());
  const LoadedModel& model = *(*running)->model;
  const std::int64_t vocab = model.weights().config.vocab;
  if (base && base->vocab() != vocab) {
    return bad_input(
        fmt::format("{}: made with a vocabulary of {} tokens, {} has {}", base->path(), base->vocab(), model.path(), vocab));
  }
  const auto chunks = chunks_of(arguments, context, model, base ? &*base : nullptr);
  if (!chunks) return tl::make_unexpected(chunks.error());
  auto decoder = (*running)->decoder(scoring_limits(*chunks, vocab));
  if (!decoder) return tl::make_unexpected(decoder.error());

  std::optional<LogitsBaseWriter> writer;
  if (!arguments.save_base.empty()) {
    auto created = LogitsBaseWriter::create(arguments.save_base, *chunks, vocab, model.path());
    if (!created) return tl::make_unexpected(created.error());
    writer = std::move(*created);
  }
  std::optional<KlComparison> comparison;
  if (base) comparison.emplace(*base);

  ThreadTeam& team = (*running)->team;
  Progress progress(stderr);
  const std::int64_t tokens_per_chunk = chunks->context;
  const std::int64_t all_tokens = chunks->count() * tokens_per_chunk;
  progress.update("scoring", 0, all_tokens, "tokens");
  const auto nll = score_chunks(
      **decoder, team, *chunks,
      [&](std::span<const ScoredRow> rows) -> Result<void> {
        if (writer) {
          if (auto done = writer->write(rows, team); !done) return done;
        }
        return comparison ? comparison->add(rows, team) : Result<void>{};
      },
      [&](std::int64_t done) { progress.update("scoring", done * tokens_per_chunk, all_tokens, "tokens"); });
  progress.finish();
  if (!nll) return tl::make_unexpected(nll.error());
  if (writer) {
    if (auto done = writer->commit(); !done) return tl::make_unexpected(done.error());
  }

  const Perplexity result = perplexity_of(*nll);
  if (arguments.json) {
    Json json = {{"model", model.path()}, {"context", chunks->context}, {"chunks", chunks->count()}};
    json.update(to_json(result));
    if (comparison) json["kl"] = to_json(comparison->summary(*nll));
    fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
    return kExitOk;
  }
  if (comparison) print_table(comparison->summary(*nll), base->path());
  fmt::print("perplexity: {:.4f} +/- {:.4f}\n", result.value, result.error);
  return kExitOk;
}

}  // namespace

void add_perplexity(CLI::App& app, Command& command) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* perplexity_command = app.add_subcommand("perplexity", "Measure how well a model predicts a text");
  perplexity_command->footer(examples({"quern perplexity model.gguf --file wiki.test.raw",
                                       "quern perplexity model-f16.gguf --file wiki.test.raw --save-base base.h5",
                                       "quern perplexity model-q4.gguf --kl base.h5"}));
  add_model_options(*perplexity_command, arguments->model);
  perplexity_command->add_option("--file", arguments->file, "The text; -: standard input");
  perplexity_command
      ->add_option("--context", arguments->context,
                   "Tokens of a chunk; its second half is scored (default: 512, with --kl the base's)")
      ->check(CLI::Range(std::int64_t{4}, std::int64_t{1} << 24));
  perplexity_command->add_option("--chunks", arguments->chunks, "Score the first N chunks only; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  perplexity_command->add_option("--kl", arguments->base,
                                 "Compare with the predictions in this file; without --file, on its tokens");
  perplexity_command->add_option("--save-base", arguments->save_base,
                                 "Keep the predictions in this file: two bytes a vocabulary entry and scored token");
  perplexity_command->add_flag("--json", arguments->json, "Print one JSON object");
  perplexity_command->callback([&command, arguments] { command.run = [arguments] { return perplexity(*arguments); }; });
}

}  // namespace quern::tools
