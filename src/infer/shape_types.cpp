#include "infer/shape_types.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>

#include "infer/quantize_mix.hpp"
#include "math/block_formats.hpp"
#include "model/gguf_values.hpp"

namespace quern {

Result<std::string> mix_for(const PublishedShape& shape, std::string_view word) {
  std::string name(word);
  std::transform(name.begin(), name.end(), name.begin(),
                 [](char c) { return static_cast<char>(std::toupper(static_cast<unsigned char>(c))); });
  if (!is_mix(name)) {
    return bad_input(fmt::format("unknown type '{}'; there are {}", internal::shown(word), fmt::join(mix_names(), ", ")));
  }
  if (name == "MXFP4" && shape.config.experts > 0) name = "MXFP4_MOE";
  return name;
}

Result<ShapeTypes> shape_types(const PublishedShape& shape, std::string_view mix) {
  const ModelConfig& c = shape.config;
  ShapeTypes types;
  types.shapes = tensors_of(shape);
  types.tensors.resize(types.shapes.size());
  for (std::size_t i = 0; i < types.shapes.size(); ++i) {
    const ShapeTensor& from = types.shapes[i];
    GgufTensor& tensor = types.tensors[i];
    tensor.name = from.name;
    tensor.dimensions = from.dimensions;
    tensor.shape = from.shape;
    const bool matrix = from.dimensions >= 2 && from.name.ends_with(".weight");
    tensor.type = matrix ? ElementType::f16 : ElementType::f32;
  }
  const auto choices =
      choose_types(types.tensors, {.layers = c.layers, .heads = c.heads, .kv_heads = c.kv_heads, .experts = c.experts},
                   std::string(shape.name), {.mix = std::string(mix)});
  if (!choices) return tl::make_unexpected(choices.error());
  for (std::size_t i = 0; i < types.tensors.size(); ++i) {
    GgufTensor& tensor = types.tensors[i];
    tensor.type = is_quantized_tensor(tensor) ? (*choices)[i].type : ElementType::f32;
    const auto bytes = bytes_of(tensor.type, tensor.elements());
    if (!bytes) return bad_input(fmt::format("{}: tensor {} has no size as {}", shape.name, tensor.name, mix));
    tensor.bytes = *bytes;
  }
  return types;
}

}  // namespace quern
