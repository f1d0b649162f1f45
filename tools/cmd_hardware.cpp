// quern hardware: what this machine offers, what was chosen because of it, and what it was measured to do.
#include <fmt/format.h>

#include <cstdio>
#include <memory>

#include "command.hpp"
#include "hardware_json.hpp"
#include "math/hardware.hpp"
#include "math/machine_measurement.hpp"
#include "measurement_report.hpp"
#include "progress.hpp"
#include "run_model.hpp"

namespace quern::tools {

namespace {

using Json = nlohmann::ordered_json;

struct Arguments {
  bool json = false, measure = false;
  MeasurementOptions measurement;
};

Result<MachineMeasurement> measure(const HardwareReport& report, const KernelTable& kernels, const Arguments& arguments) {
  catch_interrupts(true);
  Progress progress(stderr);
  auto measurement =
      measure_machine(report, kernels, arguments.measurement,
                      {.progress = [&](std::string_view stage, std::int64_t done,
                                       std::int64_t total) { progress.update(stage, done, total, "figures"); },
                       .stop = interrupted});
  progress.finish();
  return measurement;
}

Result<int> run(const Arguments& arguments) {
  const auto report = read_hardware();
  if (!report) return tl::make_unexpected(report.error());
  const auto kernels = chosen_kernels();
  if (!arguments.json) fmt::print("{}", hardware_text(*report));
  std::fflush(stdout);
  Json json = arguments.json ? hardware_json(*report) : Json();
  if (!kernels) {
    if (arguments.json) fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
    return tl::make_unexpected(kernels.error());
  }

  bool stopped = false;
  if (arguments.measure) {
    const auto measurement = measure(*report, **kernels, arguments);
    if (!measurement) return tl::make_unexpected(measurement.error());
    stopped = measurement->stopped;
    if (arguments.json) {
      json["measurement"] = measurement_json(*measurement);
    } else {
      fmt::print("\n{}", measurement_text(*measurement));
    }
  }
  // A processor's name comes from CPUID and need not be UTF-8.
  if (arguments.json) fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
  std::fflush(stdout);
  if (stopped) return report_interrupt(Error{ErrorCode::io, "interrupted before everything was measured"});
  return kExitOk;
}

}  // namespace

void add_hardware(CLI::App& app, Command& command) {
  CLI::App* hardware = app.add_subcommand("hardware", "Print what this machine offers and what was chosen because of it");
  hardware->footer(examples({"quern hardware", "QUERN_ISA=avx2 quern hardware --json", "quern hardware --measure",
                             "quern hardware --measure --json > machine.json"}) +
                   "\n--measure keeps all processors busy for some tens of seconds; Ctrl-C prints what is there by then.");
  const auto arguments = std::make_shared<Arguments>();
  hardware->add_flag("--measure", arguments->measure,
                     "Measure peaks, bandwidth of caches and memory, huge pages, latencies, barriers and clocks");
  hardware
      ->add_option("-t,--threads", arguments->measurement.thread_counts,
                   "Numbers of threads to measure with, as 1,2,4; without: 1, 2, 4, ... and the number that Quern would use")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096));
  hardware->add_option("--warmup", arguments->measurement.warmup, "Repeats of each figure before those that count")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str();
  hardware
      ->add_option("--repeats", arguments->measurement.measured, "Repeats that count; six or more give an interval of 95 %")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  hardware->add_flag("--json", arguments->json, "Print one JSON object");
  hardware->callback([&command, arguments] { command.run = [arguments] { return run(*arguments); }; });
}

}  // namespace quern::tools
