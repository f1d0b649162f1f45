// quern render-template: the exact text that a conversation becomes.
#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>

#include "command.hpp"
#include "infer/chat_template.hpp"
#include "infer/chat_template_file.hpp"

namespace quern::tools {

namespace {

struct Options {
  std::string source, context, now, name;
};

/// YYYY-MM-DD[(T| )HH:MM[:SS]]; a zone or fraction behind it is no part of a local time.
std::optional<std::chrono::local_seconds> parse_time(const std::string& text) {
  int year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0, used = 0;
  char separator = '\0';
  const int length = static_cast<int>(text.size());
  const auto reads_all = [&](int fields, int expected) { return fields == expected && used == length; };
  const bool ok =
      reads_all(std::sscanf(text.c_str(), "%4d-%2d-%2d%n", &year, &month, &day, &used), 3) ||
      reads_all(std::sscanf(text.c_str(), "%4d-%2d-%2d%c%2d:%2d%n", &year, &month, &day, &separator, &hour, &minute, &used),
                6) ||
      reads_all(std::sscanf(text.c_str(), "%4d-%2d-%2d%c%2d:%2d:%2d%n", &year, &month, &day, &separator, &hour, &minute,
                            &second, &used),
                7);
  const std::chrono::year_month_day date(std::chrono::year(year), std::chrono::month(static_cast<unsigned>(month)),
                                         std::chrono::day(static_cast<unsigned>(day)));
  const bool has_time_mark = separator == '\0' || separator == 'T' || separator == ' ';
  if (!ok || !has_time_mark || !date.ok() || hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 ||
      second > 60) {
    return std::nullopt;
  }
  return std::chrono::local_days(date) + std::chrono::hours(hour) + std::chrono::minutes(minute) +
         std::chrono::seconds(second);
}

Result<std::string> read_context(const std::string& path) {
  if (path == "-") return std::string(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>());
  std::ifstream file(path, std::ios::binary);
  if (!file) return bad_input(path + ": cannot be opened");
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (file.bad()) return io_error(path + ": cannot be read");
  return text;
}

Result<int> run(const Options& options) {
  std::chrono::local_seconds now = local_time_now();
  if (!options.now.empty()) {
    const auto given = parse_time(options.now);
    if (!given) return bad_input(fmt::format("--now: expected a time such as 2026-01-15T10:30:00, found `{}`", options.now));
    now = *given;
  }
  const Result<std::string> text = read_chat_template(options.source, options.name);
  if (!text) return tl::make_unexpected(text.error());
  const Result<ChatTemplate> chat_template = ChatTemplate::parse(*text);
  if (!chat_template) {
    return tl::make_unexpected(Error{chat_template.error().code, options.source + ": " + chat_template.error().message});
  }
  const Result<std::string> context = read_context(options.context);
  if (!context) return tl::make_unexpected(context.error());
  const Result<std::string> rendered = chat_template->render(*context, now);
  if (!rendered) return tl::make_unexpected(Error{rendered.error().code, options.source + ": " + rendered.error().message});
  if (std::fwrite(rendered->data(), 1, rendered->size(), stdout) != rendered->size()) {
    return io_error("standard output cannot be written");
  }
  return kExitOk;
}

}  // namespace

void add_render_template(CLI::App& app, Command& command) {
  CLI::App* render = app.add_subcommand("render-template", "Print what a chat template makes of a conversation");
  render->footer(
      examples({"quern render-template chat_template.jinja --context conversation.json",
                "echo '{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], \"add_generation_prompt\": true}' \\\n"
                "    | quern render-template model.gguf --context - --now 2026-01-15T10:30:00"}));
  const auto options = std::make_shared<Options>();
  render
      ->add_option("TEMPLATE_OR_MODEL", options->source,
                   "A template's text, a tokenizer_config.json or chat_template.json, a folder with one, or a GGUF model")
      ->required();
  render->add_option("--context", options->context, "JSON object of the template's variables; `-`: standard input")
      ->required();
  render->add_option("--now", options->now, "Local time that the template sees, ISO 8601 (default: this machine's)");
  render->add_option("--name", options->name, "Which of several named templates, such as tool_use (default: default)");
  render->callback([&command, options] { command.run = [options] { return run(*options); }; });
}

}  // namespace quern::tools
