// quern chat: a conversation with a model.
#include <fmt/format.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>

#include "chat_line.hpp"
#include "chat_session.hpp"
#include "command.hpp"
#include "run_model.hpp"
#include "run_sampling.hpp"
#include "run_statistics.hpp"

namespace quern::tools {

namespace {

struct Arguments {
  ModelOptions model;
  ChatOptions chat;
  std::int64_t context = 0;
  bool show_reasoning = false;
};

constexpr std::string_view kHelp =
    "/reset        forget what was said\n"
    "/system TEXT  replace the system message; without TEXT: none\n"
    "/save FILE    write the conversation to a file (JSON)\n"
    "/load FILE    go on with a conversation from a file\n"
    "/stats        times, rates and memory so far\n"
    "/help         this\n"
    "/exit         leave (as Ctrl-D, or Ctrl-C twice)\n"
    "A line that ends in \\ goes on in the next; lines between two lines of \"\"\" are one message. Ctrl-C ends an "
    "answer.\n";

/// Prints an answer as it comes: reasoning dimmed, or as a short marker.
class AnswerPrinter {
 public:
  AnswerPrinter(bool show_reasoning, bool live) : show_reasoning_(show_reasoning), live_(live) {}

  void print(const AnswerPiece& piece) {
    if (piece.kind != kind_ || !any_) begin(piece);
    if (piece.kind != AnswerKind::reasoning || show_reasoning_) fmt::print("{}", leading_space_cut(piece.text));
    if (piece.kind == AnswerKind::reasoning && !show_reasoning_) reasoning_bytes_ += piece.text.size();
    std::fflush(stdout);
  }
  void finish() {
    end();
    fmt::print("\n");
    std::fflush(stdout);
  }

 private:
  void begin(const AnswerPiece& piece) {
    if (any_) {
      end();
      fmt::print("\n");
    }
    any_ = true;
    kind_ = piece.kind;
    at_start_ = true;
    if (kind_ == AnswerKind::reasoning) {
      reasoning_bytes_ = 0;
      fmt::print("{}[reasoning{}", live_ ? "\x1b[2m" : "", show_reasoning_ ? "]\n" : " ");
    } else if (kind_ == AnswerKind::tool) {
      fmt::print("[tool call{}{}]\n", piece.recipient.empty() ? "" : " to ", piece.recipient);
    }
  }
  void end() {
    if (!any_ || kind_ != AnswerKind::reasoning) return;
    if (!show_reasoning_) fmt::print("of {} bytes, --show-reasoning shows it]", reasoning_bytes_);
    if (live_) fmt::print("\x1b[0m");
  }
  /// Models without a template begin with a space.
  std::string_view leading_space_cut(std::string_view text) {
    if (!at_start_) return text;
    const std::size_t first = text.find_first_not_of(" \t\r\n");
    if (first == std::string_view::npos) return "";
    at_start_ = false;
    return text.substr(first);
  }

