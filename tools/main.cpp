// The `quern` program: reads the command line, runs one subcommand, prints its error and chooses the exit code.
#include <fmt/format.h>

#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "command.hpp"
#include "math/dispatch.hpp"
#include "model/gguf_values.hpp"

namespace quern::tools {

std::string examples(std::initializer_list<std::string_view> lines) {
  std::string text = lines.size() == 1 ? "Example:" : "Examples:";
  for (const std::string_view line : lines) text += fmt::format("\n  {}", line);
  return text;
}

std::string message_line(const Error& error) {
  constexpr std::size_t kMostBytes = 2000;
  return internal::shown(error.message, kMostBytes);
}

namespace {

/// Carries an error out of the command line parser.
struct CommandError {
  Error error;
};

std::string version_text() {
  const auto kernels = chosen_kernels();
  if (!kernels) throw CommandError{kernels.error()};
#if defined(__clang__)
  const std::string compiler = "Clang " __clang_version__;
#else
  const std::string compiler = "GCC " __VERSION__;
#endif
  return fmt::format("quern {}\ninstruction set: {}\ncompiler: {}", QUERN_VERSION, isa_name((*kernels)->isa), compiler);
}

int report(const Error& error) {
  fmt::print(stderr, "quern: {}\n", message_line(error));
  return error.code == ErrorCode::bad_input ? kExitBadInput : kExitFailure;
}

/// The full name of the subcommand that the command line reached: "quern data prepare".
std::string reached(const CLI::App& app) {
  std::string name = app.get_name();
  for (const CLI::App* at = &app; !at->get_subcommands().empty();) {
    at = at->get_subcommands().front();
    name += " " + at->get_name();
  }
  return name;
}

/// The parser asks for a missing subcommand even where there is a word that it could not place: that word is the mistake.
std::string usage_sentence(const CLI::App& app, const CLI::ParseError& error) {
  const std::vector<std::string> unknown = app.remaining(true);
  if (unknown.empty() || dynamic_cast<const CLI::RequiredError*>(&error) == nullptr) return error.what();
  return fmt::format("unknown argument `{}`", unknown.front());
}

int run(int argc, char** argv) {
  CLI::App app("Quern trains small transformers and runs GGUF models on CPU cores.", "quern");
  app.require_subcommand(1);
  app.set_version_flag("--version", version_text, "Print the version, the instruction set in use and the compiler");
  app.footer("Each subcommand has --help with an example: quern data prepare --help");
  Command command;
  add_data(app, command);
  add_train(app, command);
  add_sample(app, command);
  add_run(app, command);
  add_chat(app, command);
  add_logits(app, command);
  add_perplexity(app, command);
  add_imatrix(app, command);
  add_quantize(app, command);
  add_convert(app, command);
  add_tokenize(app, command);
  add_detokenize(app, command);
  add_render_template(app, command);
  add_inspect(app, command);
  add_bench(app, command);
  add_tune(app, command);
  add_hardware(app, command);
  add_config_keys(app, command);
  add_completion(app, command);

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    fmt::print(stderr, "quern: {}; `{} --help` says more\n", usage_sentence(app, error), reached(app));
    return kExitBadInput;
  } catch (const CommandError& error) {
    return report(error.error);
  }
  const Result<int> code = command.run();
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
    return report(Error{ErrorCode::io, "standard output cannot be written"});
  return code ? *code : report(code.error());
}

}  // namespace
}  // namespace quern::tools

int main(int argc, char** argv) {
  try {
    return quern::tools::run(argc, argv);
  } catch (const std::bad_alloc&) {
    std::fputs("quern: out of memory\n", stderr);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "quern: unexpected failure: %s\n", error.what());
  } catch (...) {
    std::fputs("quern: unexpected failure\n", stderr);
  }
  return quern::tools::kExitFailure;
}
