#include "math/numa_policy.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <hwloc.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>

#include "math/memory_binder.hpp"

namespace quern {
namespace {

struct DestroyTopology {
  void operator()(hwloc_topology_t topology) const { hwloc_topology_destroy(topology); }
};
struct FreeBitmap {
  void operator()(hwloc_bitmap_t bitmap) const { hwloc_bitmap_free(bitmap); }
};

/// This machine as hwloc binds on it; null where hwloc cannot read it.
std::unique_ptr<hwloc_topology, DestroyTopology> loaded_topology() {
  hwloc_topology_t raw = nullptr;
  if (hwloc_topology_init(&raw) != 0) return nullptr;
  std::unique_ptr<hwloc_topology, DestroyTopology> topology(raw);
  if (hwloc_topology_load(raw) != 0) return nullptr;
  return topology;
}

class HwlocBinder final : public MemoryBinder {
 public:
  [[nodiscard]] bool usable() const { return topology_ != nullptr; }
  int bind_thread(std::span<const std::int64_t> nodes, NumaPolicy policy) override {
    const std::unique_ptr<hwloc_bitmap_s, FreeBitmap> set(hwloc_bitmap_alloc());
    if (set == nullptr) return ENOMEM;
    for (const std::int64_t node : nodes) hwloc_bitmap_set(set.get(), static_cast<unsigned>(node));
    const hwloc_membind_policy_t wanted =
        policy == NumaPolicy::interleave ? HWLOC_MEMBIND_INTERLEAVE : HWLOC_MEMBIND_DEFAULT;
    const int flags = HWLOC_MEMBIND_THREAD | HWLOC_MEMBIND_BYNODESET;
    return hwloc_set_membind(topology_.get(), set.get(), wanted, flags) == 0 ? 0 : errno;
  }

 private:
  std::unique_ptr<hwloc_topology, DestroyTopology> topology_ = loaded_topology();
};

}  // namespace

std::string_view numa_policy_name(NumaPolicy policy) { return policy == NumaPolicy::local ? "local" : "interleave"; }

std::optional<NumaPolicy> numa_policy_named(std::string_view name) {
  for (const NumaPolicy policy : {NumaPolicy::local, NumaPolicy::interleave}) {
    if (numa_policy_name(policy) == name) return policy;
  }
  return std::nullopt;
}

NumaPlan plan_numa(const MachineTopology& topology, std::span<const std::int64_t> allowed, NumaPolicy policy) {
  NumaPlan plan{.policy = policy, .nodes = {}, .changes = false, .remark = {}};
  for (const NumaNode& node : topology.numa_nodes) {
    const bool may = allowed.empty() || std::find(allowed.begin(), allowed.end(), node.index) != allowed.end();
    if (may && (node.memory_bytes > 0 || !node.processors.empty())) plan.nodes.push_back(node.index);
  }
  if (plan.nodes.size() < 2) {
    plan.remark = topology.numa_nodes.size() < 2
                      ? "this machine has one NUMA node: local and interleave are the same"
                      : fmt::format("of {} NUMA nodes this process may use one: local and interleave are the same",
                                    topology.numa_nodes.size());
    return plan;
  }
  plan.changes = true;
  plan.remark = policy == NumaPolicy::interleave
                    ? fmt::format("memory that is touched first from now on takes turns over NUMA nodes {}",
                                  fmt::join(plan.nodes, ", "))
                    : "memory lies on the NUMA node of the thread that touches it first";
  return plan;
}

Result<NumaPlan> plan_numa_here(NumaPolicy policy) {
  const auto topology = read_topology();
  if (!topology) return tl::make_unexpected(topology.error());
  std::vector<std::int64_t> allowed;
  if (const auto own = loaded_topology()) {
    hwloc_const_nodeset_t nodes = hwloc_topology_get_allowed_nodeset(own.get());
    for (int node = hwloc_bitmap_first(nodes); node >= 0; node = hwloc_bitmap_next(nodes, node)) allowed.push_back(node);
  }
  return plan_numa(*topology, allowed, policy);
}

Result<void> apply_numa(ThreadTeam& team, const NumaPlan& plan, MemoryBinder& binder) {
  if (!plan.changes) return {};
  std::atomic<int> failure{0};
  team.run([&](TeamMember&) {
    if (const int error = binder.bind_thread(plan.nodes, plan.policy); error != 0) failure = error;
  });
  if (failure == 0) return {};
  return unsupported(
      fmt::format("--numa {}: the system refuses: {}", numa_policy_name(plan.policy), std::strerror(failure)));
}

Result<void> apply_numa(ThreadTeam& team, const NumaPlan& plan) {
  if (!plan.changes) return {};
  HwlocBinder binder;
  if (!binder.usable()) return unsupported("--numa: hwloc cannot read this machine's topology");
  return apply_numa(team, plan, binder);
}

}  // namespace quern
