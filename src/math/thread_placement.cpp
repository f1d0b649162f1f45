#include "math/thread_placement.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <tuple>
#include <utility>

#include "math/thread_team.hpp"

namespace quern {
namespace {

using Key = std::array<int, 4>;

/// The allowed processors in the topology's order. A processor without a core is one.
std::vector<ProcessorPlace> allowed_places(const MachineTopology& topology, std::span<const int> allowed) {
  std::vector<ProcessorPlace> places;
  for (ProcessorPlace place : topology.places) {
    if (std::find(allowed.begin(), allowed.end(), place.processor) == allowed.end()) continue;
    if (place.core < 0) place.core = -2 - place.processor;
    places.push_back(place);
  }
  return places;
}

/// Groups by falling number of their processors, then by number: which to open first.
template <class GroupOf>
std::map<int, int> ranks(const std::vector<ProcessorPlace>& places, const GroupOf& group_of) {
  std::map<int, int> sizes;
  for (const ProcessorPlace& place : places) ++sizes[group_of(place)];
  std::vector<std::pair<int, int>> order;  // minus the size, group
  for (const auto& [group, size] : sizes) order.emplace_back(-size, group);
  std::sort(order.begin(), order.end());
  std::map<int, int> rank;
  for (const auto& [size, group] : order) rank.emplace(group, static_cast<int>(rank.size()));
  return rank;
}

std::vector<int> compact_order(const std::vector<ProcessorPlace>& places) {
  const auto packages = ranks(places, [](const ProcessorPlace& p) { return p.package; });
  const auto nodes = ranks(places, [](const ProcessorPlace& p) { return p.numa_node; });
  const auto caches = ranks(places, [](const ProcessorPlace& p) { return p.last_cache; });
  std::map<int, int> of_core;  // processors seen
  std::vector<std::pair<Key, int>> keyed;
  for (const ProcessorPlace& place : places) {
    const int sibling = of_core[place.core]++;
    keyed.emplace_back(Key{packages.at(place.package), sibling, nodes.at(place.numa_node), caches.at(place.last_cache)},
                       place.processor);
  }
  std::stable_sort(keyed.begin(), keyed.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<int> order;
  for (const auto& [key, processor] : keyed) order.push_back(processor);
  return order;
}

/// Each next processor is the one with the fewest threads on its core, package, node and cache, in this order.
std::vector<int> spread_order(std::vector<ProcessorPlace> places, std::size_t count) {
  std::map<int, int> cores, packages, nodes, caches;  // threads on each
  std::vector<int> order;
  while (order.size() < count && !places.empty()) {
    const auto load = [&](const ProcessorPlace& p) {
      return Key{cores[p.core], packages[p.package], nodes[p.numa_node], caches[p.last_cache]};
    };
    const auto next = std::min_element(places.begin(), places.end(),
                                       [&](const ProcessorPlace& a, const ProcessorPlace& b) { return load(a) < load(b); });
    ++cores[next->core];
    ++packages[next->package];
    ++nodes[next->numa_node];
    ++caches[next->last_cache];
    order.push_back(next->processor);
    places.erase(next);
  }
  return order;
}

}  // namespace

std::string_view affinity_name(Affinity affinity) {
  switch (affinity) {
    case Affinity::none:
      return "none";
    case Affinity::compact:
      return "compact";
    case Affinity::spread:
      return "spread";
  }
  return "unknown";
}

std::optional<Affinity> affinity_named(std::string_view name) {
  for (const Affinity affinity : {Affinity::none, Affinity::compact, Affinity::spread}) {
    if (affinity_name(affinity) == name) return affinity;
  }
  return std::nullopt;
}

Result<std::vector<int>> place_threads(const MachineTopology& topology, std::span<const int> allowed, int threads,
                                       Affinity affinity) {
  std::vector<int> placed;
  if (affinity == Affinity::none) return placed;
  const std::vector<ProcessorPlace> places = allowed_places(topology, allowed);
  if (places.empty()) return unsupported("affinity: none of the processors that this process may use is known to hwloc");
  const auto count = static_cast<std::size_t>(std::max(1, threads));
  const std::vector<int> order = affinity == Affinity::compact ? compact_order(places) : spread_order(places, count);
  for (std::size_t i = 0; i < count; ++i) placed.push_back(order[i % order.size()]);
  return placed;
}

Result<std::vector<int>> place_threads_here(int threads, Affinity affinity) {
  if (affinity == Affinity::none) return std::vector<int>();
  const auto topology = read_topology();
  if (!topology) return tl::make_unexpected(topology.error());
  return place_threads(*topology, allowed_processors(), threads, affinity);
}

}  // namespace quern
