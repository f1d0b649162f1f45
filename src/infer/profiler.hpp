// Where a forward pass spends its time: marks that the decoder sets, totals by kind of work and phase, and a trace file.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "math/result.hpp"

namespace quern {

/// Parts of a forward pass.
enum class WorkKind : std::uint8_t {
  embedding,
  attention_input,  ///< norm, q, k and v, RoPE, keys and values into the cache
  attention,
  attention_output,  ///< output projection and residual
  feed_forward,      ///< dense or experts, its norms and residual
  head               ///< final norm and logits
};
inline constexpr int kWorkKinds = 6;
[[nodiscard]] std::string_view to_word(WorkKind kind);

/// Prefill: some sequence gets more than one token. Decode: none does.
enum class WorkPhase : std::uint8_t { prefill, decode };
[[nodiscard]] std::string_view to_word(WorkPhase phase);

/// Collects marks of one thread (the team's first). Not thread-safe.
class Profiler {
 public:
  using Clock = std::chrono::steady_clock;

  /// A forward pass begins: `tokens` rows of `sequences` sequences.
  void begin(WorkPhase phase, std::int64_t tokens, std::int64_t sequences);
  /// The work since begin() or the mark before was of this kind, in this layer (-1: none).
  void mark(WorkKind kind, std::int64_t layer);
  void end();

  struct Total {
    double seconds = 0.0;
    std::int64_t count = 0;
  };
  [[nodiscard]] Total total(WorkPhase phase, WorkKind kind) const;
  [[nodiscard]] Total passes(WorkPhase phase) const;
  [[nodiscard]] std::int64_t tokens(WorkPhase phase) const;

  /// Writes everything as Trace Event Format JSON (Perfetto, chrome://tracing), beside and renamed. Keeps at most some
  /// million events; later ones only count in the totals, and the file says how many were left out.
  [[nodiscard]] Result<void> write_trace(const std::string& path) const;

 private:
  struct Event {
    std::int64_t begin_ns = 0;
    std::int64_t end_ns = 0;
    std::int32_t layer = -1;
    WorkKind kind = WorkKind::embedding;
    WorkPhase phase = WorkPhase::prefill;
  };
  Clock::time_point start_ = Clock::now();
  Clock::time_point last_{};
  Clock::time_point pass_begin_{};
  WorkPhase phase_ = WorkPhase::prefill;
  std::array<std::array<Total, kWorkKinds>, 2> totals_{};
  std::array<Total, 2> passes_{};
  std::array<std::int64_t, 2> tokens_{};
  std::vector<Event> events_;
  std::int64_t events_left_out_ = 0;
};

}  // namespace quern
