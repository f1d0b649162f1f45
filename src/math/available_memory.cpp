// Formats: proc(5), meminfo.
#include "math/available_memory.hpp"

#include <algorithm>

#include "math/system_files.hpp"

namespace quern {

AvailableMemory read_available_memory(const ContainerLimits& container, const std::filesystem::path& root) {
  const std::filesystem::path file = root / "proc/meminfo";
  AvailableMemory memory;
  memory.machine_bytes = kilobytes_in(file, "MemTotal").value_or(0);
  memory.available_bytes = kilobytes_in(file, "MemAvailable").value_or(memory.machine_bytes);
  memory.swap_bytes = kilobytes_in(file, "SwapFree").value_or(0);
  memory.usable_bytes = memory.available_bytes;
  memory.usable_because = "what the machine has available";
  if (container.memory_bytes) {
    const std::uint64_t left =
        *container.memory_bytes - std::min(*container.memory_bytes, container.memory_used_bytes.value_or(0));
    if (left < memory.available_bytes || memory.available_bytes == 0) {
      memory.usable_bytes = left;
      memory.usable_because = "what the container's limit leaves";
    }
  }
  return memory;
}

}  // namespace quern
