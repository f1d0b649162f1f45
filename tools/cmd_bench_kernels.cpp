// quern bench kernels: single kernels beside the roof over each.
#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <string>

#include "command.hpp"
#include "kernel_bench_report.hpp"
#include "math/hardware.hpp"
#include "math/kernel_bench.hpp"
#include "progress.hpp"
#include "report/page.hpp"
#include "report/report_option.hpp"
#include "run_model.hpp"

namespace quern::tools {

namespace {

struct Arguments {
  KernelBenchOptions options;
  int threads = 0;
  bool json = false, csv = false, list = false;
  std::string report;
};

Result<int> bench_kernels_command(const Arguments& arguments) {
  const auto report = read_hardware();
  if (!report) return tl::make_unexpected(report.error());
  const auto kernels = chosen_kernels();
  if (!kernels) return tl::make_unexpected(kernels.error());
  const Backend backend{.kernels = *kernels, .eigen = false};
  const std::vector<KernelCase> cases = kernel_cases(backend);
  if (arguments.list) {
    for (const KernelCase& one : cases) fmt::print("{}\n", one.name);
    return kExitOk;
  }
  if (auto fine = check_report(arguments.report); !fine) return tl::make_unexpected(fine.error());
  ThreadTeam team(arguments.threads > 0 ? arguments.threads : static_cast<int>(report->default_threads));
  const KernelBenchRun run{.processor = report->processor,
                           .instruction_set = std::string(isa_name((*kernels)->isa)),
                           .threads = team.size(),
                           .options = arguments.options};
  const bool table = !arguments.json && !arguments.csv;

  catch_interrupts(true);
  Progress progress(stderr);
  bool head = false;
  const auto bench =
      bench_kernels(team, backend, *report, cases, arguments.options,
                    {.progress = [&](std::string_view, std::int64_t done,
                                     std::int64_t total) { progress.update("kernels", done, total, "kernels"); },
                     .stop = interrupted,
                     .row =
                         [&](const KernelRow& row) {
                           if (!table) return;
                           progress.finish();
                           if (!head) fmt::print("{}", kernel_bench_header(run));
                           head = true;
                           fmt::print("{}", kernel_bench_line(row));
                           std::fflush(stdout);
                         }});
  progress.finish();
  if (!bench) return tl::make_unexpected(bench.error());
  const auto result = kernel_bench_json(run, *bench);
  if (arguments.json) {
    fmt::print("{}\n", result.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
  } else if (arguments.csv) {
    fmt::print("{}", kernel_bench_csv(*bench));
  } else {
    fmt::print("{}", kernel_bench_counters(*bench));
  }
  std::fflush(stdout);
  if (auto written = write_report_of(result, arguments.report); !written) return tl::make_unexpected(written.error());
  if (!bench->stopped) return kExitOk;
  return report_interrupt(Error{ErrorCode::io, fmt::format("interrupted with {} kernels measured", bench->rows.size())});
}

}  // namespace

void add_bench_kernels(CLI::App& bench, Command& command) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* kernels =
      bench.add_subcommand("kernels", "Time single kernels, beside the roof that this machine puts over each");
  kernels->footer(examples({"quern bench kernels", "quern bench kernels --filter block_dot/Q4_K",
                            "QUERN_ISA=avx2 quern bench kernels --threads 1 --csv > kernels.csv",
                            "quern bench kernels --json > before.json"}) +
                  "\n`quern bench compare` reads what --json prints. Ctrl-C keeps the kernels that are measured.");
  kernels->add_option("--filter", arguments->options.filter, "Only kernels whose name contains this")->type_name("TEXT");
  kernels->add_flag("--list", arguments->list, "Print the names of all kernels, and measure nothing");
  kernels->add_option("-t,--threads", arguments->threads, "Threads; 0: as many as Quern uses")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  kernels->add_option("--warmup", arguments->options.warmup, "Repeats of each kernel before those that count")
      ->check(CLI::Range(0, 10000))
      ->capture_default_str();
  kernels->add_option("--repeats", arguments->options.measured, "Repeats that count; six or more give an interval of 95 %")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  CLI::Option* const json = kernels->add_flag("--json", arguments->json, "Print one JSON object");
  kernels->add_flag("--csv", arguments->csv, "Print comma-separated values")->excludes(json);
  add_report_option(*kernels, arguments->report);
  kernels->callback([&command, arguments] { command.run = [arguments] { return bench_kernels_command(*arguments); }; });
}

}  // namespace quern::tools
