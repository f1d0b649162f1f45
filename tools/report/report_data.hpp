// What a report is made of: results of benchmarks as they were printed with --json, brought to one form.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "math/machine_measurement.hpp"
#include "math/result.hpp"
#include "math/sample_statistics.hpp"

namespace quern::tools {

/// A speed with everything that was chosen for it. Two that differ in one setting say what that setting does.
struct Measurement {
  std::size_t source = 0;  ///< of ReportData::sources
  std::string what;        ///< "decode", "prefill" or "train"
  /// Names and values: "model", "type", "instruction set", "threads", "KV type", "prompt", "depth", "sequences", "batch",
  /// "context", "precision", "fused", "arena", "KV cache", and what else a sweep varied.
  std::vector<std::pair<std::string, std::string>> settings;
  Summary rate{};                         ///< tokens a second
  std::optional<double> step_bytes{};     ///< decode: weights, keys and values that a step reads
  std::optional<double> kv_bytes{};       ///< decode: keys and values of these
  std::optional<double> memory_share{};   ///< decode: bytes a second over what the memory read at the time
  std::optional<double> compute_share{};  ///< prefill, training: FLOP/s over the peak at the time

  /// The value of a setting; empty where there is none.
  [[nodiscard]] std::string setting(std::string_view name) const;
};

/// A model as `quern bench infer` ran it.
struct ModelFacts {
  std::size_t source = 0;
  std::string model;  ///< path or shape
  std::string type;   ///< of random weights; else empty
  double weight_bytes = 0.0, peak_memory_bytes = 0.0;
};

/// A line of `quern bench kernels`.
struct KernelFigure {
  std::size_t source = 0;
  std::string name;
  double flops_per_byte = 0.0, flops_per_second = 0.0, bytes_per_second = 0.0;
  std::string roof;        ///< "f32", "memory", "L2"
  double roof_rate = 0.0;  ///< FLOP/s, or bytes/s of memory and caches
  Summary share;           ///< of the roof
  [[nodiscard]] bool bound_by_memory() const;
};

struct PerplexityFigure {
  std::size_t source = 0;
  std::string model;
  double value = 0.0, error = 0.0;
};

/// A file, or what the command that writes the report has just measured.
struct ReportSource {
  std::string name;   ///< path, or "this run"
  std::string label;  ///< short: the file's name without ".json"
  std::string bench;  ///< "infer", "train", "kernels", "sweep", "perplexity", "hardware"
  std::string about;  ///< model or runs, instruction set, threads: a sentence
};

struct ReportData {
  std::vector<ReportSource> sources;
  std::vector<Measurement> measurements;
  std::vector<ModelFacts> models;
  std::vector<KernelFigure> kernels;
  std::vector<PerplexityFigure> perplexities;
  std::string processor;                      ///< of the first file that names it
  std::optional<MachineMeasurement> machine;  ///< of `quern hardware --measure --json`
  std::vector<std::size_t> log;               ///< sources of the optimization log, in order
};

/// Adds a result. Error bad_input naming the place in the file.
[[nodiscard]] Result<void> add_result(ReportData& data, const nlohmann::ordered_json& json, const std::string& name);

/// Reads a file and adds it. Errors: bad_input naming the file and the place in it.
[[nodiscard]] Result<void> add_file(ReportData& data, const std::string& path);

}  // namespace quern::tools
