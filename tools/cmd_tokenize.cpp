// quern tokenize, quern detokenize: text to token ids and back, with the tokenizer of any model.
#include <fmt/format.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "command.hpp"
#include "model/tokenizer.hpp"
#include "model/utf8.hpp"
#include "run_model.hpp"
#include "tokenizer_of_file.hpp"

namespace quern::tools {

namespace {

struct Arguments {
  std::string model;
  std::string text;
  bool has_text = false;
  std::vector<std::string> ids;
  std::string file;
  bool ids_only = false;
  bool no_special = false;
  bool bos = false;
  bool json = false;
};

// Texts are read whole; a tokenizer's offsets are kept in 32 bits.
constexpr std::size_t kMaxTextBytes = std::size_t{1} << 30;

/// A token's bytes in quotes, on one line: control characters and bytes that are not UTF-8 as escapes.
std::string quoted(std::string_view bytes) {
  std::string out = "\"";
  for (std::size_t at = 0; at < bytes.size();) {
    const Utf8Step step = utf8_step(bytes, at);
    const std::string_view character = bytes.substr(at, step.bytes);
    if (step.code_point == '"' || step.code_point == '\\') {
      out += '\\';
      out += character;
    } else if (step.code_point == '\n') {
      out += "\\n";
    } else if (step.code_point == '\t') {
      out += "\\t";
    } else if (step.code_point == '\r') {
      out += "\\r";
    } else if (step.code_point < 32 || step.code_point == 127) {
      out += fmt::format("\\x{:02X}", static_cast<unsigned char>(character[0]));
    } else {
      out += character;
    }
    at += step.bytes;
  }
  return out + '"';
}

void print_json(const nlohmann::ordered_json& json) {
  fmt::print("{}\n", json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
}

Result<int> tokenize(const Arguments& arguments) {
  if (arguments.has_text && !arguments.file.empty()) return bad_input("TEXT and --file: expected one of them");
  const auto tokenizer = tokenizer_of_file(arguments.model);
  if (!tokenizer) return tl::make_unexpected(tokenizer.error());
  const auto text = arguments.has_text ? Result<std::string>(arguments.text)
                                       : read_text(arguments.file.empty() ? "-" : arguments.file, kMaxTextBytes);
  if (!text) return tl::make_unexpected(text.error());
  std::vector<std::int32_t> tokens;
  const SpecialTokens& special = tokenizer->special_tokens();
  if (arguments.bos && special.add_bos && special.bos) tokens.push_back(*special.bos);
  if (auto done = tokenizer->encode_append(*text, tokens, {.parse_special = !arguments.no_special}); !done) {
    return tl::make_unexpected(done.error());
  }
  if (arguments.json) {
    nlohmann::ordered_json json = {{"ids", tokens}, {"tokens", nlohmann::ordered_json::array()}};
    for (const std::int32_t token : tokens) json["tokens"].push_back(std::string(tokenizer->token_bytes(token)));
    print_json(json);
    return kExitOk;
  }
  std::string out;
  for (const std::int32_t token : tokens) {
    if (arguments.ids_only) {
      if (!out.empty()) out += ' ';
      out += fmt::format_int(token).c_str();
    } else {
      out += fmt::format("{:>6} {}\n", token, quoted(tokenizer->token_bytes(token)));
    }
  }
  if (arguments.ids_only) out += '\n';
  std::fwrite(out.data(), 1, out.size(), stdout);
  return kExitOk;
}

/// Numbers separated by white space or commas, brackets around them allowed.
Result<void> parse_ids(std::string_view text, std::string_view where, const Tokenizer& tokenizer,
                       std::vector<std::int32_t>& tokens) {
  constexpr std::string_view kBetween = " \t\r\n,[]";
  for (std::size_t at = text.find_first_not_of(kBetween); at != std::string_view::npos;) {
    const std::size_t end = std::min(text.find_first_of(kBetween, at), text.size());
    const std::string_view word = text.substr(at, end - at);
    std::int32_t id = -1;
    const auto [stop, error] = std::from_chars(word.data(), word.data() + word.size(), id);
    if (error != std::errc() || stop != word.data() + word.size() || id < 0 || id >= tokenizer.vocab_size()) {
      return bad_input(
          fmt::format("{}: expected ids from 0 to {}, found `{}`", where, tokenizer.vocab_size() - 1, word.substr(0, 40)));
    }
    tokens.push_back(id);
    at = text.find_first_not_of(kBetween, end);
  }
  return {};
}

Result<int> detokenize(const Arguments& arguments) {
  if (!arguments.ids.empty() && !arguments.file.empty()) return bad_input("IDS and --file: expected one of them");
  const auto tokenizer = tokenizer_of_file(arguments.model);
  if (!tokenizer) return tl::make_unexpected(tokenizer.error());
  std::vector<std::int32_t> tokens;
  if (arguments.ids.empty()) {
    const auto text = read_text(arguments.file.empty() ? "-" : arguments.file, kMaxTextBytes);
    if (!text) return tl::make_unexpected(text.error());
    const std::string where = arguments.file.empty() || arguments.file == "-" ? "standard input" : arguments.file;
    if (auto done = parse_ids(*text, where, *tokenizer, tokens); !done) return tl::make_unexpected(done.error());
  }
  for (const std::string& word : arguments.ids) {
    if (auto done = parse_ids(word, "IDS", *tokenizer, tokens); !done) return tl::make_unexpected(done.error());
  }
  std::string text = tokenizer->decode(tokens, {.special = !arguments.no_special});
  if (arguments.json) {
    print_json({{"text", text}});
    return kExitOk;
  }
  if (isatty(STDOUT_FILENO) == 1) text += '\n';
  std::fwrite(text.data(), 1, text.size(), stdout);
  return kExitOk;
}

constexpr const char* kModelHelp =
    "A GGUF model, a tokenizer.json (or a folder with one), a run folder, a checkpoint or a corpus";

}  // namespace

void add_tokenize(CLI::App& app, Command& command) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* tokenize_command =
      app.add_subcommand("tokenize", "Turn text into token ids; without TEXT and --file standard input is read");
  tokenize_command->footer(
      examples({"quern tokenize model.gguf \"Hello world\"", "quern tokenize model.gguf --file book.txt --ids",
                "quern tokenize runs/quickstart \"In the beginning\" --json"}));
  tokenize_command->add_option("MODEL", arguments->model, kModelHelp)->required();
  CLI::Option* text = tokenize_command->add_option("TEXT", arguments->text, "The text");
  tokenize_command->add_option("-f,--file", arguments->file, "A file with the text; -: standard input");
  tokenize_command->add_flag("--ids", arguments->ids_only, "Print the ids alone, on one line");
  tokenize_command->add_flag("--no-special", arguments->no_special,
                             "Take names of special tokens in the text (such as <|im_end|>) as ordinary text");
  tokenize_command->add_flag(
      "--bos", arguments->bos,
      "Put the begin-of-text token in front where the vocabulary says so; without this none is added");
  tokenize_command->add_flag("--json", arguments->json, "Print one JSON object with ids and tokens");
  tokenize_command->callback([&command, arguments, text] {
    arguments->has_text = text->count() > 0;
    command.run = [arguments] { return tokenize(*arguments); };
  });
}

void add_detokenize(CLI::App& app, Command& command) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* detokenize_command = app.add_subcommand(
      "detokenize", "Turn token ids into exactly their text; without IDS and --file standard input is read");
  detokenize_command->footer(examples({"quern detokenize model.gguf 9906 1917",
                                       "quern tokenize model.gguf --file a.txt --ids | quern detokenize model.gguf"}));
  detokenize_command->add_option("MODEL", arguments->model, kModelHelp)->required();
  detokenize_command->add_option("IDS", arguments->ids, "Token ids, separated by spaces or commas");
  detokenize_command->add_option("-f,--file", arguments->file, "A file with the ids; -: standard input");
  detokenize_command->add_flag("--no-special", arguments->no_special, "Leave control tokens out");
  detokenize_command->add_flag("--json", arguments->json, "Print one JSON object with the text");
  detokenize_command->callback([&command, arguments] { command.run = [arguments] { return detokenize(*arguments); }; });
}

}  // namespace quern::tools
