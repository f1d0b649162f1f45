// Finds settings that serve this machine: one setting after another, candidates measured in turns, the default kept where
// nothing is faster. Knows no model; what measures is handed in.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "math/machine_topology.hpp"
#include "math/result.hpp"
#include "math/sample_statistics.hpp"
#include "tuned_settings.hpp"

namespace quern::tools {

/// Tokens per second of each round that counts, with one candidate's settings. What was not measured is empty.
struct TuneSample {
  std::vector<double> prefill, decode;  ///< as many; of inference
  std::vector<double> train;
  std::string weights;  ///< where they lay, as --weights names it; empty: nowhere else they could
};

/// By what candidates are held against each other.
enum class TuneMetric : std::uint8_t {
  request,  ///< a prompt and the text after it
  prefill,
  decode,
  train
};
[[nodiscard]] std::string_view to_word(TuneMetric metric);

struct TuneCandidate {
  std::string value;  ///< the setting's, in words
  TunedSettings settings;
};

/// One setting, and what it may be.
struct TuneStage {
  std::string setting;
  TuneMetric metric = TuneMetric::request;
  /// The default first, then what else is worth measuring, the simpler before the others, with all other settings as they
  /// are `now`. With `remark` empty, one candidate or none means that there is nothing to choose.
  std::function<std::vector<TuneCandidate>(const TunedSettings& now, std::string& remark)> candidates;
};

/// What the stages are made from.
struct TuneSpace {
  bool training = false;
  std::int64_t default_threads = 1;
  std::int64_t cores = 1;  ///< of the processors that may be used
  MachineTopology topology{};
  std::vector<int> processors{};  ///< that may be used
  bool numa = false;              ///< whether interleaving over NUMA nodes changes anything
  bool file = true;               ///< weights are a GGUF file's or random ones, so that they may be interleaved
  std::int64_t prompt_tokens = 512;
  std::vector<std::string> kv_types{};  ///< to choose among beside auto; empty: the KV cache stays as it is
};

/// Cores that have one of `processors`.
[[nodiscard]] std::int64_t cores_among(const MachineTopology& topology, std::span<const int> processors);

/// Every stage: threads, affinity, NUMA policy, weights, batch, block rows, task bytes, KV type.
[[nodiscard]] std::vector<TuneStage> tune_stages(const TuneSpace& space);

/// Measures each of `settings` in turns, at least what the metric needs; fewer rounds where it was interrupted.
using TuneMeasure =
    std::function<Result<std::vector<TuneSample>>(std::span<const TunedSettings> settings, TuneMetric metric)>;

struct TuneFigure {
  std::string value;
  Summary rate;       ///< tokens a second by the stage's metric
  Comparison beside;  ///< the default's
};

/// What was chosen for a setting, and why.
struct TuneChoice {
  std::string setting;
  TuneMetric metric = TuneMetric::request;
  std::string value;
  bool changed = false;             ///< from the default
  std::vector<TuneFigure> figures;  ///< of every candidate; empty: nothing was measured
  std::string reason;               ///< one sentence
};

struct TuneOutcome {
  TunedSettings settings;
  std::vector<TuneChoice> choices;  ///< of the stages that were finished
  /// The defaults and what was chosen, measured in turns at last; empty where they are the same or the work was interrupted.
  /// Where the second is slower after all, `settings` are the defaults.
  std::vector<TuneFigure> before_after;
  bool stopped = false;
};

struct TuneOptions {
  std::int64_t prompt_tokens = 512, answer_tokens = 128;  ///< what TuneMetric::request stands for
  std::function<bool()> stop{};                           ///< asked between stages
  std::function<void(const TuneStage& stage, std::size_t number, std::size_t count)> begin{};
  std::function<void(const TuneChoice& choice)> chosen{};
};

/// Of candidates in order of preference, the first whose interval does not lie wholly below that of the highest median; the
/// first of all where there are too few rounds for intervals.
[[nodiscard]] std::size_t choose(std::span<const Summary> rates);

/// Goes through the stages from `defaults`. A stage that is stopped before each candidate has rounds for an interval is left
/// out. Errors: those of `measure`.
[[nodiscard]] Result<TuneOutcome> tune(std::span<const TuneStage> stages, const TunedSettings& defaults,
                                       const TuneMeasure& measure, const TuneOptions& options);

}  // namespace quern::tools
