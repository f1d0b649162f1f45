// Names of tensors in Hugging Face's files for the streams' names.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "model/huggingface_families.hpp"

namespace quern::internal {

/// A stream's name taken apart: "blk.3.attn_q.weight" is layer 3 and "attn_q.weight"; others have layer -1.
struct StreamName {
  std::int64_t layer = -1;
  std::string_view rest;
};
[[nodiscard]] StreamName split_stream_name(std::string_view name);

/// The file's name of a tensor that holds this one, alone or with others (GPT-2's c_attn, Phi-3's qkv_proj, GPT-OSS's
/// gate_up_proj), without the prefix of the model; "%" stands for the expert where each has a tensor of its own. Empty where
/// the class has no such tensor.
[[nodiscard]] std::string huggingface_name(HuggingFaceLayout layout, std::string_view stream_name);

/// Whether a tensor's values in files are one less than the stream's (Gemma's norms).
[[nodiscard]] bool huggingface_norm_is_less_one(HuggingFaceLayout layout, std::string_view stream_name);

}  // namespace quern::internal
