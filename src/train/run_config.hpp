// A training run as data: what a YAML run file says, after defaults, overrides and validation.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "math/numa_policy.hpp"
#include "math/result.hpp"
#include "math/thread_placement.hpp"
#include "model/model_config.hpp"
#include "model/weights.hpp"

namespace quern {

enum class WindowOrder : std::uint8_t {
  shuffled,  ///< every window once an epoch, in a keyed order
  random     ///< independent uniform offsets, as nanoGPT
};
enum class DocumentAttention : std::uint8_t {
  across,  ///< a window is one sequence, whatever documents it spans
  isolate  ///< positions restart and attention stops at document starts
};
enum class BackendKind : std::uint8_t { kernels, eigen };
enum class OptimizerKind : std::uint8_t {
  adamw,
  muon  ///< of the blocks' matrices; AdamW of the rest
};
enum class ScheduleKind : std::uint8_t {
  cosine,
  wsd  ///< warm-up, stable, decay
};
enum class CooldownShape : std::uint8_t {
  linear,
  sqrt  ///< 1 - sqrt
};
enum class AffinityKind : std::uint8_t {
  automatic,  ///< none, unless `quern tune` found another
  none,       ///< the others as in math/thread_placement.hpp
  compact,
  spread
};

/// Values as the words of YAML: "shuffled", "isolate", "auto", "eigen", ...
[[nodiscard]] std::string_view to_word(WindowOrder order);
[[nodiscard]] std::string_view to_word(DocumentAttention documents);
[[nodiscard]] std::string_view to_word(Precision precision);
[[nodiscard]] std::string_view to_word(BackendKind backend);
[[nodiscard]] std::string_view to_word(OptimizerKind kind);
[[nodiscard]] std::string_view to_word(ScheduleKind kind);
[[nodiscard]] std::string_view to_word(CooldownShape shape);
[[nodiscard]] std::string_view to_word(AffinityKind affinity);
[[nodiscard]] std::string_view to_word(NumaPolicy policy);

struct DataConfig {
  std::string corpus;  ///< prepared HDF5 file
  WindowOrder order = WindowOrder::shuffled;
  DocumentAttention documents = DocumentAttention::across;
};

struct OptimizerConfig {
  OptimizerKind kind = OptimizerKind::adamw;
  float learning_rate = 1e-3F;
  float min_learning_rate = 1e-4F;  ///< at the end of the decay; where not given: learning_rate / 10
  std::int64_t warmup_steps = 100;  ///< where not given: at most a tenth of train.steps
  std::int64_t decay_steps = 0;     ///< step at which the decay ends; 0: train.steps
  ScheduleKind schedule = ScheduleKind::cosine;
  std::int64_t cooldown_steps = 0;  ///< of wsd; where not given: a fifth of the steps until the decay ends
  CooldownShape cooldown = CooldownShape::linear;
  float muon_learning_rate = 0.02F;  ///< while AdamW's is learning_rate: both follow one schedule
  float muon_momentum = 0.95F;
  std::int64_t newton_schulz_steps = 5;  ///< of Muon's orthogonalization
  float beta1 = 0.9F;
  float beta2 = 0.99F;
  float eps = 1e-8F;
  float weight_decay = 0.1F;
  float clip_norm = 1.0F;  ///< global gradient norm; 0: no clipping
};

struct TrainConfig {
  std::string from;               ///< checkpoint or run folder whose weights training starts from; empty: random ones
  std::int64_t steps = 2000;      ///< optimizer steps
  std::int64_t batch = 12;        ///< sequences per micro-batch
  std::int64_t accumulation = 1;  ///< micro-batches per optimizer step
  std::int64_t growth_step = 0;   ///< finished steps from which grown_accumulation takes accumulation's place; 0: never
  std::int64_t grown_accumulation = 0;  ///< 0: twice accumulation
  std::int64_t context = 0;             ///< tokens per sequence; 0: model.context
  Precision precision = Precision::automatic;
  std::uint64_t seed = 1337;
  float dropout = 0.0F;
  float init_std = 0.02F;
  std::int64_t log_every = 10;    ///< steps between lines of metrics.jsonl
  std::int64_t eval_every = 250;  ///< steps between validations; 0: never
  std::int64_t eval_from = 0;     ///< no validation before this step
  std::int64_t eval_tokens = 0;   ///< at most so many validation tokens; 0: the whole split
  float target_loss = 0.0F;       ///< the run ends with the first validation at or below it; 0: none
  std::int64_t save_every = 0;    ///< steps between checkpoints; 0: only with validations and at the end
  std::int64_t keep = 2;          ///< numbered checkpoints kept besides best and last

