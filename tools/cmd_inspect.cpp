// quern inspect: what a model file, checkpoint, run folder or corpus holds, and what it would need to run.
#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <memory>

#include "command.hpp"
#include "describe_corpus.hpp"
#include "inspect_file.hpp"
#include "model/checkpoint.hpp"
#include "model/file_kind.hpp"
#include "model/gguf_values.hpp"
#include "model/tokenizer.hpp"
#include "run_statistics.hpp"

namespace quern::tools {

using Json = nlohmann::ordered_json;

namespace {

std::vector<TensorLine> tensor_lines(const ParameterLayout& layout) {
  std::vector<TensorLine> lines;
  for (const Parameter& parameter : layout.parameters) {
    TensorLine line{.name = parameter.name,
                    .type = "F32",
                    .shape = {parameter.rows},
                    .elements = parameter.count(),
                    .bytes = static_cast<std::size_t>(parameter.count()) * 4};
    // As the dataset has it: [outputs, inputs].
    if (parameter.kind != ParameterKind::norm && parameter.kind != ParameterKind::bias) line.shape.push_back(parameter.cols);
    lines.push_back(std::move(line));
  }
  return lines;
}

// NaN and infinity, which stand for "none yet", as null.
Json finite_or_null(double value) { return std::isfinite(value) ? Json(value) : Json(); }

Result<int> inspect(const InspectOptions& options) {
  const auto start = read_file_start(options.file);
  if (!start) return tl::make_unexpected(start.error());
  if (options.verify && start->kind != FileKind::gguf) {
    return bad_input(fmt::format("{}: only GGUF files have checksums that --verify checks", options.file));
  }
  switch (start->kind) {
    case FileKind::folder:
    case FileKind::checkpoint:
      return inspect_checkpoint(options);
    case FileKind::gguf:
      return options.verify ? verify_gguf(options) : inspect_gguf(options);
    case FileKind::corpus:
      return inspect_corpus(options);
    case FileKind::json:
    case FileKind::other:
      break;
  }
  return bad_input(
      fmt::format("{}: expected a GGUF file, a checkpoint, a run folder or a corpus, found a file that begins "
                  "with '{}'",
                  options.file, internal::shown(start->bytes)));
}

}  // namespace

Result<int> inspect_checkpoint(const InspectOptions& options) {
  const auto path = find_checkpoint(options.file, false);
  if (!path) return tl::make_unexpected(path.error());
  const auto info = read_checkpoint_info(*path);
  if (!info) return tl::make_unexpected(info.error());
  std::error_code code;
  const auto file_bytes = static_cast<std::size_t>(std::filesystem::file_size(*path, code));
  const ParameterLayout layout = parameter_layout(info->model);
  // The f32 block, and the matrices once more as packs of f32.
  const auto weight_bytes = static_cast<std::size_t>(layout.elements + layout.matmul_parameter_count()) * 4;
  const auto tokenizer = Tokenizer::from_json(info->tokenizer_json, *path);
  if (options.json) {
    Json json = {{"file", *path},
                 {"kind", "checkpoint"},
                 {"file_bytes", file_bytes},
                 {"quern_version", info->quern_version},
                 {"step", info->step},
                 {"has_optimizer", info->has_optimizer},
                 {"val_loss", finite_or_null(info->val_loss)},
                 {"best_val_loss", finite_or_null(info->best_val_loss)},
                 {"train_seconds", finite_or_null(info->train_seconds)},
                 {"tokenizer", tokenizer ? Json(tokenizer_kind_name(tokenizer->kind())) : Json()},
                 {"model", Json::parse(to_json(info->model), nullptr, false)}};
    add_tensors(json, tensor_lines(layout));
    json["memory"] = memory_json(info->model, weight_bytes, options);
    print_json(json);
    return kExitOk;
  }
  fmt::print("{}\n", *path);
  fmt::print("  {:<12}checkpoint of step {}, {}, {} optimizer state, by quern {}\n", "kind", info->step,
             bytes_text(file_bytes), info->has_optimizer ? "with" : "without", internal::shown(info->quern_version));
  if (std::isfinite(info->val_loss)) {
    fmt::print("  {:<12}{:.4f}, best {:.4f}, after {:.0f} s of training\n", "val_loss", info->val_loss, info->best_val_loss,
               info->train_seconds);
  }
  if (tokenizer) {
    fmt::print("  {:<12}{}, {} tokens\n", "tokenizer", tokenizer_kind_name(tokenizer->kind()), tokenizer->vocab_size());
  }
  fmt::print("  {:<12}{}\n", "model", to_json(info->model));
  print_tensors(tensor_lines(layout), options.all_tensors);
  print_memory(info->model, weight_bytes, options);
  return kExitOk;
}

Result<int> inspect_corpus(const InspectOptions& options) {
  const auto corpus = Corpus::open(options.file);
  if (!corpus) return tl::make_unexpected(corpus.error());
  if (options.json) {
    Json json = corpus_json(*corpus);
    json["kind"] = "corpus";
    print_json(json);
  } else {
    print_corpus(*corpus);
  }
  return kExitOk;
}

void add_inspect(CLI::App& app, Command& command) {
  const auto options = std::make_shared<InspectOptions>();
  CLI::App* inspect_command = app.add_subcommand(
      "inspect", "Describe a model file, checkpoint, run folder or corpus, and what it would need to run");
  inspect_command->footer(examples({"quern inspect model.gguf", "quern inspect model.gguf --context 32768 --json",
                                    "quern inspect runs/kjv --tensors", "quern inspect model.gguf --verify"}));
  inspect_command->add_option("FILE", options->file, "A GGUF file, a checkpoint, a run folder or a corpus")->required();
  inspect_command->add_flag("--json", options->json, "Print one JSON object");
  inspect_command->add_option("--context", options->context, "Tokens of context to say the memory for")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 32));
  inspect_command->add_flag("--verify", options->verify,
                            "Check the tensors of a GGUF file against the SHA-256 checksums in its metadata");
  inspect_command->add_flag("--tensors", options->all_tensors, "List every tensor, not layers that are alike as one line");
  inspect_command->callback([&command, options] { command.run = [options] { return inspect(*options); }; });
}

}  // namespace quern::tools
