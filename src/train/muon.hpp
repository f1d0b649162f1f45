// Muon's parts: which matrices it updates, and the Newton-Schulz iteration that makes their updates orthogonal.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "math/exec.hpp"
#include "math/matmul.hpp"
#include "model/model_config.hpp"

namespace quern {

/// Rows of a parameter that are a matrix of their own: q, k and v of a fused projection, gate and up, each expert's.
struct MuonMatrix {
  int parameter = 0;
  std::int64_t offset = 0;  ///< elements, into the blocks of the parameter layout
  std::int64_t rows = 0;    ///< outputs
  std::int64_t cols = 0;    ///< inputs
};

/// The matrices inside the blocks, in the layout's order. Not among them: embeddings, head, routers, norms, biases.
[[nodiscard]] std::vector<MuonMatrix> muon_matrices(const ModelConfig& config, const ParameterLayout& layout);

/// What Jordan (2024, "Muon: an optimizer for hidden layers in neural networks") multiplies an orthogonal update with:
/// sqrt(max(1, rows / cols)). One rate then suits matrices of all shapes.
[[nodiscard]] float muon_scale(std::int64_t rows, std::int64_t cols);

/// Working memory that newton_schulz needs for a [rows, cols] matrix, a multiple of kBufferAlignment; and its scratch.
[[nodiscard]] std::size_t newton_schulz_bytes(const Backend& backend, ComputeType compute, std::int64_t rows,
                                              std::int64_t cols);
[[nodiscard]] std::size_t newton_schulz_scratch_bytes(const Backend& backend, std::int64_t rows, std::int64_t cols);

/// Replaces x [rows, cols] = U S V^T (f32, contiguous) by about U V^T: singular values above about a hundredth of the
/// Frobenius norm come to lie between 0.68 and 1.14 in five steps, with fewer small ones stay smaller (each step multiplies
/// them by up to 3.4). x / ||x||_F goes through `steps` steps of
///   X <- a X + X (b A + c A^2),  A = X^T X,  (a, b, c) = (3.4445, -4.7750, 2.0315)     (Jordan 2024)
/// with the smaller of both dimensions inside. Products are computed in `compute`, between which X is stored in it too.
/// All zeros stay so. `memory`: newton_schulz_bytes, aligned to kBufferAlignment; holds nothing between calls. SPMD; bits
/// do not depend on the number of threads.
void newton_schulz(Exec& exec, ComputeType compute, std::int64_t steps, float* x, std::int64_t rows, std::int64_t cols,
                   std::byte* memory);

}  // namespace quern