  /// Micro-batches of the step that follows `step` finished ones.
  [[nodiscard]] std::int64_t accumulation_at(std::int64_t step) const {
    if (growth_step == 0 || step < growth_step) return accumulation;
    return grown_accumulation > 0 ? grown_accumulation : 2 * accumulation;
  }
  /// Micro-batches of the first `step` steps.
  [[nodiscard]] std::int64_t micro_batches(std::int64_t step) const {
    const std::int64_t grown = growth_step > 0 && step > growth_step ? step - growth_step : 0;
    return (step - grown) * accumulation + grown * accumulation_at(growth_step);
  }
};

struct SampleConfig {
  std::int64_t every = 0;  ///< steps between samples; 0: only at the end
  std::int64_t tokens = 100;
  std::string prompt;
  float temperature = 0.8F;
  std::int64_t top_k = 0;  ///< 0: all
  float top_p = 1.0F;
};

struct SystemConfig {
  std::int64_t threads = 0;           ///< 0: default_thread_count()
  std::int64_t memory_limit_mib = 0;  ///< refuse plans above this; 0: the memory this process may use
  BackendKind backend = BackendKind::kernels;
  bool fused = true;  ///< false: see Backend::fused
  bool arena = true;  ///< false: a micro-batch's buffers are allocated for it, each in memory of its own
  AffinityKind affinity = AffinityKind::automatic;
  NumaPolicy numa = NumaPolicy::local;
  std::int64_t block_rows = 0;  ///< BlockSizes::block_rows
};

struct RunConfig {
  std::string dir;  ///< `run.dir`: where checkpoints, metrics.jsonl and run.yaml go
  ModelConfig model;
  DataConfig data;
  OptimizerConfig optimizer;
  TrainConfig train;
  SampleConfig sample;
  SystemConfig system;

  /// Where each key that was given got its value: "FILE:LINE:COLUMN" or "command line". Not part of the run itself.
  std::map<std::string, std::string, std::less<>> origins;

  [[nodiscard]] std::int64_t context() const { return train.context > 0 ? train.context : model.context; }
  /// What system.affinity comes to.
  [[nodiscard]] Affinity affinity() const;
  /// `message` with the key and the place it was given at in front: "run.yaml:3:11: key `data.corpus`: MESSAGE".
  [[nodiscard]] std::string at_key(std::string_view key, std::string_view message) const;
};

/// Checks what depends on the length of sequences, when the model is known. `name` stands for the run's file in an error
/// that no key given is to blame for.
[[nodiscard]] Result<void> check_context(const RunConfig& run, std::string_view name);

/// Checks that the files a run names are there; the error says where the key was given. Reads nothing from them.
[[nodiscard]] Result<void> check_run_files(const RunConfig& config);

/// Reads `path`, applies `overrides` ("train.steps=100", in order), checks everything against the one schema. Relative paths
/// in the file are relative to the current directory. Errors: "FILE:LINE:COLUMN: key `train.stesp`: unknown; nearest known
/// key: `train.steps`" and alike for wrong types, values out of range, impossible combinations; overrides are named as
/// "command line: ...". A model.vocab of 0 is decided with the corpus. With `train.from`, model keys that are not given
/// keep ModelConfig's values until start_weights.hpp replaces them by the checkpoint's; combinations are checked then.
[[nodiscard]] Result<RunConfig> load_run_config(const std::string& path, const std::vector<std::string>& overrides);

/// The same from text; `name` stands for the file in errors.
[[nodiscard]] Result<RunConfig> parse_run_config(std::string_view yaml, std::string_view name,
                                                 const std::vector<std::string>& overrides);

/// The resolved run, every key with its value, as YAML that load_run_config reads back to an equal config.
[[nodiscard]] std::string to_yaml(const RunConfig& config);

/// One row per key: name, type word, default as text, allowed values, one-line description; for help and documentation.
struct KeyDoc {
  std::string key, type, default_value, allowed, description;
};
[[nodiscard]] std::vector<KeyDoc> run_config_keys();

}  // namespace quern
