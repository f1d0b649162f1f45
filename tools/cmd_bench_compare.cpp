// quern bench compare: two results of a benchmark beside each other.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdio>
#include <memory>
#include <string>

#include "bench_compare.hpp"
#include "command.hpp"
#include "report/page.hpp"
#include "report/report_option.hpp"

namespace quern::tools {

namespace {

struct Arguments {
  std::string before, after, report;
  double margin_percent = 5.0;
  bool check = false, rates = false, json = false;
};

/// The two results as a log of one step.
Result<void> write_comparison(const Arguments& arguments) {
  ReportData data;
  for (const std::string& file : {arguments.before, arguments.after}) {
    if (auto added = add_file(data, file); !added) return added;
    data.log.push_back(data.sources.size() - 1);
  }
  return write_report(data, arguments.report);
}

Result<int> bench_compare(const Arguments& arguments) {
  const auto before = read_bench(arguments.before);
  if (!before) return tl::make_unexpected(before.error());
  const auto after = read_bench(arguments.after);
  if (!after) return tl::make_unexpected(after.error());
  if (auto fine = check_report(arguments.report); !fine) return tl::make_unexpected(fine.error());
  const double margin = arguments.margin_percent / 100.0;
  const auto comparison = compare_benches(*before, *after, margin, arguments.rates ? JudgeBy::rates : JudgeBy::shares);
  if (!comparison) return tl::make_unexpected(comparison.error());
  if (arguments.check && !comparison->remarks.empty()) {
    return bad_input(fmt::format("--check: {} and {} were not measured alike: {}", arguments.before, arguments.after,
                                 fmt::join(comparison->remarks, "; ")));
  }
  if (arguments.json) {
    fmt::print("{}\n", comparison_json(*before, *after, *comparison, margin)
                           .dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
  } else {
    fmt::print("{}", comparison_text(*before, *after, *comparison, margin));
  }
  std::fflush(stdout);
  if (!arguments.report.empty()) {
    if (auto written = write_comparison(arguments); !written) return tl::make_unexpected(written.error());
  }
  if (!arguments.check) return kExitOk;
  const bool worse = comparison->count(Verdict::regression) > 0 || !comparison->missing.empty();
  return worse ? kExitFailure : kExitOk;
}

}  // namespace

void add_bench_compare(CLI::App& bench, Command& command) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* compare = bench.add_subcommand("compare", "Compare two results of a benchmark, with intervals");
  compare->footer(
      examples({"quern bench kernels --json > before.json", "quern bench compare before.json after.json",
                "quern bench compare --check baseline.json now.json"}) +
      "\nReads what `quern bench kernels`, `infer` and `train` print with --json. With --check the exit code is 1 if a\n"
      "figure regressed or is missing.");
  compare->add_option("BEFORE", arguments->before, "A result, or a baseline")->required();
  compare->add_option("AFTER", arguments->after, "A result to hold against it")->required();
  compare->add_flag("--check", arguments->check,
                    "Exit with 1 on a regression; refuse runs of unlike instruction sets or threads");
  compare->add_option("--margin", arguments->margin_percent, "Percent by which a figure may be slower, with certainty")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  compare->add_flag("--rates", arguments->rates,
                    "Judge plain rates: for settings changed on purpose, minutes apart on a quiet machine");
  compare->add_flag("--json", arguments->json, "Print one JSON object");
  add_report_option(*compare, arguments->report);
  compare->callback([&command, arguments] { command.run = [arguments] { return bench_compare(*arguments); }; });
}

}  // namespace quern::tools
