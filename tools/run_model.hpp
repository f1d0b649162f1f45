// What the commands that run a model share: the options that choose it and how it computes, and loading it.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "infer/decoder.hpp"
#include "infer/loaded_model.hpp"
#include "math/exec.hpp"
#include "math/result.hpp"
#include "math/thread_team.hpp"

namespace quern::tools {

/// Which model, and how it computes.
struct ModelOptions {
  std::string model;
  std::int64_t threads = 0;  ///< 0: not given, as with the other zeros and "auto"
  std::string precision = "auto";
  std::string backend = "kernels";
  std::string kv_type = "auto";
  std::string weights = "auto";  ///< where a GGUF file's matrices lie
  bool read_ahead = false;
  bool lock = false;  ///< --mlock
  std::string affinity = "auto";
  std::string numa = "auto";
  std::int64_t task_bytes = 0, block_rows = 0;  ///< of BlockSizes; 0: not given
  std::int64_t batch = 0;                       ///< tokens of a prompt that are computed together
  bool tuned = false;                           ///< whether what is left open is as `quern tune` found it (use_tuning.hpp)
  bool no_fused = false, no_arena = false, no_kv_cache = false;  ///< what is switched off, to measure what it gives
};

/// --no-fused, --no-arena and --no-kv-cache.
void add_measuring_options(CLI::App& command, ModelOptions& options);

/// The batch of options that leave it open.
inline constexpr std::int64_t kDefaultBatch = 512;
/// --batch.
void add_batch_option(CLI::App& command, ModelOptions& options);
/// What is left open is as `quern tune` found it, unless --no-tuned is given.
void add_tuned_option(CLI::App& command, ModelOptions& options);
/// MODEL, --threads, --affinity, --numa, --precision, --backend, --kv-type, --weights, --read-ahead, --mlock, --task-bytes
/// and --block-rows.
void add_model_options(CLI::App& command, ModelOptions& options);
/// What --kv-type says; nothing for "auto".
[[nodiscard]] Result<std::optional<ElementType>> kv_type_of(const std::string& word);

/// A model with what it runs on. Not movable: the model and decoders refer to the team.
struct RunningModel {
  explicit RunningModel(int threads, std::vector<int> processors = {}) : team(threads, std::move(processors)) {}
  Backend backend;
  ThreadTeam team;
  std::unique_ptr<LoadedModel> model;
  std::optional<ElementType> kv_type;
  std::string affinity = "none", numa = "local";
  std::int64_t batch = kDefaultBatch;  ///< tokens of a prompt that are computed together
  bool arena = true, kv_cache = true;
  double load_seconds = 0.0;
  std::size_t peak_bytes = 0;     ///< the most resident at once so far, without what measuring took
  double memory_bandwidth = 0.0;  ///< bytes a second; 0: not measured yet

  /// A decoder with these limits, the chosen type of cache, and without what is switched off.
  [[nodiscard]] Result<std::unique_ptr<Decoder>> decoder(Decoder::Limits limits);
};

/// What a model runs on by these options, without the model. Its threads have the NUMA policy that was asked for.
[[nodiscard]] Result<std::unique_ptr<RunningModel>> prepare_run(const ModelOptions& options);
/// How --precision, --weights and a context (as in LoadOptions) are asked of a model.
[[nodiscard]] LoadOptions load_options(const ModelOptions& options, std::int64_t context);
/// Loads MODEL, with use_tuning(); `context` as in LoadOptions.
[[nodiscard]] Result<std::unique_ptr<RunningModel>> load_model(const ModelOptions& options, std::int64_t context);

/// The tokens of a comma-separated list such as "1,2,3"; error names the first that is no number.
[[nodiscard]] Result<std::vector<std::int32_t>> parse_token_list(const std::string& text);

/// A file that the user named. One that cannot be read is bad input here.
[[nodiscard]] Result<std::string> read_named_file(const std::string& path, std::size_t max_bytes);
/// The text of a file, of standard input where `path` is "-".
[[nodiscard]] Result<std::string> read_text(const std::string& path, std::size_t max_bytes = std::size_t{1} << 32);

/// Catches SIGINT: interrupted() says that one came, until forget_interrupt(). With `second_ends` a second one ends the
/// program, for work that does not look often. Reads that wait are cut short.
void catch_interrupts(bool second_ends);
/// The same for SIGTERM, and for SIGHUP where it is not ignored: for commands that would leave half of a file behind.
void catch_endings(bool second_ends);
[[nodiscard]] bool interrupted();
/// Prints the sentence of work that a signal ended, and gives the exit code, 128 + the signal's number.
[[nodiscard]] int report_interrupt(const Error& error);
void forget_interrupt();

}  // namespace quern::tools
