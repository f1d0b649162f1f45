// SentencePiece vocabularies say what merges first in two ways: by scores of tokens (SentencePiece's own files, GGUF), or by
// a list of merges (tokenizer.json). Each from the other.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "math/result.hpp"
#include "model/tokenizer_internal.hpp"

namespace quern::internal {

/// The texts that merging may make, one per token, empty for the others: control, unknown and byte tokens, and all but the
/// first of tokens with one text.
[[nodiscard]] std::vector<std::string> mergeable_texts(const VocabularyDescription& description);

/// Scores under which tokens merge as by the description's merges: token by token in their order of preference. Error
/// bad_input where scores cannot say the same: where a token can be put together in a way that is not among the merges, or
/// one token's merges stand among another's.
[[nodiscard]] Result<std::vector<float>> scores_of_merges(const VocabularyDescription& description);

/// The merges that make what the description's scores make: all pairs of tokens that together are a token, by its score. Of
/// the pairs that make one token the one with the longest left part stands first, as published files have it. Unused tokens,
/// which scores make and take apart again, are not made.
[[nodiscard]] std::vector<std::pair<std::string, std::string>> merges_of_scores(const VocabularyDescription& description);

}  // namespace quern::internal
