// How far a model's predictions move when some of its matrices are replaced: Kullback-Leibler divergence over a text.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "infer/decoder.hpp"
#include "infer/perplexity.hpp"
#include "math/exec.hpp"
#include "math/result.hpp"
#include "math/thread_team.hpp"
#include "model/gguf_file.hpp"
#include "model/weights.hpp"

namespace quern {

/// Keeps a model's predictions and compares those of a changed one.
class PredictionShift {
 public:
  /// Scores `chunks` with the weights as they are. All must outlive it. Memory: 4 bytes a scored row and vocabulary entry.
  [[nodiscard]] static Result<PredictionShift> create(const Backend& backend, const ModelWeights& weights, ThreadTeam& team,
                                                      const ScoringChunks& chunks);

  /// Mean over the scored rows of sum p log(p / q) in nats, p the predictions kept, q those of the weights as they are now.
  /// Deterministic at any number of threads.
  [[nodiscard]] Result<double> measure();

 private:
  PredictionShift(const ModelWeights& weights, ThreadTeam& team, const ScoringChunks& chunks)
      : weights_(&weights), team_(&team), chunks_(&chunks) {}
  [[nodiscard]] std::size_t row_start(std::int64_t row) const {
    return static_cast<std::size_t>(row * weights_->config.vocab);
  }

  const ModelWeights* weights_;
  ThreadTeam* team_;
  const ScoringChunks* chunks_;
  std::unique_ptr<Decoder> decoder_;
  std::vector<float> logits_;       // [rows, vocab]
  std::vector<double> normalizer_;  // [rows]
};

/// Points the matrices of a model that lie in `tensor` to `data` in another type; a tied head goes with its embedding.
/// Returns how many there are.
int repoint_weights(ModelWeights& weights, const void* from, ElementType type, const void* data);

}  // namespace quern
