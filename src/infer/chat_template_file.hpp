// Where chat templates are found: text files, Hugging Face's JSON files, GGUF metadata.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "math/result.hpp"
#include "model/gguf_file.hpp"

namespace quern {

/// The template text of a file: a GGUF (by its first bytes), a .json file (`chat_template` of tokenizer_config.json or
/// chat_template.json, a string or a list of named ones), a folder with such files, or else plain template text. `name`
/// chooses among several; empty: the one named "default", or the only one. Errors name the file and the names there are.
[[nodiscard]] Result<std::string> read_chat_template(const std::filesystem::path& path, std::string_view name = {});

/// The same for an open model: `tokenizer.chat_template`, or `tokenizer.chat_template.NAME`.
[[nodiscard]] Result<std::string> chat_template_of(const GgufFile& model, std::string_view name = {});

}  // namespace quern
