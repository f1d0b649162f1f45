#include <fmt/format.h>
#include <fmt/ranges.h>

#include <iterator>

#include "math/hardware.hpp"
#include "math/system_files.hpp"

namespace quern {
namespace {

using Out = std::back_insert_iterator<std::string>;

std::string counted(std::int64_t count, std::string_view thing) {
  return fmt::format("{} {}{}", count, thing, count == 1 ? "" : "s");
}

std::string clock_text(std::int64_t khz) { return fmt::format("{:.2f} GHz", static_cast<double>(khz) * 1e-6); }

void write_topology(Out out, const MachineTopology& topology) {
  fmt::format_to(out, "layout: {}, {}, {}, {}; {}\n", counted(topology.logical_processors, "logical processor"),
                 counted(topology.cores, "core"), counted(topology.packages, "package"),
                 counted(std::ssize(topology.numa_nodes), "NUMA node"),
                 topology.threads_per_core > 1 ? fmt::format("SMT: up to {} threads a core", topology.threads_per_core)
                                               : "no SMT: one thread a core");
  for (const CoreKind& kind : topology.core_kinds) {
    fmt::format_to(out, "cores of kind {}: processors {}{}\n", kind.type.empty() ? "unknown" : kind.type, kind.processors,
                   kind.efficiency < 0 ? "" : fmt::format(", rank {} by speed", kind.efficiency));
  }
  for (const NumaNode& node : topology.numa_nodes) {
    fmt::format_to(out, "NUMA node {}: {}, {}\n", node.index,
                   node.memory_bytes == 0 ? "memory not known" : byte_count_text(node.memory_bytes),
                   node.processors.empty() ? "no processors of its own" : "processors " + node.processors);
  }
  for (const CacheReport& cache : topology.caches) {
    fmt::format_to(out, "cache L{} {}: {} x {}, {}, {} byte lines\n", cache.level, cache.kind, cache.instances,
                   byte_count_text(cache.bytes),
                   cache.processors_sharing == 1 ? "one logical processor each"
                                                 : fmt::format("shared by {} logical processors", cache.processors_sharing),
                   cache.line_bytes);
  }
}

void write_clock(Out out, const ClockSettings& clock) {
  for (const ClockPolicy& policy : clock.policies) {
    fmt::format_to(out, "clock of processors {}: governor {}{}{}", policy.processors,
                   policy.governor.empty() ? "not said" : policy.governor,
                   policy.driver.empty() ? "" : fmt::format(" ({})", policy.driver),
                   policy.preference.empty() ? "" : fmt::format(", preference {}", policy.preference));
    if (policy.max_khz > 0) fmt::format_to(out, ", {} to {}", clock_text(policy.min_khz), clock_text(policy.max_khz));
    if (policy.base_khz > 0) fmt::format_to(out, ", base {}", clock_text(policy.base_khz));
    fmt::format_to(out, "\n");
  }
  if (clock.policies.empty()) {
    fmt::format_to(out, "clock: no governor in /sys, as in most virtual machines{}\n",
                   clock.nominal_mhz > 0.0 ? fmt::format("; the system says {:.2f} GHz", clock.nominal_mhz * 1e-3) : "");
  }
  if (clock.boost) fmt::format_to(out, "boost: {}\n", *clock.boost ? "on" : "off");
}

void write_pages(Out out, const PageSettings& pages) {
  fmt::format_to(out, "pages: {}", byte_count_text(pages.page_bytes));
  if (pages.transparent.empty()) {
    fmt::format_to(out, "; no transparent huge pages\n");
  } else {
    fmt::format_to(out, "; transparent huge pages{}: {}{}, {} in use\n",
                   pages.huge_page_bytes == 0 ? "" : " of " + byte_count_text(pages.huge_page_bytes), pages.transparent,
                   pages.transparent_defrag.empty() ? "" : fmt::format(" (defrag: {})", pages.transparent_defrag),
                   byte_count_text(pages.huge_bytes_in_use));
  }
  for (const HugePagePool& pool : pages.pools) {
    fmt::format_to(out, "pool of {} pages: {} set aside, {} free{}\n", byte_count_text(pool.page_bytes), pool.pages,
                   pool.free_pages,
                   pool.overcommit_pages > 0 ? fmt::format(", {} more on demand", pool.overcommit_pages) : "");
  }
}

void write_limits(Out out, const HardwareReport& report) {
  const AvailableMemory& memory = report.memory;
  fmt::format_to(
      out, "memory: {}, {} available{}\n", byte_count_text(memory.machine_bytes), byte_count_text(memory.available_bytes),
      memory.swap_bytes == 0 ? ", no swap" : fmt::format(", {} of swap free", byte_count_text(memory.swap_bytes)));
  const ContainerLimits& limits = report.container;
  std::string limit = "no memory limit";
  if (limits.memory_bytes) {
    limit = "memory limit " + byte_count_text(*limits.memory_bytes);
    if (limits.memory_used_bytes) limit += fmt::format(" of which {} taken", byte_count_text(*limits.memory_used_bytes));
  }
  if (limits.memory_high_bytes) limit += ", slowed down above " + byte_count_text(*limits.memory_high_bytes);
  fmt::format_to(out, "container: {}, {}\n",
                 limits.processors ? fmt::format("CPU quota {:.2f}", *limits.processors) : "no CPU quota", limit);
  fmt::format_to(out, "this process may take: {} ({})\n", byte_count_text(memory.usable_bytes),
                 memory.usable_because.empty() ? "not known" : memory.usable_because);
  fmt::format_to(out, "affinity: {} ({}){}\n", counted(report.affinity_processors, "logical processor"), report.affinity,
                 report.memory_nodes.empty() ? "" : fmt::format(", memory of NUMA nodes {}", report.memory_nodes));
}

void write_placement(Out out, const PlacementSettings& placement) {
  if (!placement.smt.empty()) fmt::format_to(out, "SMT switch: {}\n", placement.smt);
  if (placement.numa_balancing) fmt::format_to(out, "NUMA balancing: {}\n", *placement.numa_balancing ? "on" : "off");
  if (!placement.isolated_processors.empty()) {
    fmt::format_to(out, "isolated processors: {}\n", placement.isolated_processors);
  }
}

void write_gpus(Out out, const std::vector<GpuDevice>& gpus) {
  if (gpus.empty()) fmt::format_to(out, "GPUs: none on the PCI bus\n");
  for (const GpuDevice& gpu : gpus) {
    fmt::format_to(out, "GPU {}: {} ({}, {}{}{}); not used, Quern computes on the CPU\n", gpu.address, gpu.name, gpu.kind,
                   gpu.driver.empty() ? "no driver" : "driver " + gpu.driver,
                   gpu.memory_bytes == 0 ? "" : ", " + byte_count_text(gpu.memory_bytes),
                   gpu.numa_node < 0 ? "" : fmt::format(", near NUMA node {}", gpu.numa_node));
  }
}

std::string consent_text(const CpuFeatures& features) {
  std::vector<std::string_view> kept;
  if (features.os_avx) kept.emplace_back("AVX");
  if (features.os_avx512) kept.emplace_back("AVX-512");
  if (features.os_amx) kept.emplace_back("AMX tiles (permission granted)");
  return kept.empty() ? "none beyond the basic ones" : fmt::format("{}", fmt::join(kept, ", "));
}

}  // namespace

std::string hardware_text(const HardwareReport& report) {
  std::string text;
  const auto out = std::back_inserter(text);
  fmt::format_to(out, "processor: {}{} ({}){}\n", report.processor.empty() ? "unknown" : report.processor,
                 report.vendor.empty() ? "" : ", " + report.vendor, report.architecture,
                 report.hypervisor.empty() ? "" : ", a virtual machine of " + report.hypervisor);
  if (!report.system.empty()) fmt::format_to(out, "system: {}\n", report.system);
  write_topology(out, report.topology);
  write_placement(out, report.placement);
  write_clock(out, report.clock);
  write_pages(out, report.pages);
  write_limits(out, report);
  write_gpus(out, report.gpus);
  const std::vector<std::string> features = feature_names(report.features);
  fmt::format_to(out, "flags: {}\n",
                 features.empty() ? "none of those that kernels use" : fmt::format("{}", fmt::join(features, " ")));
  fmt::format_to(out, "registers that the system saves: {}\n", consent_text(report.features));
  for (const IsaStatus& path : report.paths) {
    fmt::format_to(out, "path {}: {}\n", isa_name(path.isa), path.obstacle.empty() ? "can be used" : path.obstacle);
  }
  fmt::format_to(out, "instruction set: {} ({})\n", report.chosen ? isa_name(*report.chosen) : "none",
                 report.chosen_because);
  fmt::format_to(out, "threads: {} ({})\n", report.default_threads, report.default_threads_because);
  return text;
}

}  // namespace quern
