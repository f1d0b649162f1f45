#include "run_speculation.hpp"

#include <algorithm>

#include "infer/model_drafter.hpp"

namespace quern::tools {

namespace {

/// The source that the words ask for.
Result<DraftSource> source_of(const ModelOptions& model, const SpeculationFlags& flags) {
  if (flags.source == "draft" && flags.draft.empty()) return bad_input("--speculate draft: needs --draft MODEL");
  if (!flags.draft.empty() && flags.source != "draft" && flags.source != "auto") {
    return bad_input("--draft: goes with --speculate draft, found --speculate " + flags.source);
  }
  if (model.no_kv_cache) {
    if (flags.draft.empty() && flags.source != "ngram") return DraftSource::none;
    return bad_input("--no-kv-cache: proposals are checked against the cache; expected no --draft and no --speculate");
  }
  if (!flags.draft.empty()) return DraftSource::model;
  // Eigen chooses other kernels by the number of rows: texts could differ from those without proposals.
  if (flags.source == "auto") return model.backend == "eigen" ? DraftSource::none : DraftSource::ngram;
  return flags.source == "ngram" ? DraftSource::ngram : DraftSource::none;
}

}  // namespace

void add_speculation_options(CLI::App& command, SpeculationFlags& flags) {
  command
      .add_option("--speculate", flags.source,
                  "Who proposes tokens that the model checks together, which draws the same tokens faster: the text itself, "
                  "where it repeats (ngram), a smaller model (draft), nobody; auto: draft with --draft, else ngram")
      ->check(CLI::IsMember({"auto", "none", "ngram", "draft"}))
      ->capture_default_str();
  command.add_option("--draft", flags.draft, "A smaller model with the same vocabulary, for --speculate draft");
  command
      .add_option("--draft-tokens", flags.tokens,
                  "Proposals that are checked together at most; as many are made as pay, by what they cost and how often "
                  "they are right")
      ->check(CLI::Range(std::int64_t{1}, kExactRows - 1))
      ->capture_default_str();
}

std::string_view RunningSpeculation::word() const {
  if (options.source == DraftSource::none) return "none";
  return options.source == DraftSource::ngram ? "ngram" : "draft";
}

Result<RunningSpeculation> open_speculation(RunningModel& running, const ModelOptions& model, const SpeculationFlags& flags,
                                            std::int64_t batch) {
  const auto source = source_of(model, flags);
  if (!source) return tl::make_unexpected(source.error());
  RunningSpeculation speculation;
  speculation.options = {.source = *source, .tokens = flags.tokens};
  if (*source != DraftSource::model) return speculation;

  LoadOptions load;
  if (model.precision != "auto") load.precision = model.precision == "bf16" ? Precision::bf16 : Precision::f32;
  load.context_tokens = running.model->context_tokens();
  auto draft = LoadedModel::load(flags.draft, running.backend, running.team, load);
  if (!draft) {  // perhaps its positions end before: then it drafts from the last tokens of a longer text
    load.context_tokens = 0;
    draft = LoadedModel::load(flags.draft, running.backend, running.team, load);
  }
  if (!draft) return tl::make_unexpected(draft.error());
  speculation.model = std::move(*draft);
  if (auto same = check_draft_vocabulary(running.model->tokenizer(), speculation.model->tokenizer()); !same) {
    return bad_input(flags.draft + ": " + same.error().message);
  }
  const std::int64_t context = std::min(running.model->context_tokens(), speculation.model->context_tokens());
  Decoder::Limits limits{.batch_tokens = std::min(context, std::max(batch, kExactRows)), .context_tokens = context};
  limits.kv_type = running.kv_type;
  auto decoder = Decoder::create(running.backend, speculation.model->weights(), running.team, limits);
  if (!decoder) {
    Error error = decoder.error();
    error.message = flags.draft + ": " + error.message;
    return tl::make_unexpected(error);
  }
  speculation.decoder = std::move(*decoder);
  speculation.options.draft = speculation.decoder.get();
  return speculation;
}

}  // namespace quern::tools
