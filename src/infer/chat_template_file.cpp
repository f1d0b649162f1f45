#include "infer/chat_template_file.hpp"

#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <system_error>
#include <vector>

#include "model/file_kind.hpp"

namespace quern {

namespace {

using Json = nlohmann::ordered_json;

// Tokenizer configurations with thousands of added tokens have under a megabyte.
constexpr std::uintmax_t kMaxFileBytes = std::uintmax_t{1} << 26;

Result<std::string> read_text(const std::filesystem::path& path) {
  std::error_code error;
  if (std::filesystem::is_regular_file(path, error)) {
    const std::uintmax_t bytes = std::filesystem::file_size(path, error);
    if (!error && bytes > kMaxFileBytes) {
      return bad_input(path.string() + ": " + std::to_string(bytes) + " bytes are too many for a template");
    }
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) return bad_input(path.string() + ": cannot be opened");
  std::string text;
  char buffer[1 << 14];
  while (file.read(buffer, sizeof buffer) || file.gcount() > 0) {
    text.append(buffer, static_cast<std::size_t>(file.gcount()));
    if (text.size() > kMaxFileBytes) return bad_input(path.string() + ": too many bytes for a template");
  }
  if (file.bad()) return io_error(path.string() + ": cannot be read");
  return text;
}

std::string known_names(const std::vector<std::string>& names) {
  std::string out;
  for (const std::string& name : names) out += (out.empty() ? "" : ", ") + name;
  return out;
}

/// One of several named templates.
Result<std::string> choose(const std::string& file, const Json& list, std::string_view name) {
  std::vector<std::string> names;
  for (const Json& entry : list) {
    if (!entry.is_object() || !entry.contains("name") || !entry["name"].is_string() || !entry.contains("template") ||
        !entry["template"].is_string()) {
      return bad_input(file + ": chat_template: expected objects with the strings `name` and `template`");
    }
    names.push_back(entry["name"].get<std::string>());
    const bool is_wanted = name.empty() ? names.back() == "default" || list.size() == 1 : names.back() == name;
    if (is_wanted) return entry["template"].get<std::string>();
  }
  return bad_input(file + ": no chat template named `" + std::string(name.empty() ? "default" : name) + "`; there are " +
                   known_names(names));
}

Result<std::string> from_json(const std::string& file, const std::string& text, std::string_view name) {
  const Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded() || !json.is_object()) return bad_input(file + ": expected a JSON object");
  if (!json.contains("chat_template")) return bad_input(file + ": no key `chat_template`");
  const Json& value = json["chat_template"];
  if (value.is_array()) return choose(file, value, name);
  if (!value.is_string()) return bad_input(file + ": chat_template: expected a string or a list");
  if (!name.empty() && name != "default") {
    return bad_input(file + ": no chat template named `" + std::string(name) + "`; there is only one, without a name");
  }
  return value.get<std::string>();
}

Result<std::string> from_folder(const std::filesystem::path& folder, std::string_view name) {
  std::error_code error;
  if (name.empty() && std::filesystem::exists(folder / "chat_template.jinja", error))
    return read_text(folder / "chat_template.jinja");
  for (const char* const candidate : {"chat_template.json", "tokenizer_config.json"}) {
    if (std::filesystem::exists(folder / candidate, error)) return read_chat_template(folder / candidate, name);
  }
  return bad_input(folder.string() + ": no chat_template.jinja, chat_template.json or tokenizer_config.json in this folder");
}

}  // namespace

Result<std::string> chat_template_of(const GgufFile& model, std::string_view name) {
  const std::string base = "tokenizer.chat_template";
  const std::string key = name.empty() || name == "default" ? base : base + "." + std::string(name);
  if (model.find(key) == nullptr) return bad_input(model.name() + ": no chat template (key " + key + ")");
  const Result<std::string_view> text = model.require_string(key);
  if (!text) return tl::make_unexpected(text.error());
  return std::string(*text);
}

Result<std::string> read_chat_template(const std::filesystem::path& path, std::string_view name) {
  std::error_code error;
  const bool empty = std::filesystem::is_regular_file(path, error) && std::filesystem::file_size(path, error) == 0;
  if (!empty && !std::filesystem::is_other(path, error)) {  // a pipe's first bytes must not be taken from it
    const Result<FileStart> start = read_file_start(path.string());
    if (!start) return tl::make_unexpected(start.error());
    if (start->kind == FileKind::folder) return from_folder(path, name);
    if (start->kind == FileKind::gguf) {
      const Result<GgufFile> model = GgufFile::open(path);
      if (!model) return tl::make_unexpected(model.error());
      return chat_template_of(*model, name);
    }
  }
  Result<std::string> text = read_text(path);
  if (!text) return text;
  if (path.extension() == ".json") return from_json(path.string(), *text, name);
  if (!name.empty()) return bad_input(path.string() + ": plain template text has no named templates");
  return text;
}

}  // namespace quern
