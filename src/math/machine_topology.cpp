#include "math/machine_topology.hpp"

#include <fmt/format.h>
#include <hwloc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

namespace quern {
namespace {

struct DestroyTopology {
  void operator()(hwloc_topology_t topology) const { hwloc_topology_destroy(topology); }
};
using Topology = std::unique_ptr<hwloc_topology, DestroyTopology>;

struct FreeBitmap {
  void operator()(hwloc_bitmap_t bitmap) const { hwloc_bitmap_free(bitmap); }
};
using Bitmap = std::unique_ptr<hwloc_bitmap_s, FreeBitmap>;

std::int64_t count_of(hwloc_topology_t topology, hwloc_obj_type_t type) {
  return std::max(0, hwloc_get_nbobjs_by_type(topology, type));
}

std::string list_of(hwloc_const_bitmap_t set) {
  char* text = nullptr;
  std::string list;
  if (hwloc_bitmap_list_asprintf(&text, set) >= 0 && text != nullptr) list = text;
  std::free(text);
  return list;
}

std::string cache_kind(hwloc_obj_cache_type_t type) {
  switch (type) {
    case HWLOC_OBJ_CACHE_UNIFIED:
      return "unified";
    case HWLOC_OBJ_CACHE_DATA:
      return "data";
    case HWLOC_OBJ_CACHE_INSTRUCTION:
      return "instruction";
  }
  return "unknown";
}

bool alike(const CacheReport& a, const CacheReport& b) {
  return a.level == b.level && a.kind == b.kind && a.bytes == b.bytes && a.line_bytes == b.line_bytes &&
         a.processors_sharing == b.processors_sharing;
}

std::vector<CacheReport> read_caches(hwloc_topology_t topology) {
  std::vector<CacheReport> caches;
  for (const hwloc_obj_type_t type :
       {HWLOC_OBJ_L1CACHE, HWLOC_OBJ_L1ICACHE, HWLOC_OBJ_L2CACHE, HWLOC_OBJ_L3CACHE, HWLOC_OBJ_L4CACHE}) {
    for (hwloc_obj_t object = nullptr; (object = hwloc_get_next_obj_by_type(topology, type, object)) != nullptr;) {
      const auto& attributes = object->attr->cache;
      const CacheReport cache = {.level = static_cast<int>(attributes.depth),
                                 .kind = cache_kind(attributes.type),
                                 .bytes = attributes.size,
                                 .line_bytes = static_cast<std::int64_t>(attributes.linesize),
                                 .instances = 1,
                                 .processors_sharing = hwloc_bitmap_weight(object->cpuset)};
      const auto same = std::find_if(caches.begin(), caches.end(), [&](const CacheReport& c) { return alike(c, cache); });
      if (same == caches.end()) {
        caches.push_back(cache);
      } else {
        ++same->instances;
      }
    }
  }
  return caches;
}

std::vector<NumaNode> read_nodes(hwloc_topology_t topology) {
  std::vector<NumaNode> nodes;
  for (hwloc_obj_t object = nullptr;
       (object = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_NUMANODE, object)) != nullptr;) {
    nodes.push_back({.index = static_cast<std::int64_t>(object->os_index),
                     .memory_bytes = object->attr->numanode.local_memory,
                     .processors = list_of(object->cpuset)});
  }
  std::sort(nodes.begin(), nodes.end(), [](const NumaNode& a, const NumaNode& b) { return a.index < b.index; });
  return nodes;
}

/// Kinds of cores; none where there is one kind, for then there is nothing to tell apart.
std::vector<CoreKind> read_core_kinds(hwloc_topology_t topology) {
  std::vector<CoreKind> kinds;
  const int count = hwloc_cpukinds_get_nr(topology, 0);
  if (count < 2) return kinds;
  for (int i = 0; i < count; ++i) {
    const Bitmap set(hwloc_bitmap_alloc());
    int efficiency = -1;
    unsigned info_count = 0;
    hwloc_info_s* infos = nullptr;
    if (set == nullptr ||
        hwloc_cpukinds_get_info(topology, static_cast<unsigned>(i), set.get(), &efficiency, &info_count, &infos, 0) != 0) {
      continue;
    }
    CoreKind kind{.processors = list_of(set.get()), .efficiency = efficiency, .type = {}};
    for (unsigned j = 0; j < info_count; ++j) {
      if (std::string_view(infos[j].name) == "CoreType") kind.type = infos[j].value;
    }
    kinds.push_back(std::move(kind));
  }
  return kinds;
}

void read_cores(hwloc_topology_t topology, MachineTopology& machine) {
  for (hwloc_obj_t core = nullptr; (core = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_CORE, core)) != nullptr;) {
    machine.threads_per_core = std::max<std::int64_t>(machine.threads_per_core, hwloc_bitmap_weight(core->cpuset));
    machine.siblings.push_back(list_of(core->cpuset));
  }
}

