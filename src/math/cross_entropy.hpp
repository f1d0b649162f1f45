// The loss of a row whose columns ElementwiseKernels::cross_entropy_columns went through.
#pragma once

#include <cmath>

#include "math/elementwise_kernels.hpp"

namespace quern {

/// log(sum exp(logits)) - logits[target] in nats, once all columns have passed; 0 for masked rows (row_scale 0).
[[nodiscard]] inline float cross_entropy_loss(const CrossEntropyRow& row, float row_scale) {
  if (row_scale == 0.0F) return 0.0F;
  return static_cast<float>(std::log(row.sum) + (static_cast<double>(row.shift) - static_cast<double>(row.target_logit)));
}

}  // namespace quern
