// How much memory this process has taken, and may take.
#pragma once

#include <cstddef>

namespace quern {

/// The most bytes that were resident at once since the process began or the peak was forgotten, mapped files included; 0
/// where the system does not say. Reads VmHWM of /proc/self/status, else getrusage(2).
[[nodiscard]] std::size_t peak_resident_bytes();

/// Lets peak_resident_bytes() begin again from what is resident now (Linux: /proc/self/clear_refs). Where the system does
/// not allow it nothing happens.
void forget_peak_resident();

/// What a process may plan to take: the machine's memory or the container's limit (container_limits.hpp), whichever is less,
/// but for a twentieth that stays for everything that is not planned; SIZE_MAX where the system does not say.
[[nodiscard]] std::size_t default_memory_limit();

}  // namespace quern
