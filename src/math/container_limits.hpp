// The CPU quota and memory limit that a container (a Linux control group) sets for this process.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

namespace quern {

/// Limits in force for a process: the tightest along its control group's path. Empty where there is none.
struct ContainerLimits {
  std::optional<double> processors;  ///< CPU time per wall time, e.g. 1.5
  std::optional<std::uint64_t> memory_bytes;
  /// What the group with that memory limit has taken, without file pages that the kernel would drop first; with a limit
  /// only.
  std::optional<std::uint64_t> memory_used_bytes = {};
  /// v2: above this the kernel slows the group down and takes pages back (memory.high).
  std::optional<std::uint64_t> memory_high_bytes = {};
};

/// Reads cgroup v2 (cpu.max, memory.max, memory.high, memory.current) and v1 (cpu.cfs_quota_us / cpu.cfs_period_us,
/// memory.limit_in_bytes, memory.usage_in_bytes), from the process's own group up to the root that it can see. Files that
/// are absent or make no sense count as no limit. `root` stands for "/": tests give a folder with proc/self/cgroup,
/// proc/self/mountinfo and the groups' files.
[[nodiscard]] ContainerLimits read_container_limits(const std::filesystem::path& root = "/");

}  // namespace quern
