// The tensors of a Hugging Face folder that is written: the reverse of huggingface_tensors.hpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "math/result.hpp"
#include "model/huggingface_families.hpp"
#include "model/model_stream.hpp"

namespace quern::internal {

/// Takes bytes of a tensor, one piece after another.
using ByteSink = std::function<Result<void>(std::span<const std::byte>)>;

/// One tensor of the files.
struct HuggingFaceTensor {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::size_t bytes = 0;
  std::function<Result<void>(const ByteSink&)> write;  ///< all of its data, in order
};

struct HuggingFaceTarget {
  std::vector<HuggingFaceTensor> tensors;
  std::string matrix_dtype;  ///< "float32", "float16", "bfloat16": of most matrices, for config.json
  bool mxfp4 = false;        ///< experts are kept as blocks and scales
  std::vector<std::string> remarks;
};

/// Tensors of `family` for a stream in pairing halves, which must outlive the result. `type`: f32, f16 or bf16 for matrices,
/// none: as the stream has them (quantized ones, save MXFP4 experts of GPT-OSS, as f32). Memory while writing: some
/// megabytes, or a few times one matrix where it is turned. Errors while writing: the source's, and a value that f16 cannot
/// hold.
[[nodiscard]] Result<HuggingFaceTarget> huggingface_target(const ModelStream& stream, const HuggingFaceFamily& family,
                                                           std::optional<ElementType> type);

}  // namespace quern::internal
