// A type for each tensor of a model, so that the file has a given size and predicts as nearly as possible what the model
// did: `quern quantize MODEL OUT auto:SIZE`.
//
// 1. A calibration text runs through the model. What enters each matrix is summed (the importance matrix, where none is
//    given) and some of it kept.
// 2. Output errors: parts of each matrix are quantized to each candidate type, and the relative squared error of the
//    matrix's outputs on the kept inputs is measured.
// 3. Sensitivity: one tensor at a time (in large models, tensors of the same kind in neighbouring layers together) is
//    replaced by a coarse quantization, and the Kullback-Leibler divergence of the predictions from the model's own is
//    measured: nats per unit of relative output error. Small errors act independently and divergence grows with their
//    square, so the divergence of a choice of types is about the sum over tensors of sensitivity times output error.
// 4. The choice with the least predicted divergence within the size (size_budget.hpp).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "infer/importance_matrix.hpp"
#include "infer/quantize_mix.hpp"
#include "infer/size_budget.hpp"
#include "math/exec.hpp"
#include "math/result.hpp"
#include "math/thread_team.hpp"
#include "model/gguf_file.hpp"

namespace quern {

struct AutoTypesOptions {
  SizeBudget budget;
  const ImportanceMatrix* importance = nullptr;  ///< null: gathered from the text
  std::string dataset;                           ///< the text's name, for a gathered importance matrix
  std::vector<ElementType> candidates;           ///< empty: Q2_K, Q3_K, IQ4_XS, Q4_K, Q5_K, Q6_K, Q8_0, F16
  std::optional<ElementType> output;             ///< as in MixOptions: tensors whose type is asked for
  std::vector<std::pair<std::string, ElementType>> overrides;
  /// Groups of tensors whose sensitivity is measured at most; each costs one scoring of the text for it.
  std::int64_t probes = 64;
  bool quick = false;                     ///< one group for each kind of tensor
  ElementType probe = ElementType::q3_k;  ///< the coarse type
  std::int64_t context_tokens = 512;      ///< of a calibration chunk
  std::int64_t chunks = 0;                ///< calibration chunks used; 0: all, or kSamplingChunks where importance is given
  std::int64_t probe_chunks = 0;       ///< chunks of 256 tokens scored for each group; 0: 8, of models above 1e9 weights 4
  std::int64_t input_rows = 128;       ///< kept of each matrix input
  std::int64_t elements = 1 << 20;     ///< of a tensor that are quantized to each candidate, about
  std::size_t metadata_bytes = 16384;  ///< room left for metadata that the new file has and the old has not
  /// How far each of the three stages is; an error ends the work.
  std::function<Result<void>(std::string_view stage, std::int64_t done, std::int64_t all)> progress;
};
inline constexpr std::int64_t kSamplingChunks = 16;

/// What was measured of a tensor that could be quantized.
struct AutoTensor {
  std::string name;
  ElementType type = ElementType::f32;  ///< chosen
  std::size_t bytes = 0;
  double output_error = 0.0;  ///< of the chosen type, relative RMS: sqrt(E|(W - W')x|^2 / E|W x|^2)
  double sensitivity = 0.0;   ///< nats of divergence per unit of relative squared output error
  double divergence = 0.0;    ///< predicted: sensitivity times the squared error
  bool asked_for = false;     ///< by output or overrides
};

struct AutoTypes {
  std::vector<TensorChoice> choices;  ///< one per tensor of the file, in its order
  std::vector<AutoTensor> tensors;    ///< those that could be quantized, in the file's order
  ImportanceMatrix importance;        ///< the gathered one; empty where one was given
  double divergence = 0.0;            ///< predicted mean KL divergence from the model, nats a token
  std::size_t tensor_bytes = 0;
  double bits_per_weight = 0.0;
};

/// `file` must outlive the result. `tokens` is the calibration text; `first_token` replaces the first of each chunk.
/// Deterministic at any number of threads where the decoder is. Memory: the model, the kept inputs, one group's quantized
/// tensors, the predictions kept (at most 256 MiB). Errors: those of the readers; bad_input where the text is shorter than a
/// chunk, or the budget smaller than the smallest choice (which is named).
[[nodiscard]] Result<AutoTypes> choose_auto_types(const GgufFile& file, const Backend& backend, ThreadTeam& team,
                                                  std::span<const std::int32_t> tokens,
                                                  std::optional<std::int32_t> first_token, const AutoTypesOptions& options);

namespace internal {
/// Which group of a kind each of `layers` layers belongs to, of `groups` at most: all alone where that is enough, else the
/// first two and the last alone, which differ most from their neighbours, and the rest in even runs.
[[nodiscard]] std::vector<std::int64_t> layer_groups(std::int64_t layers, std::int64_t groups);
}  // namespace internal

}  // namespace quern
