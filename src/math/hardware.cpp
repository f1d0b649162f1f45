#include "math/hardware.hpp"

#include <fmt/format.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cstdlib>

#include "math/system_files.hpp"
#include "math/thread_team.hpp"

namespace quern {
namespace {

void read_affinity(const std::filesystem::path& root, HardwareReport& report) {
  const std::filesystem::path status = root / "proc/self/status";
  report.memory_nodes = field_in(status, "Mems_allowed_list");
  std::vector<std::int64_t> allowed = numbers_of_list(field_in(status, "Cpus_allowed_list"));
  // A mask may name processors that are not there.
  std::vector<std::int64_t> present;
  for (const std::string& core : report.topology.siblings) {
    const std::vector<std::int64_t> numbers = numbers_of_list(core);
    present.insert(present.end(), numbers.begin(), numbers.end());
  }
  if (!present.empty()) {
    std::erase_if(allowed, [&](std::int64_t n) { return std::find(present.begin(), present.end(), n) == present.end(); });
    if (allowed.empty()) allowed = present;
  }
  report.affinity = list_of_numbers(allowed);
  report.affinity_processors = std::ssize(allowed);
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

/// Cores of which at least one thread is in the mask.
std::int64_t cores_in_mask(const HardwareReport& report) {
  const std::vector<std::int64_t> allowed = numbers_of_list(report.affinity);
  return std::count_if(report.topology.siblings.begin(), report.topology.siblings.end(), [&](const std::string& core) {
    const std::vector<std::int64_t> threads = numbers_of_list(core);
    return std::any_of(threads.begin(), threads.end(),
                       [&](std::int64_t n) { return std::binary_search(allowed.begin(), allowed.end(), n); });
  });
}

void read_threads(HardwareReport& report) {
  report.default_threads = thread_count_for(static_cast<int>(report.affinity_processors), report.container.processors);
  const std::int64_t cores = cores_in_mask(report);
  report.default_threads_because = fmt::format(
      "{} processor{}{} in the affinity mask, {}", report.affinity_processors, report.affinity_processors == 1 ? "" : "s",
      cores > 0 && cores < report.affinity_processors ? fmt::format(" of {} core{}", cores, cores == 1 ? "" : "s") : "",
      report.container.processors ? fmt::format("a container CPU quota of {:.2f}", *report.container.processors)
                                  : "no container CPU quota");
}

}  // namespace

Result<HardwareReport> read_hardware(const HardwareSource& source) {
  auto topology = read_topology(source.topology);
  if (!topology) return tl::make_unexpected(topology.error());

  HardwareReport report;
  report.topology = std::move(*topology);
  report.features = cpu_features();
  report.vendor = report.features.vendor;
  report.hypervisor = report.features.hypervisor;
  report.processor = report.features.model_name.empty() ? report.topology.processor : report.features.model_name;
  utsname system{};
  if (uname(&system) == 0) {
    report.architecture = system.machine;
    report.system = fmt::format("{} {}", system.sysname, system.release);
  }
  report.clock = read_clock_settings(source.root);
  report.pages = read_page_settings(source.root);
  report.placement = read_placement_settings(source.root);
  report.container = read_container_limits(source.root);
  report.memory = read_available_memory(report.container, source.root);
  report.gpus = read_gpus(source.root);
  read_affinity(source.root, report);
  read_choice(report);
  read_threads(report);
  return report;
}

std::vector<std::string> feature_names(const CpuFeatures& f) {
  const std::pair<bool, const char*> flags[] = {{f.avx2, "avx2"},
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
  std::vector<std::string> names;
  for (const auto& [present, name] : flags) {
    if (present) names.emplace_back(name);
  }
  return names;
}

}  // namespace quern
