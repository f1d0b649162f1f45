// The pre-tokenizers that GGUF files name (`tokenizer.ggml.pre`).
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "model/pretokenizer.hpp"

namespace quern {

/// What a name stands for.
struct NamedPretokenizer {
  std::vector<SplitRule> rules;
  bool ignore_merges = false;  ///< a piece that is a token becomes that token, whatever the merges say
  bool add_bos = false;        ///< where the file does not say
};

/// The name's expressions, as the models' authors published them; nothing for names that are not known.
[[nodiscard]] std::optional<NamedPretokenizer> named_pretokenizer(std::string_view name);

}  // namespace quern
