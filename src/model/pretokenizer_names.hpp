// The pre-tokenizers that GGUF files name (`tokenizer.ggml.pre`).
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "model/pretokenizer.hpp"

namespace quern {

/// What cuts the text of `gemma4` vocabularies: each line is a piece, and each run of line breaks.
inline constexpr std::string_view kGemma4Pattern = R"([^\n]+|[\n]+)";

/// What a name stands for.
struct NamedPretokenizer {
  std::vector<SplitRule> rules;
  bool ignore_merges = false;  ///< a piece that is a token becomes that token, whatever the merges say
  bool add_bos = false;        ///< where the file does not say
};

/// The name's expressions, as the models' authors published them; nothing for names that are not known.
[[nodiscard]] std::optional<NamedPretokenizer> named_pretokenizer(std::string_view name);

/// The names whose expressions cut every text as these rules do, the most usual one of each kind (they differ in
/// ignore_merges and add_bos). What is compared is how the expressions are written, not what they match: rules that are said
/// in another way have no name.
[[nodiscard]] std::vector<std::string_view> find_pretokenizer_names(const std::vector<SplitRule>& rules);

}  // namespace quern
