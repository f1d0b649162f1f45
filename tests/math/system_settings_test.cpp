#include "math/system_settings.hpp"

#include <gtest/gtest.h>

#include <string>

#include "math/system_files.hpp"
#include "support/tests_paths.hpp"

namespace quern {
namespace {

TEST(SystemFiles, ListsOfNumbers) {
  using Numbers = std::vector<std::int64_t>;
  EXPECT_EQ(numbers_of_list("0-3,8"), (Numbers{0, 1, 2, 3, 8}));
  EXPECT_EQ(numbers_of_list("5"), (Numbers{5}));
  EXPECT_EQ(numbers_of_list("2,1,2\n"), (Numbers{1, 2}));
  for (const char* bad : {"", "a", "3-1", "0-", "-1", "0-99999999", "1,,2", "1 2"}) {
    EXPECT_TRUE(numbers_of_list(bad).empty()) << bad;
  }
  EXPECT_EQ(list_of_numbers({8, 1, 0, 2, 3}), "0-3,8");
  EXPECT_EQ(list_of_numbers({}), "");
  EXPECT_EQ(list_of_numbers(numbers_of_list("0-7,16-23,31")), "0-7,16-23,31");
}

TEST(SystemFiles, NumbersAndFields) {
  EXPECT_EQ(whole_number("0x10de"), 0x10DE);
  EXPECT_EQ(whole_number("42"), 42);
  EXPECT_FALSE(whole_number("42 "));
  EXPECT_FALSE(whole_number("0x"));
  const TemporaryFolder folder;
  const auto file = folder.write("meminfo", "MemTotal:       16 kB\nMemFree:  x kB\nHugePages_Total:  3\n");
  EXPECT_EQ(kilobytes_in(file, "MemTotal"), 16384U);
  EXPECT_FALSE(kilobytes_in(file, "MemFree"));
  EXPECT_FALSE(kilobytes_in(file, "HugePages_Total"));  // no kB
  EXPECT_FALSE(kilobytes_in(file, "MemTota"));
  EXPECT_EQ(field_in(file, "HugePages_Total"), "3");
  EXPECT_EQ(byte_count_text(3U << 30), "3 GiB");
  EXPECT_EQ(byte_count_text(100), "100 bytes");
}

TEST(SystemFiles, EntriesInTheOrderOfTheirNumbers) {
  const TemporaryFolder folder;
  for (const char* name : {"cpu10/x", "cpu2/x", "online/x"}) (void)folder.write(name, "");
  EXPECT_EQ(entries_of(folder.path()), (std::vector<std::string>{"cpu2", "cpu10", "online"}));
  EXPECT_TRUE(entries_of(folder / "absent").empty());
}

TEST(ClockSettings, ProcessorsAlikeAreOnePolicy) {
  const TemporaryFolder root;
  for (int cpu = 0; cpu < 12; ++cpu) {
    const std::string folder = "sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/cpufreq/";
    const bool fast = cpu < 8;
    (void)root.write(folder + "scaling_driver", "intel_pstate\n");
    (void)root.write(folder + "scaling_governor", "powersave\n");
    (void)root.write(folder + "energy_performance_preference", "balance_performance\n");
    (void)root.write(folder + "cpuinfo_min_freq", "800000\n");
    (void)root.write(folder + "cpuinfo_max_freq", fast ? "5000000\n" : "3800000\n");
    if (fast) (void)root.write(folder + "base_frequency", "3200000\n");
  }
  (void)root.write("sys/devices/system/cpu/cpuidle/current_driver", "intel_idle\n");  // no processor's folder
  (void)root.write("sys/devices/system/cpu/intel_pstate/no_turbo", "0\n");
  (void)root.write("proc/cpuinfo", "processor\t: 0\ncpu MHz\t\t: 1234.500\n");
  const ClockSettings clock = read_clock_settings(root.path());
  ASSERT_EQ(clock.policies.size(), 2U);
  EXPECT_EQ(clock.policies[0].processors, "0-7");
  EXPECT_EQ(clock.policies[0].governor, "powersave");
  EXPECT_EQ(clock.policies[0].preference, "balance_performance");
  EXPECT_EQ(clock.policies[0].base_khz, 3200000);
  EXPECT_EQ(clock.policies[1].processors, "8-11");
  EXPECT_EQ(clock.policies[1].max_khz, 3800000);
  EXPECT_EQ(clock.policies[1].base_khz, 0);
  EXPECT_EQ(clock.boost, true);
  EXPECT_DOUBLE_EQ(clock.nominal_mhz, 1234.5);
}

TEST(ClockSettings, NothingSaid) {
  const TemporaryFolder root;
  ClockSettings clock = read_clock_settings(root.path());
  EXPECT_TRUE(clock.policies.empty());
  EXPECT_FALSE(clock.boost.has_value());
  EXPECT_EQ(clock.nominal_mhz, 0.0);
  (void)root.write("sys/devices/system/cpu/cpufreq/boost", "0\n");  // acpi-cpufreq's switch
  clock = read_clock_settings(root.path());
  EXPECT_EQ(clock.boost, false);
}

TEST(PageSettings, TransparentHugePagesAndPools) {
  const TemporaryFolder root;
  (void)root.write("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
  (void)root.write("sys/kernel/mm/transparent_hugepage/defrag", "always defer defer+madvise madvise [never]\n");
  (void)root.write("sys/kernel/mm/transparent_hugepage/hpage_pmd_size", "2097152\n");
  (void)root.write("proc/meminfo", "AnonHugePages:     4096 kB\n");
  (void)root.write("sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", "0\n");
  (void)root.write("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "512\n");
  (void)root.write("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "500\n");
  (void)root.write("sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages", "16\n");
  (void)root.write("sys/kernel/mm/hugepages/hugepages-xkB/nr_hugepages", "7\n");
  const PageSettings pages = read_page_settings(root.path());
  EXPECT_GT(pages.page_bytes, 0U);
  EXPECT_EQ(pages.transparent, "madvise");
  EXPECT_EQ(pages.transparent_defrag, "never");
  EXPECT_EQ(pages.huge_page_bytes, 2097152U);
  EXPECT_EQ(pages.huge_bytes_in_use, 4096U * 1024U);
  ASSERT_EQ(pages.pools.size(), 2U);
  EXPECT_EQ(pages.pools[0].page_bytes, 2097152U);
  EXPECT_EQ(pages.pools[0].pages, 512);
  EXPECT_EQ(pages.pools[0].free_pages, 500);
  EXPECT_EQ(pages.pools[0].overcommit_pages, 16);
  EXPECT_EQ(pages.pools[1].page_bytes, std::uint64_t{1} << 30);
}

TEST(PageSettings, AKernelWithoutHugePages) {
  const TemporaryFolder root;
  const PageSettings pages = read_page_settings(root.path());
  EXPECT_TRUE(pages.transparent.empty());
  EXPECT_TRUE(pages.pools.empty());
  (void)root.write("sys/kernel/mm/transparent_hugepage/enabled", "always madvise never\n");  // nothing chosen
  EXPECT_TRUE(read_page_settings(root.path()).transparent.empty());
}

TEST(PlacementSettings, SwitchesAndTheirAbsence) {
  const TemporaryFolder root;
  PlacementSettings placement = read_placement_settings(root.path());
  EXPECT_TRUE(placement.smt.empty());
  EXPECT_FALSE(placement.numa_balancing.has_value());
  (void)root.write("sys/devices/system/cpu/smt/control", "off\n");
  (void)root.write("sys/devices/system/cpu/isolated", "2-3\n");
  (void)root.write("proc/sys/kernel/numa_balancing", "1\n");
  placement = read_placement_settings(root.path());
  EXPECT_EQ(placement.smt, "off");
  EXPECT_EQ(placement.numa_balancing, true);
  EXPECT_EQ(placement.isolated_processors, "2-3");
}

}  // namespace
}  // namespace quern
