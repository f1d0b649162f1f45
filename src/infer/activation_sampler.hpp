// Some of the rows that enter each matrix of a model over a calibration text, kept to measure what quantizing does to its
// outputs.
#pragma once

#include <cstdint>
#include <vector>

#include "infer/activation_observer.hpp"
#include "model/model_config.hpp"

namespace quern {

/// Keeps rows spread evenly over a text, at random within each stretch (by a fixed hash): the same at any number of threads.
/// Of experts, which see rows as the router will, the first rows of some experts of each layer.
class ActivationSampler final : public ActivationObserver {
 public:
  struct Plan {
    std::int64_t rows_in_all = 0;   ///< tokens that will pass
    std::int64_t rows = 128;        ///< kept of each matrix input
    std::int64_t experts = 8;       ///< of each layer
    std::int64_t expert_rows = 64;  ///< kept of each of them
    bool head = true;               ///< the head's input too
  };
  ActivationSampler(const ModelConfig& config, const Plan& plan);
  void observe(TeamMember& member, const ObservedRows& rows) override;

  struct Rows {
    std::int64_t expert = 0;
    std::int64_t rows = 0;
    std::int64_t cols = 0;
    const float* data = nullptr;  ///< [rows, cols]; valid as long as the sampler
  };
  /// What was kept: one entry, or one of each kept expert that saw a row; none where nothing was seen.
  [[nodiscard]] std::vector<Rows> rows(MatrixInput input, std::int64_t layer) const;

  /// Scales rows whose norm is above `factor` times their set's median norm down to that. Models have tokens (often the
  /// first) whose activations are hundreds of times larger in a few columns; errors there would hide all others.
  void limit_norms(double factor);

 private:
  struct Kept {
    std::int64_t cols = 0;
    std::int64_t capacity = 0;          // rows of each expert
    std::vector<std::int64_t> experts;  // {0} for dense inputs
    std::vector<std::int64_t> count;    // rows kept of each
    std::int64_t seen = 0;              // dense rows that passed
    std::vector<float> data;            // [experts, capacity, cols]
    bool dense = true;
  };
  [[nodiscard]] static std::size_t index(MatrixInput input, std::int64_t layer) {
    return static_cast<std::size_t>(layer < 0 ? 0 : layer) * kMatrixInputs + static_cast<std::size_t>(input);
  }
  void keep_dense(TeamMember& member, const ObservedRows& rows, Kept& kept) const;
  static void keep_experts(TeamMember& member, const ObservedRows& rows, Kept& kept);

  Plan plan_;
  std::vector<Kept> kept_;  // by index()
};

}  // namespace quern
