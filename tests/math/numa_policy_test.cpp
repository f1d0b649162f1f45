// NUMA policies: what they come to on fake topologies, and that this system takes what is asked of it.
#include "math/numa_policy.hpp"

#include <gtest/gtest.h>
#include <hwloc.h>

#include <cerrno>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "math/memory_binder.hpp"

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

/// A system that notes what it is asked, and may refuse.
class FakeBinder final : public MemoryBinder {
 public:
  explicit FakeBinder(int error = 0) : error_(error) {}
  int bind_thread(std::span<const std::int64_t> nodes, NumaPolicy policy) override {
    const std::lock_guard lock(mutex_);
    threads.insert(std::this_thread::get_id());
    asked.emplace_back(policy, std::vector<std::int64_t>(nodes.begin(), nodes.end()));
    return error_;
  }
  std::set<std::thread::id> threads;
  std::vector<std::pair<NumaPolicy, std::vector<std::int64_t>>> asked;

 private:
  std::mutex mutex_;
  int error_;
};

TEST(NumaPolicy, EveryThreadOfATeamAsksForThePlansNodes) {
  const MachineTopology machine = synthetic("pack:4 [numa(memory=8589934592)] core:2 pu:1");
  const std::vector<std::int64_t> allowed = {1, 3};
  ThreadTeam team(3);
  for (const NumaPolicy policy : {NumaPolicy::interleave, NumaPolicy::local}) {
    FakeBinder binder;
    ASSERT_TRUE(apply_numa(team, plan_numa(machine, allowed, policy), binder));
    EXPECT_EQ(binder.threads.size(), 3U);
    EXPECT_EQ(binder.asked, (decltype(binder.asked)(3, {policy, allowed})));
  }
  FakeBinder unasked;
  ASSERT_TRUE(apply_numa(team, plan_numa(synthetic("core:2 pu:1"), {}, NumaPolicy::interleave), unasked));
  EXPECT_TRUE(unasked.asked.empty()) << "one node";
}

TEST(NumaPolicy, ASystemThatRefusesIsAnError) {
  FakeBinder binder(EPERM);
  ThreadTeam team(2);
  const auto applied = apply_numa(
      team, plan_numa(synthetic("pack:2 [numa(memory=1073741824)] core:1 pu:1"), {}, NumaPolicy::interleave), binder);
  ASSERT_FALSE(applied);
  EXPECT_EQ(applied.error().code, ErrorCode::unsupported);
  EXPECT_EQ(applied.error().message, "--numa interleave: the system refuses: Operation not permitted");
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
