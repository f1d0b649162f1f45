// quern config-keys: the table of run keys, from the schema that reads them.
#include <fmt/format.h>

#include <memory>
#include <string>
#include <string_view>

#include "command.hpp"
#include "train/run_config.hpp"

namespace quern::tools {

namespace {

/// `|` would end a table's cell.
std::string cell(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '|') out += '\\';
    out += c;
  }
  return out;
}

Result<int> run(bool markdown) {
  if (markdown) fmt::print("| key | type | default | allowed | meaning |\n| --- | --- | --- | --- | --- |\n");
  std::string section;
  for (const KeyDoc& doc : run_config_keys()) {
    if (markdown) {
      fmt::print("| `{}` | {} | {} | {} | {} |\n", doc.key, doc.type, cell(doc.default_value), cell(doc.allowed),
                 cell(doc.description));
      continue;
    }
    const std::string this_section = doc.key.substr(0, doc.key.find('.'));
    if (!section.empty() && this_section != section) fmt::print("\n");
    section = this_section;
    fmt::print("{}: {}\n    {}; default: {}\n", doc.key, doc.description, doc.allowed, doc.default_value);
  }
  return kExitOk;
}

}  // namespace

void add_config_keys(CLI::App& app, Command& command) {
  CLI::App* keys = app.add_subcommand("config-keys", "Print every key of a run: type, default, allowed values, meaning");
  keys->footer(examples({"quern config-keys", "quern config-keys --markdown > keys.md"}));
  const auto markdown = std::make_shared<bool>(false);
  keys->add_flag("--markdown", *markdown, "Print a Markdown table");
  keys->callback([&command, markdown] { command.run = [markdown] { return run(*markdown); }; });
}

}  // namespace quern::tools
