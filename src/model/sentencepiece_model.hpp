// SentencePiece's own model files (tokenizer.model): a protocol buffer with the vocabulary and how it was trained.
#pragma once

#include <string_view>

#include "math/result.hpp"
#include "model/tokenizer_internal.hpp"

namespace quern::internal {

/// The vocabulary of a BPE model in sentencepiece_model.proto's ModelProto: pieces with scores and types, the ids of unk,
/// bos, eos and pad, and whether a text gets a space in front. The bytes are not trusted. Error bad_input says what is
/// damaged, or what the model does that is not supported (unigram models, normalization tables). What follows from these,
/// the handling of texts, is left to add_gguf_text_handling().
[[nodiscard]] Result<VocabularyDescription> parse_sentencepiece_model(std::string_view bytes);

}  // namespace quern::internal
