// How long this process has been running.
#pragma once

namespace quern {

/// Seconds since the system started this process, program loading included, to a hundredth of a second (/proc/self/stat);
/// 0 where the system does not say.
[[nodiscard]] double process_age_seconds();

}  // namespace quern
