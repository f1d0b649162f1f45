#include "hardware_json.hpp"

#include <optional>
#include <utility>

namespace quern::tools {

namespace {

using Json = nlohmann::ordered_json;

template <class T>
Json value_or_null(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json text_or_null(const std::string& text) { return text.empty() ? Json(nullptr) : Json(text); }

template <class Items, class Convert>
Json list_of(const Items& items, const Convert& convert) {
  Json list = Json::array();
  for (const auto& item : items) list.push_back(convert(item));
  return list;
}

Json cache_json(const CacheReport& cache) {
  return {{"level", cache.level},         {"kind", cache.kind},
          {"bytes", cache.bytes},         {"line_bytes", cache.line_bytes},
          {"instances", cache.instances}, {"processors_sharing", cache.processors_sharing}};
}

Json node_json(const NumaNode& node) {
  return {{"index", node.index}, {"memory_bytes", node.memory_bytes}, {"processors", node.processors}};
}

Json kind_json(const CoreKind& kind) {
  return {{"type", text_or_null(kind.type)}, {"processors", kind.processors}, {"efficiency", kind.efficiency}};
}

Json clock_json(const ClockSettings& clock) {
  return {{"policies", list_of(clock.policies,
                               [](const ClockPolicy& policy) -> Json {
                                 return {{"processors", policy.processors},
                                         {"driver", text_or_null(policy.driver)},
                                         {"governor", text_or_null(policy.governor)},
                                         {"preference", text_or_null(policy.preference)},
                                         {"min_khz", policy.min_khz},
                                         {"max_khz", policy.max_khz},
                                         {"base_khz", policy.base_khz}};
                               })},
          {"boost", value_or_null(clock.boost)},
          {"nominal_mhz", clock.nominal_mhz}};
}

Json pages_json(const PageSettings& pages) {
  return {{"page_bytes", pages.page_bytes},
          {"transparent", text_or_null(pages.transparent)},
          {"transparent_defrag", text_or_null(pages.transparent_defrag)},
          {"huge_page_bytes", pages.huge_page_bytes},
          {"huge_bytes_in_use", pages.huge_bytes_in_use},
          {"pools", list_of(pages.pools, [](const HugePagePool& pool) -> Json {
             return {{"page_bytes", pool.page_bytes},
                     {"pages", pool.pages},
                     {"free_pages", pool.free_pages},
                     {"overcommit_pages", pool.overcommit_pages}};
           })}};
}

Json gpu_json(const GpuDevice& gpu) {
  return {{"address", gpu.address},
          {"kind", gpu.kind},
          {"name", gpu.name},
          {"driver", text_or_null(gpu.driver)},
          {"memory_bytes", gpu.memory_bytes},
          {"numa_node", gpu.numa_node}};
}

Json path_json(const IsaStatus& path) {
  return {{"name", isa_name(path.isa)}, {"usable", path.obstacle.empty()}, {"obstacle", path.obstacle}};
}

}  // namespace

Json hardware_json(const HardwareReport& report) {
  const MachineTopology& topology = report.topology;
  Json json = {{"processor", report.processor},
               {"vendor", report.vendor},
               {"architecture", report.architecture},
               {"hypervisor", text_or_null(report.hypervisor)},
               {"system", report.system},
               {"logical_processors", topology.logical_processors},
               {"cores", topology.cores},
               {"threads_per_core", topology.threads_per_core},
               {"packages", topology.packages},
               {"numa_nodes", list_of(topology.numa_nodes, node_json)},
               {"core_kinds", list_of(topology.core_kinds, kind_json)},
               {"caches", list_of(topology.caches, cache_json)},
               {"smt", text_or_null(report.placement.smt)},
               {"numa_balancing", value_or_null(report.placement.numa_balancing)},
               {"isolated_processors", report.placement.isolated_processors},
               {"clock", clock_json(report.clock)},
               {"pages", pages_json(report.pages)},
               {"memory_bytes", report.memory.machine_bytes},
               {"memory_available_bytes", report.memory.available_bytes},
               {"memory_usable_bytes", report.memory.usable_bytes},
               {"memory_usable_because", report.memory.usable_because},
               {"swap_free_bytes", report.memory.swap_bytes},
               {"container_processors", value_or_null(report.container.processors)},
               {"container_memory_bytes", value_or_null(report.container.memory_bytes)},
               {"container_memory_used_bytes", value_or_null(report.container.memory_used_bytes)},
               {"container_memory_high_bytes", value_or_null(report.container.memory_high_bytes)},
               {"affinity", report.affinity},
               {"affinity_processors", report.affinity_processors},
               {"memory_nodes", text_or_null(report.memory_nodes)},
               {"gpus", list_of(report.gpus, gpu_json)},
               {"features", feature_names(report.features)},
               {"system_saves",
                {{"avx", report.features.os_avx}, {"avx512", report.features.os_avx512}, {"amx", report.features.os_amx}}},
               {"instruction_sets", list_of(report.paths, path_json)},
               {"instruction_set", nullptr},
               {"instruction_set_because", report.chosen_because},
               {"default_threads", report.default_threads},
               {"default_threads_because", report.default_threads_because}};
  if (report.chosen) json["instruction_set"] = isa_name(*report.chosen);
  return json;
}

}  // namespace quern::tools
