// Shapes of published models by name, without any file: what their GGUF files hold, and so what they weigh.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/model_config.hpp"

namespace quern {

/// One published model. Sizes are those of its published configuration file; values that change neither sizes nor speed
/// (norm epsilons, trained RoPE factors) are left as they are by default.
struct PublishedShape {
  std::string_view name;          ///< "llama2-7b"
  std::string_view title;         ///< "Llama 2 7B"
  std::string_view architecture;  ///< of GGUF
  ModelConfig config;
};

/// Dense models by size, then those of experts.
[[nodiscard]] std::span<const PublishedShape> published_shapes();
/// By name, in any case; null where there is none.
[[nodiscard]] const PublishedShape* find_published_shape(std::string_view name);

/// A tensor of a model's GGUF file. shape[0] is the contiguous dimension, as in GgufTensor.
struct ShapeTensor {
  std::string name;
  int dimensions = 1;
  std::array<std::int64_t, 4> shape{1, 1, 1, 1};
  [[nodiscard]] std::int64_t elements() const { return shape[0] * shape[1] * shape[2] * shape[3]; }
};

/// Every tensor that llama.cpp's converter writes for the model, named as GGUF names them, in layer order.
[[nodiscard]] std::vector<ShapeTensor> tensors_of(const PublishedShape& shape);

}  // namespace quern
