// What this machine offers a run, and what Quern chose because of it: the data of the hardware report.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "math/available_memory.hpp"
#include "math/container_limits.hpp"
#include "math/cpu_features.hpp"
#include "math/dispatch.hpp"
#include "math/gpu_devices.hpp"
#include "math/machine_topology.hpp"
#include "math/result.hpp"
#include "math/system_settings.hpp"

namespace quern {

struct HardwareReport {
  std::string processor;     ///< model name
  std::string vendor;        ///< as CPUID spells it; empty on other architectures
  std::string architecture;  ///< as uname(2) spells it
  std::string hypervisor;    ///< whose virtual machine this is, as CPUID spells it; empty: none
  std::string system;        ///< kernel and release
  MachineTopology topology;
  ClockSettings clock;
  PageSettings pages;
  PlacementSettings placement;
  ContainerLimits container;
  AvailableMemory memory;
  std::vector<GpuDevice> gpus;
  std::string affinity;  ///< logical processors this process may run on, such as "0-3,8"
  std::int64_t affinity_processors = 0;
  std::string memory_nodes;  ///< NUMA nodes it may take memory from, such as "0-1"; empty: not said
  CpuFeatures features;
  std::vector<IsaStatus> paths;      ///< best first
  std::optional<Isa> chosen;         ///< empty when QUERN_ISA names what cannot be used
  std::string chosen_because;        ///< or the error
  std::int64_t default_threads = 0;  ///< thread_count_for() the affinity and the quota
  std::string default_threads_because;
};

/// Where a report is read from: this machine unless a member says otherwise. CPUID and the choice among this build's kernels
/// are always this machine's.
struct HardwareSource {
  std::filesystem::path root = "/";  ///< holds proc and sys
  TopologySource topology = {};
};

/// Reads the machine's topology and settings and the process's limits. What the system does not say stays empty. Errors:
/// those of read_topology().
[[nodiscard]] Result<HardwareReport> read_hardware(const HardwareSource& source = {});

/// The report as lines of "name: value", ending in a newline.
[[nodiscard]] std::string hardware_text(const HardwareReport& report);

/// Names of the flags that the kernels of some path use and that may be used here, in the order of the paths.
[[nodiscard]] std::vector<std::string> feature_names(const CpuFeatures& features);

}  // namespace quern
