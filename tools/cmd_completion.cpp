// quern completion: a shell's completion script, generated from the command line's own description, so that it knows every
// subcommand, option and choice that this program has.
#include <fmt/format.h>

#include <memory>
#include <string>
#include <vector>

#include "command.hpp"
#include "train/run_config.hpp"

namespace quern::tools {

namespace {

struct OptionWords {
  std::vector<std::string> names;  ///< "--threads", "-t"
  std::string description;
  bool takes_value = false;
  std::vector<std::string> choices;  ///< values, where the option has a list of them
};

/// One command: "quern data prepare".
struct CommandWords {
  std::string path;
  std::vector<std::pair<std::string, std::string>> subcommands;  ///< name, description
  std::vector<OptionWords> options;
  bool takes_keys = false;  ///< positional key=value words of a run
};

/// The list in a type name such as "TEXT:{char,byte,bpe}".
std::vector<std::string> choices_of(const CLI::Option& option) {
  std::vector<std::string> choices;
  const std::string type = option.get_type_name();
  const std::size_t open = type.find('{'), close = type.find('}');
  if (open == std::string::npos || close == std::string::npos || close < open) return choices;
  std::string word;
  for (const char c : type.substr(open + 1, close - open - 1) + ",") {
    if (c != ',') {
      word += c;
    } else if (!word.empty()) {
      choices.push_back(std::move(word));
      word.clear();
    }
  }
  return choices;
}

void collect(const CLI::App& app, const std::string& path, std::vector<CommandWords>& out) {
  CommandWords words;
  words.path = path;
  words.takes_keys = path == "quern train" || path == "quern bench train";
  for (const CLI::Option* option : app.get_options()) {
    OptionWords entry;
    for (const std::string& name : option->get_lnames()) entry.names.push_back("--" + name);
    for (const std::string& name : option->get_snames()) entry.names.push_back("-" + name);
    entry.description = option->get_description();
    entry.takes_value = option->get_items_expected_max() > 0;
    entry.choices = choices_of(*option);
    if (option->get_positional()) {  // its choices are words of the command itself
      for (const std::string& choice : entry.choices) words.subcommands.emplace_back(choice, entry.description);
    }
    if (!entry.names.empty()) words.options.push_back(std::move(entry));
  }
  const auto subcommands = app.get_subcommands([](const CLI::App*) { return true; });
  for (const CLI::App* sub : subcommands) words.subcommands.emplace_back(sub->get_name(), sub->get_description());
  out.push_back(std::move(words));
  for (const CLI::App* sub : subcommands) collect(*sub, path + " " + sub->get_name(), out);
}

std::vector<std::string> names_of(const std::vector<std::pair<std::string, std::string>>& subcommands) {
  std::vector<std::string> names;
  for (const auto& [name, description] : subcommands) names.push_back(name);
  return names;
}

std::vector<std::string> option_names(const CommandWords& command) {
  std::vector<std::string> names;
  for (const OptionWords& option : command.options) names.insert(names.end(), option.names.begin(), option.names.end());
  return names;
}

std::vector<std::string> run_keys() {
  std::vector<std::string> keys;
  for (const KeyDoc& doc : run_config_keys()) keys.push_back(doc.key + "=");
  return keys;
}

/// `"a"|"b"`: a pattern of case in bash and zsh.
std::string pattern(const std::vector<std::string>& words) { return fmt::format("\"{}\"", fmt::join(words, "\"|\"")); }

/// The parts that bash and zsh share: lines of `case` bodies that set words.
struct CaseLines {
  std::string paths;    ///< pattern of every command below the first
  std::string values;   ///< per option with choices or a value
  std::string options;  ///< per command
  std::string words;    ///< per command: subcommands, and key= words of runs
};

CaseLines case_lines(const std::vector<CommandWords>& commands) {
  CaseLines lines;
  std::vector<std::string> paths;
  for (const CommandWords& command : commands) {
    if (command.path != "quern") paths.push_back(command.path);
    for (const OptionWords& option : command.options) {
      if (!option.takes_value) continue;
      std::vector<std::string> spelled;
      for (const std::string& name : option.names) spelled.push_back(command.path + " " + name);
      lines.values += fmt::format("    {}) list=\"{}\"; value=1 ;;\n", pattern(spelled), fmt::join(option.choices, " "));
    }
    lines.options += fmt::format("    \"{}\") list=\"{}\" ;;\n", command.path, fmt::join(option_names(command), " "));
    std::vector<std::string> words = names_of(command.subcommands);
    if (command.takes_keys) words = run_keys();
    if (!words.empty()) lines.words += fmt::format("    \"{}\") list=\"{}\" ;;\n", command.path, fmt::join(words, " "));
  }
  lines.paths = pattern(paths);
  return lines;
}

std::string bash_script(const std::vector<CommandWords>& commands) {
  const CaseLines lines = case_lines(commands);
  return fmt::format(R"script(# bash completion for quern: source <(quern completion bash)
_quern() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} where=quern list="" value=0 i
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "$where ${{COMP_WORDS[i]}}" in
    {}) where+=" ${{COMP_WORDS[i]}}" ;;
    esac
  done
  case "$where ${{COMP_WORDS[COMP_CWORD - 1]}}" in
{}  esac
  if ((value == 0)) && [[ $cur == -* ]]; then
    case "$where" in
{}    esac
  elif ((value == 0)); then
    case "$where" in
{}    esac
  fi
  COMPREPLY=()
  if [[ -n $list ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$list" -- "$cur")
    if [[ ${{COMPREPLY[0]-}} == *= ]]; then compopt -o nospace; fi
  fi
}}
complete -o bashdefault -o default -F _quern quern
)script",
                     lines.paths, lines.values, lines.options, lines.words);
}

