#include "run_statistics.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "math/bandwidth.hpp"
#include "math/process_memory.hpp"

namespace quern::tools {

namespace {

using Json = nlohmann::ordered_json;

double rate(std::int64_t tokens, double seconds) {
  return tokens > 0 && seconds > 0.0 ? static_cast<double>(tokens) / seconds : 0.0;
}

std::string phase_line(std::string_view name, std::int64_t tokens, double seconds, double tokens_per_second) {
  return fmt::format("{:<13}{} token{} in {:.3f} s: {:.1f} tokens/s\n", name, tokens, tokens == 1 ? "" : "s", seconds,
                     tokens_per_second);
}

/// Bytes of weights that decoding read a second: each pass reads them once, however many tokens it computes.
double weight_traffic(const RunStatistics& statistics) {
  return static_cast<double>(statistics.weight_bytes_per_token) * rate(statistics.decode_passes, statistics.decode_seconds);
}

constexpr WorkPhase kPhases[] = {WorkPhase::prefill, WorkPhase::decode};

}  // namespace

double RunStatistics::prefill_rate() const { return rate(prefill_tokens, prefill_seconds); }
double RunStatistics::decode_rate() const { return rate(decode_tokens, decode_seconds); }
double RunStatistics::tokens_per_pass() const { return rate(decode_tokens, static_cast<double>(decode_passes)); }

void add_timings(RunStatistics& statistics, const RequestTimings& timings) {
  statistics.first_token_seconds = timings.first_token_seconds;
  statistics.prefill_tokens += timings.prefill_tokens;
  statistics.reused_tokens += timings.shared_tokens;
  statistics.prefill_seconds += timings.prefill_seconds;
  statistics.decode_tokens += timings.decode_tokens;
  statistics.decode_seconds += timings.decode_seconds;
  statistics.decode_passes += timings.decode_steps;
  statistics.drafted_tokens += timings.drafted_tokens;
  statistics.accepted_tokens += timings.accepted_tokens;
  statistics.draft_seconds += timings.draft_seconds;
}

void measure_machine(RunStatistics& statistics, RunningModel& running, bool bandwidth) {
  statistics.load_seconds = running.load_seconds;
  statistics.weight_bytes_per_token = running.model->bytes_per_token();
  running.peak_bytes = std::max(running.peak_bytes, peak_resident_bytes());
  statistics.peak_bytes = running.peak_bytes;
  if (bandwidth && running.memory_bandwidth == 0.0) {
    running.memory_bandwidth = memory_read_bandwidth(running.team);
    forget_peak_resident();  // the buffer that was read is not the model's
  }
  statistics.memory_bandwidth = running.memory_bandwidth;
}

std::string statistics_text(const RunStatistics& statistics) {
  std::string text = fmt::format("load         {:.3f} s\n", statistics.load_seconds);
  text += fmt::format("first token  {:.3f} s\n", statistics.first_token_seconds);
  text += phase_line("prefill", statistics.prefill_tokens, statistics.prefill_seconds, statistics.prefill_rate());
  if (statistics.reused_tokens > 0) text += fmt::format("reused       {} tokens from the cache\n", statistics.reused_tokens);
  text += phase_line("decode", statistics.decode_tokens, statistics.decode_seconds, statistics.decode_rate());
  if (statistics.drafted_tokens > 0) {
    text += fmt::format("drafts       {} of {} checked were right ({}): {:.2f} tokens a pass\n", statistics.accepted_tokens,
                        statistics.drafted_tokens, statistics.speculation, statistics.tokens_per_pass());
  }
  if (statistics.weight_bytes_per_token > 0) {
    text += fmt::format("weights      {} read a {}", bytes_text(statistics.weight_bytes_per_token),
                        statistics.drafted_tokens > 0 ? "pass" : "token");
    const double traffic = weight_traffic(statistics);
    if (traffic > 0.0 && statistics.memory_bandwidth > 0.0) {
      text += fmt::format(": {}/s, {:.0f} % of the {}/s that this machine reads",
                          bytes_text(static_cast<std::size_t>(traffic)), 100.0 * traffic / statistics.memory_bandwidth,
                          bytes_text(static_cast<std::size_t>(statistics.memory_bandwidth)));
    }
    text += '\n';
  }
  text += fmt::format("peak memory  {}\n", bytes_text(statistics.peak_bytes));
  return text;
}

Json statistics_json(const RunStatistics& statistics) {
  Json json = {{"load_seconds", statistics.load_seconds},
               {"first_token_seconds", statistics.first_token_seconds},
               {"prefill_tokens", statistics.prefill_tokens},
               {"reused_tokens", statistics.reused_tokens},
               {"prefill_seconds", statistics.prefill_seconds},
               {"prefill_tokens_per_second", statistics.prefill_rate()},
               {"decode_tokens", statistics.decode_tokens},
               {"decode_seconds", statistics.decode_seconds},
               {"decode_tokens_per_second", statistics.decode_rate()},
               {"decode_passes", statistics.decode_passes},
               {"tokens_per_pass", statistics.tokens_per_pass()},
               {"speculation", statistics.speculation},
               {"drafted_tokens", statistics.drafted_tokens},
               {"accepted_tokens", statistics.accepted_tokens},
               {"draft_seconds", statistics.draft_seconds},
               {"weight_bytes_per_token", statistics.weight_bytes_per_token},
               {"memory_bytes_per_second", nullptr},
               {"memory_bandwidth_fraction", nullptr},
               {"peak_memory_bytes", statistics.peak_bytes}};
  if (statistics.memory_bandwidth > 0.0) {
    json["memory_bytes_per_second"] = statistics.memory_bandwidth;
    json["memory_bandwidth_fraction"] = weight_traffic(statistics) / statistics.memory_bandwidth;
  }
  return json;
}

std::string profile_text(const Profiler& profiler) {
  std::string text;
  for (const WorkPhase phase : kPhases) {
    const Profiler::Total passes = profiler.passes(phase);
    if (passes.count == 0) continue;
    text += fmt::format("{}: {} token{} in {} pass{}, {:.3f} ms\n", to_word(phase), profiler.tokens(phase),
                        profiler.tokens(phase) == 1 ? "" : "s", passes.count, passes.count == 1 ? "" : "es",
                        passes.seconds * 1e3);
    double marked = 0.0;
    const auto line = [&](std::string_view name, double seconds) {
      text += fmt::format("  {:<17}{:>12.3f} ms{:>7.1f} %{:>12.3f} ms a pass\n", name, seconds * 1e3,
                          100.0 * seconds / passes.seconds, seconds * 1e3 / static_cast<double>(passes.count));
    };
    for (int kind = 0; kind < kWorkKinds; ++kind) {
      const Profiler::Total total = profiler.total(phase, static_cast<WorkKind>(kind));
      marked += total.seconds;
      if (total.count > 0) line(to_word(static_cast<WorkKind>(kind)), total.seconds);
    }
    line("other", passes.seconds - marked);
  }
  return text;
}

Json profile_json(const Profiler& profiler) {
  Json json = Json::object();
  for (const WorkPhase phase : kPhases) {
    const Profiler::Total passes = profiler.passes(phase);
    Json work = Json::object();
    for (int kind = 0; kind < kWorkKinds; ++kind) {
      const Profiler::Total total = profiler.total(phase, static_cast<WorkKind>(kind));
      if (total.count > 0) work[std::string(to_word(static_cast<WorkKind>(kind)))] = total.seconds;
    }
    json[std::string(to_word(phase))] = {
        {"passes", passes.count}, {"tokens", profiler.tokens(phase)}, {"seconds", passes.seconds}, {"work_seconds", work}};
  }
  return json;
}

}  // namespace quern::tools
