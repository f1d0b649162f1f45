// Losses of complete rows of logits by the training kernels.
#pragma once

#include <cstdint>

#include "math/cross_entropy.hpp"

namespace quern::test {

/// Cross-entropy of one row of logits, not capped, as the training pass computes it.
inline float row_loss(const ElementwiseKernels& table, const float* logits, std::int64_t vocab, std::int32_t target) {
  const float one = 1.0F;
  CrossEntropyRow row;
  table.f32.cross_entropy_columns({.logits = logits,
                                   .logits_stride = vocab,
                                   .rows = 1,
                                   .cols = vocab,
                                   .target = &target,
                                   .row_scale = &one,
                                   .row = &row});
  return cross_entropy_loss(row, one);
}

}  // namespace quern::test
