// The tokenizer that a file or folder carries, whatever it is.
#pragma once

#include <string>

#include "math/result.hpp"
#include "model/tokenizer.hpp"

namespace quern::tools {

/// Of a GGUF model, a tokenizer.json, a Hugging Face folder, a checkpoint, a run folder (its best checkpoint) or a corpus:
/// files are told apart by their first bytes. Errors: bad_input where it is none of these; those of the readers.
[[nodiscard]] Result<Tokenizer> tokenizer_of_file(const std::string& path);

}  // namespace quern::tools
