// Products with plain weights as a file holds them, 16-bit or block-quantized. Internal to matmul*.cpp.
#pragma once

#include <cstdint>

#include "math/matmul.hpp"

namespace quern::internal {

/// A rectangle of a matrix.
struct MatrixPart {
  std::int64_t row = 0;
  std::int64_t rows = 0;
  std::int64_t col = 0;
  std::int64_t cols = 0;
};

/// Decodes a part of a plain weight [.., weight_cols] of a float or quantized type into out [part.rows, part.cols]. Any
/// columns are allowed; whole blocks are fastest.
void decode_part(const Backend& backend, ElementType type, const void* data, std::int64_t weight_cols,
                 const MatrixPart& part, float* out);

/// Whether y = x W^T is computed from dot products with the weight's rows as they are: few rows of f32, fast precision, a
/// type that has them.
[[nodiscard]] bool takes_dot(const Backend& backend, const ConstMatrix& x, const Weight& w);

/// That product. SPMD: every member quantizes x for itself; rows of W are shared.
void dot_forward(Exec& exec, const ConstMatrix& x, const Weight& w, const MutableMatrix& y, const Epilogue& epilogue);

/// Bytes of scratch that dot_forward needs per thread for M <= max_rows, K <= max_cols.
[[nodiscard]] std::int64_t dot_scratch_bytes(std::int64_t max_rows, std::int64_t max_cols);

}  // namespace quern::internal
