// Gathering activation statistics: a calibration text runs through a model, and what enters each matrix is summed.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "infer/activation_observer.hpp"
#include "infer/importance_matrix.hpp"
#include "infer/perplexity.hpp"
#include "math/exec.hpp"
#include "math/result.hpp"
#include "math/thread_team.hpp"
#include "model/weights.hpp"

namespace quern {

/// A matrix of a model and what enters it.
struct ObservedMatrix {
  std::string tensor;  ///< GGUF's name
  MatrixInput input = MatrixInput::qkv;
  std::int64_t layer = -1;  ///< -1: the head
};

/// The names that GGUF files have for the model's matrices, in the order of the layers, the head last. What a file fuses
/// (attn_qkv, ffn_gate_up_exps, phi3's ffn_up) has one name. `fused_too`: for models that are no GGUF file, whose q, k and v
/// are one matrix: names for both ways of writing them.
[[nodiscard]] std::vector<ObservedMatrix> observed_matrices(const ModelWeights& weights, bool fused_too);

/// Called after each group of chunks with how many are done; an error ends the work.
using ChunkProgress = std::function<Result<void>(std::int64_t chunks_done)>;

/// Runs every token of every chunk through the model, each chunk a sequence of its own, and shows the inputs of all matrices
/// to `observer`; of the head only with `logits`.
[[nodiscard]] Result<void> observe_chunks(const Backend& backend, const ModelWeights& weights, ThreadTeam& team,
                                          const ScoringChunks& chunks, ActivationObserver& observer, bool logits,
                                          const ChunkProgress& progress = {});

/// Sums squared inputs in double, column by column in the order of the rows: the same at any number of threads.
class ImportanceCollector final : public ActivationObserver {
 public:
  explicit ImportanceCollector(const ModelConfig& config);
  void observe(TeamMember& member, const ObservedRows& rows) override;
  /// The sums of `matrices` that saw any row, rounded to f32.
  [[nodiscard]] ImportanceMatrix result(const std::vector<ObservedMatrix>& matrices) const;

 private:
  struct Sums {
    std::int64_t cols = 0;
    std::int64_t matrices = 0;
    std::vector<double> sum2;          // [matrices, cols]
    std::vector<std::int64_t> counts;  // [matrices]
  };
  [[nodiscard]] std::size_t index(MatrixInput input, std::int64_t layer) const {
    return static_cast<std::size_t>(layer < 0 ? 0 : layer) * kMatrixInputs + static_cast<std::size_t>(input);
  }
  std::vector<Sums> sums_;  // by index()
};

struct CollectOptions {
  bool head = false;       ///< of the matrix that makes logits too (output.weight, or the tied token_embd.weight)
  bool fused_too = false;  ///< see observed_matrices
  std::string dataset{};   ///< the text's name
  ChunkProgress progress{};
};

/// The importance matrix of a model over a text. Deterministic where the decoder is.
[[nodiscard]] Result<ImportanceMatrix> collect_importance(const Backend& backend, const ModelWeights& weights,
                                                          ThreadTeam& team, const ScoringChunks& chunks,
                                                          const CollectOptions& options);

/// How unevenly a matrix's inputs share their energy: what is gained by weighting.
struct ImportanceStatistics {
  std::string tensor;
  double mean_square = 0.0;      ///< of an input
  double largest_share = 0.0;    ///< of the sum of squares that one column has
  double effective_share = 0.0;  ///< exp(entropy of the columns' shares) / columns: 1 where all are equal, near 0 where few
                                 ///< columns have everything
  double rows = 0.0;             ///< counted
};
/// One entry a tensor (experts together), the most uneven first.
[[nodiscard]] std::vector<ImportanceStatistics> importance_statistics(const ImportanceMatrix& matrix);

}  // namespace quern
