// quern bench: how fast this machine is at what this program does.
#include "command.hpp"

namespace quern::tools {

void add_bench(CLI::App& app, Command& command) {
  CLI::App* bench = app.add_subcommand("bench", "Measure the speed of this machine at whole tasks");
  bench->require_subcommand(1);
  bench->footer("Each subcommand has --help with an example: quern bench infer --help");
  add_bench_infer(*bench, command);
  add_bench_train(*bench, command);
  add_bench_kernels(*bench, command);
  add_bench_sweep(*bench, command);
  add_bench_compare(*bench, command);
  add_bench_report(*bench, command);
}

}  // namespace quern::tools
