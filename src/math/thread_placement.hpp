// Which processor each thread of a team runs on: affinity policies, computed from a topology.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "math/machine_topology.hpp"
#include "math/result.hpp"

namespace quern {

enum class Affinity : std::uint8_t {
  none,     ///< the system moves threads as it likes
  compact,  ///< neighbours: as few packages, memory nodes and last-level caches as hold the threads
  spread    ///< apart: threads take turns over packages, memory nodes and last-level caches
};
[[nodiscard]] std::string_view affinity_name(Affinity affinity);
/// The affinity of that name; nothing for another word.
[[nodiscard]] std::optional<Affinity> affinity_named(std::string_view name);

/// The processor of each of `threads` (at least 1) threads; empty for Affinity::none. Only processors in `allowed` (numbers
/// of the system, any order) are given. Both policies fill cores before SMT siblings: compact those of the package in use
/// before it opens the next, spread those of all packages. Compact opens the package, node and cache with the most allowed
/// processors first. Where threads are more than processors, they start again from the first. Depends on nothing else.
/// Error: no allowed processor is in the topology.
[[nodiscard]] Result<std::vector<int>> place_threads(const MachineTopology& topology, std::span<const int> allowed,
                                                     int threads, Affinity affinity);

/// place_threads() on this machine, among the processors of the calling thread's affinity mask.
[[nodiscard]] Result<std::vector<int>> place_threads_here(int threads, Affinity affinity);

}  // namespace quern
