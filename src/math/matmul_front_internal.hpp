// What the parts of the front share: pieces of scratch, and what happens to finished sums. Internal to matmul*.cpp.
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <span>

#include "math/aligned_buffer.hpp"
#include "math/matmul.hpp"
#include "math/matmul_blocking.hpp"
#include "math/matmul_fetch_internal.hpp"

namespace quern::internal {

[[nodiscard]] inline const std::byte* at(const void* data, std::int64_t bytes) {
  return static_cast<const std::byte*>(data) + bytes;
}
[[nodiscard]] inline std::byte* at(void* data, std::int64_t bytes) { return static_cast<std::byte*>(data) + bytes; }

/// The kernels that multiply in `compute`.
[[nodiscard]] inline const ProductKernels& product_kernels(const Backend& backend, ComputeType compute) {
  return compute == ComputeType::bf16 ? backend.kernels->matmul->b16 : backend.kernels->matmul->f32;
}

[[nodiscard]] inline ComputeType compute_of(ElementType type) {
  return type == ElementType::bf16 ? ComputeType::bf16 : ComputeType::f32;
}

/// Hands out aligned pieces of a thread's scratch.
class ScratchCutter {
 public:
  explicit ScratchCutter(std::span<std::byte> scratch) : left_(scratch) {}
  std::byte* take(std::int64_t bytes) {
    const auto size = static_cast<std::size_t>(round_up(bytes, kBufferAlignment));
    assert(size <= left_.size() && "scratch is smaller than matmul_scratch_bytes says");
    std::byte* piece = left_.data();
    left_ = left_.subspan(size);
    return piece;
  }
  [[nodiscard]] bool holds(std::int64_t bytes) const {
    return static_cast<std::size_t>(round_up(bytes, kBufferAlignment)) <= left_.size();
  }

 private:
  std::span<std::byte> left_;
};

/// Stores a finished tile: (sum + bias), a copy of that where asked for, activation, residual.
class TileFinisher {
 public:
  TileFinisher(const Backend& backend, const MutableMatrix& out, const Epilogue& epilogue)
      : kernels_(*backend.kernels), out_(out), epilogue_(epilogue) {}

  /// Whether sums may be formed in the output itself.
  [[nodiscard]] bool trivial() const {
    return out_.type == ElementType::f32 && epilogue_.bias == nullptr && epilogue_.activation == Activation::none &&
           epilogue_.pre_activation == nullptr && epilogue_.residual == nullptr && epilogue_.activation_input == nullptr;
  }

  /// What storing a tile of these rows and columns will read.
  [[nodiscard]] MatmulFetch reads(std::int64_t row, std::int64_t rows, std::int64_t col, std::int64_t cols) const {
    const std::int64_t bytes = operand_bytes(out_.type);
    if (epilogue_.activation_input != nullptr) {
      return fetch_block(at(epilogue_.activation_input, (row * epilogue_.activation_input_stride + col) * bytes),
                         epilogue_.activation_input_stride * bytes, rows, cols * bytes);
    }
    if (epilogue_.residual == nullptr) return {};
    return fetch_block(epilogue_.residual + row * epilogue_.residual_stride + col, epilogue_.residual_stride * 4, rows,
                       cols * 4);
  }

  /// The lines that storing a tile of these rows and columns will write, if they are not those that it reads: a store to a
  /// line in no cache waits for that line.
  [[nodiscard]] MatmulFetch writes(std::int64_t row, std::int64_t rows, std::int64_t col, std::int64_t cols) const {
    const std::int64_t bytes = operand_bytes(out_.type);
    const std::byte* to = at(static_cast<const void*>(out_.data), (row * out_.row_stride + col) * bytes);
    if (to == static_cast<const void*>(epilogue_.residual + row * epilogue_.residual_stride + col)) return {};
    return fetch_block(to, out_.row_stride * bytes, rows, cols * bytes);
  }

