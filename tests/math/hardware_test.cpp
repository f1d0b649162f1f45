#include "math/hardware.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "math/thread_team.hpp"

namespace quern {
namespace {

TEST(Hardware, ReportAgreesWithTheSystem) {
  const Result<HardwareReport> report = read_hardware();
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_GE(report->packages, 1);
  EXPECT_GE(report->cores, report->packages);
  EXPECT_GE(report->logical_processors, report->cores);
  EXPECT_GE(report->numa_nodes, 1);
  EXPECT_LE(report->logical_processors, sysconf(_SC_NPROCESSORS_CONF));
  EXPECT_GT(report->memory_bytes, std::uint64_t{64} << 20);
  EXPECT_FALSE(report->architecture.empty());
  EXPECT_GE(report->affinity_processors, 1);
  EXPECT_FALSE(report->affinity.empty());
  EXPECT_EQ(report->default_threads, default_thread_count());
  EXPECT_LE(report->default_threads, report->affinity_processors);
  for (const CacheReport& cache : report->caches) {
    EXPECT_GE(cache.level, 1);
    EXPECT_GE(cache.instances, 1);
    EXPECT_GE(cache.processors_sharing, 1);
    EXPECT_LE(cache.instances * cache.processors_sharing, std::max<std::int64_t>(report->logical_processors, 1));
  }
}

TEST(Hardware, PathsAndChoiceAreThoseOfDispatch) {
  const Result<HardwareReport> report = read_hardware();
  ASSERT_TRUE(report);
  EXPECT_EQ(report->paths.size(), static_cast<std::size_t>(kIsaCount));
  const Result<const KernelTable*> chosen = chosen_kernels();
  EXPECT_EQ(report->chosen.has_value(), chosen.has_value());
  if (chosen) {
    EXPECT_EQ(report->chosen, (*chosen)->isa);
  }
  EXPECT_FALSE(report->chosen_because.empty());
}

TEST(Hardware, TextShowsEveryPart) {
  HardwareReport report;
  report.processor = "A processor";
  report.vendor = "Some Vendor";
  report.architecture = "x86_64";
  report.logical_processors = 8;
  report.cores = 4;
  report.packages = 1;
  report.numa_nodes = 1;
  report.caches = {
      {.level = 2, .kind = "unified", .bytes = 2 << 20, .line_bytes = 64, .instances = 4, .processors_sharing = 2}};
  report.memory_bytes = std::uint64_t{16} << 30;
  report.container = {.processors = 1.5, .memory_bytes = std::uint64_t{3} << 30};
  report.affinity = "0-7";
  report.affinity_processors = 8;
  report.features.avx2 = true;
  report.paths = {{Isa::avx512, "this machine lacks avx512f"}, {Isa::avx2, ""}};
  report.chosen = Isa::avx2;
  report.chosen_because = "best";
  report.default_threads = 2;
  report.default_threads_because = "quota";
  EXPECT_EQ(hardware_text(report),
            "processor: A processor, Some Vendor (x86_64)\n"
            "layout: 8 logical processors, 4 cores, 1 packages, 1 NUMA nodes\n"
            "cache L2 unified: 4 x 2 MiB, shared by 2 logical processors, 64 byte lines\n"
            "memory: 16 GiB\n"
            "container: CPU quota 1.50, memory limit 3 GiB\n"
            "affinity: 8 logical processors (0-7)\n"
            "flags: avx2\n"
            "path avx512: this machine lacks avx512f\n"
            "path avx2: can be used\n"
            "instruction set: avx2 (best)\n"
            "threads: 2 (quota)\n");
  // Nothing known at all still reads well.
  const std::string empty = hardware_text(HardwareReport{});
  EXPECT_NE(empty.find("processor: unknown"), std::string::npos);
  EXPECT_NE(empty.find("container: no CPU quota, no memory limit"), std::string::npos);
  EXPECT_NE(empty.find("instruction set: none"), std::string::npos);
}

}  // namespace
}  // namespace quern
