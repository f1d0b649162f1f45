// Files with what `quern tune` found: one for each model or run on each machine, in the user's configuration folder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "math/hardware.hpp"
#include "math/result.hpp"
#include "model/gguf_file.hpp"
#include "model/model_config.hpp"
#include "train/run_config.hpp"
#include "tuned_settings.hpp"

namespace quern::tools {

/// For what settings were found: the machine as this process sees it, and the model's shape and types, whatever its file is
/// called. Texts are compared whole.
struct TuningKey {
  std::string processor{};
  std::string instruction_set{};  ///< the path in use
  std::string processors{};       ///< that this process may use, such as "0-3"
  std::int64_t threads = 0;       ///< that it has by default, which a container's quota may lower
  std::int64_t numa_nodes = 0;
  std::string work{};   ///< "inference" or "training"
  std::string model{};  ///< such as "llama, 22 layers, width 2048, ..."
  std::string types{};  ///< such as "45 f32, 135 q4_K, 21 q6_K"; of training batch, length and precision

  bool operator==(const TuningKey&) const = default;
};

/// The types of models that are packed in memory: checkpoints.
inline constexpr std::string_view kPackedTypes = "packed";

/// The part of a key that the machine gives; `work`, `model` and `types` are empty. Error: an unknown QUERN_ISA.
[[nodiscard]] Result<TuningKey> machine_key(const HardwareReport& hardware);
/// The same of this machine.
[[nodiscard]] Result<TuningKey> machine_key();
/// Completes the key for inference. `architecture`: as GGUF files name it, "checkpoint" for Quern's.
void add_model(TuningKey& key, const std::string& architecture, const ModelConfig& config,
               std::span<const GgufTensor> tensors);
/// Completes the key for training. The vocabulary, which the corpus decides, is not part of it.
void add_run(TuningKey& key, const RunConfig& run);

/// What a file holds.
struct Tuning {
  TuningKey key{};
  TunedSettings settings{};
  std::string date{};                                          ///< "2026-11-22"
  std::vector<std::pair<std::string, std::string>> reasons{};  ///< setting, sentence
};

/// $XDG_CONFIG_HOME/quern/tuning, else ~/.config/quern/tuning; empty where neither variable is set. (A relative
/// XDG_CONFIG_HOME does not count, as its specification says.)
[[nodiscard]] std::filesystem::path tuning_folder();
/// The file's name for a key: "llama-22x2048-0123456789abcdef.yaml".
[[nodiscard]] std::string tuning_file_name(const TuningKey& key);

[[nodiscard]] std::string tuning_yaml(const Tuning& tuning);
/// Reads what tuning_yaml() writes. Errors, bad_input: "NAME:LINE:COLUMN: ..." for malformed text, an unknown, missing or
/// repeated key, a value out of range.
[[nodiscard]] Result<Tuning> parse_tuning(std::string_view text, std::string_view name);

/// Writes the file for tuning.key into `folder`, which is made if it is not there: beside, then renamed. Gives its path.
[[nodiscard]] Result<std::string> save_tuning(const std::filesystem::path& folder, const Tuning& tuning);
/// What was found for `key`; nothing where there is no file. Errors: those of parse_tuning(), a file that cannot be read,
/// and one that was written for another key, which is named.
[[nodiscard]] Result<std::optional<Tuning>> load_tuning(const std::filesystem::path& folder, const TuningKey& key);

}  // namespace quern::tools
