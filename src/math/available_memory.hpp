// How much memory this process may still take: what decides whether a model fits.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "math/container_limits.hpp"

namespace quern {

struct AvailableMemory {
  std::uint64_t machine_bytes = 0;    ///< all of the machine's; 0: not said
  std::uint64_t available_bytes = 0;  ///< of the machine, without swapping (MemAvailable); 0: not said
  std::uint64_t swap_bytes = 0;       ///< free swap space
  std::uint64_t usable_bytes = 0;     ///< the least of what the machine has available and the container leaves
  std::string usable_because;         ///< which of the two that is
};

/// Reads root/proc/meminfo; `container` as read_container_limits() gives it. Where MemAvailable is missing, all of the
/// machine's memory counts.
[[nodiscard]] AvailableMemory read_available_memory(const ContainerLimits& container,
                                                    const std::filesystem::path& root = "/");

}  // namespace quern
