#include "math/hardware.hpp"

#include <fmt/format.h>
#include <hwloc.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <string_view>
#include <utility>

#include "math/thread_team.hpp"

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

void read_affinity(hwloc_topology_t topology, HardwareReport& report) {
  const Bitmap set(hwloc_bitmap_alloc());
  if (set == nullptr || hwloc_get_cpubind(topology, set.get(), HWLOC_CPUBIND_THREAD) != 0) return;
  // A mask may name processors that do not exist.
  hwloc_bitmap_and(set.get(), set.get(), hwloc_topology_get_complete_cpuset(topology));
  report.affinity_processors = hwloc_bitmap_weight(set.get());
  char* text = nullptr;
  if (hwloc_bitmap_list_asprintf(&text, set.get()) >= 0 && text != nullptr) report.affinity = text;
  std::free(text);
}

void read_choice(HardwareReport& report) {
  report.paths = isa_statuses();
  const char* const forced = std::getenv(kIsaVariable);
  const Result<const KernelTable*> chosen = chosen_kernels();
  if (!chosen) {
    report.chosen_because = chosen.error().message;
    return;
  }
  report.chosen = (*chosen)->isa;
  report.chosen_because = forced != nullptr && *forced != '\0' ? fmt::format("{}={} forces it", kIsaVariable, forced)
                                                               : "the best that this machine and this build support";
}

void read_threads(HardwareReport& report) {
  report.default_threads = default_thread_count();
  const std::string processors = fmt::format("{} processors in the affinity mask", report.affinity_processors);
  if (!report.container.processors) {
    report.default_threads_because = processors + ", no container CPU quota";
  } else {
    report.default_threads_because =
        fmt::format("{}, a container CPU quota of {:.2f}", processors, *report.container.processors);
  }
}

std::string bytes_text(std::uint64_t bytes) {
  constexpr std::pair<std::uint64_t, std::string_view> kUnits[] = {
      {std::uint64_t{1} << 30, "GiB"}, {std::uint64_t{1} << 20, "MiB"}, {std::uint64_t{1} << 10, "KiB"}};
  for (const auto& [unit, name] : kUnits) {
    if (bytes >= unit) return fmt::format("{:.4g} {}", static_cast<double>(bytes) / static_cast<double>(unit), name);
  }
  return fmt::format("{} bytes", bytes);
}

/// The flags that kernels may use, in the order of the paths that want them.
std::string features_text(const CpuFeatures& f) {
  const std::pair<bool, std::string_view> flags[] = {{f.avx2, "avx2"},
                                                     {f.fma, "fma"},
                                                     {f.f16c, "f16c"},
                                                     {f.bmi1, "bmi1"},
                                                     {f.bmi2, "bmi2"},
                                                     {f.aes, "aes"},
                                                     {f.pclmul, "pclmulqdq"},
                                                     {f.avx_vnni, "avx_vnni"},
                                                     {f.gfni, "gfni"},
                                                     {f.vaes, "vaes"},
                                                     {f.vpclmulqdq, "vpclmulqdq"},
                                                     {f.avx512f, "avx512f"},
                                                     {f.avx512cd, "avx512cd"},
                                                     {f.avx512bw, "avx512bw"},
                                                     {f.avx512dq, "avx512dq"},
                                                     {f.avx512vl, "avx512vl"},
                                                     {f.avx512vnni, "avx512_vnni"},
                                                     {f.avx512vbmi, "avx512_vbmi"},
                                                     {f.avx512vbmi2, "avx512_vbmi2"},
                                                     {f.avx512bitalg, "avx512_bitalg"},
                                                     {f.avx512vpopcntdq, "avx512_vpopcntdq"},
                                                     {f.avx512ifma, "avx512_ifma"},
                                                     {f.avx512bf16, "avx512_bf16"},
                                                     {f.avx512fp16, "avx512_fp16"},
                                                     {f.amx_tile, "amx_tile"},
                                                     {f.amx_bf16, "amx_bf16"},
                                                     {f.amx_int8, "amx_int8"}};
  std::string text;
  for (const auto& [present, name] : flags) {
    if (!present) continue;
    if (!text.empty()) text += ' ';
    text += name;
  }
  return text.empty() ? "none of those that kernels use" : text;
}

}  // namespace

