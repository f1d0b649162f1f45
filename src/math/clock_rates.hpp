// The clock that cores run at while they work: scalar code, vectors, tiles.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "math/dispatch.hpp"
#include "math/perf_counters.hpp"
#include "math/repeated_rates.hpp"
#include "math/thread_team.hpp"

namespace quern {

/// A kind of work that all threads do at once. Loads other than `scalar` are register-only multiply-adds of a kernel table.
struct ClockLoad {
  std::string name;                      ///< "scalar", "AVX2 f32", "AVX-512 f32", "AMX bf16"
  const KernelTable* kernels = nullptr;  ///< null: scalar
  bool tiles = false;                    ///< the table's matrix tiles instead of its f32 vectors
};

/// The loads that tell clocks apart among `kernels` (supported_kernels()): scalar, then AVX2, AVX-512 and AMX where present.
[[nodiscard]] std::vector<ClockLoad> clock_loads(const std::vector<const KernelTable*>& kernels);

enum class ClockMethod : std::uint8_t {
  counters,   ///< cycles from perf_event over the time that the load ran
  add_chain,  ///< the time of additions that each wait for the one before, one cycle each, right after a burst of the load
  none        ///< neither is possible here
};
[[nodiscard]] std::string_view to_word(ClockMethod method);

/// The method that clock_rates() uses with these counters: the first that is possible.
[[nodiscard]] ClockMethod clock_method(const PerfCounters& counters);

/// Cycles per second under a load, mean over threads, one figure per repeat. With add_chain a repeat is eight bursts of 1
/// ms, each followed at once by 4,096 additions (1 us), of which the median counts. Longer chains would miss the clock of
/// the load: a Sapphire Rapids core was seen to pause and rise from 3.0 to 3.6 GHz between 2 and 10 us after AMX work. A
/// core that another process or virtual machine takes meanwhile looks slower than it is.
[[nodiscard]] std::vector<double> clock_rates(ThreadTeam& team, const ClockLoad& load, PerfCounters& counters,
                                              const Repeats& repeats);

/// Seconds of one multiplication over seconds of one addition, each waiting for the one before: 3 on every x86-64 processor
/// whose additions take one cycle, since their multiplications take three (AMD from Zen on, Intel from Nehalem on). So this
/// says whether add_chain can be believed. 0 where there is no such code.
[[nodiscard]] double multiply_over_add();

}  // namespace quern
