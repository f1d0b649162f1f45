// The tensors of a Hugging Face folder under the streams' names: fused ones taken apart, transposed ones turned, experts
// stacked, all of it while reading.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "math/result.hpp"
#include "model/huggingface_families.hpp"
#include "model/model_stream.hpp"
#include "model/safetensors.hpp"

namespace quern::internal {

/// Tensors in the order of stream_tensors(config), reading from the folder's mappings, which they keep alive. `config` is
/// the model's with pairing halves. What was left out (vision towers, masks, an unused head) is added to `remarks`. Errors
/// name the file and tensor: one that is missing, of another shape or dtype than it must be, or not known.
[[nodiscard]] Result<std::vector<StreamTensor>> huggingface_tensors(std::shared_ptr<const SafetensorsFolder> folder,
                                                                    const HuggingFaceFamily& family,
                                                                    const ModelConfig& config,
                                                                    std::vector<std::string>& remarks);

}  // namespace quern::internal
