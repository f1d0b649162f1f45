// NUMA policies: what they come to on fake topologies, and that this system takes what is asked of it.
#include "math/numa_policy.hpp"

#include <gtest/gtest.h>
#include <hwloc.h>

#include <string>
#include <vector>

namespace quern {
namespace {

MachineTopology synthetic(const std::string& words) {
  const auto topology = read_topology({.synthetic = words, .xml = {}});
  EXPECT_TRUE(topology) << (topology ? "" : topology.error().message);
  return topology.value_or(MachineTopology{});
}

TEST(NumaPolicy, OneNodeChangesNothingAndSaysSo) {
  for (const NumaPolicy policy : {NumaPolicy::local, NumaPolicy::interleave}) {
    const NumaPlan plan = plan_numa(synthetic("pack:1 core:4 pu:1"), {}, policy);
    EXPECT_FALSE(plan.changes);
    EXPECT_EQ(plan.remark, "this machine has one NUMA node: local and interleave are the same");
    ThreadTeam team(2);
    EXPECT_TRUE(apply_numa(team, plan));
  }
}

TEST(NumaPolicy, TwoNodesTakeTurns) {
  const MachineTopology machine = synthetic("pack:2 [numa(memory=8589934592)] core:4 pu:2");
  const NumaPlan plan = plan_numa(machine, {}, NumaPolicy::interleave);
  EXPECT_TRUE(plan.changes);
  EXPECT_EQ(plan.nodes, (std::vector<std::int64_t>{0, 1}));
  EXPECT_EQ(plan.remark, "memory that is touched first from now on takes turns over NUMA nodes 0, 1");
  EXPECT_TRUE(plan_numa(machine, {}, NumaPolicy::local).changes) << "it undoes an interleave";
}

TEST(NumaPolicy, ACgroupThatLeavesOneNodeIsNamed) {
  const MachineTopology machine = synthetic("pack:2 [numa(memory=8589934592)] core:4 pu:2");
  const std::vector<std::int64_t> allowed = {1};
  const NumaPlan plan = plan_numa(machine, allowed, NumaPolicy::interleave);
  EXPECT_FALSE(plan.changes);
  EXPECT_EQ(plan.nodes, allowed);
  EXPECT_EQ(plan.remark, "of 2 NUMA nodes this process may use one: local and interleave are the same");
}

TEST(NumaPolicy, NamesComeBack) {
  for (const NumaPolicy policy : {NumaPolicy::local, NumaPolicy::interleave}) {
    EXPECT_EQ(numa_policy_named(numa_policy_name(policy)), policy);
  }
  EXPECT_FALSE(numa_policy_named("remote"));
}

/// The calls themselves, over the nodes that there are: one will do.
TEST(NumaPolicy, EveryThreadGetsThePolicy) {
  auto plan = plan_numa_here(NumaPolicy::interleave);
  ASSERT_TRUE(plan) << plan.error().message;
  ASSERT_FALSE(plan->nodes.empty());
  plan->changes = true;
  ThreadTeam team(2);
  if (const auto applied = apply_numa(team, *plan); !applied) GTEST_SKIP() << applied.error().message;
  hwloc_topology_t topology = nullptr;
  ASSERT_EQ(hwloc_topology_init(&topology), 0);
  ASSERT_EQ(hwloc_topology_load(topology), 0);
  const auto policies = [&] {
    std::vector<int> found(2, -1);
    team.run([&](TeamMember& member) {
      hwloc_bitmap_t nodes = hwloc_bitmap_alloc();
      hwloc_membind_policy_t policy = HWLOC_MEMBIND_DEFAULT;
      if (hwloc_get_membind(topology, nodes, &policy, HWLOC_MEMBIND_THREAD | HWLOC_MEMBIND_BYNODESET) == 0) {
        found[static_cast<std::size_t>(member.index())] = policy;
      }
      hwloc_bitmap_free(nodes);
    });
    return found;
  };
  EXPECT_EQ(policies(), (std::vector<int>{HWLOC_MEMBIND_INTERLEAVE, HWLOC_MEMBIND_INTERLEAVE}));
  plan->policy = NumaPolicy::local;
  ASSERT_TRUE(apply_numa(team, *plan));
  for (const int policy : policies()) EXPECT_NE(policy, HWLOC_MEMBIND_INTERLEAVE);
  hwloc_topology_destroy(topology);
}

}  // namespace
}  // namespace quern
