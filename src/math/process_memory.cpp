#include "math/process_memory.hpp"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>

#include "math/container_limits.hpp"

namespace quern {

namespace {

/// VmHWM of /proc/self/status, in bytes; 0 where there is none.
std::size_t high_water_mark() {
  std::FILE* file = std::fopen("/proc/self/status", "r");
  if (file == nullptr) return 0;
  unsigned long long kib = 0;
  char line[256];
  while (kib == 0 && std::fgets(line, sizeof line, file) != nullptr) {
    if (std::sscanf(line, "VmHWM: %llu kB", &kib) != 1) kib = 0;
  }
  (void)std::fclose(file);
  return static_cast<std::size_t>(kib) * 1024;
}

}  // namespace

std::size_t peak_resident_bytes() {
  // getrusage() also counts what the process was before it began this program: a copy of its parent.
  if (const std::size_t bytes = high_water_mark(); bytes > 0) return bytes;
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

std::size_t default_memory_limit() {
  const long pages = ::sysconf(_SC_PHYS_PAGES), page_bytes = ::sysconf(_SC_PAGESIZE);
  std::uint64_t limit = SIZE_MAX;
  if (pages > 0 && page_bytes > 0) limit = static_cast<std::uint64_t>(pages) * static_cast<std::uint64_t>(page_bytes);
  if (const auto container = read_container_limits().memory_bytes) limit = std::min(limit, *container);
  return limit == SIZE_MAX ? SIZE_MAX : static_cast<std::size_t>(limit - limit / 20);
}

}  // namespace quern
