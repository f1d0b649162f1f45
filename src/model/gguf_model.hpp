// Published models in GGUF files: hyper-parameters to a ModelConfig, tensors to ModelWeights in place.
//
// Architectures are rows of one table (gguf_model_config.cpp); keys, tensor names and shapes are those of llama.cpp's
// converters (`gguf-py/gguf/constants.py`, "GGUF" format description). Everything is checked before it is used; errors are
// bad_input and name the file and the key or tensor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "math/result.hpp"
#include "model/gguf_file.hpp"
#include "model/model_config.hpp"
#include "model/weights.hpp"

namespace quern {

/// Names of the architectures that can be run.
[[nodiscard]] std::vector<std::string_view> gguf_architectures();

/// The model's shape; `context` is the trained one. Errors: unknown architecture, missing or unusable hyper-parameter, or a
/// feature that this build does not have (the key that asks for it is named).
[[nodiscard]] Result<ModelConfig> model_config_from_gguf(const GgufFile& file);

/// Weights over the file's mapping, which must outlive them. Small tensors that layers read as f32 are used in place where
/// they are f32, else kept here.
struct GgufWeights {
  ModelWeights weights;
  std::vector<std::vector<float>> owned;
  std::size_t bytes = 0;            ///< of all tensors
  std::size_t bytes_per_token = 0;  ///< that one decoded token reads: one embedding row, the experts in use
};

/// Checks every tensor's presence, shape and type against `config` and makes the view. `rope_positions` is the context in
/// use. Tensors that the architecture does not know are errors: leaving them out would give wrong results.
[[nodiscard]] Result<GgufWeights> bind_gguf_weights(const GgufFile& file, const ModelConfig& config,
                                                    WeightPrecision precision, std::int64_t rope_positions);

}  // namespace quern
