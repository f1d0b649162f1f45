// Small models of every published architecture with random weights, as GGUF images: for tests that run where no model file
// is at hand.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace quern {

/// What to build. The file's keys, tensor names and shapes are those of the architecture's published files.
struct PublishedModel {
  std::string name;          ///< for test names
  std::string architecture;  ///< general.architecture
  std::int64_t experts = 0;
  bool tied = false;
  bool frequency_factors = false;  ///< rope_freqs.weight, or phi3's two lists
  float linear_factor = 1.0F;      ///< rope.scaling.factor with type linear
  bool block_weights = false;      ///< matrices as random Q8_0 blocks instead of F32 (MXFP4 for gpt-oss's experts)
  bool fused_qkv = false;          ///< attn_qkv.weight (gpt2 and phi3 always)
};

/// One of each architecture and of each way of writing it.
[[nodiscard]] std::vector<PublishedModel> published_models();

/// Vocabulary of all of them.
inline constexpr std::int64_t kPublishedVocab = 40;

/// The file's bytes: deterministic. With `with_tokenizer` a small byte-level vocabulary (`tokenizer.ggml.*`, model gpt2) of
/// single bytes is included, and the model's vocabulary is that of it: 257.
[[nodiscard]] std::vector<std::byte> published_model_image(const PublishedModel& model, bool with_tokenizer = false);

}  // namespace quern
