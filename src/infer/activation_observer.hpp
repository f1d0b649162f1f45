// What enters a model's matrices during a forward pass, told to whoever gathers statistics of it.
#pragma once

#include <cstdint>

#include "math/element_type.hpp"
#include "math/thread_team.hpp"

namespace quern {

/// Inputs of matrices in a forward pass; several matrices may share one.
enum class MatrixInput : std::uint8_t {
  qkv,            ///< q, k and v
  attention_out,  ///< output projection
  mlp_in,         ///< gate and up (dense)
  mlp_out,        ///< down (dense)
  router,         ///< the choice of experts
  expert_in,      ///< gate and up of each expert
  expert_out,     ///< down of each expert
  head            ///< logits; rows whose logits were asked for only
};
inline constexpr int kMatrixInputs = 8;

/// Rows that entered the matrices of one input in one layer: row-major, without gaps. A view until observe() returns.
struct ObservedRows {
  MatrixInput input = MatrixInput::qkv;
  std::int64_t layer = -1;  ///< -1: head
  const void* data = nullptr;
  ElementType type = ElementType::f32;  ///< f32 or bf16
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  /// Experts only: rows first_row[e] .. first_row[e + 1] - 1 entered expert e; [experts + 1]. Else null.
  const std::int64_t* first_row = nullptr;
  std::int64_t experts = 1;

  [[nodiscard]] std::int64_t first_of(std::int64_t expert) const { return first_row == nullptr ? 0 : first_row[expert]; }
  [[nodiscard]] std::int64_t rows_of(std::int64_t expert) const {
    return first_row == nullptr ? rows : first_row[expert + 1] - first_row[expert];
  }
};

/// Told of every matrix input by a Decoder that was made with it (Decoder::Limits::observer). Rows come in the order of the
/// batch (an expert's rows too), the same at any number of threads.
class ActivationObserver {
 public:
  virtual ~ActivationObserver() = default;
  /// Called by every member of the team with the same arguments; must share the work among them and return on each after
  /// all of it is done (TeamMember::for_each does), since the rows are overwritten afterwards. Must not throw.
  virtual void observe(TeamMember& member, const ObservedRows& rows) = 0;
};

}  // namespace quern
