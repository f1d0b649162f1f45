// quern hardware: what this machine offers and what was chosen because of it.
#include <fmt/format.h>

#include <memory>

#include "command.hpp"
#include "hardware_json.hpp"
#include "math/hardware.hpp"

namespace quern::tools {

namespace {

Result<int> run(bool json) {
  const auto report = read_hardware();
  if (!report) return tl::make_unexpected(report.error());
  if (json) {
    // A processor's name comes from CPUID and need not be UTF-8.
    fmt::print("{}\n", hardware_json(*report).dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
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
