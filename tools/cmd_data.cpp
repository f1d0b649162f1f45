// quern data: prepare a corpus, describe one, write out its tokenizer.
#include <fmt/format.h>

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "command.hpp"
#include "describe_corpus.hpp"
#include "model/atomic_file.hpp"
#include "progress.hpp"
#include "tokenizer_of_file.hpp"
#include "train/corpus.hpp"
#include "train/prepare.hpp"
#include "train/reuse_corpus.hpp"

namespace quern::tools {

namespace {

/// Opens a corpus that the user named; a name with no file behind it is bad input.
Result<Corpus> open_corpus(const std::string& file) {
  std::error_code code;
  const auto status = std::filesystem::status(file, code);
  if (!std::filesystem::exists(status)) return bad_input(fmt::format("{}: no such file", file));
  if (std::filesystem::is_directory(status)) return bad_input(fmt::format("{}: a folder, expected a corpus file", file));
  return Corpus::open(file);
}

/// The error of reading a source, as bad input where the user named something that is not there.
tl::unexpected<Error> source_error(const PrepareOptions& options, Error error) {
  std::error_code code;
  if (options.source != "kjv" && !std::filesystem::exists(options.source, code)) error.code = ErrorCode::bad_input;
  return tl::make_unexpected(std::move(error));
}

/// Whether `options.out` already is what would be written. An error where something else is there.
Result<bool> is_there(const PrepareOptions& options) {
  std::error_code code;
  if (!std::filesystem::exists(options.out, code)) return false;
  const auto corpus = open_corpus(options.out);
  if (!corpus) {
    return bad_input(
        fmt::format("{} exists and is no corpus; --force replaces it ({})", options.out, corpus.error().message));
  }
  const auto difference = corpus_difference(*corpus, options);
  if (!difference) return source_error(options, difference.error());
  if (!difference->empty()) return bad_input(fmt::format("{} exists and {}; --force replaces it", options.out, *difference));
  return true;
}

/// `word` is a kind of tokenizer to make, or names a file that has one.
Result<void> choose_tokenizer(const std::string& word, bool vocab_given, PrepareOptions& options) {
  static const std::map<std::string, TokenizerKind> kinds = {
      {"char", TokenizerKind::characters}, {"byte", TokenizerKind::bytes}, {"bpe", TokenizerKind::bpe}};
  if (const auto kind = kinds.find(word); kind != kinds.end()) {
    options.tokenizer = kind->second;
    return {};
  }
  // A corpus may be prepared again with its own tokenizer; a model would be lost.
  std::error_code code;
  if (std::filesystem::equivalent(options.out, word, code) && !open_corpus(options.out)) {
    return bad_input(fmt::format("{}: is both the file of the tokenizer and the corpus to write", options.out));
  }
  auto tokenizer = tokenizer_of_file(word);
  if (!tokenizer) {
    return bad_input(
        fmt::format("--tokenizer: expected char, byte, bpe or a file that has one: {}", tokenizer.error().message));
  }
  if (vocab_given) return bad_input(fmt::format("--vocab: {} has a vocabulary of its own; expected only with bpe", word));
  options.ready_tokenizer = std::move(*tokenizer);
  options.ready_tokenizer_name = word;
  return {};
}

Result<int> prepare(PrepareOptions options, bool force) {
  options.quern_version = QUERN_VERSION;
  Progress progress(stderr);
  options.progress = [&](const PrepareProgress& at) {
    progress.update(at.stage, at.done, at.total, at.stage == "merging" ? "tokens" : "B");
  };
  if (!force) {
    const auto there = is_there(options);
    progress.finish();
    if (!there) return tl::make_unexpected(there.error());
    if (*there) {
      fmt::print("{} is up to date: same text, tokenizer and split (--force prepares it again)\n", options.out);
      return kExitOk;
    }
  }
  const auto report = prepare_corpus(options);
  progress.finish();
  if (!report) return source_error(options, report.error());
  const auto corpus = Corpus::open(options.out);
  if (!corpus) return tl::make_unexpected(corpus.error());
  print_corpus(*corpus);
  fmt::print("  {:<12}{:.1f} s ({:.1f} tokenizer, {:.1f} encoding)\n", "took", report->seconds, report->tokenizer_seconds,
             report->encode_seconds);
  return kExitOk;
}

Result<int> info(const std::string& file, bool json) {
  const auto corpus = open_corpus(file);
  if (!corpus) return tl::make_unexpected(corpus.error());
  if (json) {
    fmt::print("{}\n", corpus_json(*corpus).dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
  } else {
    print_corpus(*corpus);
  }
  return kExitOk;
}

Result<int> tokenizer(const std::string& file, const std::string& out) {
  const auto corpus = open_corpus(file);
  if (!corpus) return tl::make_unexpected(corpus.error());
  if (auto written = write_file_atomically(out, corpus->tokenizer().to_huggingface_json()); !written) {
    return tl::make_unexpected(written.error());
  }
  fmt::print("{}: {} tokens\n", out, corpus->tokenizer().vocab_size());
  return kExitOk;
}

void add_prepare(CLI::App& data, Command& command) {
  struct Arguments {
    PrepareOptions options;
    std::string tokenizer = "bpe";
    bool force = false;
  };
  const auto arguments = std::make_shared<Arguments>();
  PrepareOptions& options = arguments->options;
  CLI::App* prepare_command =
      data.add_subcommand("prepare", "Turn text into a corpus: tokens, split, tokenizer in one file");
  prepare_command->footer(examples({"quern data prepare kjv --tokenizer bpe --vocab 4096 --out data/kjv.h5",
                                    "quern data prepare input.txt --tokenizer char --split 0.9 --out data/chars.h5",
                                    "quern data prepare input.txt --tokenizer model.gguf --out data/input.h5",
                                    "quern data prepare stories.jsonl --field text --out data/stories.h5"}));
  prepare_command
      ->add_option("SOURCE", options.source, "kjv (of Debian's bible-kjv), a text file, a folder of them, or a .jsonl file")
      ->required();
  prepare_command
      ->add_option("--tokenizer", arguments->tokenizer,
                   "char, byte or bpe to make one; or a file that has one: a model, tokenizer.json, run or corpus")
      ->capture_default_str();
  auto* vocab = prepare_command->add_option("--vocab", options.vocab, "Tokens in all (bpe)")->capture_default_str();
  prepare_command->add_option("--split", options.split, "Part that trains; the rest validates")->capture_default_str();
  prepare_command->add_option("--field", options.field, "Key of the text in JSONL lines")->capture_default_str();
  prepare_command->add_option("--out", options.out, "The corpus to write (HDF5)")->required();
  prepare_command->add_option("--threads", options.threads, "0: the processors this process may use")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  prepare_command->add_flag("--force", arguments->force, "Write even where the corpus is there");
  prepare_command->callback([&command, arguments, vocab] {
    const bool vocab_given = vocab->count() > 0;
    command.run = [arguments, vocab_given]() -> Result<int> {
      if (auto chosen = choose_tokenizer(arguments->tokenizer, vocab_given, arguments->options); !chosen) {
        return tl::make_unexpected(chosen.error());
      }
      return prepare(arguments->options, arguments->force);
    };
  });
}

void add_info(CLI::App& data, Command& command) {
  struct Arguments {
    std::string file;
    bool json = false;
  };
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* info_command = data.add_subcommand("info", "Describe a corpus: source, tokenizer, tokens and bytes per split");
  info_command->footer(examples({"quern data info data/kjv.h5"}));
  info_command->add_option("FILE", arguments->file, "A corpus")->required();
  info_command->add_flag("--json", arguments->json, "Print one JSON object");
  info_command->callback(
      [&command, arguments] { command.run = [arguments] { return info(arguments->file, arguments->json); }; });
}

void add_tokenizer(CLI::App& data, Command& command) {
  struct Arguments {
    std::string file, out;
  };
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* tokenizer_command =
      data.add_subcommand("tokenizer", "Write a corpus's tokenizer as Hugging Face's tokenizer.json");
  tokenizer_command->footer(examples({"quern data tokenizer data/kjv.h5 --out tokenizer.json"}));
  tokenizer_command->add_option("FILE", arguments->file, "A corpus")->required();
  tokenizer_command->add_option("--out", arguments->out, "The file to write")->required();
  tokenizer_command->callback(
      [&command, arguments] { command.run = [arguments] { return tokenizer(arguments->file, arguments->out); }; });
}

}  // namespace

void add_data(CLI::App& app, Command& command) {
  CLI::App* data = app.add_subcommand("data", "Prepare and describe corpora");
  data->require_subcommand(1);
  data->footer(examples({"quern data prepare kjv --out data/kjv.h5", "quern data info data/kjv.h5"}));
  add_prepare(*data, command);
  add_info(*data, command);
  add_tokenizer(*data, command);
}

}  // namespace quern::tools
