// C = A B for the forward product and the input's gradient. Internal to matmul*.cpp.
#pragma once

#include <cstdint>

#include "math/exec.hpp"
#include "math/matmul.hpp"
#include "math/matmul_kernels.hpp"

namespace quern::internal {

/// The right-hand side of C = A B.
struct RightSide {
  const Weight* weight = nullptr;
  bool transposed = false;  ///< B = W^T (forward), else B = W
  [[nodiscard]] const void* pack() const { return transposed ? weight->forward : weight->backward; }
};

/// C [rows, cols] = epilogue(A [rows, k] B) with the kernels of `compute`. A of f32 is narrowed where they read bf16.
void product(Exec& exec, ComputeType compute, const ConstMatrix& a, const RightSide& b, const MutableMatrix& out,
             const Epilogue& epilogue);

/// Bytes of one kernel set's scratch, for products whose dimensions are all at most n, and tasks of up to `task_rows` rows.
[[nodiscard]] std::int64_t product_scratch_bytes(const ProductKernels& kernels, std::int64_t n, std::int64_t task_rows);

/// Elements of a row of narrowed activations: rows do not share cache sets.
[[nodiscard]] std::int64_t narrowed_row_elements(const ProductKernels& kernels, std::int64_t k);

}  // namespace quern::internal
