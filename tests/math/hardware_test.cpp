#include "math/hardware.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "math/thread_team.hpp"
#include "support/tests_paths.hpp"

namespace quern {
namespace {

TEST(Hardware, ReportAgreesWithTheSystem) {
  const Result<HardwareReport> report = read_hardware();
  ASSERT_TRUE(report) << report.error().message;
  const MachineTopology& topology = report->topology;
  EXPECT_GE(topology.packages, 1);
  EXPECT_GE(topology.cores, topology.packages);
  EXPECT_GE(topology.logical_processors, topology.cores);
  EXPECT_GE(topology.numa_nodes.size(), 1U);
  EXPECT_LE(topology.logical_processors, sysconf(_SC_NPROCESSORS_CONF));
  EXPECT_GT(report->memory.machine_bytes, std::uint64_t{64} << 20);
  EXPECT_LE(report->memory.usable_bytes, report->memory.machine_bytes);
  EXPECT_FALSE(report->architecture.empty());
  EXPECT_GE(report->affinity_processors, 1);
  EXPECT_FALSE(report->affinity.empty());
  EXPECT_EQ(report->default_threads, default_thread_count());
  EXPECT_LE(report->default_threads, report->affinity_processors);
  for (const CacheReport& cache : topology.caches) {
    EXPECT_GE(cache.level, 1);
    EXPECT_GE(cache.instances, 1);
    EXPECT_GE(cache.processors_sharing, 1);
    EXPECT_LE(cache.instances * cache.processors_sharing, std::max<std::int64_t>(topology.logical_processors, 1));
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

/// A container on half of one socket of a large machine.
TEST(Hardware, AMachineThatIsNotHere) {
  const TemporaryFolder root;
  (void)root.write("proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-15,900\nMems_allowed_list:\t0\n");
  (void)root.write("proc/self/mountinfo", "31 23 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
  (void)root.write("proc/self/cgroup", "0::/\n");
  (void)root.write("proc/meminfo", "MemTotal: 1048576 kB\nMemAvailable: 524288 kB\n");
  (void)root.write("sys/fs/cgroup/cpu.max", "650000 100000\n");
  (void)root.write("sys/devices/system/cpu/smt/control", "on\n");
  const auto report =
      read_hardware({.root = root.path(), .topology = {.synthetic = "pack:2 [numa] l3:1 core:16 pu:2", .xml = {}}});
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_EQ(report->topology.logical_processors, 64);
  EXPECT_EQ(report->topology.threads_per_core, 2);
  EXPECT_EQ(report->affinity, "0-15");  // processor 900 does not exist
  EXPECT_EQ(report->affinity_processors, 16);
  EXPECT_EQ(report->memory_nodes, "0");
  EXPECT_DOUBLE_EQ(report->container.processors.value(), 6.5);
  EXPECT_EQ(report->default_threads, 7);
  EXPECT_EQ(report->default_threads_because, "16 processors of 8 cores in the affinity mask, a container CPU quota of 6.50");
  EXPECT_EQ(report->memory.usable_bytes, std::uint64_t{512} << 20);
  EXPECT_EQ(report->placement.smt, "on");
  EXPECT_TRUE(report->gpus.empty());
}

TEST(Hardware, WithoutAMaskEveryProcessorCounts) {
  const TemporaryFolder root;
  const auto report = read_hardware({.root = root.path(), .topology = {.synthetic = "core:3 pu:1", .xml = {}}});
  ASSERT_TRUE(report);
  EXPECT_EQ(report->affinity, "0-2");
  EXPECT_EQ(report->default_threads, 3);
}

TEST(Hardware, ThreadCountFollowsMaskAndQuota) {
  EXPECT_EQ(thread_count_for(8, {}), 8);
  EXPECT_EQ(thread_count_for(8, 2.0), 2);
  EXPECT_EQ(thread_count_for(8, 2.01), 3);
  EXPECT_EQ(thread_count_for(8, 0.1), 1);
  EXPECT_EQ(thread_count_for(8, 64.0), 8);
  EXPECT_EQ(thread_count_for(0, {}), 1);
}

TEST(Hardware, TextShowsEveryPart) {
  HardwareReport report;
  report.processor = "A processor";
  report.vendor = "Some Vendor";
  report.architecture = "x86_64";
  report.hypervisor = "XenVMMXenVMM";
  report.system = "Linux 6.1";
  report.topology.logical_processors = 8;
  report.topology.cores = 4;
  report.topology.packages = 1;
  report.topology.threads_per_core = 2;
  report.topology.numa_nodes = {{.index = 0, .memory_bytes = std::uint64_t{16} << 30, .processors = "0-7"},
                                {.index = 1, .memory_bytes = std::uint64_t{64} << 30, .processors = ""}};
  report.topology.core_kinds = {{.processors = "0-3", .efficiency = 0, .type = "IntelAtom"}};
  report.topology.caches = {
      {.level = 2, .kind = "unified", .bytes = 2 << 20, .line_bytes = 64, .instances = 4, .processors_sharing = 2}};
  report.placement = {.smt = "on", .numa_balancing = false, .isolated_processors = "7"};
  report.clock.policies = {{.processors = "0-7",
                            .driver = "amd-pstate",
                            .governor = "performance",
                            .preference = "performance",
                            .min_khz = 800000,
                            .max_khz = 3200000,
                            .base_khz = 2500000}};
  report.clock.boost = true;
  report.pages = {.page_bytes = 4096,
                  .transparent = "always",
                  .transparent_defrag = "madvise",
                  .huge_page_bytes = 2 << 20,
                  .pools = {{.page_bytes = 2 << 20, .pages = 3, .free_pages = 1, .overcommit_pages = 5}},
                  .huge_bytes_in_use = 1 << 20};
  report.memory = {.machine_bytes = std::uint64_t{16} << 30,
                   .available_bytes = std::uint64_t{8} << 30,
                   .swap_bytes = 1 << 20,
                   .usable_bytes = std::uint64_t{2} << 30,
                   .usable_because = "what the container's limit leaves"};
  report.container = {.processors = 1.5,
                      .memory_bytes = std::uint64_t{3} << 30,
                      .memory_used_bytes = std::uint64_t{1} << 30,
                      .memory_high_bytes = std::uint64_t{2} << 30};
  report.gpus = {{.address = "0000:41:00.0",
                  .kind = "3D controller",
                  .name = "Some GPU",
                  .driver = "nvidia",
                  .memory_bytes = std::uint64_t{80} << 30,
                  .numa_node = 1}};
  report.affinity = "0-7";
  report.affinity_processors = 8;
  report.memory_nodes = "0-1";
  report.features.avx2 = true;
  report.features.os_avx = true;
  report.paths = {{Isa::avx512, "this machine lacks avx512f"}, {Isa::avx2, ""}};
  report.chosen = Isa::avx2;
  report.chosen_because = "best";
  report.default_threads = 2;
  report.default_threads_because = "quota";
  EXPECT_EQ(
      hardware_text(report),
      "processor: A processor, Some Vendor (x86_64), a virtual machine of XenVMMXenVMM\n"
      "system: Linux 6.1\n"
      "layout: 8 logical processors, 4 cores, 1 package, 2 NUMA nodes; SMT: up to 2 threads a core\n"
      "cores of kind IntelAtom: processors 0-3, rank 0 by speed\n"
      "NUMA node 0: 16 GiB, processors 0-7\n"
      "NUMA node 1: 64 GiB, no processors of its own\n"
      "cache L2 unified: 4 x 2 MiB, shared by 2 logical processors, 64 byte lines\n"
      "SMT switch: on\n"
      "NUMA balancing: off\n"
      "isolated processors: 7\n"
      "clock of processors 0-7: governor performance (amd-pstate), preference performance, 0.80 GHz to 3.20 GHz, base "
      "2.50 GHz\n"
      "boost: on\n"
      "pages: 4 KiB; transparent huge pages of 2 MiB: always (defrag: madvise), 1 MiB in use\n"
      "pool of 2 MiB pages: 3 set aside, 1 free, 5 more on demand\n"
      "memory: 16 GiB, 8 GiB available, 1 MiB of swap free\n"
      "container: CPU quota 1.50, memory limit 3 GiB of which 1 GiB taken, slowed down above 2 GiB\n"
      "this process may take: 2 GiB (what the container's limit leaves)\n"
      "affinity: 8 logical processors (0-7), memory of NUMA nodes 0-1\n"
      "GPU 0000:41:00.0: Some GPU (3D controller, driver nvidia, 80 GiB, near NUMA node 1); not used, Quern computes on "
      "the CPU\n"
      "flags: avx2\n"
      "registers that the system saves: AVX\n"
      "path avx512: this machine lacks avx512f\n"
      "path avx2: can be used\n"
      "instruction set: avx2 (best)\n"
      "threads: 2 (quota)\n");
  // Nothing known at all still reads well.
  const std::string empty = hardware_text(HardwareReport{});
  for (const char* words : {"processor: unknown", "clock: no governor in /sys", "no transparent huge pages", "GPUs: none",
                            "container: no CPU quota, no memory limit", "instruction set: none"}) {
    EXPECT_NE(empty.find(words), std::string::npos) << words;
  }
}

}  // namespace
}  // namespace quern
