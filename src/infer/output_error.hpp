// What quantizing a matrix does to its outputs: measured on inputs of a calibration text.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "infer/activation_sampler.hpp"
#include "infer/importance_matrix.hpp"
#include "math/aligned_buffer.hpp"
#include "math/exec.hpp"
#include "math/result.hpp"
#include "math/thread_team.hpp"
#include "model/gguf_file.hpp"

namespace quern {

/// Quantizes whole tensors or rows of them, with their importance, as quantize_model does.
class TensorQuantizer {
 public:
  /// All must outlive it; `importance` may be null.
  TensorQuantizer(const KernelTable& kernels, ThreadTeam& team, const ImportanceMatrix* importance)
      : kernels_(kernels), team_(team), importance_(importance) {}

  /// Elements of rows `rows` (of one expert's matrix) as f32, [rows, cols].
  [[nodiscard]] std::vector<float> decode(const GgufTensor& tensor, std::int64_t expert,
                                          std::span<const std::int64_t> rows) const;
  /// The same values stored in `type` and read again. Error bad_input where a value is not finite.
  [[nodiscard]] Result<std::vector<float>> rounded(const GgufTensor& tensor, std::int64_t expert, ElementType type,
                                                   const std::vector<float>& values) const;
  /// The whole tensor in `type`, as a file would hold it. Working memory: pieces of at most 64 MiB.
  [[nodiscard]] Result<AlignedBuffer> quantize(const GgufTensor& tensor, ElementType type) const;

 private:
  const KernelTable& kernels_;
  ThreadTeam& team_;
  const ImportanceMatrix* importance_;
};

/// Relative squared errors of a matrix's outputs, by type: E|(W - W')x|^2 / E|W x|^2 over the inputs x, where W' is the
/// quantized matrix. Large matrices are measured on `elements` of their elements: rows spread evenly, of experts those whose
/// inputs were kept. Deterministic at any number of threads.
[[nodiscard]] Result<std::vector<double>> output_errors(const Backend& backend, ThreadTeam& team,
                                                        const TensorQuantizer& quantizer, const GgufTensor& tensor,
                                                        std::span<const ElementType> types,
                                                        std::span<const ActivationSampler::Rows> inputs,
                                                        std::int64_t elements);

/// The same of a table whose rows are looked up: |W - W'|^2 / |W|^2 over `rows`, which may repeat.
[[nodiscard]] Result<std::vector<double>> lookup_errors(const TensorQuantizer& quantizer, const GgufTensor& tensor,
                                                        std::span<const ElementType> types,
                                                        std::span<const std::int64_t> rows);

}  // namespace quern
