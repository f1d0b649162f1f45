// Hardware counters of a team's threads, through Linux's perf_event where the kernel and the machine give them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "math/thread_team.hpp"

struct perf_event_attr;

namespace quern {

/// What is counted in user mode. The last three are the kernel's own and need no counters of the processor.
enum class Counter : std::uint8_t {
  instructions,
  cycles,
  cache_references,  ///< requests to the last-level cache
  cache_misses,
  l1d_misses,        ///< loads that the first-level data cache did not have
  dtlb_misses,       ///< loads whose page the TLB did not have
  stalled_frontend,  ///< cycles without an instruction to issue
  stalled_backend,   ///< cycles in which an instruction waited for data or a unit
  page_faults,
  context_switches,
  migrations
};
inline constexpr int kCounters = 11;
[[nodiscard]] std::string_view to_word(Counter counter);

/// The kernel, or what stands for it in tests. Failures are negative errno values.
struct PerfSystem {
  std::function<int(const perf_event_attr& attributes)> open;  ///< counts the calling thread; a descriptor
  std::function<int(int descriptor, bool on)> control;         ///< resets and starts, or stops
  /// Value, time enabled and time running in ns.
  std::function<int(int descriptor, std::uint64_t (&values)[3])> read;
  std::function<void(int descriptor)> close;
  std::function<std::optional<std::int64_t>()> paranoid;  ///< /proc/sys/kernel/perf_event_paranoid
};
[[nodiscard]] const PerfSystem& linux_perf();

/// What one counter has counted on all threads between start() and stop(). Where the processor has too few counters, the
/// kernel takes turns and the count is scaled by time enabled over time running.
struct CounterReading {
  Counter counter = Counter::instructions;
  double count = 0.0;
  double running = 1.0;  ///< share of the time in which it counted, of the thread where that is least
};

/// Counters on every thread of a team. Movable; not thread-safe.
class PerfCounters {
 public:
  /// Opens what can be opened, on each thread of `team`. Never fails: obstacle() says why counters are missing.
  [[nodiscard]] static PerfCounters open(ThreadTeam& team, const PerfSystem& system = linux_perf());
  ~PerfCounters();
  PerfCounters(PerfCounters&&) noexcept;
  PerfCounters& operator=(PerfCounters&&) noexcept;

  void start();
  /// Readings since start(), of counters that are there on every thread and ran.
  std::vector<CounterReading> stop();

  [[nodiscard]] bool has(Counter counter) const;
  /// Why there are no instructions and cycles, as a sentence with what would help; empty where there are.
  [[nodiscard]] const std::string& obstacle() const;

 private:
  struct State;
  explicit PerfCounters(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace quern
