// quern imatrix: how large the inputs of a model's matrices are over a text, for quantizing.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "command.hpp"
#include "infer/collect_importance.hpp"
#include "output_path.hpp"
#include "progress.hpp"
#include "run_model.hpp"

namespace quern::tools {

namespace {

using Json = nlohmann::ordered_json;

/// Tensors that the table shows; --json has all.
constexpr std::size_t kShownTensors = 10;

struct Arguments {
  ModelOptions model;
  std::string file;
  std::string out;
  std::int64_t context = 512;
  std::int64_t chunks = 0;
  bool head = false;
  bool force = false;
  bool json = false;
};

Result<ScoringChunks> chunks_of(const Arguments& arguments, const LoadedModel& model) {
  const auto text = read_text(arguments.file);
  if (!text) return tl::make_unexpected(text.error());
  const Tokenizer& tokenizer = model.tokenizer();
  const SpecialTokens& special = tokenizer.special_tokens();
  auto tokens = tokenizer.encode(*text, {.parse_special = false, .add_special = true});
  if (!tokens) return tl::make_unexpected(tokens.error());
  return ScoringChunks::cut(*tokens, arguments.context, arguments.chunks, special.add_bos ? special.bos : std::nullopt,
                            arguments.file);
}

void print_json(const Arguments& arguments, const LoadedModel& model, const ImportanceMatrix& matrix) {
  Json tensors = Json::array();
  for (const ImportanceStatistics& s : importance_statistics(matrix)) {
    tensors.push_back({{"tensor", s.tensor},
                       {"rows", s.rows},
                       {"mean_square", s.mean_square},
                       {"largest_share", s.largest_share},
                       {"effective_share", s.effective_share}});
  }
  const Json json = {{"model", model.path()},
                     {"out", arguments.out},
                     {"context", matrix.chunk_tokens},
                     {"chunks", matrix.chunks},
                     {"tensors", std::move(tensors)}};
  fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
}

void print_table(const Arguments& arguments, const ImportanceMatrix& matrix) {
  const auto all = importance_statistics(matrix);
  fmt::print("{}: {} tensors, {} chunks of {} tokens\n", arguments.out, all.size(), matrix.chunks, matrix.chunk_tokens);
  double unseen = 0.0;
  double experts = 0.0;
  for (const auto& [name, sums] : matrix.weights) {
    if (sums.matrices == 1) continue;
    experts += static_cast<double>(sums.matrices);
    unseen += static_cast<double>(std::count(sums.counts.begin(), sums.counts.end(), 0.0F));
  }
  if (unseen > 0.0) {
    fmt::print("{:.0f} of {:.0f} expert matrices saw no token: a longer text would tell more\n", unseen, experts);
  }
  fmt::print("The most uneven inputs (columns in use: how many equal columns would be as uneven):\n");
  fmt::print("{:<32}{:>14}{:>16}{:>18}\n", "tensor", "mean square", "columns in use", "largest column");
  for (std::size_t i = 0; i < std::min(all.size(), kShownTensors); ++i) {
    fmt::print("{:<32}{:>14.4g}{:>14.1f} %{:>16.1f} %\n", all[i].tensor, all[i].mean_square, 100.0 * all[i].effective_share,
               100.0 * all[i].largest_share);
  }
}

Result<int> imatrix(const Arguments& arguments) {
  if (auto free = check_output(arguments.out, {arguments.model.model, arguments.file}, arguments.force); !free) {
    return tl::make_unexpected(free.error());
  }
  catch_endings(true);
  auto running = load_model(arguments.model, arguments.context);
  if (!running) return tl::make_unexpected(running.error());
  const LoadedModel& model = *(*running)->model;
  const auto chunks = chunks_of(arguments, model);
  if (!chunks) return tl::make_unexpected(chunks.error());

  Progress progress(stderr);
  const std::int64_t all_tokens = chunks->count() * chunks->context;
  progress.update("gathering", 0, all_tokens, "tokens");
  CollectOptions options;
  options.head = arguments.head;
  options.fused_too = model.architecture() == "checkpoint";
  options.dataset = arguments.file;
  options.progress = [&](std::int64_t done) -> Result<void> {
    progress.update("gathering", done * chunks->context, all_tokens, "tokens");
    if (interrupted()) return io_error("interrupted: nothing was written");
    return {};
  };
  const auto matrix = collect_importance((*running)->backend, model.weights(), (*running)->team, *chunks, options);
  progress.finish();
  if (!matrix && interrupted()) return report_interrupt(matrix.error());
  if (!matrix) return tl::make_unexpected(matrix.error());
  if (auto saved = save_importance_matrix(*matrix, arguments.out); !saved) return tl::make_unexpected(saved.error());
  if (arguments.json) {
    print_json(arguments, model, *matrix);
  } else {
    print_table(arguments, *matrix);
  }
  return kExitOk;
}

}  // namespace

void add_imatrix(CLI::App& app, Command& command) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* imatrix_command = app.add_subcommand("imatrix", "Gather activation statistics of a model, for quantizing");
  imatrix_command->footer(examples({"quern imatrix model-f16.gguf --file calibration.txt -o model.imatrix.gguf",
                                    "quern imatrix model-f16.gguf --file calibration.txt --chunks 100 -o model.imatrix.gguf",
                                    "quern quantize model-f16.gguf model-q4.gguf Q4_K_M --imatrix model.imatrix.gguf"}));
  add_model_options(*imatrix_command, arguments->model);
  imatrix_command->add_option("--file", arguments->file, "The calibration text; -: standard input")->required();
  imatrix_command->add_option("-o,--out", arguments->out, "The file to write")->required();
  imatrix_command->add_option("--context", arguments->context, "Tokens of a chunk")
      ->check(CLI::Range(std::int64_t{4}, std::int64_t{1} << 24))
      ->capture_default_str();
  imatrix_command->add_option("--chunks", arguments->chunks, "Use the first N chunks only; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  imatrix_command->add_flag("--output-tensor", arguments->head,
                            "Of output.weight too (token_embd.weight where it is tied): computes all logits");
  imatrix_command->add_flag("--force", arguments->force, "Replace what is there");
  imatrix_command->add_flag("--json", arguments->json, "Print one JSON object with statistics of every tensor");
  imatrix_command->callback([&command, arguments] { command.run = [arguments] { return imatrix(*arguments); }; });
}

}  // namespace quern::tools