std::string zsh_script(const std::vector<CommandWords>& commands) {
  const CaseLines lines = case_lines(commands);
  return fmt::format(R"script(#compdef quern
# zsh completion for quern: quern completion zsh > "${{fpath[1]}}/_quern", or source <(quern completion zsh) after compinit
_quern() {{
  local cur=${{words[CURRENT]}} where=quern list="" value=0 i
  for ((i = 2; i < CURRENT; i++)); do
    case "$where ${{words[i]}}" in
    {}) where+=" ${{words[i]}}" ;;
    esac
  done
  case "$where ${{words[CURRENT - 1]}}" in
{}  esac
  if ((value == 0)) && [[ $cur == -* ]]; then
    case "$where" in
{}    esac
  elif ((value == 0)); then
    case "$where" in
{}    esac
  fi
  if [[ $list == *= ]]; then
    compadd -S "" -- ${{=list}}
    _files
  elif [[ -n $list ]]; then
    compadd -- ${{=list}}
  else
    _files
  fi
}}
if [[ $funcstack[1] == _quern ]]; then _quern "$@"; else compdef _quern quern; fi
)script",
                     lines.paths, lines.values, lines.options, lines.words);
}

/// A word in single quotes for fish.
std::string fish_quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'' || c == '\\') out += '\\';
    out += c;
  }
  return out + "'";
}

std::string fish_script(const std::vector<CommandWords>& commands) {
  std::string out = "# fish completion for quern: quern completion fish | source\nset -g __quern_paths";
  for (const CommandWords& command : commands) out += " " + fish_quoted(command.path);
  out += R"script(
function __quern_at
    set -l where quern
    for word in (commandline -opc)[2..-1]
        if contains -- "$where $word" $__quern_paths
            set where "$where $word"
        end
    end
    test "$where" = "$argv[1]"
end
complete -c quern -e
)script";
  for (const CommandWords& command : commands) {
    const std::string base = fmt::format("complete -c quern -n \"__quern_at {}\"", fish_quoted(command.path));
    for (const auto& [name, description] : command.subcommands) {
      out += fmt::format("{} -f -a {} -d {}\n", base, fish_quoted(name), fish_quoted(description));
    }
    if (command.takes_keys) {
      for (const KeyDoc& doc : run_config_keys()) {
        out += fmt::format("{} -a {} -d {}\n", base, fish_quoted(doc.key + "="), fish_quoted(doc.description));
      }
    }
    for (const OptionWords& option : command.options) {
      std::string line = base;
      for (const std::string& name : option.names) {
        const bool is_long = name.starts_with("--");
        line += fmt::format(" {} {}", is_long ? "-l" : "-s", fish_quoted(name.substr(is_long ? 2 : 1)));
      }
      if (!option.choices.empty()) {
        line += fmt::format(" -x -a {}", fish_quoted(fmt::format("{}", fmt::join(option.choices, " "))));
      } else if (option.takes_value) {
        line += " -r";
      }
      out += fmt::format("{} -d {}\n", line, fish_quoted(option.description));
    }
  }
  return out;
}

Result<int> run(const CLI::App& app, const std::string& shell) {
  std::vector<CommandWords> commands;
  collect(app, "quern", commands);
  fmt::print("{}", shell == "bash" ? bash_script(commands) : shell == "zsh" ? zsh_script(commands) : fish_script(commands));
  return kExitOk;
}

}  // namespace

void add_completion(CLI::App& app, Command& command) {
  CLI::App* completion = app.add_subcommand("completion", "Print a shell's completion script");
  completion->footer(examples({"source <(quern completion bash)", "quern completion fish | source"}));
  const auto shell = std::make_shared<std::string>();
  completion->add_option("SHELL", *shell, "The shell")->required()->check(CLI::IsMember({"bash", "zsh", "fish"}));
  completion->callback([&app, &command, shell] { command.run = [&app, shell] { return run(app, *shell); }; });
}

}  // namespace quern::tools
