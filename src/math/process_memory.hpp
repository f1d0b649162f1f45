// How much memory this process has taken.
#pragma once

#include <cstddef>

namespace quern {

/// The most bytes that were resident at once since the process began, mapped files included; 0 where the system does not
/// say. Reads getrusage(2).
[[nodiscard]] std::size_t peak_resident_bytes();

}  // namespace quern
