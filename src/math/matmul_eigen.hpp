// The products computed by Eigen: oracle of the tests and fallback. Internal to matmul*.cpp; same contracts as matmul.hpp,
// except that Eigen picks its kernels by shape: a row alone may differ from the row in a batch in the last bits.
#pragma once

#include "math/matmul.hpp"

namespace quern::internal {

void eigen_forward(Exec& exec, const ConstMatrix& x, const Weight& w, const MutableMatrix& y, const Epilogue& epilogue);
void eigen_backward_input(Exec& exec, const ConstMatrix& dy, const Weight& w, const MutableMatrix& dx,
                          const Epilogue& epilogue);
void eigen_backward_weight(Exec& exec, const ConstMatrix& dy, const ConstMatrix& x, float* dw, float* dbias,
                           bool accumulate);

/// Copies rows first .. first + count - 1 of W [.., cols] in the compute type's precision to their place in `out`.
void eigen_copy_rows(ComputeType compute, const float* w, std::int64_t cols, std::int64_t first, std::int64_t count,
                     void* out);

}  // namespace quern::internal
