#include "quantize_auto.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <string_view>

#include "math/block_formats.hpp"
#include "model/tokenizer.hpp"
#include "run_model.hpp"

namespace quern::tools {

namespace {
constexpr std::string_view kAuto = "auto:";
/// A checksum's entry: length, hash, type, shape and name.
constexpr std::size_t kChecksumBytes = 192;
}  // namespace

void add_auto_options(CLI::App& command, AutoArguments& arguments) {
  command.add_option("--file", arguments.file, "auto: the calibration text on which errors are measured; -: standard input");
  command.add_flag("--quick", arguments.quick,
                   "auto: measure the sensitivity of each kind of tensor over all layers together, not by layer");
  command.add_option("--context", arguments.context, "auto: tokens of a calibration chunk")
      ->check(CLI::Range(std::int64_t{8}, std::int64_t{1} << 20))
      ->capture_default_str();
  command
      .add_option("--chunks", arguments.chunks,
                  "auto: calibration chunks to use, spread over the text; 0: all, with --imatrix 16")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
}

bool is_auto(const std::string& type) {
  return type.size() >= kAuto.size() && std::equal(kAuto.begin(), kAuto.end(), type.begin(), [](char a, char b) {
           return a == std::tolower(static_cast<unsigned char>(b));
         });
}

Result<void> refuse_auto_options(const AutoArguments& arguments) {
  const AutoArguments none;
  if (arguments.file.empty() && !arguments.quick && arguments.chunks == none.chunks && arguments.context == none.context) {
    return {};
  }
  return bad_input("--file, --quick, --context and --chunks are for the type auto:SIZE");
}

Result<AutoTypes> choose_auto(const GgufFile& file, const std::string& type, const AutoArguments& arguments,
                              const MixOptions& mix, const ImportanceMatrix* importance, const KernelTable& kernels,
                              ThreadTeam& team, Progress& progress) {
  const auto budget = SizeBudget::parse(std::string_view(type).substr(kAuto.size()));
  if (!budget) return bad_input(fmt::format("auto:SIZE: {}", budget.error().message));
  if (arguments.file.empty()) {
    return bad_input(fmt::format("{}: --file with a calibration text is required, on which errors are measured", type));
  }
  const auto tokenizer = Tokenizer::from_gguf(file);
  if (!tokenizer) return tl::make_unexpected(tokenizer.error());
  const auto text = read_text(arguments.file);
  if (!text) return tl::make_unexpected(text.error());
  const auto tokens = tokenizer->encode(*text, {.parse_special = false, .add_special = true});
  if (!tokens) return tl::make_unexpected(tokens.error());
  AutoTypesOptions options;
  options.budget = *budget;
  options.importance = importance;
  options.dataset = arguments.file;
  options.output = mix.output;
  options.overrides = mix.overrides;
  options.quick = arguments.quick;
  options.context_tokens = arguments.context;
  options.chunks = arguments.chunks;
  if (arguments.checksums) options.metadata_bytes += kChecksumBytes * file.tensors().size();
  options.progress = [&](std::string_view stage, std::int64_t done, std::int64_t all) -> Result<void> {
    progress.update(stage, done, all, stage == "gathering activations" ? "chunks" : "tensors");
    if (interrupted()) return io_error("interrupted: nothing was written");
    return {};
  };
  const SpecialTokens& special = tokenizer->special_tokens();
  auto chosen =
      choose_auto_types(file, {&kernels, false}, team, *tokens, special.add_bos ? special.bos : std::nullopt, options);
  progress.finish();
  return chosen;
}

void print_auto(const AutoTypes& types) {
  fmt::print("{:<32}{:>10}{:>14}{:>14}{:>14}\n", "tensor", "type", "output error", "sensitivity", "divergence");
  for (const AutoTensor& tensor : types.tensors) {
    fmt::print("{:<32}{:>10}{:>12.3f} %{:>14.4g}{:>14.3g}{}\n", tensor.name, block_format(tensor.type).name,
               100.0 * tensor.output_error, tensor.sensitivity, tensor.divergence, tensor.asked_for ? "  asked for" : "");
  }
  fmt::print("predicted: a mean KL divergence of {:.4g} nats at {:.3f} bits per weight\n", types.divergence,
             types.bits_per_weight);
}

nlohmann::ordered_json auto_json(const AutoTypes& types) {
  nlohmann::ordered_json tensors = nlohmann::ordered_json::array();
  for (const AutoTensor& tensor : types.tensors) {
    tensors.push_back({{"name", tensor.name},
                       {"type", block_format(tensor.type).name},
                       {"bytes", tensor.bytes},
                       {"output_error", tensor.output_error},
                       {"sensitivity", tensor.sensitivity},
                       {"divergence", tensor.divergence},
                       {"asked_for", tensor.asked_for}});
  }
  return {{"predicted_kl", types.divergence}, {"bits_per_weight", types.bits_per_weight}, {"tensors", std::move(tensors)}};
}

}  // namespace quern::tools
