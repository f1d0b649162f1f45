// Dropout, and the embedding lookup that ends in it. Included only by the instruction-set files.
#pragma once

#include "math/simd/philox-inl.hpp"
#include "math/simd/rows-inl.hpp"

namespace quern {
namespace {

using simd::DF;
using simd::VF;
namespace hn = hwy::HWY_NAMESPACE;

/// Calls body(vector, i, factor) along one row, where factor is the mask's scale or 0 for each column.
template <class Body>
HWY_INLINE void for_each_masked(const simd::DropoutConstants& dropout, std::int64_t row, std::int64_t cols,
                                const Body& body) {
  if (dropout.threshold == 0) {
    simd::for_each_vector(0, cols,
                          [&](auto vector, std::int64_t i) QUERN_INLINE_LAMBDA { body(vector, i, simd::splat(1.0F)); });
    return;
  }
  const std::uint32_t mask_row = dropout.first_row + static_cast<std::uint32_t>(row);
  alignas(64) std::uint16_t lanes[simd::kDropoutColumns];
  for (std::int64_t begin = 0; begin < cols; begin += simd::kDropoutColumns) {
    const std::int64_t end = begin + simd::kDropoutColumns < cols ? begin + simd::kDropoutColumns : cols;
    simd::dropout_lanes(dropout, mask_row, static_cast<std::uint32_t>(begin / 8), lanes);
    simd::for_each_vector(begin, end, [&](auto vector, std::int64_t i) QUERN_INLINE_LAMBDA {
      body(vector, i, simd::dropout_factor(DF(), lanes + (i - begin), dropout));
    });
  }
}

template <class T>
void dropout_backward_rows(const float* dout, std::int64_t dout_stride, T* dy, std::int64_t dy_stride, std::int64_t rows,
                           std::int64_t cols, const DropoutMask& mask) {
  const simd::DropoutConstants dropout = simd::dropout_constants(mask);
  for (std::int64_t r = 0; r < rows; ++r, dout += dout_stride, dy += dy_stride) {
    for_each_masked(dropout, r, cols, [&](auto vector, std::int64_t i, VF factor) QUERN_INLINE_LAMBDA {
      vector.store(hn::Mul(vector.load(dout + i), factor), dy + i);
    });
  }
}

void dropout_add_rows(const float* x, std::int64_t x_stride, const float* residual, std::int64_t residual_stride, float* out,
                      std::int64_t out_stride, std::int64_t rows, std::int64_t cols, const DropoutMask& mask) {
  const simd::DropoutConstants dropout = simd::dropout_constants(mask);
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* from = x + r * x_stride;
    float* to = out + r * out_stride;
    if (residual == nullptr) {
      for_each_masked(dropout, r, cols, [&](auto vector, std::int64_t i, VF factor) QUERN_INLINE_LAMBDA {
        vector.store(hn::Mul(vector.load(from + i), factor), to + i);
      });
    } else {
      const float* base = residual + r * residual_stride;
      for_each_masked(dropout, r, cols, [&](auto vector, std::int64_t i, VF factor) QUERN_INLINE_LAMBDA {
        vector.store(hn::MulAdd(vector.load(from + i), factor, vector.load(base + i)), to + i);
      });
    }
  }
}

void embedding_rows(const float* table, const std::int32_t* tokens, const float* position_table,
                    const std::int32_t* positions, float scale, float* x, std::int64_t x_stride, std::int64_t rows,
                    std::int64_t cols, const DropoutMask& mask) {
  const simd::DropoutConstants dropout = simd::dropout_constants(mask);
  const VF token_scale = simd::splat(scale);
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* token = table + tokens[r] * cols;
    float* to = x + r * x_stride;
    if (position_table == nullptr) {
      for_each_masked(dropout, r, cols, [&](auto vector, std::int64_t i, VF factor) QUERN_INLINE_LAMBDA {
        vector.store(hn::Mul(hn::Mul(vector.load(token + i), token_scale), factor), to + i);
      });
    } else {
      const float* position = position_table + positions[r] * cols;
      for_each_masked(dropout, r, cols, [&](auto vector, std::int64_t i, VF factor) QUERN_INLINE_LAMBDA {
        const VF sum = hn::MulAdd(vector.load(token + i), token_scale, vector.load(position + i));
        vector.store(hn::Mul(sum, factor), to + i);
      });
    }
  }
}

}  // namespace
}  // namespace quern