  bool show_reasoning_, live_;
  bool any_ = false, at_start_ = true;
  AnswerKind kind_ = AnswerKind::answer;
  std::size_t reasoning_bytes_ = 0;
};

/// Carries out a line that begins with a slash. False: leave.
Result<bool> run_command(const std::string& line, ChatSession& session, RunningModel& running) {
  const std::size_t space = line.find(' ');
  const std::string name = line.substr(0, space);
  const std::size_t begin = space == std::string::npos ? space : line.find_first_not_of(' ', space);
  const std::string argument = begin == std::string::npos ? "" : line.substr(begin);
  const auto needs_file = [&]() -> Result<void> {
    return argument.empty() ? bad_input(name + ": a file's name is missing") : Result<void>{};
  };
  if (name == "/exit" || name == "/quit") return false;
  if (name == "/help") {
    fmt::print("{}", kHelp);
  } else if (name == "/reset") {
    session.reset();
  } else if (name == "/system") {
    session.set_system(argument);
  } else if (name == "/save" || name == "/load") {
    auto done = needs_file();
    if (done) done = name == "/save" ? session.save(argument) : session.load(argument);
    if (!done) return tl::make_unexpected(done.error());
    const auto count = session.message_count();
    fmt::print("({} message{} {} {})\n", count, count == 1 ? "" : "s", name == "/save" ? "saved to" : "from", argument);
  } else if (name == "/stats") {
    RunStatistics statistics = session.statistics();
    measure_machine(statistics, running);
    fmt::print("{}", statistics_text(statistics));
  } else {
    return bad_input(fmt::format("{}: there is no such command; /help lists them", name));
  }
  std::fflush(stdout);
  return true;
}

/// Says one message and prints the answer.
Result<void> converse(const std::string& text, ChatSession& session, bool show_reasoning) {
  AnswerPrinter printer(show_reasoning, isatty(STDOUT_FILENO) != 0);
  const auto turn = session.say(text, [&](const AnswerPiece& piece) { printer.print(piece); });
  if (!turn) return tl::make_unexpected(turn.error());
  printer.finish();
  if (turn->stop == StopReason::context_full) fmt::print(stderr, "(the context is full; /reset begins anew)\n");
  if (turn->stop == StopReason::token_limit) fmt::print(stderr, "(the limit of tokens was reached)\n");
  if (turn->stop == StopReason::interrupted) fmt::print(stderr, "(interrupted)\n");
  return {};
}

Result<int> chat(const Arguments& arguments) {
  auto running = load_model(arguments.model, arguments.context);
  if (!running) return tl::make_unexpected(running.error());
  ChatOptions options = arguments.chat;
  options.model = arguments.model;
  auto session = ChatSession::create(**running, options);
  if (!session) return tl::make_unexpected(session.error());
  LineReader reader;
  if (!(*session)->has_template()) {
    fmt::print(stderr, "({} has no chat template: messages are written as lines of User: and Assistant:)\n",
               (*running)->model->path());
  }
  if (reader.is_interactive()) fmt::print("/help lists commands, Ctrl-D leaves.\n");
  catch_interrupts(false);
  bool interrupted_before = false;  // at an empty prompt
  std::string text;
  while (true) {
    forget_interrupt();
    const LineEnd end = read_turn(reader, text);
    if (end == LineEnd::end_of_file) return kExitOk;
    if (end == LineEnd::interrupted) {
      if (interrupted_before || !reader.is_interactive()) return 128 + SIGINT;
      interrupted_before = true;
      fmt::print("(Ctrl-C again leaves)\n");
      continue;
    }
    interrupted_before = false;
    if (text.find_first_not_of(" \t\r\n") == std::string::npos) continue;
    Result<bool> going_on = true;
    if (text.front() == '/') {
      going_on = run_command(text, **session, **running);
    } else if (auto said = converse(text, **session, arguments.show_reasoning); !said) {
      going_on = tl::make_unexpected(said.error());
    }
    if (!going_on) {
      // A person reads the sentence and tries again; a script ends.
      if (!reader.is_interactive()) return tl::make_unexpected(going_on.error());
      fmt::print(stderr, "{}\n", message_line(going_on.error()));
    } else if (!*going_on) {
      return kExitOk;
    }
    if (!reader.is_interactive() && interrupted()) return 128 + SIGINT;
    if (std::ferror(stdout) != 0) return io_error("standard output cannot be written");
  }
}

}  // namespace

void add_chat(CLI::App& app, Command& command) {
  const auto arguments = std::make_shared<Arguments>();
  ChatOptions& options = arguments->chat;
  CLI::App* chat_command = app.add_subcommand("chat", "Talk with a model");
  chat_command->footer(examples({"quern chat model.gguf --system \"You answer in one sentence.\"",
                                 "quern chat gpt-oss.gguf --show-reasoning --temperature 1",
                                 "printf 'What is 2 + 2?\\nAnd 3 + 3?\\n' | quern chat model.gguf --temperature 0"}));
  add_model_options(*chat_command, arguments->model);
  chat_command->add_option("--system", options.system, "System message");
  chat_command->add_flag("--show-reasoning", arguments->show_reasoning, "Print what the model thinks before it answers");
  chat_command->add_option("--template", options.template_file, "File with a chat template (Jinja) instead of the model's");
  chat_command->add_option("--template-variables", options.variables_json,
                           "JSON object of further variables for the template, such as {\"enable_thinking\": false}");
  chat_command->add_option("-n,--tokens", options.tokens, "Tokens of an answer at most; 0: what the context leaves")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 24))
      ->capture_default_str();
  chat_command
      ->add_option("--context", arguments->context, "Longest conversation in tokens; 0: the model's, for GGUF at most 4096")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 24))
      ->capture_default_str();
  add_batch_option(*chat_command, arguments->model);
  add_tuned_option(*chat_command, arguments->model);
  add_sampling_options(*chat_command, options.sampling);
  add_speculation_options(*chat_command, options.speculation);
  chat_command->add_option("--stop", options.stop, "End an answer before this text; can be repeated")
      ->allow_extra_args(false);
  chat_command->callback([&command, arguments] { command.run = [arguments] { return chat(*arguments); }; });
}

}  // namespace quern::tools
