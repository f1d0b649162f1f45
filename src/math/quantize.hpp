// Quantizing a tensor with all threads, and how far the result is from it.
#pragma once

#include <cstdint>
#include <span>

#include "math/block_quantize.hpp"
#include "math/dispatch.hpp"
#include "math/element_type.hpp"
#include "math/result.hpp"
#include "math/thread_team.hpp"

namespace quern {

/// Whether quantize() writes this type: f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, q8_0, q2_k .. q6_k, iq4_nl, iq4_xs, mxfp4.
[[nodiscard]] bool can_quantize(ElementType type);

/// Sums over a tensor; weights are the importance, or 1.
struct QuantizationError {
  double squared_error = 0.0;           ///< sum of (x - decoded)^2
  double squared_value = 0.0;           ///< sum of x^2
  double weighted_squared_error = 0.0;  ///< the same with importance
  double weighted_squared_value = 0.0;
  bool finite = true;                         ///< false: x holds a NaN or infinity, and what was written is not to be used
  [[nodiscard]] double relative_rms() const;  ///< sqrt(squared_error / squared_value); 0 for a tensor of zeros
  [[nodiscard]] double weighted_relative_rms() const;
  QuantizationError& operator+=(const QuantizationError& other);
};

/// Quantizes rows.rows rows (rows' type any of can_quantize()) and decodes them again for the error. Parallel over rows;
/// bytes and sums depend on neither threads nor instruction set.
[[nodiscard]] QuantizationError quantize(const KernelTable& kernels, ThreadTeam& team, const QuantizeRows& rows);

}  // namespace quern
