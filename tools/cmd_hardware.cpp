// quern hardware: what this machine offers, what was chosen because of it, and what it was measured to do.
#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <string>

#include "command.hpp"
#include "hardware_json.hpp"
#include "math/dispatch.hpp"
#include "math/hardware.hpp"
#include "math/kv_rows.hpp"
#include "math/machine_measurement.hpp"
#include "measurement_report.hpp"
#include "model_estimates.hpp"
#include "progress.hpp"
#include "run_model.hpp"

namespace quern::tools {

namespace {

using Json = nlohmann::ordered_json;

struct Arguments {
  bool json = false, measure = false, no_models = false;
  std::string measured;  // a file
  std::string kv_type = "f16";
  MeasurementOptions measurement;
  EstimateChoice estimates;
};

Result<MachineMeasurement> measure(const HardwareReport& report, const KernelTable& kernels,
                                   const MeasurementOptions& options) {
  catch_interrupts(true);
  Progress progress(stderr);
  auto measurement =
      measure_machine(report, kernels, options,
                      {.progress = [&](std::string_view stage, std::int64_t done,
                                       std::int64_t total) { progress.update(stage, done, total, "figures"); },
                       .stop = interrupted});
  progress.finish();
  return measurement;
}

/// What estimates are made from: the file, or what was measured, or what little they need.
Result<MachineMeasurement> measurement_for(const HardwareReport& report, const KernelTable& kernels,
                                           const Arguments& arguments) {
  if (!arguments.measured.empty()) return read_measurement(arguments.measured);
  MeasurementOptions options = arguments.measurement;
  options.brief = !arguments.measure;
  return measure(report, kernels, options);
}

void print(const Json& json) {
  // A processor's name comes from CPUID and need not be UTF-8.
  fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
  std::fflush(stdout);
}

/// Everything that is beyond the description: adds to `json`, or prints.
Result<int> measure_and_estimate(const HardwareReport& report, const KernelTable& kernels, const Arguments& arguments,
                                 Json& json) {
  const auto measurement = measurement_for(report, kernels, arguments);
  if (!measurement) return tl::make_unexpected(measurement.error());
  if (arguments.measure) {
    if (arguments.json) {
      json["measurement"] = measurement_json(*measurement);
    } else {
      fmt::print("\n{}", measurement_text(*measurement));
    }
  }
  if (!arguments.no_models && !measurement->stopped) {
    const MachineWalls walls = walls_of(report, *measurement);
    const auto estimates = estimate_models(arguments.estimates, walls);
    if (!estimates) return tl::make_unexpected(estimates.error());
    if (arguments.json) {
      json["estimates"] = estimates_json(*estimates, arguments.estimates, walls);
    } else {
      fmt::print("\n{}", estimates_text(*estimates, arguments.estimates, walls));
    }
  }
  return measurement->stopped ? kExitFailure : kExitOk;
}

Result<int> run(Arguments arguments) {
  const auto kv_type = kv_type_named(arguments.kv_type);
  if (!kv_type) return bad_input(fmt::format("--kv-type: there is no type {}", arguments.kv_type));
  arguments.estimates.options.kv_type = *kv_type;
  // Words that are wrong are said before anything is measured.
  if (auto checked = estimate_models(arguments.estimates, {}); !checked) return tl::make_unexpected(checked.error());

  const auto report = read_hardware();
  if (!report) return tl::make_unexpected(report.error());
  const auto kernels = chosen_kernels();
  Json json = arguments.json ? hardware_json(*report) : Json();
  if (!arguments.json) fmt::print("{}", hardware_text(*report));
  std::fflush(stdout);
  Result<int> result = kExitOk;
  if (!kernels) {
    result = tl::make_unexpected(kernels.error());
  } else if (arguments.measure || !arguments.no_models) {
    result = measure_and_estimate(*report, **kernels, arguments, json);
  }
  if (arguments.json) print(json);
  std::fflush(stdout);
  if (result && *result != kExitOk) {
    return report_interrupt(Error{ErrorCode::io, "interrupted before everything was measured"});
  }
  return result;
}

}  // namespace

void add_hardware(CLI::App& app, Command& command) {
  CLI::App* hardware =
      app.add_subcommand("hardware", "Print what this machine offers, what was chosen, and what it would run");
  hardware->footer(
      examples({"quern hardware", "quern hardware --no-models", "QUERN_ISA=avx2 quern hardware --json",
                "quern hardware --measure --json > machine.json",
                "quern hardware --measured machine.json --models llama3.1-8b,gpt-oss-20b --context 16384"}) +
      "\nWithout --measure or --measured, what the estimates need is measured in a second or two. --measure keeps all\n"
      "processors busy for some tens of seconds; Ctrl-C prints what is there by then.");
  const auto arguments = std::make_shared<Arguments>();
  CLI::Option* const measure =
      hardware->add_flag("--measure", arguments->measure,
                         "Measure peaks, bandwidth of caches and memory, huge pages, latencies, barriers and clocks");
  hardware->add_option("--measured", arguments->measured, "Estimate from a file that --measure --json wrote")
      ->type_name("FILE")
      ->excludes(measure);
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
  hardware->add_option("--models", arguments->estimates.models, "Published models to estimate, by name; without: all")
      ->delimiter(',');
  hardware->add_option("--types", arguments->estimates.types, "Their types, as Q4_K_M,Q8_0; without: the usual ones")
      ->delimiter(',');
  hardware->add_option("--context", arguments->estimates.options.context_tokens, "Tokens that the cache has room for")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 30))
      ->capture_default_str();
  hardware->add_option("--kv-type", arguments->kv_type, "Of the cache: f32, f16, bf16 or q8_0")->capture_default_str();
  hardware->add_flag("--no-models", arguments->no_models, "Leave out what published models would need and give");
  hardware->add_flag("--json", arguments->json, "Print one JSON object");
  hardware->callback([&command, arguments] { command.run = [arguments] { return run(*arguments); }; });
}

}  // namespace quern::tools
