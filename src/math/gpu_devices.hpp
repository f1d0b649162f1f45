// GPUs and other accelerators on the PCI bus. Quern computes on the CPU; they are named so that a reader knows they are
// there.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace quern {

struct GpuDevice {
  std::string address;             ///< on the bus: "0000:01:00.0"
  std::string kind;                ///< "VGA controller", "3D controller", "display controller" or "processing accelerator"
  std::string name;                ///< vendor and model, as far as the machine knows their names, else their numbers
  std::string driver;              ///< the kernel's; empty: none is bound
  std::uint64_t memory_bytes = 0;  ///< 0: not said (amdgpu says it)
  std::int64_t numa_node = -1;     ///< nearest; -1: not said
};

/// Display controllers (class 03) and processing accelerators (class 12) under root/sys/bus/pci, by address. Models come
/// from root/usr/share/misc/pci.ids or root/usr/share/hwdata/pci.ids, or from NVIDIA's driver; without them some vendors are
/// known by name and models by number.
[[nodiscard]] std::vector<GpuDevice> read_gpus(const std::filesystem::path& root = "/");

}  // namespace quern