  void operator()(float* tile, std::int64_t stride, std::int64_t row, std::int64_t rows, std::int64_t col,
                  std::int64_t cols) const {
    if (epilogue_.activation_input != nullptr) {
      if (out_.type == ElementType::f32) {
        multiply_by_slope<float>(kernels_.elementwise->f32, tile, stride, row, rows, col, cols);
      } else {
        multiply_by_slope<bf16>(kernels_.elementwise->b16, tile, stride, row, rows, col, cols);
      }
      return;
    }
    if (epilogue_.activation != Activation::none && epilogue_.residual == nullptr) {
      if (out_.type == ElementType::f32) {
        activate<float>(kernels_.elementwise->f32, tile, stride, row, rows, col, cols);
      } else {
        activate<bf16>(kernels_.elementwise->b16, tile, stride, row, rows, col, cols);
      }
      return;
    }
    const std::int64_t bytes = operand_bytes(out_.type);
    const bool activates = epilogue_.activation != Activation::none;
    MatmulStore store{.tile = tile, .tile_stride = stride, .rows = rows, .cols = cols};
    if (epilogue_.bias != nullptr) store.bias = epilogue_.bias + col;
    if (activates || epilogue_.pre_activation != nullptr) {
      if (store.bias != nullptr) {
        store.out = tile;
        store.out_stride = stride;
        kernels_.matmul->store(store);
        store.bias = nullptr;
      }
      if (epilogue_.pre_activation != nullptr) {
        store.out = at(epilogue_.pre_activation, (row * epilogue_.pre_activation_stride + col) * bytes);
        store.out_stride = epilogue_.pre_activation_stride;
        store.out_type = out_.type;
        kernels_.matmul->store(store);
      }
      if (activates) {
        kernels_.elementwise->f32.activation_forward(epilogue_.activation, tile, stride, tile, stride, rows, cols);
      }
    }
    if (epilogue_.residual != nullptr) {
      store.residual = epilogue_.residual + row * epilogue_.residual_stride + col;
      store.residual_stride = epilogue_.residual_stride;
    }
    store.out = at(out_.data, (row * out_.row_stride + col) * bytes);
    store.out_stride = out_.row_stride;
    store.out_type = out_.type;
    kernels_.matmul->store(store);
  }

 private:
  /// All of it in one pass over the sums.
  template <class T>
  void activate(const ElementwiseKernelsFor<T>& kernels, const float* tile, std::int64_t stride, std::int64_t row,
                std::int64_t rows, std::int64_t col, std::int64_t cols) const {
    ActivationEpilogue<T> to{.activation = epilogue_.activation, .sum = tile, .sum_stride = stride};
    if (epilogue_.bias != nullptr) to.bias = epilogue_.bias + col;
    if (epilogue_.pre_activation != nullptr) {
      to.pre = static_cast<T*>(epilogue_.pre_activation) + row * epilogue_.pre_activation_stride + col;
      to.pre_stride = epilogue_.pre_activation_stride;
      to.stream_pre = epilogue_.stream_pre_activation;
    }
    to.out = static_cast<T*>(out_.data) + row * out_.row_stride + col;
    to.out_stride = out_.row_stride;
    to.rows = rows;
    to.cols = cols;
    kernels.activation_epilogue(to);
  }

  template <class T>
  void multiply_by_slope(const ElementwiseKernelsFor<T>& kernels, const float* tile, std::int64_t stride, std::int64_t row,
                         std::int64_t rows, std::int64_t col, std::int64_t cols) const {
    ActivationBackward<T> to{.activation = epilogue_.activation, .dout = tile, .dout_stride = stride};
    to.pre = static_cast<const T*>(epilogue_.activation_input) + row * epilogue_.activation_input_stride + col;
    to.pre_stride = epilogue_.activation_input_stride;
    to.dpre = static_cast<T*>(out_.data) + row * out_.row_stride + col;
    to.dpre_stride = out_.row_stride;
    if (epilogue_.activation_output != nullptr) {
      to.act = static_cast<T*>(epilogue_.activation_output) + row * epilogue_.activation_output_stride + col;
      to.act_stride = epilogue_.activation_output_stride;
    }
    if (epilogue_.kept_output != nullptr)
      to.dpre_kept = static_cast<T*>(epilogue_.kept_output) + row * out_.row_stride + col;
    to.rows = rows;
    to.cols = cols;
    kernels.activation_backward(to);
  }

  const KernelTable& kernels_;
  const MutableMatrix& out_;
  const Epilogue& epilogue_;
};

}  // namespace quern::internal
