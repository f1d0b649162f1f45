// On which NUMA nodes memory is taken: the policy of a team's threads, for pages that they touch first.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "math/machine_topology.hpp"
#include "math/result.hpp"
#include "math/thread_team.hpp"

namespace quern {

enum class NumaPolicy : std::uint8_t {
  local,      ///< a page lies on the node of the processor that touches it first: what Linux does unasked
  interleave  ///< pages take turns over the nodes
};
[[nodiscard]] std::string_view numa_policy_name(NumaPolicy policy);
[[nodiscard]] std::optional<NumaPolicy> numa_policy_named(std::string_view name);

/// What a policy comes to on a machine.
struct NumaPlan {
  NumaPolicy policy = NumaPolicy::local;
  std::vector<std::int64_t> nodes;  ///< with memory that this process may take
  bool changes = false;             ///< whether there is anything to ask of the system
  std::string remark;               ///< one sentence
};

/// `allowed`: nodes that this process may take memory from, by the system's numbers; empty: all. Interleaving over fewer
/// than two nodes with memory changes nothing, and the remark says so. Nodes whose size is not known count as having memory
/// where processors are near them.
[[nodiscard]] NumaPlan plan_numa(const MachineTopology& topology, std::span<const std::int64_t> allowed, NumaPolicy policy);

/// plan_numa() on this machine, for nodes that the process's cgroup lets it use.
[[nodiscard]] Result<NumaPlan> plan_numa_here(NumaPolicy policy);

/// Makes it the policy of every thread of `team`, the caller among them, for memory that they touch first from now on: what
/// lies somewhere already (a file's pages in the page cache, too) stays there. Nothing is done unless plan.changes. Error
/// unsupported where the system refuses, as containers may.
[[nodiscard]] Result<void> apply_numa(ThreadTeam& team, const NumaPlan& plan);

}  // namespace quern
