#include "train/optimizer.hpp"

#include <algorithm>
#include <cmath>

namespace quern {

namespace {
/// Elements per piece: 64 KiB of each of the four arrays, so that a piece's traffic is long runs and tasks are many.
constexpr std::int64_t kPieceElements = 1 << 14;
}  // namespace

AdamW::AdamW(const ParameterLayout& layout, const WeightPacks& packs, const AdamWSettings& settings)
    : packs_(packs), settings_(settings) {
  for (int index = 0; index < static_cast<int>(layout.parameters.size()); ++index) {
    const Parameter& parameter = layout.parameters[static_cast<std::size_t>(index)];
    const std::int64_t part_rows = packs.rows_per_part(index);
    if (part_rows == 0) {
      for (std::int64_t begin = 0; begin < parameter.count(); begin += kPieceElements) {
        pieces_.push_back({parameter.offset + begin, std::min(kPieceElements, parameter.count() - begin), parameter.decays(),
                           index, 0, 0});
      }
      continue;
    }
    const std::int64_t units = std::max<std::int64_t>(1, kPieceElements / (kWeightRowUnit * parameter.cols));
    for (std::int64_t part = 0; part < parameter.rows; part += part_rows) {
      for (std::int64_t row = 0; row < part_rows; row += units * kWeightRowUnit) {
        const std::int64_t rows = std::min(units * kWeightRowUnit, part_rows - row);
        pieces_.push_back({parameter.offset + (part + row) * parameter.cols, rows * parameter.cols, parameter.decays(),
                           index, part + row, rows});
      }
    }
  }
  squares_.resize(pieces_.size());
}

double AdamW::step(Exec& exec, const OptimizerBlocks& blocks, double gradient_scale, float learning_rate,
                   std::int64_t step) {
  const ElementwiseKernels& kernels = *exec.backend.kernels->elementwise;
  exec.member.for_each(std::ssize(pieces_), [&](std::int64_t i) {
    const Piece& piece = pieces_[static_cast<std::size_t>(i)];
    squares_[static_cast<std::size_t>(i)] = kernels.sum_of_squares(blocks.gradients + piece.offset, piece.count);
  });
  const std::int64_t elements = pieces_.empty() ? 0 : pieces_.back().offset + pieces_.back().count;
  mark(exec, Operation::gradient_norm, StepPhase::update, -1, moved_cost(elements, sizeof(float)));
  double sum = 0.0;
  for (const double square : squares_) sum += square;  // every member sums in the same order
  const double norm = std::sqrt(sum) * gradient_scale;
  if (!std::isfinite(norm)) {
    exec.member.barrier();
    return norm;
  }

  double scale = gradient_scale;
  if (settings_.clip_norm > 0.0F && norm > static_cast<double>(settings_.clip_norm)) {
    scale *= static_cast<double>(settings_.clip_norm) / norm;
  }
  AdamWStep update;
  update.learning_rate = learning_rate;
  update.beta1 = settings_.beta1;
  update.beta2 = settings_.beta2;
  update.eps = settings_.eps;
  update.bias_correction1 =
      static_cast<float>(1.0 - std::pow(static_cast<double>(settings_.beta1), static_cast<double>(step)));
  update.bias_correction2 =
      static_cast<float>(1.0 - std::pow(static_cast<double>(settings_.beta2), static_cast<double>(step)));
  update.gradient_scale = static_cast<float>(scale);
  exec.member.for_each(std::ssize(pieces_), [&](std::int64_t i) {
    const Piece& piece = pieces_[static_cast<std::size_t>(i)];
    AdamWStep own = update;
    own.weight_decay = piece.decays ? settings_.weight_decay : 0.0F;
    kernels.adamw(blocks.weights + piece.offset, blocks.gradients + piece.offset, blocks.m + piece.offset,
                  blocks.v + piece.offset, piece.count, own);
    TeamMember alone = exec.member.alone();
    const Exec serial{alone, exec.backend, exec.scratch};
    mark(serial, Operation::optimizer, StepPhase::update, -1, moved_cost(piece.count, 7 * sizeof(float)));
    if (piece.packed_rows == 0) return;
    packs_.pack_rows(piece.parameter, piece.first_row, piece.packed_rows);
    mark(serial, Operation::weight_packing, StepPhase::update, -1, moved_cost(piece.count, packs_.bytes_per_element()));
  });
  return norm;
}

}  // namespace quern