std::vector<ProcessorPlace> read_places(hwloc_topology_t topology) {
  std::vector<ProcessorPlace> places;
  const auto number = [&](hwloc_obj_t processor, hwloc_obj_type_t type) {
    const hwloc_obj_t object = hwloc_get_ancestor_obj_by_type(topology, type, processor);
    return object == nullptr ? -1 : static_cast<int>(object->logical_index);
  };
  for (hwloc_obj_t processor = nullptr;
       (processor = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_PU, processor)) != nullptr;) {
    ProcessorPlace place{.processor = static_cast<int>(processor->os_index),
                         .core = number(processor, HWLOC_OBJ_CORE),
                         .last_cache = number(processor, HWLOC_OBJ_L3CACHE),
                         .package = number(processor, HWLOC_OBJ_PACKAGE)};
    if (place.last_cache < 0) place.last_cache = number(processor, HWLOC_OBJ_L2CACHE);
    for (hwloc_obj_t node = nullptr; (node = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_NUMANODE, node)) != nullptr;) {
      if (place.numa_node < 0 && hwloc_bitmap_isset(node->cpuset, processor->os_index) != 0) {
        place.numa_node = static_cast<int>(node->logical_index);
      }
    }
    places.push_back(place);
  }
  return places;
}

Result<void> choose_source(hwloc_topology_t topology, const TopologySource& source) {
  if (!source.synthetic.empty()) {
    if (hwloc_topology_set_synthetic(topology, source.synthetic.c_str()) != 0) {
      return bad_input(fmt::format("hardware: `{}` is no synthetic topology of hwloc", source.synthetic));
    }
  } else if (!source.xml.empty()) {
    if (hwloc_topology_set_xml(topology, source.xml.c_str()) != 0) {
      return bad_input(fmt::format("{}: expected a topology that lstopo wrote as XML", source.xml.string()));
    }
  }
  return {};
}

}  // namespace

std::uint64_t MachineTopology::cache_bytes(int level) const {
  std::uint64_t bytes = 0;
  for (const CacheReport& cache : caches) {
    if (cache.level == level && cache.kind != "instruction") bytes = std::max(bytes, cache.bytes);
  }
  return bytes;
}

Result<MachineTopology> read_topology(const TopologySource& source) {
  hwloc_topology_t raw = nullptr;
  if (hwloc_topology_init(&raw) != 0) return unsupported("hardware: hwloc cannot start reading the machine's topology");
  const Topology topology(raw);
  if (auto chosen = choose_source(raw, source); !chosen) return tl::make_unexpected(chosen.error());
  if (hwloc_topology_set_icache_types_filter(raw, HWLOC_TYPE_FILTER_KEEP_ALL) != 0 ||
      hwloc_topology_set_flags(raw, HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED) != 0 || hwloc_topology_load(raw) != 0) {
    if (!source.xml.empty()) {
      return bad_input(fmt::format("{}: expected a topology that lstopo wrote as XML", source.xml.string()));
    }
    return unsupported("hardware: hwloc cannot read the machine's topology");
  }

  MachineTopology machine;
  const hwloc_obj_t package = hwloc_get_obj_by_type(raw, HWLOC_OBJ_PACKAGE, 0);
  if (package != nullptr) {
    const char* const model = hwloc_obj_get_info_by_name(package, "CPUModel");
    if (model != nullptr) machine.processor = model;
  }
  machine.logical_processors = count_of(raw, HWLOC_OBJ_PU);
  machine.cores = count_of(raw, HWLOC_OBJ_CORE);
  machine.packages = count_of(raw, HWLOC_OBJ_PACKAGE);
  machine.numa_nodes = read_nodes(raw);
  machine.caches = read_caches(raw);
  machine.core_kinds = read_core_kinds(raw);
  read_cores(raw, machine);
  machine.places = read_places(raw);
  return machine;
}

}  // namespace quern
