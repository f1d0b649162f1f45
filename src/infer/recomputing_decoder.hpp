// Inference as it is without a KV cache: every token computes the whole sequence again. For measuring what the cache gives.
#pragma once

#include <memory>

#include "infer/decoder.hpp"

namespace quern {

/// A decoder that gives the logits of `decoder` from whole sequences: a forward() that asks for logits runs each sequence
/// from its first token, in chunks of limits().batch_tokens, one sequence after the other. Tokens whose logits nobody asks
/// for are only remembered until then. (Keys and values still pass through the cache's pages, but none is read by a later
/// call.) Sequences must not be forked. Error bad_input from forward(): all_logits, or LogitRows::all of more than one
/// token.
[[nodiscard]] std::unique_ptr<Decoder> without_kv_cache(std::unique_ptr<Decoder> decoder);

}  // namespace quern
