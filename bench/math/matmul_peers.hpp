// Other libraries' matrix products behind one interface, for matmul_peers_bench.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "math/element_type.hpp"

namespace quern {

/// y = x W^T, dx = dy W, dW = dy^T x; x [M, K], W [N, K], dy [M, N].
enum class Product : std::uint8_t { forward, backward_input, backward_weight };

/// One product over given memory, all row-major without gaps. Peers keep pointers, so the memory outlives them.
struct Problem {
  Product product = Product::forward;
  std::int64_t m = 0, n = 0, k = 0;
  ElementType operand = ElementType::f32;  ///< of x, W and dy: f32 or bf16
  ElementType out = ElementType::f32;      ///< f32 or bf16; f32 where the product is dW
  int threads = 1;
  const void* left = nullptr;   ///< x in forward, else dy
  const void* right = nullptr;  ///< W, or x where the product is dW
  void* result = nullptr;

  /// Rows and columns of the result and the length of the sums.
  [[nodiscard]] std::int64_t rows() const { return product == Product::backward_weight ? n : m; }
  [[nodiscard]] std::int64_t cols() const { return product == Product::forward ? n : k; }
  [[nodiscard]] std::int64_t sums() const {
    return product == Product::forward ? k : product == Product::backward_input ? n : m;
  }
};

/// Someone who computes the product when called.
struct Contender {
  std::string name;
  std::function<void()> compute;
};

/// OpenBLAS and BLIS (f32 only), loaded when first asked for; those that are not installed are left out. Sets, where the
/// environment does not, the variables without which Debian's versions take AVX2 kernels on AVX-512 processors.
void add_blas_peers(const Problem& problem, std::vector<Contender>& contenders);

/// oneDNN: matmul with plain operands; with weights in its own layout, packed beforehand; and for dW also the
/// inner-product primitive. Nothing where the build did not find oneDNN. What its matmul refuses is left out.
void add_onednn_peers(const Problem& problem, std::vector<Contender>& contenders);

/// Eigen compiled for AVX2 and FMA (f32 only).
void add_eigen_avx2_peer(const Problem& problem, std::vector<Contender>& contenders);

}  // namespace quern
