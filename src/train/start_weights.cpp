#include "train/start_weights.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "model/file_kind.hpp"
#include "train/run_config_schema.hpp"

namespace quern {

namespace {

namespace fs = std::filesystem;

tl::unexpected<Error> refuse(const RunConfig& run, std::string_view message) {
  return bad_input(run.at_key("train.from", message));
}

bool is_huggingface_folder(const std::string& folder) {
  std::error_code error;
  for (const char* name : {"config.json", "model.safetensors", "model.safetensors.index.json"}) {
    if (fs::exists(fs::path(folder) / name, error)) return true;
  }
  return false;
}

/// The checkpoint that the key names.
Result<std::string> named_checkpoint(const RunConfig& run) {
  const std::string& from = run.train.from;
  const auto start = read_file_start(from);
  if (!start) return refuse(run, start.error().message);
  const auto convert = [&](std::string_view what) {
    return refuse(run, fmt::format("{} is {}, expected a checkpoint or run folder; `quern convert {} MODEL.h5` makes a "
                                   "checkpoint of it",
                                   from, what, from));
  };
  switch (start->kind) {
    case FileKind::checkpoint:
      return from;
    case FileKind::folder: {
      if (is_huggingface_folder(from)) return convert("a Hugging Face folder");
      auto found = find_checkpoint(from, false);
      if (!found) return refuse(run, found.error().message);
      return found;
    }
    case FileKind::gguf:
      return convert("a GGUF file");
    case FileKind::corpus:
      return refuse(run, fmt::format("{} is a corpus, expected a checkpoint or run folder", from));
    default:
      return refuse(run, fmt::format("{}: expected a checkpoint or run folder, found another file", from));
  }
}

/// Whether `file` lies in `folder`, links followed.
bool lies_in(const std::string& file, const std::string& folder) {
  std::error_code error;
  const fs::path inner = fs::canonical(file, error);
  if (error) return false;
  const fs::path outer = fs::canonical(folder, error);
  if (error) return false;
  return std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end()).first == outer.end();
}

std::string describe(const Tokenizer& tokenizer) {
  return fmt::format("{}, {} tokens", tokenizer_kind_name(tokenizer.kind()), tokenizer.vocab_size());
}

}  // namespace

Result<StartWeights> open_start_weights(const RunConfig& run, bool resume) {
  StartWeights start;
  if (resume) {
    auto newest = find_checkpoint(run.dir, true);
    if (!newest) return bad_input(fmt::format("nothing to resume: {}", newest.error().message));
    start.checkpoint = std::move(*newest);
  } else {
    auto named = named_checkpoint(run);
    if (!named) return tl::make_unexpected(named.error());
    start.checkpoint = std::move(*named);
    // --force would remove it before it is read.
    if (lies_in(start.checkpoint, run.dir)) {
      return refuse(run, fmt::format("{} lies in run.dir, the folder of this run itself; choose another run.dir, or go on "
                                     "with --resume",
                                     start.checkpoint));
    }
  }
  auto info = read_checkpoint_info(start.checkpoint);
  if (!info) return tl::make_unexpected(info.error());
  start.info = std::move(*info);
  auto tokenizer = Tokenizer::from_json(start.info.tokenizer_json, start.checkpoint);
  if (!tokenizer) return tl::make_unexpected(tokenizer.error());
  start.tokenizer = std::move(*tokenizer);
  const ModelConfig& model = start.info.model;
  if (start.tokenizer.vocab_size() > model.vocab) {
    return bad_input(fmt::format("{}: the tokenizer has {} tokens, the model's vocabulary is only {}", start.checkpoint,
                                 start.tokenizer.vocab_size(), model.vocab));
  }
  if (auto known = trainable(model); !known) {
    return bad_input(fmt::format("{}: {}", start.checkpoint, known.error().message));
  }
  return start;
}

Result<void> adopt_model(const StartWeights& start, RunConfig& run) {
  RunConfig adopted;
  adopted.model = start.info.model;
  for (const internal::RunKey& key : internal::run_schema()) {
    if (!key.name.starts_with("model.") || run.origins.find(key.name) == run.origins.end()) continue;
    if (key.name == "model.context" && adopted.model.position != PositionKind::learned) {
      adopted.model.context = run.model.context;
      continue;
    }
    if (key.name == "model.vocab" && run.model.vocab == 0) continue;
    const std::string has = internal::run_key_text(key, adopted);
    const std::string found = internal::run_key_text(key, run);
    if (found == has) continue;
    return bad_input(run.at_key(
        key.name, fmt::format("must be {}, as in the checkpoint {} that training starts from, found {}; without the key it "
                              "is the checkpoint's",
                              has, start.checkpoint, found)));
  }
  run.model = adopted.model;
  return check_context(run, start.checkpoint);
}

Result<void> check_tokenizer(const StartWeights& start, const RunConfig& run, const Corpus& corpus) {
  if (corpus.tokenizer() == start.tokenizer) return {};
  return bad_input(
      run.at_key("data.corpus",
                 fmt::format("{} was prepared with another tokenizer ({}) than that of {} ({}); `quern data prepare SOURCE "
                             "--tokenizer {} --out FILE` makes a corpus with the right one",
                             corpus.path(), describe(corpus.tokenizer()), start.checkpoint, describe(start.tokenizer),
                             start.checkpoint)));
}

}  // namespace quern
