#include "math/process_memory.hpp"

#include <sys/resource.h>

#include <cstdio>

namespace quern {

std::size_t peak_resident_bytes() {
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) != 0 || usage.ru_maxrss < 0) return 0;
#if defined(__APPLE__)
  return static_cast<std::size_t>(usage.ru_maxrss);
#else
  return static_cast<std::size_t>(usage.ru_maxrss) * 1024;  // Linux and BSD count KiB
#endif
}

void forget_peak_resident() {
  std::FILE* file = std::fopen("/proc/self/clear_refs", "w");
  if (file == nullptr) return;
  (void)std::fputs("5", file);
  (void)std::fclose(file);
}

}  // namespace quern