Result<HardwareReport> read_hardware() {
  hwloc_topology_t raw = nullptr;
  if (hwloc_topology_init(&raw) != 0) return unsupported("hardware: hwloc cannot start reading the machine's topology");
  const Topology topology(raw);
  if (hwloc_topology_set_icache_types_filter(raw, HWLOC_TYPE_FILTER_KEEP_ALL) != 0 || hwloc_topology_load(raw) != 0) {
    return unsupported("hardware: hwloc cannot read the machine's topology");
  }

  HardwareReport report;
  report.features = cpu_features();
  report.vendor = report.features.vendor;
  report.processor = report.features.model_name;
  const hwloc_obj_t package = hwloc_get_obj_by_type(raw, HWLOC_OBJ_PACKAGE, 0);
  if (report.processor.empty() && package != nullptr) {
    const char* const model = hwloc_obj_get_info_by_name(package, "CPUModel");
    if (model != nullptr) report.processor = model;
  }
  utsname system{};
  if (uname(&system) == 0) report.architecture = system.machine;
  report.logical_processors = count_of(raw, HWLOC_OBJ_PU);
  report.cores = count_of(raw, HWLOC_OBJ_CORE);
  report.packages = count_of(raw, HWLOC_OBJ_PACKAGE);
  report.numa_nodes = count_of(raw, HWLOC_OBJ_NUMANODE);
  report.caches = read_caches(raw);
  const long pages = sysconf(_SC_PHYS_PAGES);
  const long page_bytes = sysconf(_SC_PAGESIZE);
  if (pages > 0 && page_bytes > 0) {
    report.memory_bytes = static_cast<std::uint64_t>(pages) * static_cast<std::uint64_t>(page_bytes);
  }
  report.container = read_container_limits();
  read_affinity(raw, report);
  read_choice(report);
  read_threads(report);
  return report;
}

std::string hardware_text(const HardwareReport& report) {
  std::string text;
  auto out = std::back_inserter(text);
  fmt::format_to(out, "processor: {}{} ({})\n", report.processor.empty() ? "unknown" : report.processor,
                 report.vendor.empty() ? "" : ", " + report.vendor, report.architecture);
  fmt::format_to(out, "layout: {} logical processors, {} cores, {} packages, {} NUMA nodes\n", report.logical_processors,
                 report.cores, report.packages, report.numa_nodes);
  for (const CacheReport& cache : report.caches) {
    fmt::format_to(out, "cache L{} {}: {} x {}, shared by {} logical processors, {} byte lines\n", cache.level, cache.kind,
                   cache.instances, bytes_text(cache.bytes), cache.processors_sharing, cache.line_bytes);
  }
  fmt::format_to(out, "memory: {}\n", bytes_text(report.memory_bytes));
  fmt::format_to(
      out, "container: {}, {}\n",
      report.container.processors ? fmt::format("CPU quota {:.2f}", *report.container.processors) : "no CPU quota",
      report.container.memory_bytes ? "memory limit " + bytes_text(*report.container.memory_bytes) : "no memory limit");
  fmt::format_to(out, "affinity: {} logical processors ({})\n", report.affinity_processors, report.affinity);
  fmt::format_to(out, "flags: {}\n", features_text(report.features));
  for (const IsaStatus& path : report.paths) {
    fmt::format_to(out, "path {}: {}\n", isa_name(path.isa), path.obstacle.empty() ? "can be used" : path.obstacle);
  }
  fmt::format_to(out, "instruction set: {} ({})\n", report.chosen ? isa_name(*report.chosen) : "none",
                 report.chosen_because);
  fmt::format_to(out, "threads: {} ({})\n", report.default_threads, report.default_threads_because);
  return text;
}

}  // namespace quern
