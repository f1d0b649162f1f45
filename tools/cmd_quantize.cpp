// quern quantize: a GGUF model with its matrices in other number formats.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "command.hpp"
#include "infer/importance_matrix.hpp"
#include "infer/quantize_mix.hpp"
#include "infer/quantize_model.hpp"
#include "inspect_file.hpp"
#include "math/block_formats.hpp"
#include "math/dispatch.hpp"
#include "math/process_memory.hpp"
#include "model/gguf_file.hpp"
#include "model/gguf_values.hpp"
#include "output_path.hpp"
#include "progress.hpp"
#include "quantize_auto.hpp"
#include "quantize_report.hpp"
#include "run_model.hpp"
#include "run_statistics.hpp"

namespace quern::tools {

namespace {

using Json = nlohmann::ordered_json;

struct Arguments {
  std::string in, out, type;
  std::string importance;
  std::vector<std::string> overrides;  ///< REGEX=TYPE
  std::string output_type;
  std::int64_t threads = 0;
  AutoArguments automatic;  ///< of TYPE auto:SIZE
  bool pure = false, checksums = false, dry_run = false, all = false, json = false, force = false;
};

Result<ElementType> type_named(const std::string& name, std::string_view option) {
  const BlockFormat* format = find_block_format(name);
  if (format == nullptr || !can_quantize(format->type)) {
    return bad_input(
        fmt::format("{}: expected a type such as Q4_K, Q8_0 or F16, found '{}'", option, internal::shown(name)));
  }
  return format->type;
}

Result<MixOptions> mix_options(const Arguments& arguments) {
  MixOptions options;
  options.mix = arguments.type;
  options.pure = arguments.pure;
  options.has_importance = !arguments.importance.empty();
  if (!arguments.output_type.empty()) {
    const auto type = type_named(arguments.output_type, "--keep-output");
    if (!type) return tl::make_unexpected(type.error());
    options.output = *type;
  }
  for (const std::string& text : arguments.overrides) {
    const std::size_t at = text.rfind('=');
    if (at == std::string::npos || at == 0) {
      return bad_input(fmt::format("--tensor-type: expected REGEX=TYPE, found '{}'", internal::shown(text)));
    }
    const auto type = type_named(text.substr(at + 1), "--tensor-type");
    if (!type) return tl::make_unexpected(type.error());
    options.overrides.emplace_back(text.substr(0, at), *type);
  }
  return options;
}

Result<std::optional<ImportanceMatrix>> load_importance(const std::string& path, const GgufFile& file) {
  std::optional<ImportanceMatrix> none;
  if (path.empty()) return none;
  auto matrix = load_importance_matrix(path);
  if (!matrix) return tl::make_unexpected(matrix.error());
  const auto tensors = file.tensors();
  if (std::none_of(tensors.begin(), tensors.end(),
                   [&](const GgufTensor& tensor) { return matrix->weights.contains(tensor.name); })) {
    return bad_input(fmt::format("{}: it says nothing about any tensor of {}", path, file.name()));
  }
  if (auto fits = fit_importance_matrix(*matrix, file, path); !fits) return tl::make_unexpected(fits.error());
  return std::optional<ImportanceMatrix>(std::move(*matrix));
}

void warn_of_quantized_source(const GgufFile& file, const std::vector<TensorChoice>& choices) {
  const auto twice = std::count_if(choices.begin(), choices.end(), [](const TensorChoice& choice) {
    return choice.quantize && block_format(choice.tensor->type).quantized;
  });
  if (twice == 0) return;
  fmt::print(stderr,
             "quern: warning: {} tensors of {} are quantized already, and what that lost stays lost; errors are measured "
             "against them as they are\n",
             twice, internal::shown(file.name()));
}

/// The plan of a dry run: types and bytes.
std::vector<QuantizedTensor> plan_of(const std::vector<TensorChoice>& choices) {
  std::vector<QuantizedTensor> plan;
  for (const TensorChoice& choice : choices) {
    QuantizedTensor& tensor = plan.emplace_back();
    tensor.choice = choice;
    tensor.bytes = choice.quantize ? bytes_of(choice.type, choice.tensor->elements()).value_or(0) : choice.tensor->bytes;
  }
  return plan;
}

Result<int> quantize_file(const Arguments& arguments) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const auto options = mix_options(arguments);
  if (!options) return tl::make_unexpected(options.error());
  const auto kernels = chosen_kernels();
  if (!kernels) return tl::make_unexpected(kernels.error());
  const auto file = GgufFile::open(arguments.in);
  if (!file) return tl::make_unexpected(file.error());
  if (!arguments.dry_run) {
    const std::vector<std::string> inputs{arguments.in, arguments.importance, arguments.automatic.file};
    if (auto free = check_output(arguments.out, inputs, arguments.force); !free) return tl::make_unexpected(free.error());
  }
  const auto importance = load_importance(arguments.importance, *file);
  if (!importance) return tl::make_unexpected(importance.error());
  ThreadTeam team(arguments.threads > 0 ? static_cast<int>(arguments.threads) : default_thread_count());
  Progress progress(stderr);
  const ImportanceMatrix* weights = *importance ? &**importance : nullptr;
  std::optional<AutoTypes> automatic;
  Result<std::vector<TensorChoice>> choices;
  if (is_auto(arguments.type)) {
    if (arguments.pure) return bad_input("--pure is for mixes: auto:SIZE chooses a type for each tensor");
    catch_endings(true);
    AutoArguments request = arguments.automatic;
    request.checksums = arguments.checksums;
    auto chosen = choose_auto(*file, arguments.type, request, *options, weights, **kernels, team, progress);
    if (!chosen && interrupted()) return report_interrupt(chosen.error());
    if (!chosen) return tl::make_unexpected(chosen.error());
    automatic = std::move(*chosen);
    choices = automatic->choices;
    if (weights == nullptr) weights = &automatic->importance;
  } else {
    if (auto none = refuse_auto_options(arguments.automatic); !none) return tl::make_unexpected(none.error());
    choices = choose_types(*file, *options);
  }
  if (!choices) return tl::make_unexpected(choices.error());
  warn_of_quantized_source(*file, *choices);

