// Whether a corpus that is already there is the one that a preparation would write.
#pragma once

#include <string>

#include "math/result.hpp"
#include "train/corpus.hpp"
#include "train/prepare.hpp"

namespace quern {

/// What of `corpus` differs from the result of prepare_corpus(options): "tokenizer bpe, asked for char", ...; empty when
/// nothing does. Reads the source once and compares its hash. Errors are those of reading the source.
[[nodiscard]] Result<std::string> corpus_difference(const Corpus& corpus, const PrepareOptions& options);

}  // namespace quern
