// quern bench report: results as one page with plots, tables and recommendations.
#include <memory>
#include <string>
#include <vector>

#include "command.hpp"
#include "output_path.hpp"
#include "report/page.hpp"

namespace quern::tools {

namespace {

struct Arguments {
  std::vector<std::string> files, log;
  std::string out;
  bool force = false;
};

Result<int> bench_report(const Arguments& arguments) {
  if (arguments.files.empty() && arguments.log.empty()) {
    return bad_input("bench report: expected results, as RESULT or after --log, found none");
  }
  std::vector<std::string> inputs = arguments.files;
  inputs.insert(inputs.end(), arguments.log.begin(), arguments.log.end());
  if (auto fine = check_output(arguments.out, inputs, arguments.force); !fine) return tl::make_unexpected(fine.error());
  ReportData data;
  for (const std::string& file : arguments.files) {
    if (auto added = add_file(data, file); !added) return tl::make_unexpected(added.error());
  }
  for (const std::string& file : arguments.log) {
    if (auto added = add_file(data, file); !added) return tl::make_unexpected(added.error());
    data.log.push_back(data.sources.size() - 1);
  }
  if (auto written = write_report(data, arguments.out); !written) return tl::make_unexpected(written.error());
  return kExitOk;
}

}  // namespace

void add_bench_report(CLI::App& bench, Command& command) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* report = bench.add_subcommand("report", "Make one page of results: plots, tables, recommendations");
  report->footer(examples({"quern bench report sweep.json kernels.json --out report.html",
                           "quern bench report q8.json q4.json q8-perplexity.json q4-perplexity.json --out types.html",
                           "quern bench report --log plain.json simd.json threads.json tuned.json --out report.html"}) +
                 "\nReads what `quern bench kernels`, `infer`, `train` and `sweep`, `quern perplexity` and `quern hardware` "
                 "print with\n"
                 "--json, and shows what is there. The page needs no other file and no network. `--report FILE` of the "
                 "benchmarks and of\n"
                 "`compare` is short for it.");
  report->add_option("RESULT", arguments->files, "Results, in any order");
  report->add_option("--log", arguments->log,
                     "Results of the same benchmark after each step of tuning, the plain one first");
  report->add_option("--out", arguments->out, "The page to write (HTML)")->required()->type_name("FILE");
  report->add_flag("--force", arguments->force, "Replace a page that is there");
  report->callback([&command, arguments] { command.run = [arguments] { return bench_report(*arguments); }; });
}

}  // namespace quern::tools