  std::vector<QuantizedTensor> tensors;
  double seconds = 0.0;
  if (arguments.dry_run) {
    tensors = plan_of(*choices);
  } else {
    catch_endings(false);
    QuantizeOptions run;
    run.importance = weights;
    run.importance_path = arguments.importance.empty() ? "gathered by auto" : arguments.importance;
    run.file_type_name = options->mix;
    run.checksums = arguments.checksums;
    run.progress = [&](std::size_t, std::size_t done, std::size_t all) -> Result<void> {
      progress.update("quantizing", static_cast<std::int64_t>(done), static_cast<std::int64_t>(all), "B");
      if (interrupted()) return io_error("interrupted: nothing was written");
      return {};
    };
    auto written = quantize_model(*file, *choices, **kernels, team, arguments.out, run);
    progress.finish();
    if (!written && interrupted()) return report_interrupt(written.error());
    if (!written) return tl::make_unexpected(written.error());
    tensors = std::move(*written);
    seconds = std::chrono::duration<double>(Clock::now() - start).count();
  }

  const QuantizeReport report{
      .tensors = tensors, .measured = !arguments.dry_run, .weighted = weights != nullptr, .all = arguments.all};
  if (arguments.json) {
    Json json = {{"input", arguments.in},
                 {"output", arguments.out},
                 {"type", arguments.type},
                 {"dry_run", arguments.dry_run},
                 {"imatrix", arguments.importance.empty() ? Json() : Json(arguments.importance)},
                 {"checksums", arguments.checksums}};
    if (!arguments.dry_run) {
      json["seconds"] = seconds;
      json["peak_bytes"] = peak_resident_bytes();
    }
    if (automatic) json["auto"] = auto_json(*automatic);
    add_report(json, report);
    print_json(json);
    return kExitOk;
  }
  fmt::print("{} -> {}{}\n", arguments.in, arguments.out, arguments.dry_run ? " (dry run: nothing is written)" : "");
  if (automatic) print_auto(*automatic);
  print_report(report);
  if (!arguments.dry_run) {
    fmt::print("{:.1f} s, peak memory {}{}\n", seconds, bytes_text(peak_resident_bytes()),
               arguments.checksums ? "; quern inspect --verify checks the tensors' SHA-256" : "");
  }
  return kExitOk;
}

}  // namespace

void add_quantize(CLI::App& app, Command& command) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* quantize_command = app.add_subcommand("quantize", "Write a GGUF model with its matrices in smaller formats");
  quantize_command->footer(
      examples({"quern quantize model-f16.gguf model-q4.gguf Q4_K_M",
                "quern quantize model-f16.gguf model-q4.gguf Q4_K_M --imatrix model.imatrix.gguf --checksums",
                "quern quantize model-f16.gguf model-q4.gguf Q4_K_M --tensor-type 'ffn_down=Q6_K' --dry-run",
                "quern quantize model-f16.gguf model-auto.gguf auto:4.5GiB --file calibration.txt"}));
  quantize_command->add_option("IN", arguments->in, "A GGUF model, of floats or quantized")->required();
  quantize_command->add_option("OUT", arguments->out, "The GGUF file to write")->required();
  std::string names;
  for (const std::string_view name : mix_names()) names += fmt::format("{}{}", names.empty() ? "" : ", ", name);
  quantize_command
      ->add_option("TYPE", arguments->type, "auto:SIZE (4.5GiB, 900MB, 4.2bpw: types by measurement), or a mix: " + names)
      ->required();
  quantize_command->add_option("--imatrix", arguments->importance,
                               "Weigh errors by these activation statistics (quern imatrix)");
  quantize_command
      ->add_option("--tensor-type", arguments->overrides,
                   "REGEX=TYPE: the type of tensors in whose name the expression is found; the first such counts")
      ->allow_extra_args(false);
  quantize_command->add_flag("--pure", arguments->pure, "One type for all quantized tensors, not a mix");
  quantize_command->add_option("--keep-output", arguments->output_type,
                               "Type of output.weight (token_embd.weight where it is tied)");
  add_auto_options(*quantize_command, arguments->automatic);
  quantize_command->add_flag("--checksums", arguments->checksums, "Keep the SHA-256 of each tensor in the metadata");
  quantize_command->add_option("--threads", arguments->threads, "Threads; 0: as many as there are processors")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1024}));
  quantize_command->add_flag("--dry-run", arguments->dry_run, "Show types and sizes, write nothing");
  quantize_command->add_flag("--all", arguments->all, "List every tensor, not layers that are alike as one line");
  quantize_command->add_flag("--json", arguments->json, "Print one JSON object");
  quantize_command->add_flag("--force", arguments->force, "Replace OUT where it exists");
  quantize_command->callback([&command, arguments] { command.run = [arguments] { return quantize_file(*arguments); }; });
}

}  // namespace quern::tools
