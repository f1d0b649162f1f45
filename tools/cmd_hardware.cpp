// quern hardware: what this machine offers and what was chosen because of it.
#include <fmt/format.h>

#include <array>
#include <memory>
#include <nlohmann/json.hpp>

#include "command.hpp"
#include "math/hardware.hpp"

namespace quern::tools {

namespace {

using Json = nlohmann::ordered_json;

Json flags_json(const CpuFeatures& features) {
  struct Flag {
    const char* name;
    bool CpuFeatures::*member;
  };
  constexpr std::array kFlags{
      Flag{"avx2", &CpuFeatures::avx2},
      Flag{"fma", &CpuFeatures::fma},
      Flag{"f16c", &CpuFeatures::f16c},
      Flag{"bmi1", &CpuFeatures::bmi1},
      Flag{"bmi2", &CpuFeatures::bmi2},
      Flag{"aes", &CpuFeatures::aes},
      Flag{"pclmul", &CpuFeatures::pclmul},
      Flag{"avx512f", &CpuFeatures::avx512f},
      Flag{"avx512cd", &CpuFeatures::avx512cd},
      Flag{"avx512bw", &CpuFeatures::avx512bw},
      Flag{"avx512dq", &CpuFeatures::avx512dq},
      Flag{"avx512vl", &CpuFeatures::avx512vl},
      Flag{"avx512vnni", &CpuFeatures::avx512vnni},
      Flag{"avx512vbmi", &CpuFeatures::avx512vbmi},
      Flag{"avx512vbmi2", &CpuFeatures::avx512vbmi2},
      Flag{"avx512bitalg", &CpuFeatures::avx512bitalg},
      Flag{"avx512vpopcntdq", &CpuFeatures::avx512vpopcntdq},
      Flag{"avx512ifma", &CpuFeatures::avx512ifma},
      Flag{"avx512bf16", &CpuFeatures::avx512bf16},
      Flag{"avx512fp16", &CpuFeatures::avx512fp16},
      Flag{"gfni", &CpuFeatures::gfni},
      Flag{"vaes", &CpuFeatures::vaes},
      Flag{"vpclmulqdq", &CpuFeatures::vpclmulqdq},
      Flag{"avx_vnni", &CpuFeatures::avx_vnni},
      Flag{"amx_tile", &CpuFeatures::amx_tile},
      Flag{"amx_bf16", &CpuFeatures::amx_bf16},
      Flag{"amx_int8", &CpuFeatures::amx_int8},
  };
  Json json = Json::array();
  for (const Flag& flag : kFlags) {
    if (features.*flag.member) json.push_back(flag.name);
  }
  return json;
}

Json to_json(const HardwareReport& report) {
  Json caches = Json::array();
  for (const CacheReport& cache : report.caches) {
    caches.push_back({{"level", cache.level},
                      {"kind", cache.kind},
                      {"bytes", cache.bytes},
                      {"line_bytes", cache.line_bytes},
                      {"instances", cache.instances},
                      {"processors_sharing", cache.processors_sharing}});
  }
  Json paths = Json::array();
  for (const IsaStatus& path : report.paths) {
    paths.push_back({{"name", isa_name(path.isa)}, {"usable", path.obstacle.empty()}, {"obstacle", path.obstacle}});
  }
  Json json = {{"processor", report.processor},
               {"vendor", report.vendor},
               {"architecture", report.architecture},
               {"logical_processors", report.logical_processors},
               {"cores", report.cores},
               {"packages", report.packages},
               {"numa_nodes", report.numa_nodes},
               {"caches", std::move(caches)},
               {"memory_bytes", report.memory_bytes},
               {"container_processors", nullptr},
               {"container_memory_bytes", nullptr},
               {"affinity", report.affinity},
               {"affinity_processors", report.affinity_processors},
               {"features", flags_json(report.features)},
               {"instruction_sets", std::move(paths)},
               {"instruction_set", nullptr},
               {"instruction_set_because", report.chosen_because},
               {"default_threads", report.default_threads},
               {"default_threads_because", report.default_threads_because}};
  if (report.container.processors) json["container_processors"] = *report.container.processors;
  if (report.container.memory_bytes) json["container_memory_bytes"] = *report.container.memory_bytes;
  if (report.chosen) json["instruction_set"] = isa_name(*report.chosen);
  return json;
}

Result<int> run(bool json) {
  const auto report = read_hardware();
  if (!report) return tl::make_unexpected(report.error());
  if (json) {
    // A processor's name comes from CPUID and need not be UTF-8.
    fmt::print("{}\n", to_json(*report).dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    fmt::print("{}", hardware_text(*report));
  }
  if (const auto kernels = chosen_kernels(); !kernels) return tl::make_unexpected(kernels.error());
  return kExitOk;
}

}  // namespace

void add_hardware(CLI::App& app, Command& command) {
  CLI::App* hardware = app.add_subcommand("hardware", "Print what this machine offers and what was chosen because of it");
  hardware->footer(examples({"quern hardware", "QUERN_ISA=avx2 quern hardware --json"}));
  const auto json = std::make_shared<bool>(false);
  hardware->add_flag("--json", *json, "Print one JSON object");
  hardware->callback([&command, json] { command.run = [json] { return run(*json); }; });
}

}  // namespace quern::tools
