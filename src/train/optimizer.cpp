#include "train/optimizer.hpp"

#include <algorithm>
#include <cmath>

#include "math/aligned_buffer.hpp"

namespace quern {

namespace {

/// Elements per piece: 64 KiB of each of the four arrays, so that a piece's traffic is long runs and tasks are many.
constexpr std::int64_t kPieceElements = 1 << 14;

std::size_t direction_bytes(const MuonMatrix& matrix) {
  const std::size_t bytes = static_cast<std::size_t>(matrix.rows * matrix.cols) * sizeof(float);
  return (bytes + kBufferAlignment - 1) / kBufferAlignment * kBufferAlignment;
}

bool updated_alone(const MuonMatrix& matrix) { return matrix.rows * matrix.cols <= MuonMemory::kMaxAloneElements; }

std::vector<MuonMatrix> matrices_of(const ModelConfig& config, const ParameterLayout& layout, OptimizerKind kind) {
  return kind == OptimizerKind::muon ? muon_matrices(config, layout) : std::vector<MuonMatrix>();
}

}  // namespace

ParameterLayout second_moment_layout(const ModelConfig& config, const ParameterLayout& layout, OptimizerKind kind) {
  if (kind == OptimizerKind::adamw) return layout;
  std::vector<bool> of_muon(layout.parameters.size(), false);
  for (const MuonMatrix& matrix : muon_matrices(config, layout)) of_muon[static_cast<std::size_t>(matrix.parameter)] = true;
  ParameterLayout moments;
  for (std::size_t i = 0; i < layout.parameters.size(); ++i) {
    if (of_muon[i]) continue;
    Parameter parameter = layout.parameters[i];
    const std::int64_t next = i + 1 < layout.parameters.size() ? layout.parameters[i + 1].offset : layout.elements;
    parameter.offset = moments.elements;
    moments.elements += next - layout.parameters[i].offset;
    moments.parameters.push_back(std::move(parameter));
  }
  return moments;
}

MuonMemory::MuonMemory(const Backend& backend, ComputeType compute, const ModelConfig& config, const ParameterLayout& layout,
                       OptimizerKind kind, int threads) {
  std::size_t together_bytes = 0;
  for (const MuonMatrix& matrix : matrices_of(config, layout, kind)) {
    const std::size_t bytes = direction_bytes(matrix) + newton_schulz_bytes(backend, compute, matrix.rows, matrix.cols);
    std::size_t& most = updated_alone(matrix) ? member_bytes_ : together_bytes;
    most = std::max(most, bytes);
    scratch_bytes_ = std::max(scratch_bytes_, newton_schulz_scratch_bytes(backend, matrix.rows, matrix.cols));
  }
  bytes_ = std::max(member_bytes_ * static_cast<std::size_t>(threads), together_bytes);
}

Optimizer::Optimizer(const ModelConfig& config, const ParameterLayout& layout, const WeightPacks& packs, ComputeType compute,
                     const MuonMemory& memory, const OptimizerConfig& settings)
    : packs_(packs), compute_(compute), settings_(settings), member_bytes_(memory.member_bytes()) {
  for (const MuonMatrix& matrix : matrices_of(config, layout, settings.kind)) {
    (updated_alone(matrix) ? alone_ : together_).push_back(matrix);
  }
  std::stable_sort(alone_.begin(), alone_.end(),
                   [](const MuonMatrix& a, const MuonMatrix& b) { return a.rows * a.cols > b.rows * b.cols; });
  const ParameterLayout moments = second_moment_layout(config, layout, settings.kind);
  auto moment = moments.parameters.begin();  // in the same order
  for (int index = 0; index < static_cast<int>(layout.parameters.size()); ++index) {
    const Parameter& parameter = layout.parameters[static_cast<std::size_t>(index)];
    const bool has_moment = moment != moments.parameters.end() && moment->name == parameter.name;
    add_pieces(index, parameter, has_moment ? moment->offset : -1);
    if (has_moment) ++moment;
  }
  squares_.resize(pieces_.size());
}

void Optimizer::add_pieces(int index, const Parameter& parameter, std::int64_t moment_offset) {
  const auto add = [&](std::int64_t begin, std::int64_t count, std::int64_t first_row, std::int64_t packed_rows) {
    pieces_.push_back({parameter.offset + begin, moment_offset < 0 ? -1 : moment_offset + begin, count, parameter.decays(),
                       index, first_row, packed_rows});
  };
  const std::int64_t part_rows = packs_.rows_per_part(index);
  if (part_rows == 0) {
    for (std::int64_t begin = 0; begin < parameter.count(); begin += kPieceElements) {
      add(begin, std::min(kPieceElements, parameter.count() - begin), 0, 0);
    }
    return;
  }
  const std::int64_t units = std::max<std::int64_t>(1, kPieceElements / (kWeightRowUnit * parameter.cols));
  for (std::int64_t part = 0; part < parameter.rows; part += part_rows) {
    for (std::int64_t row = 0; row < part_rows; row += units * kWeightRowUnit) {
      const std::int64_t rows = std::min(units * kWeightRowUnit, part_rows - row);
      add((part + row) * parameter.cols, rows * parameter.cols, part + row, rows);
    }
  }
}

void Optimizer::pack_piece(Exec& serial, const Piece& piece) const {
  if (piece.packed_rows == 0) return;
  packs_.pack_rows(piece.parameter, piece.first_row, piece.packed_rows);
  mark(serial, Operation::weight_packing, StepPhase::update, -1, moved_cost(piece.count, packs_.bytes_per_element()));
}

/// Momentum, orthogonalization and update of one matrix. SPMD.
void Optimizer::update_matrix(Exec& exec, const MuonMatrix& matrix, const OptimizerBlocks& blocks, std::byte* workspace,
                              float gradient_scale, float rate) const {
  const ElementwiseKernels& kernels = *exec.backend.kernels->elementwise;
  const std::int64_t elements = matrix.rows * matrix.cols;
  auto* direction = reinterpret_cast<float*>(workspace);
  const auto for_pieces = [&](auto&& task) {
    exec.member.for_each((elements + kPieceElements - 1) / kPieceElements, [&](std::int64_t i) {
      task(i * kPieceElements, std::min(kPieceElements, elements - i * kPieceElements));
    });
  };
  for_pieces([&](std::int64_t first, std::int64_t count) {
    const std::int64_t at = matrix.offset + first;
    kernels.nesterov(blocks.gradients + at, gradient_scale, settings_.muon_momentum, blocks.m + at, direction + first,
                     count);
  });
  mark(exec, Operation::optimizer, StepPhase::update, -1, moved_cost(elements, 4 * sizeof(float)));
  newton_schulz(exec, compute_, settings_.newton_schulz_steps, direction, matrix.rows, matrix.cols,
                workspace + direction_bytes(matrix));
  const float scale = -rate * muon_scale(matrix.rows, matrix.cols);
  const float keep = 1.0F - rate * settings_.weight_decay;
  for_pieces([&](std::int64_t first, std::int64_t count) {
    kernels.axpby(scale, direction + first, keep, blocks.weights + matrix.offset + first, count);
  });
  mark(exec, Operation::optimizer, StepPhase::update, -1, moved_cost(elements, 3 * sizeof(float)));
}

double Optimizer::step(Exec& exec, const OptimizerBlocks& blocks, double gradient_scale, float learning_rate,
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
  const bool fused = exec.backend.fused;
  const float muon_rate = learning_rate * (settings_.muon_learning_rate / settings_.learning_rate);

  for (const MuonMatrix& matrix : together_) {
    update_matrix(exec, matrix, blocks, blocks.workspace, update.gradient_scale, muon_rate);
  }
  exec.member.for_each(std::ssize(alone_) + std::ssize(pieces_), [&](std::int64_t i) {
    TeamMember alone = exec.member.alone();
    Exec serial{alone, exec.backend, exec.scratch};
    if (i < std::ssize(alone_)) {
      std::byte* const workspace = blocks.workspace + static_cast<std::size_t>(exec.member.index()) * member_bytes_;
      update_matrix(serial, alone_[static_cast<std::size_t>(i)], blocks, workspace, update.gradient_scale, muon_rate);
      return;
    }
    const Piece& piece = pieces_[static_cast<std::size_t>(i - std::ssize(alone_))];
    if (piece.moment_offset < 0) return;
    AdamWStep own = update;
    own.weight_decay = piece.decays ? settings_.weight_decay : 0.0F;
    kernels.adamw(blocks.weights + piece.offset, blocks.gradients + piece.offset, blocks.m + piece.offset,
                  blocks.v + piece.moment_offset, piece.count, own);
    mark(serial, Operation::optimizer, StepPhase::update, -1, moved_cost(piece.count, 7 * sizeof(float)));
    if (fused) pack_piece(serial, piece);  // while it is in cache
  });
  if (fused && settings_.kind == OptimizerKind::adamw) return norm;
  exec.member.for_each(std::ssize(pieces_), [&](std::int64_t i) {
    const Piece& piece = pieces_[static_cast<std::size_t>(i)];
    if (fused && piece.moment_offset >= 0) return;
    TeamMember alone = exec.member.alone();
    Exec serial{alone, exec.backend, exec.scratch};
    pack_piece(serial, piece);
  });
  return norm;
}

}  // namespace quern
