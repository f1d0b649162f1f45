// Threads are the team's: a team of one must not make Eigen start OpenMP threads of its own.
#define EIGEN_DONT_PARALLELIZE
#include "math/matmul_eigen.hpp"

#include <Eigen/Dense>
#include <algorithm>
#include <cassert>
#include <cmath>
#include <utility>

#include "math/matmul_blocking.hpp"
#include "math/matmul_convert.hpp"
#include "math/matmul_plain_internal.hpp"

namespace quern::internal {
namespace {

using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Strided = Eigen::Map<const RowMajor, Eigen::Unaligned, Eigen::OuterStride<>>;

constexpr std::int64_t kRowBlock = 256;
constexpr std::int64_t kTokenBlock = 512;
/// Rows of a file's weight that are decoded at once.
constexpr std::int64_t kDecodedRows = 512;

float activate(Activation activation, float x) {
  switch (activation) {
    case Activation::none:
      break;
    case Activation::gelu_tanh:
      return 0.5F * x * (1.0F + std::tanh(0.7978845608F * (x + 0.044715F * x * x * x)));
    case Activation::gelu_erf:
      return 0.5F * x * (1.0F + std::erf(x * 0.7071067812F));
    case Activation::silu:
      return x / (1.0F + std::exp(-x));
    case Activation::relu2: {
      const float positive = std::max(x, 0.0F);
      return positive * positive;
    }
  }
  return x;
}

float slope(Activation activation, float x) {
  switch (activation) {
    case Activation::none:
      break;
    case Activation::gelu_tanh: {
      const float t = std::tanh(0.7978845608F * (x + 0.044715F * x * x * x));
      return 0.5F * (1.0F + t) + 0.5F * x * (1.0F - t * t) * 0.7978845608F * (1.0F + 0.134145F * x * x);
    }
    case Activation::gelu_erf:
      return 0.5F * (1.0F + std::erf(x * 0.7071067812F)) + x * 0.3989422804F * std::exp(-0.5F * x * x);
    case Activation::silu: {
      const float s = 1.0F / (1.0F + std::exp(-x));
      return s * (1.0F + x * (1.0F - s));
    }
    case Activation::relu2:
      return 2.0F * std::max(x, 0.0F);
  }
  return 1.0F;
}

/// A block as f32: in place where it is f32, else widened into `storage`.
Strided widened(const void* data, ElementType type, std::int64_t first, std::int64_t stride, std::int64_t rows,
                std::int64_t cols, RowMajor& storage) {
  if (type == ElementType::f32) {
    return {static_cast<const float*>(data) + first, rows, cols, Eigen::OuterStride<>(std::max<std::int64_t>(stride, 1))};
  }
  storage.resize(rows, cols);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < cols; ++c) storage(r, c) = element(data, type, first + r * stride + c);
  }
  return {storage.data(), rows, cols, Eigen::OuterStride<>(std::max<std::int64_t>(cols, 1))};
}

/// Whether a weight's elements are those of a file, to be decoded by the block kernels.
bool needs_decoding(ElementType type) { return type != ElementType::f32 && type != ElementType::bf16; }

/// Stores sums as columns [col, ..) of rows [row, ..).
void store(const RowMajor& sums, std::int64_t row, std::int64_t col, const MutableMatrix& out, const Epilogue& e) {
  for (std::int64_t r = 0; r < sums.rows(); ++r) {
    for (std::int64_t i = 0; i < sums.cols(); ++i) {
      const std::int64_t c = col + i;
      float v = sums(r, i);
      if (e.activation_input != nullptr) {
        const float x = element(e.activation_input, out.type, (row + r) * e.activation_input_stride + c);
        v *= slope(e.activation, x);
        if (e.activation_output != nullptr) {
          set_element(e.activation_output, out.type, (row + r) * e.activation_output_stride + c, activate(e.activation, x));
        }
        set_element(out.data, out.type, (row + r) * out.row_stride + c, v);
        if (e.kept_output != nullptr) set_element(e.kept_output, out.type, (row + r) * out.row_stride + c, v);
        continue;
      }
      if (e.bias != nullptr) v += e.bias[c];
      if (e.pre_activation != nullptr) {
        set_element(e.pre_activation, out.type, (row + r) * e.pre_activation_stride + c, v);
      }
      v = activate(e.activation, v);
      if (e.residual != nullptr) v += e.residual[(row + r) * e.residual_stride + c];
      set_element(out.data, out.type, (row + r) * out.row_stride + c, v);
    }
  }
}

