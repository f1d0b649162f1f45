// The update of all parameters of a model: AdamW, or Muon for its matrices and AdamW for the rest.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "math/exec.hpp"
#include "math/memory_plan.hpp"
#include "model/model_config.hpp"
#include "model/weights.hpp"
#include "train/muon.hpp"
#include "train/run_config.hpp"

namespace quern {

/// Which tensors have a second moment, with their offsets in its block: all with AdamW, those that are not Muon's with Muon.
[[nodiscard]] ParameterLayout second_moment_layout(const ModelConfig& config, const ParameterLayout& layout,
                                                   OptimizerKind kind);

/// The memory in which Muon works, for `threads` threads. It is in use only while the parameters are updated, so it may
/// share bytes with the activations of a plan. Without Muon: none.
class MuonMemory {
 public:
  MuonMemory() = default;
  /// Plans it; `workspace` below is what the plan places. Empty with AdamW.
  MuonMemory(const Backend& backend, ComputeType compute, const ModelConfig& config, const ParameterLayout& layout,
             OptimizerKind kind, int threads);

  /// Matrices of at most this many elements are updated by one thread each, larger ones by all threads together. So many
  /// need 12 MiB of memory for each thread, and are a thousandth of a second's work for it.
  static constexpr std::int64_t kMaxAloneElements = std::int64_t{1} << 20;

  [[nodiscard]] std::size_t bytes() const { return bytes_; }
  [[nodiscard]] std::size_t scratch_bytes() const { return scratch_bytes_; }
  /// Part of a member's own, inside a workspace of bytes(): the update's direction, then newton_schulz's memory.
  [[nodiscard]] std::size_t member_bytes() const { return member_bytes_; }

 private:
  std::size_t bytes_ = 0;
  std::size_t member_bytes_ = 0;
  std::size_t scratch_bytes_ = 0;
};

/// The blocks of one model, f32 in ParameterLayout's order and offsets (v: in second_moment_layout's).
struct OptimizerBlocks {
  float* weights = nullptr;
  const float* gradients = nullptr;
  float* m = nullptr;
  float* v = nullptr;
  std::byte* workspace = nullptr;  ///< MuonMemory::bytes
};

/// AdamW (Loshchilov & Hutter 2019) with decoupled decay and clipping by the global gradient norm (Pascanu et al. 2013), or
/// Muon (Jordan 2024) on muon_matrices: m = momentum m + g, direction momentum m + g, made orthogonal (newton_schulz), times
/// muon_scale; decay is decoupled there too. Work is cut by shapes alone, so results do not depend on threads. Weights are
/// packed again as they change: `packs` (borrowed) must be of the same layout. Allocates only at construction.
class Optimizer {
 public:
  Optimizer(const ModelConfig& config, const ParameterLayout& layout, const WeightPacks& packs, ComputeType compute,
            const MuonMemory& memory, const OptimizerConfig& settings);

  /// One update with gradients multiplied by `gradient_scale`: SPMD. `step` counts from 1; Muon's rate is learning_rate
  /// times optimizer.muon_learning_rate / optimizer.learning_rate. Returns, on every member, the norm of the scaled
  /// gradients before clipping. A norm that is not finite leaves weights and moments as they were.
  double step(Exec& exec, const OptimizerBlocks& blocks, double gradient_scale, float learning_rate, std::int64_t step);

 private:
  struct Piece {
    std::int64_t offset;
    std::int64_t moment_offset;  ///< of its second moment; -1: it is part of Muon's matrices
    std::int64_t count;
    bool decays;
    int parameter;
    std::int64_t first_row;
    std::int64_t packed_rows;  ///< 0: of a parameter that is not packed
  };
  void add_pieces(int index, const Parameter& parameter, std::int64_t moment_offset);
  void pack_piece(Exec& serial, const Piece& piece) const;
  void update_matrix(Exec& exec, const MuonMatrix& matrix, const OptimizerBlocks& blocks, std::byte* workspace,
                     float gradient_scale, float rate) const;

  const WeightPacks& packs_;
  ComputeType compute_;
  OptimizerConfig settings_;
  std::size_t member_bytes_ = 0;
  std::vector<Piece> pieces_;
  std::vector<double> squares_;       // one sum per piece
  std::vector<MuonMatrix> alone_;     // updated by one thread each, the most work first
  std::vector<MuonMatrix> together_;  // by all
};

}  // namespace quern
