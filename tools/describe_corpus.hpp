// What the program prints of a corpus.
#pragma once

#include <nlohmann/json.hpp>

#include "train/corpus.hpp"

namespace quern::tools {

/// Source, tokenizer, tokens and bytes per split, on standard output.
void print_corpus(const Corpus& corpus);
/// The same as an object.
[[nodiscard]] nlohmann::ordered_json corpus_json(const Corpus& corpus);

}  // namespace quern::tools
