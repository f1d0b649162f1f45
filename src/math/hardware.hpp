// What this machine offers a run, and what Quern chose because of it: the data of the hardware report.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "math/container_limits.hpp"
#include "math/cpu_features.hpp"
#include "math/dispatch.hpp"
#include "math/result.hpp"

namespace quern {

/// Caches of one level and kind that are alike in size and sharing.
struct CacheReport {
  int level = 0;
  std::string kind;  ///< "data", "instruction" or "unified"
  std::uint64_t bytes = 0;
  std::int64_t line_bytes = 0;
  std::int64_t instances = 0;
  std::int64_t processors_sharing = 0;  ///< logical processors that share one instance
};

struct HardwareReport {
  std::string processor;     ///< model name
  std::string vendor;        ///< as CPUID spells it; empty on other architectures
  std::string architecture;  ///< as uname(2) spells it
  std::int64_t logical_processors = 0;
  std::int64_t cores = 0;
  std::int64_t packages = 0;
  std::int64_t numa_nodes = 0;
  std::vector<CacheReport> caches;  ///< by level
  std::uint64_t memory_bytes = 0;   ///< of the machine
  ContainerLimits container;
  std::string affinity;  ///< logical processors this process may run on, such as "0-3,8"
  std::int64_t affinity_processors = 0;
  CpuFeatures features;
  std::vector<IsaStatus> paths;      ///< best first
  std::optional<Isa> chosen;         ///< empty when QUERN_ISA names what cannot be used
  std::string chosen_because;        ///< or the error
  std::int64_t default_threads = 0;  ///< default_thread_count()
  std::string default_threads_because;
};

/// Reads the machine's topology (hwloc) and the process's limits. Error unsupported when hwloc cannot read the topology.
[[nodiscard]] Result<HardwareReport> read_hardware();

/// The report as lines of "name: value", ending in a newline.
[[nodiscard]] std::string hardware_text(const HardwareReport& report);

}  // namespace quern
