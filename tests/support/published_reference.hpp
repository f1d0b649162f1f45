// The forward pass of every published architecture in double precision, straight from a file's keys and tensors: shares no
// code with ModelConfig, the layers or the kernels (decoders of block formats aside, which have tests of their own).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "model/gguf_file.hpp"

namespace quern {

/// Called with the input of every product with a matrix: the tensor's name, the expert (0 where there are none), the row.
using ReferenceObserver = std::function<void(std::string_view tensor, std::int64_t expert, std::span<const double> x)>;

/// Logits [tokens, vocab] of one sequence from position 0. `context_in_use` decides between LongRoPE's factors. The file is
/// trusted: a missing tensor ends the test program with an exception.
[[nodiscard]] std::vector<double> published_reference_logits(const GgufFile& file, std::span<const std::int32_t> tokens,
                                                             std::int64_t context_in_use = 0,
                                                             const ReferenceObserver& observer = {});

}  // namespace quern
