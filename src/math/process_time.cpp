#include "math/process_time.hpp"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>

#include "math/system_files.hpp"

namespace quern {

double process_age_seconds() {
  const std::string line = first_line("/proc/self/stat");
  // The second field is the program's name in parentheses, which may hold anything; the third follows the last of them.
  const std::size_t name_end = line.rfind(')');
  const long ticks_per_second = sysconf(_SC_CLK_TCK);
  timespec now{};
  if (name_end == std::string::npos || ticks_per_second <= 0 || clock_gettime(CLOCK_BOOTTIME, &now) != 0) return 0.0;
  unsigned long long start_ticks = 0;  // field 22, since the system started
  if (std::sscanf(line.c_str() + name_end + 1,
                  " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &start_ticks) != 1) {
    return 0.0;
  }
  const double since_boot = static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
  return std::max(0.0, since_boot - static_cast<double>(start_ticks) / static_cast<double>(ticks_per_second));
}

}  // namespace quern
