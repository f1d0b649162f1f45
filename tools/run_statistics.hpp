// What a run tells about itself: times, rates, memory traffic, memory; as lines for people and as JSON.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "infer/profiler.hpp"
#include "infer/request.hpp"
#include "run_model.hpp"
#include "summary_report.hpp"

namespace quern::tools {

/// Figures of one or many generations.
struct RunStatistics {
  double load_seconds = 0.0;
  double first_token_seconds = 0.0;  ///< of the (last) generation
  std::int64_t prefill_tokens = 0, reused_tokens = 0, decode_tokens = 0;
  double prefill_seconds = 0.0, decode_seconds = 0.0;
  std::int64_t decode_passes = 0;  ///< forward passes of decode_tokens
  std::int64_t drafted_tokens = 0, accepted_tokens = 0;
  double draft_seconds = 0.0;             ///< of decode_seconds
  std::string_view speculation = "none";  ///< who proposed
  std::size_t weight_bytes_per_token = 0;
  double memory_bandwidth = 0.0;  ///< bytes/s; 0: not measured
  std::size_t peak_bytes = 0;

  [[nodiscard]] double prefill_rate() const;  ///< tokens/s, 0 where nothing was computed
  [[nodiscard]] double decode_rate() const;
  [[nodiscard]] double tokens_per_pass() const;  ///< 0 where nothing was decoded
};

/// Adds a request's tokens and times; its time to the first token becomes the last one.
void add_timings(RunStatistics& statistics, const RequestTimings& timings);

/// Fills in what the model and the machine have to say: peak memory first, then, where asked for, the bandwidth, whose
/// buffer would count.
void measure_machine(RunStatistics& statistics, RunningModel& running, bool bandwidth = true);

/// Lines ending in a newline.
[[nodiscard]] std::string statistics_text(const RunStatistics& statistics);
[[nodiscard]] nlohmann::ordered_json statistics_json(const RunStatistics& statistics);

/// Time by kind of work and phase as a table; phases without a pass are left out.
[[nodiscard]] std::string profile_text(const Profiler& profiler);
[[nodiscard]] nlohmann::ordered_json profile_json(const Profiler& profiler);

}  // namespace quern::tools
