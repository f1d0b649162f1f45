// quern quantize IN OUT auto:SIZE: the options of measured types, and what was measured.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "infer/auto_types.hpp"
#include "progress.hpp"

namespace quern::tools {

struct AutoArguments {
  std::string file;  ///< calibration text
  bool quick = false;
  std::int64_t context = 512;
  std::int64_t chunks = 0;
  bool checksums = false;  ///< of each tensor in the new file's metadata
};

/// --file, --quick, --context and --chunks.
void add_auto_options(CLI::App& command, AutoArguments& arguments);

/// Whether TYPE is auto:SIZE, in any case.
[[nodiscard]] bool is_auto(const std::string& type);
/// An error where options of auto stand beside a mix.
[[nodiscard]] Result<void> refuse_auto_options(const AutoArguments& arguments);

/// Reads the text with the model's tokenizer and chooses. `mix` brings --keep-output and --tensor-type; `importance` may be
/// null. Ctrl-C ends it with an error.
[[nodiscard]] Result<AutoTypes> choose_auto(const GgufFile& file, const std::string& type, const AutoArguments& arguments,
                                            const MixOptions& mix, const ImportanceMatrix* importance,
                                            const KernelTable& kernels, ThreadTeam& team, Progress& progress);

/// The table by tensor, and what is predicted.
void print_auto(const AutoTypes& types);
[[nodiscard]] nlohmann::ordered_json auto_json(const AutoTypes& types);

}  // namespace quern::tools
