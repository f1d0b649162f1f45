#include "math/machine_topology.hpp"

#include <gtest/gtest.h>
#include <hwloc.h>

#include <string>

#include "support/tests_paths.hpp"

namespace quern {
namespace {

MachineTopology synthetic(const std::string& words) {
  const auto topology = read_topology({.synthetic = words, .xml = {}});
  EXPECT_TRUE(topology) << (topology ? "" : topology.error().message);
  return topology.value_or(MachineTopology{});
}

TEST(MachineTopology, TwoSocketsWithSmtAndAMemoryNodeEach) {
  const MachineTopology machine =
      synthetic("pack:2 [numa(memory=8589934592)] l3:1(size=33554432) l2:4(size=1048576) l1d:1(size=32768) core:1 pu:2");
  EXPECT_EQ(machine.packages, 2);
  EXPECT_EQ(machine.cores, 8);
  EXPECT_EQ(machine.logical_processors, 16);
  EXPECT_EQ(machine.threads_per_core, 2);
  ASSERT_EQ(machine.numa_nodes.size(), 2U);
  EXPECT_EQ(machine.numa_nodes[1].index, 1);
  EXPECT_EQ(machine.numa_nodes[1].memory_bytes, std::uint64_t{8} << 30);
  EXPECT_EQ(machine.numa_nodes[1].processors, "8-15");
  ASSERT_EQ(machine.siblings.size(), 8U);
  EXPECT_EQ(machine.siblings[0], "0-1");
  EXPECT_EQ(machine.cache_bytes(1), 32768U);
  EXPECT_EQ(machine.cache_bytes(2), 1048576U);
  EXPECT_EQ(machine.cache_bytes(3), 33554432U);
  EXPECT_EQ(machine.cache_bytes(4), 0U);
  for (const CacheReport& cache : machine.caches) {
    if (cache.level != 3) continue;
    EXPECT_EQ(cache.instances, 2);
    EXPECT_EQ(cache.processors_sharing, 8);
  }
  EXPECT_TRUE(machine.core_kinds.empty());
}

TEST(MachineTopology, NoThirdLevelCache) {
  const MachineTopology machine = synthetic("pack:1 l2:2(size=524288) l1d:2(size=32768) core:1 pu:1");
  EXPECT_EQ(machine.cores, 4);
  EXPECT_EQ(machine.threads_per_core, 1);
  EXPECT_EQ(machine.cache_bytes(3), 0U);
  EXPECT_EQ(machine.cache_bytes(2), 524288U);
  EXPECT_EQ(machine.numa_nodes.size(), 1U);
  for (const CacheReport& cache : machine.caches) {
    if (cache.level == 2) {
      EXPECT_EQ(cache.processors_sharing, 2);
    }
  }
}

TEST(MachineTopology, OneProcessorAndNothingElse) {
  const MachineTopology machine = synthetic("pu:1");
  EXPECT_EQ(machine.logical_processors, 1);
  EXPECT_TRUE(machine.caches.empty());
  EXPECT_EQ(machine.cache_bytes(1), 0U);
}

/// Writes a topology with two kinds of cores and memory of unlike sizes as XML, as lstopo does.
std::filesystem::path write_hybrid(const TemporaryFolder& folder) {
  hwloc_topology_t topology = nullptr;
  EXPECT_EQ(hwloc_topology_init(&topology), 0);
  EXPECT_EQ(hwloc_topology_set_synthetic(topology, "pack:1 l3:1(size=31457280) core:6 pu:1"), 0);
  EXPECT_EQ(hwloc_topology_load(topology), 0);
  hwloc_bitmap_t set = hwloc_bitmap_alloc();
  char type[] = "CoreType", core[] = "IntelCore", atom[] = "IntelAtom";
  hwloc_info_s info{type, core};
  hwloc_bitmap_set_range(set, 0, 1);
  EXPECT_EQ(hwloc_cpukinds_register(topology, set, 10, 1, &info, 0), 0);
  info.value = atom;
  hwloc_bitmap_zero(set);
  hwloc_bitmap_set_range(set, 2, 5);
  EXPECT_EQ(hwloc_cpukinds_register(topology, set, 1, 1, &info, 0), 0);
  hwloc_bitmap_free(set);
  const auto file = folder / "hybrid.xml";
  EXPECT_EQ(hwloc_topology_export_xml(topology, file.c_str(), 0), 0);
  hwloc_topology_destroy(topology);
  return file;
}

TEST(MachineTopology, KindsOfCoresFromAFile) {
  const TemporaryFolder folder;
  const auto machine = read_topology({.synthetic = {}, .xml = write_hybrid(folder)});
  ASSERT_TRUE(machine) << machine.error().message;
  EXPECT_EQ(machine->cores, 6);
  EXPECT_EQ(machine->cache_bytes(3), 31457280U);
  ASSERT_EQ(machine->core_kinds.size(), 2U);
  const CoreKind& slow = machine->core_kinds[0];
  const CoreKind& fast = machine->core_kinds[1];
  EXPECT_EQ(slow.type, "IntelAtom");
  EXPECT_EQ(slow.processors, "2-5");
  EXPECT_EQ(fast.type, "IntelCore");
  EXPECT_EQ(fast.processors, "0-1");
  EXPECT_GT(fast.efficiency, slow.efficiency);
}

TEST(MachineTopology, WhatIsNoTopologyIsAnErrorThatNamesIt) {
  const auto words = read_topology({.synthetic = "pack:two core:", .xml = {}});
  ASSERT_FALSE(words);
  EXPECT_EQ(words.error().code, ErrorCode::bad_input);
  EXPECT_NE(words.error().message.find("pack:two core:"), std::string::npos);
  const TemporaryFolder folder;
  for (const char* text : {"", "no XML", "<topology version=\"2.0\"><object type=\"Machine\""}) {
    const auto file = folder.write("broken.xml", text);
    const auto machine = read_topology({.synthetic = {}, .xml = file});
    ASSERT_FALSE(machine) << text;
    EXPECT_NE(machine.error().message.find("broken.xml"), std::string::npos);
  }
  EXPECT_FALSE(read_topology({.synthetic = {}, .xml = folder / "absent.xml"}));
}

}  // namespace
}  // namespace quern
