// Tokenizers into and out of the files of models: GGUF's metadata, Hugging Face folders, llama2.c's tokenizer.bin.
#pragma once

#include <cstdint>
#include <string>

#include "math/result.hpp"
#include "model/gguf_writer.hpp"
#include "model/tokenizer.hpp"

namespace quern {

/// Adds `tokenizer.ggml.*` of any tokenizer to a file that is being written, so that Tokenizer::from_gguf and llama.cpp
/// give the same ids. Bytes, and characters that are all ASCII, become byte-level BPE without merges. `vocab` is the number
/// of rows of the embedding: ids beyond the tokenizer's become unused tokens. Errors: bad_input for what GGUF cannot say
/// (named).
[[nodiscard]] Result<void> add_tokenizer(GgufWriter& writer, const Tokenizer& tokenizer, std::int64_t vocab);
/// add_tokenizer()'s errors, before a file is begun.
[[nodiscard]] Result<void> check_gguf_tokenizer(const Tokenizer& tokenizer, std::int64_t vocab);

/// The tokenizer of a Hugging Face folder: tokenizer.json, with what tokenizer_config.json, generation_config.json and
/// config.json say of special tokens and of adding them.
[[nodiscard]] Result<Tokenizer> load_huggingface_tokenizer(const std::string& folder);

/// Texts of tokenizer.json, tokenizer_config.json and generation_config.json's token ids for a folder that is written.
struct HuggingFaceTokenizerFiles {
  std::string tokenizer_json;
  std::string tokenizer_config_json;   ///< with the chat template where one is given
  std::string generation_config_json;  ///< bos_token_id, eos_token_id, pad_token_id
};
[[nodiscard]] Result<HuggingFaceTokenizerFiles> huggingface_tokenizer_files(const Tokenizer& tokenizer,
                                                                            const std::string& chat_template);

/// llama2.c's tokenizer.bin (i32 max_token_length; then per token f32 score, i32 length, bytes) of `vocab` tokens: the
/// SentencePiece vocabulary that it was exported from.
[[nodiscard]] Result<Tokenizer> load_llama2c_tokenizer(const std::string& path, std::int64_t vocab);

}  // namespace quern
