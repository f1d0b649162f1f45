// Which tensor of a GGUF model gets which type: the mixes by name, as llama-quantize has them, overrides, and fallbacks.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "math/element_type.hpp"
#include "math/result.hpp"
#include "model/gguf_file.hpp"

namespace quern {

struct MixOptions {
  std::string mix = {};                    ///< "Q4_K_M", "Q8_0", "F16", ... in any case
  bool pure = false;                       ///< every quantized tensor gets the mix's default type
  std::optional<ElementType> output = {};  ///< --keep-output: of output.weight (or the tied embedding)
  std::vector<std::pair<std::string, ElementType>> overrides =
      {};                       ///< PCRE2 pattern found in the tensor's name; the first wins
  bool has_importance = false;  ///< some mixes differ with an importance matrix
};

/// A tensor's place in the result.
struct TensorChoice {
  const GgufTensor* tensor = nullptr;
  ElementType type = ElementType::f32;
  bool quantize = false;  ///< false: copied as it is
  std::string note;       ///< why it is not the mix's type: "rows of 2880 are no multiple of 256: Q5_0 for Q4_K"; else empty
};

/// Names of the mixes, in the order of their sizes.
[[nodiscard]] std::vector<std::string_view> mix_names();
[[nodiscard]] bool is_mix(std::string_view name);
/// The value of general.file_type that a mix has in llama.cpp's numbering; 0 where there is no such mix.
[[nodiscard]] std::uint32_t mix_file_type(std::string_view mix);

/// One choice per tensor of the file, in its order. Errors: unknown mix, a pattern that is none, a tensor whose source type
/// cannot be quantized again (integers).
[[nodiscard]] Result<std::vector<TensorChoice>> choose_types(const GgufFile& file, const MixOptions& options);

/// What mixes ask about a model beside its tensors' names and shapes. 0: not known.
struct MixModel {
  std::int64_t layers = 0, heads = 0, kv_heads = 0, experts = 0;
};

/// The same for a model of which there need not be a file: `tensors` have names, types and shapes; their data are not read.
/// `name` stands for the file's in errors. Choices point into `tensors`.
[[nodiscard]] Result<std::vector<TensorChoice>> choose_types(std::span<const GgufTensor> tensors, const MixModel& said,
                                                             const std::string& name, const MixOptions& options);

/// Whether a tensor is one that mixes quantize at all, and the type that takes its place where `type` does not divide its
/// rows.
[[nodiscard]] bool is_quantized_tensor(const GgufTensor& tensor);
[[nodiscard]] ElementType fallback_type(ElementType type, std::int64_t row_elements);

}  // namespace quern
