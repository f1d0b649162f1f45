// What the subcommands share: each adds itself to the command line, and the one that the user named leaves a function to
// run.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

#include "math/result.hpp"

namespace quern::tools {

/// The work of the subcommand on the command line: an exit code, or an error whose sentence main() prints.
struct Command {
  std::function<Result<int>()> run;
};

/// One function per cmd_*.cpp file.
void add_bench(CLI::App& app, Command& command);
void add_bench_compare(CLI::App& bench, Command& command);  // quern bench compare
void add_bench_infer(CLI::App& bench, Command& command);    // quern bench infer
void add_bench_kernels(CLI::App& bench, Command& command);  // quern bench kernels
void add_bench_report(CLI::App& bench, Command& command);   // quern bench report
void add_bench_sweep(CLI::App& bench, Command& command);    // quern bench sweep
void add_bench_train(CLI::App& bench, Command& command);    // quern bench train
void add_chat(CLI::App& app, Command& command);
void add_completion(CLI::App& app, Command& command);
void add_config_keys(CLI::App& app, Command& command);
void add_convert(CLI::App& app, Command& command);
void add_data(CLI::App& app, Command& command);
void add_detokenize(CLI::App& app, Command& command);
void add_hardware(CLI::App& app, Command& command);
void add_imatrix(CLI::App& app, Command& command);
void add_inspect(CLI::App& app, Command& command);
void add_logits(CLI::App& app, Command& command);
void add_perplexity(CLI::App& app, Command& command);
void add_quantize(CLI::App& app, Command& command);
void add_render_template(CLI::App& app, Command& command);
void add_run(CLI::App& app, Command& command);
void add_sample(CLI::App& app, Command& command);
void add_tokenize(CLI::App& app, Command& command);
void add_train(CLI::App& app, Command& command);
void add_tune(CLI::App& app, Command& command);

/// Exit codes.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailure = 1;   ///< the system or this machine refused
inline constexpr int kExitBadInput = 2;  ///< usage, or a file, key or argument that is not what it must be

/// An error's sentence for the terminal. Messages quote what files hold: whatever that is, this is one line of a length that
/// can be read, without control characters.
[[nodiscard]] std::string message_line(const Error& error);

/// "Example:\n  LINE\n ..." for a subcommand's footer.
[[nodiscard]] std::string examples(std::initializer_list<std::string_view> lines);

}  // namespace quern::tools