void product(Exec& exec, const ConstMatrix& a, const Weight& w, const void* data, bool transposed, const MutableMatrix& out,
             const Epilogue& epilogue) {
  assert(w.layout == WeightLayout::plain && "the Eigen backend reads plain weights");
  exec.member.for_each(ceil_divide(out.rows, kRowBlock), [&](std::int64_t task) {
    const std::int64_t row = task * kRowBlock;
    const std::int64_t rows = std::min(kRowBlock, out.rows - row);
    RowMajor a_storage;
    RowMajor w_storage;
    const Strided left = widened(a.data, a.type, row * a.row_stride, a.row_stride, rows, a.cols, a_storage);
    const Strided right = widened(data, w.type, 0, w.cols, w.rows, w.cols, w_storage);
    RowMajor sums = RowMajor::Zero(rows, out.cols);
    if (transposed) {
      sums.noalias() += left * right.transpose();
    } else {
      sums.noalias() += left * right;
    }
    store(sums, row, 0, out, epilogue);
  });
}

/// The same with a file's weight, which is decoded a block of rows at a time.
void product_with_decoding(Exec& exec, const ConstMatrix& a, const Weight& w, const void* data, bool transposed,
                           const MutableMatrix& out, const Epilogue& epilogue) {
  const std::int64_t weight_blocks = ceil_divide(w.rows, kDecodedRows);
  RowMajor a_storage;
  const auto part = [&](std::int64_t block, RowMajor& decoded) {
    const std::int64_t first = block * kDecodedRows;
    decoded.resize(std::min(kDecodedRows, w.rows - first), w.cols);
    decode_part(exec.backend, w.type, data, w.cols, {.row = first, .rows = decoded.rows(), .col = 0, .cols = w.cols},
                decoded.data());
    return first;
  };
  const Strided left = widened(a.data, a.type, 0, a.row_stride, a.rows, a.cols, a_storage);
  if (transposed) {
    exec.member.for_each(weight_blocks, [&](std::int64_t block) {
      RowMajor decoded;
      const std::int64_t first = part(block, decoded);
      RowMajor sums = RowMajor::Zero(out.rows, decoded.rows());
      sums.noalias() += left * decoded.transpose();
      store(sums, 0, first, out, epilogue);
    });
    return;
  }
  exec.member.for_each(1, [&](std::int64_t) {
    RowMajor decoded;
    RowMajor sums = RowMajor::Zero(out.rows, out.cols);
    for (std::int64_t block = 0; block < weight_blocks; ++block) {
      const std::int64_t first = part(block, decoded);
      sums.noalias() += left.middleCols(first, decoded.rows()) * decoded;
    }
    store(sums, 0, 0, out, epilogue);
  });
}

}  // namespace

void eigen_forward(Exec& exec, const ConstMatrix& x, const Weight& w, const MutableMatrix& y, const Epilogue& epilogue) {
  (needs_decoding(w.type) ? product_with_decoding : product)(exec, x, w, w.forward, true, y, epilogue);
}

void eigen_backward_input(Exec& exec, const ConstMatrix& dy, const Weight& w, const MutableMatrix& dx,
                          const Epilogue& epilogue) {
  (needs_decoding(w.type) ? product_with_decoding : product)(exec, dy, w, w.backward, false, dx, epilogue);
}

void eigen_backward_weight(Exec& exec, const ConstMatrix& dy, const ConstMatrix& x, float* dw, float* dbias,
                           bool accumulate) {
  exec.member.for_each(ceil_divide(dy.cols, kRowBlock), [&](std::int64_t task) {
    const std::int64_t row = task * kRowBlock;
    const std::int64_t rows = std::min(kRowBlock, dy.cols - row);
    Eigen::Map<RowMajor> gradient(dw + row * x.cols, rows, x.cols);
    Eigen::Map<Eigen::RowVectorXf> bias(dbias == nullptr ? nullptr : dbias + row, dbias == nullptr ? 0 : rows);
    if (!accumulate) {
      gradient.setZero();
      bias.setZero();
    }
    RowMajor dy_storage;
    RowMajor x_storage;
    for (std::int64_t token = 0; token < x.rows; token += kTokenBlock) {
      const std::int64_t tokens = std::min(kTokenBlock, x.rows - token);
      const Strided left = widened(dy.data, dy.type, token * dy.row_stride + row, dy.row_stride, tokens, rows, dy_storage);
      const Strided right = widened(x.data, x.type, token * x.row_stride, x.row_stride, tokens, x.cols, x_storage);
      gradient.noalias() += left.transpose() * right;
      if (dbias != nullptr) bias += left.colwise().sum();
    }
  });
}

void eigen_copy_rows(ComputeType compute, const float* w, std::int64_t cols, std::int64_t first, std::int64_t count,
                     void* out) {
  const ElementType type = compute == ComputeType::bf16 ? ElementType::bf16 : ElementType::f32;
  for (std::int64_t i = first * cols; i < (first + count) * cols; ++i) set_element(out, type, i, w[i]);
}

}  // namespace quern::internal
