// A published model in a mix, without its file: which tensor has which type, and what all of them weigh.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "math/result.hpp"
#include "model/gguf_file.hpp"
#include "model/published_shapes.hpp"

namespace quern {

/// The mix that a user's word stands for, named as mix_names() has it. Any case; MXFP4 of a model with experts is MXFP4_MOE,
/// as in published files: only experts are MXFP4, other matrices Q8_0. Error: unknown word, with all that there are.
[[nodiscard]] Result<std::string> mix_for(const PublishedShape& shape, std::string_view word);

/// The tensors of a model's GGUF file. Movable only: tensors' names view `shapes`.
struct ShapeTypes {
  ShapeTypes() = default;
  ShapeTypes(ShapeTypes&&) noexcept = default;
  ShapeTypes& operator=(ShapeTypes&&) noexcept = default;

  std::vector<ShapeTensor> shapes;
  std::vector<GgufTensor> tensors;  ///< in the same order, with type and bytes; data is null
};

/// Types as `quern quantize` chooses them for `mix`: matrices by its rules; routers, biases and norms stay in f32, as
/// converters write them. Error: unknown mix.
[[nodiscard]] Result<ShapeTypes> shape_types(const PublishedShape& shape, std::string_view mix);

}  // namespace quern
