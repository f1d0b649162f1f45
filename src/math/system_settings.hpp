// How the system runs this machine: clock governor and range, huge pages, SMT and NUMA switches, as /sys and /proc say.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace quern {

/// Logical processors whose clocks are governed alike. Frequencies in kHz; 0: not said.
struct ClockPolicy {
  std::string processors;  ///< "0-15"
  std::string driver, governor;
  std::string preference;  ///< energy_performance_preference; empty where the driver has none
  std::int64_t min_khz = 0, max_khz = 0, base_khz = 0;
};

struct ClockSettings {
  std::vector<ClockPolicy> policies;  ///< empty: the system does not govern clocks (most virtual machines)
  std::optional<bool> boost;          ///< clocks above the base allowed; empty: not said
  double nominal_mhz = 0.0;           ///< "cpu MHz" of /proc/cpuinfo for the first processor; 0: not said
};

/// cpufreq of every processor under root/sys, with intel_pstate's or cpufreq's switch for boost.
[[nodiscard]] ClockSettings read_clock_settings(const std::filesystem::path& root = "/");

/// Huge pages of one size that are set aside.
struct HugePagePool {
  std::uint64_t page_bytes = 0;
  std::int64_t pages = 0, free_pages = 0;
  std::int64_t overcommit_pages = 0;  ///< further pages that may be taken while memory allows
};

struct PageSettings {
  std::uint64_t page_bytes = 0;         ///< of a small page
  std::string transparent;              ///< "always", "madvise", "never"; empty: the kernel has none
  std::string transparent_defrag;       ///< when a fault waits for a huge page to be made
  std::uint64_t huge_page_bytes = 0;    ///< of a transparent huge page
  std::vector<HugePagePool> pools;      ///< by page size
  std::uint64_t huge_bytes_in_use = 0;  ///< transparent huge pages of all processes
};

[[nodiscard]] PageSettings read_page_settings(const std::filesystem::path& root = "/");

/// Switches that change how threads and memory should be placed; empty where the system does not say.
struct PlacementSettings {
  std::string smt;                     ///< "on", "off", "forceoff", "notsupported", "notimplemented"
  std::optional<bool> numa_balancing;  ///< the kernel moves pages towards the threads that use them
  std::string isolated_processors;     ///< left out of the scheduler's balancing
};

[[nodiscard]] PlacementSettings read_placement_settings(const std::filesystem::path& root = "/");

}  // namespace quern
