// Hugging Face folders as their families publish them, made from any model stream: for tests of reading. Shares no code with
// the reader or the writer.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/model_stream.hpp"
#include "support/safetensors_image.hpp"

namespace quern {

struct HuggingFaceModel {
  nlohmann::ordered_json config;     ///< config.json
  std::vector<ImageTensor> tensors;  ///< F32; MXFP4 experts as blocks and scales (U8)
};

/// The folder's parts for a stream in pairing halves, as `model_type` has them: llama, mistral, mixtral, qwen2, qwen3,
/// qwen3_moe, gemma2, gemma3_text, phi3, gpt2, gpt_oss.
[[nodiscard]] HuggingFaceModel huggingface_model(const ModelStream& stream, const std::string& model_type);

/// config.json and model.safetensors.
void write_huggingface_model(const HuggingFaceModel& model, const ScratchFolder& folder);

/// All values of a stream's tensor.
[[nodiscard]] std::vector<float> values_of(const StreamTensor& tensor);

}  // namespace quern
