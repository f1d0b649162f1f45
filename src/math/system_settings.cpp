// Formats: Linux Documentation/admin-guide/pm/cpufreq.rst, pm/intel_pstate.rst, mm/transhuge.rst, mm/hugetlbpage.rst,
// ABI/testing/sysfs-devices-system-cpu.
#include "math/system_settings.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "math/system_files.hpp"

namespace quern {
namespace {

/// The word in brackets of "always [madvise] never".
std::string chosen_word(const std::string& line) {
  const std::size_t open = line.find('['), close = line.find(']');
  return open == std::string::npos || close == std::string::npos || close < open ? ""
                                                                                 : line.substr(open + 1, close - open - 1);
}

bool alike(const ClockPolicy& a, const ClockPolicy& b) {
  return a.driver == b.driver && a.governor == b.governor && a.preference == b.preference && a.min_khz == b.min_khz &&
         a.max_khz == b.max_khz && a.base_khz == b.base_khz;
}

}  // namespace

ClockSettings read_clock_settings(const std::filesystem::path& root) {
  ClockSettings settings;
  const std::filesystem::path processors = root / "sys/devices/system/cpu";
  std::vector<std::vector<std::int64_t>> members;
  for (const std::string& name : entries_of(processors)) {
    const auto number = name.starts_with("cpu") ? whole_number(std::string_view(name).substr(3)) : std::nullopt;
    if (!number) continue;
    const std::filesystem::path folder = processors / name / "cpufreq";
    ClockPolicy policy{.processors = {},
                       .driver = first_line(folder / "scaling_driver"),
                       .governor = first_line(folder / "scaling_governor"),
                       .preference = first_line(folder / "energy_performance_preference"),
                       .min_khz = number_in(folder / "cpuinfo_min_freq").value_or(0),
                       .max_khz = number_in(folder / "cpuinfo_max_freq").value_or(0),
                       .base_khz = number_in(folder / "base_frequency").value_or(0)};
    if (policy.driver.empty() && policy.governor.empty() && policy.max_khz == 0) continue;
    const auto same = std::find_if(settings.policies.begin(), settings.policies.end(),
                                   [&](const ClockPolicy& other) { return alike(other, policy); });
    if (same == settings.policies.end()) {
      settings.policies.push_back(std::move(policy));
      members.push_back({*number});
    } else {
      members[static_cast<std::size_t>(same - settings.policies.begin())].push_back(*number);
    }
  }
  for (std::size_t i = 0; i < members.size(); ++i) settings.policies[i].processors = list_of_numbers(members[i]);

  if (const auto no_turbo = number_in(processors / "intel_pstate/no_turbo")) {
    settings.boost = *no_turbo == 0;
  } else if (const auto boost = number_in(processors / "cpufreq/boost")) {
    settings.boost = *boost != 0;
  }
  const std::string nominal = field_in(root / "proc/cpuinfo", "cpu MHz");
  if (!nominal.empty()) settings.nominal_mhz = std::max(0.0, std::strtod(nominal.c_str(), nullptr));
  return settings;
}

PageSettings read_page_settings(const std::filesystem::path& root) {
  PageSettings settings;
  const long page = sysconf(_SC_PAGESIZE);
  settings.page_bytes = page > 0 ? static_cast<std::uint64_t>(page) : 0;
  const std::filesystem::path transparent = root / "sys/kernel/mm/transparent_hugepage";
  settings.transparent = chosen_word(first_line(transparent / "enabled"));
  settings.transparent_defrag = chosen_word(first_line(transparent / "defrag"));
  settings.huge_page_bytes =
      static_cast<std::uint64_t>(std::max<std::int64_t>(0, number_in(transparent / "hpage_pmd_size").value_or(0)));
  settings.huge_bytes_in_use = kilobytes_in(root / "proc/meminfo", "AnonHugePages").value_or(0);

  const std::filesystem::path pools = root / "sys/kernel/mm/hugepages";
  for (const std::string& name : entries_of(pools)) {  // hugepages-2048kB
    constexpr std::string_view kPrefix = "hugepages-", kSuffix = "kB";
    if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix) || name.size() < kPrefix.size() + kSuffix.size()) continue;
    const auto kilobytes =
        whole_number(std::string_view(name).substr(kPrefix.size(), name.size() - kPrefix.size() - kSuffix.size()));
    if (!kilobytes || *kilobytes <= 0 || *kilobytes > (std::int64_t{1} << 40)) continue;
    settings.pools.push_back({.page_bytes = static_cast<std::uint64_t>(*kilobytes) * 1024,
                              .pages = number_in(pools / name / "nr_hugepages").value_or(0),
                              .free_pages = number_in(pools / name / "free_hugepages").value_or(0),
                              .overcommit_pages = number_in(pools / name / "nr_overcommit_hugepages").value_or(0)});
  }
  std::sort(settings.pools.begin(), settings.pools.end(),
            [](const HugePagePool& a, const HugePagePool& b) { return a.page_bytes < b.page_bytes; });
  return settings;
}

PlacementSettings read_placement_settings(const std::filesystem::path& root) {
  PlacementSettings settings;
  settings.smt = first_line(root / "sys/devices/system/cpu/smt/control");
  if (const auto balancing = number_in(root / "proc/sys/kernel/numa_balancing")) settings.numa_balancing = *balancing != 0;
  settings.isolated_processors = first_line(root / "sys/devices/system/cpu/isolated");
  return settings;
}

}  // namespace quern
