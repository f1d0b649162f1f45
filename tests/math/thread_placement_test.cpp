// Where affinity policies put threads: on fake topologies, and whether a team's threads are then there.
#include "math/thread_placement.hpp"

#include <gtest/gtest.h>
#include <hwloc.h>
#include <sched.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <vector>

#include "math/thread_team.hpp"
#include "support/tests_paths.hpp"

namespace quern {
namespace {

using Processors = std::vector<int>;

MachineTopology synthetic(const std::string& words) {
  const auto topology = read_topology({.synthetic = words, .xml = {}});
  EXPECT_TRUE(topology) << (topology ? "" : topology.error().message);
  return topology.value_or(MachineTopology{});
}

Processors all_of(const MachineTopology& machine) {
  Processors all(static_cast<std::size_t>(machine.logical_processors));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

Processors place(const MachineTopology& machine, const Processors& allowed, int threads, Affinity affinity) {
  const auto placed = place_threads(machine, allowed, threads, affinity);
  EXPECT_TRUE(placed) << (placed ? "" : placed.error().message);
  return placed.value_or(Processors{});
}

/// Two sockets with a memory node each, two last-level caches in each, two cores of two siblings on a cache: processors 2i
/// and 2i + 1 are siblings.
MachineTopology two_sockets() { return synthetic("pack:2 [numa(memory=8589934592)] l3:2(size=33554432) core:2 pu:2"); }

TEST(ThreadPlacement, NoneBindsNothing) {
  EXPECT_TRUE(place(two_sockets(), {0, 1}, 4, Affinity::none).empty());
  EXPECT_TRUE(place_threads_here(4, Affinity::none).value().empty());
}

TEST(ThreadPlacement, CompactFillsAPackageCoreByCoreBeforeTheNext) {
  const MachineTopology machine = two_sockets();
  const Processors all = all_of(machine);
  EXPECT_EQ(place(machine, all, 2, Affinity::compact), (Processors{0, 2}));
  EXPECT_EQ(place(machine, all, 4, Affinity::compact), (Processors{0, 2, 4, 6}));
  EXPECT_EQ(place(machine, all, 10, Affinity::compact), (Processors{0, 2, 4, 6, 1, 3, 5, 7, 8, 10}));
}

TEST(ThreadPlacement, SpreadTakesTurnsOverPackagesThenCachesThenCores) {
  const MachineTopology machine = two_sockets();
  const Processors all = all_of(machine);
  EXPECT_EQ(place(machine, all, 2, Affinity::spread), (Processors{0, 8}));
  EXPECT_EQ(place(machine, all, 4, Affinity::spread), (Processors{0, 8, 4, 12}));
  const Processors eight = place(machine, all, 8, Affinity::spread);
  EXPECT_EQ(std::set<int>(eight.begin(), eight.end()), (std::set<int>{0, 2, 4, 6, 8, 10, 12, 14})) << "no sibling is used";
  const Processors sixteen = place(machine, all, 16, Affinity::spread);
  EXPECT_EQ(std::set<int>(sixteen.begin(), sixteen.end()).size(), 16U);
}

TEST(ThreadPlacement, UnevenNodesAreFilledEvenlyUntilTheSmallOneIsFull) {
  // Three nodes of 1, 2 and 4 cores can only be had from a mask: node 0 has processors 0-3, node 1 4-7, node 2 8-11.
  const MachineTopology machine = synthetic("pack:3 [numa(memory=1073741824)] core:4 pu:1");
  const Processors allowed = {0, 4, 5, 8, 9, 10, 11};
  EXPECT_EQ(place(machine, allowed, 7, Affinity::spread), (Processors{0, 4, 8, 5, 9, 10, 11}));
  EXPECT_EQ(place(machine, allowed, 5, Affinity::compact), (Processors{8, 9, 10, 11, 4})) << "the largest first";
}

TEST(ThreadPlacement, AnXmlFilesUnevenNodes) {
  const TemporaryFolder folder;
  hwloc_topology_t topology = nullptr;
  ASSERT_EQ(hwloc_topology_init(&topology), 0);
  ASSERT_EQ(hwloc_topology_set_synthetic(topology, "pack:2 [numa(memory=1073741824)] core:4 pu:1"), 0);
  ASSERT_EQ(hwloc_topology_load(topology), 0);
  hwloc_bitmap_t left = hwloc_bitmap_alloc();  // a cgroup that leaves one core of the second socket
  hwloc_bitmap_set_range(left, 0, 4);
  ASSERT_EQ(hwloc_topology_restrict(topology, left, 0), 0);
  hwloc_bitmap_free(left);
  const std::filesystem::path file = folder.path() / "machine.xml";
  ASSERT_EQ(hwloc_topology_export_xml(topology, file.c_str(), 0), 0);
  hwloc_topology_destroy(topology);
  const auto machine = read_topology({.synthetic = {}, .xml = file});
  ASSERT_TRUE(machine) << machine.error().message;
  ASSERT_EQ(machine->places.size(), 5U);
  EXPECT_EQ(machine->places[4].numa_node, 1);
  EXPECT_EQ(place(*machine, {0, 1, 2, 3, 4}, 4, Affinity::spread), (Processors{0, 4, 1, 2}));
  EXPECT_EQ(place(*machine, {0, 1, 2, 3, 4}, 4, Affinity::compact), (Processors{0, 1, 2, 3}));
}

TEST(ThreadPlacement, ProcessorsOutsideTheMaskAreNeverGiven) {
  const MachineTopology machine = two_sockets();
  const Processors allowed = {3, 6, 7, 9};
  for (const Affinity affinity : {Affinity::compact, Affinity::spread}) {
    for (int threads = 1; threads <= 9; ++threads) {
      const Processors placed = place(machine, allowed, threads, affinity);
      ASSERT_EQ(placed.size(), static_cast<std::size_t>(threads));
      for (const int processor : placed) {
        EXPECT_NE(std::find(allowed.begin(), allowed.end(), processor), allowed.end()) << processor;
      }
      // Every processor is taken once before any is taken twice.
      const std::set<int> first(placed.begin(), placed.begin() + std::min<std::ptrdiff_t>(threads, 4));
      EXPECT_EQ(first.size(), static_cast<std::size_t>(std::min(threads, 4)));
    }
  }
  EXPECT_EQ(place(machine, allowed, 3, Affinity::compact), (Processors{6, 3, 7}))
      << "the package with three of the four, its cache with two of them first, siblings last";
  EXPECT_EQ(place(machine, allowed, 2, Affinity::spread), (Processors{3, 9}));
  const auto none = place_threads(machine, Processors{99}, 2, Affinity::spread);
  ASSERT_FALSE(none);
  EXPECT_NE(none.error().message.find("none of the processors"), std::string::npos);
}

TEST(ThreadPlacement, TopologiesWithoutCoresCachesOrPackages) {
  const MachineTopology machine = synthetic("pu:3");
  EXPECT_EQ(place(machine, {0, 1, 2}, 4, Affinity::compact), (Processors{0, 1, 2, 0}));
  EXPECT_EQ(place(machine, {0, 1, 2}, 2, Affinity::spread), (Processors{0, 1}));
}

TEST(ThreadPlacement, NamesComeBack) {
  for (const Affinity affinity : {Affinity::none, Affinity::compact, Affinity::spread}) {
    EXPECT_EQ(affinity_named(affinity_name(affinity)), affinity);
  }
  EXPECT_FALSE(affinity_named("scatter"));
}

/// What each member of a team may run on, by its number.
std::vector<Processors> masks_of(ThreadTeam& team) {
  std::vector<Processors> masks(static_cast<std::size_t>(team.size()));
  team.run([&](TeamMember& member) { masks[static_cast<std::size_t>(member.index())] = allowed_processors(); });
  return masks;
}

TEST(ThreadPlacement, ATeamsThreadsAreBoundAndTheNextTeamsAreNot) {
  const Processors before = allowed_processors();
  ASSERT_FALSE(before.empty());
  for (const Affinity affinity : {Affinity::compact, Affinity::spread}) {
    for (const int threads : {1, 2, 3}) {
      const auto placed = place_threads_here(threads, affinity);
      ASSERT_TRUE(placed) << placed.error().message;
      ThreadTeam bound(threads, *placed);
      const std::vector<Processors> masks = masks_of(bound);
      for (std::size_t i = 0; i < masks.size(); ++i) EXPECT_EQ(masks[i], Processors{(*placed)[i]}) << i;
      EXPECT_EQ(allowed_processors(), before) << "the caller goes on as it came";
      ThreadTeam free(threads);
      for (const Processors& mask : masks_of(free)) EXPECT_EQ(mask, before);
    }
  }
}

TEST(ThreadPlacement, AProcessorThatTheSystemRefusesChangesNothing) {
  const Processors before = allowed_processors();
  for (const int absent : {8191, 1 << 20}) {
    ThreadTeam team(2, {absent, absent});
    for (const Processors& mask : masks_of(team)) EXPECT_EQ(mask, before);
  }
}

TEST(ThreadPlacement, ABoundTeamsWorkIsWhole) {
  ThreadTeam team(3, place_threads_here(3, Affinity::spread).value());
  std::vector<int> done(100, 0);
  team.run([&](TeamMember& member) { member.for_each(100, [&](std::int64_t i) { ++done[static_cast<std::size_t>(i)]; }); });
  EXPECT_EQ(std::count(done.begin(), done.end(), 1), 100);
}

}  // namespace
}  // namespace quern
