// Matrix products for any processor: vectors of four floats in the compiler's own vector type.
#include <cstddef>
#include <cstdint>

#include "math/matmul_kernels.hpp"

namespace quern {
namespace {

struct Lanes {
  typedef float V __attribute__((vector_size(16)));
  static constexpr std::int64_t kCount = 4;

  static V zero() { return V{0.0F, 0.0F, 0.0F, 0.0F}; }
  static V load(const float* x) {
    V v;
    __builtin_memcpy(&v, x, sizeof v);
    return v;
  }
  static V load_some(const float* x, std::int64_t count) {
    V v = zero();
    for (std::int64_t i = 0; i < count; ++i) v[i] = x[i];
    return v;
  }
  static void store(float* x, V v) { __builtin_memcpy(x, &v, sizeof v); }
  static V broadcast(const float* x) { return V{*x, *x, *x, *x}; }
  static V add(V a, V b) { return a + b; }
  static V fma(V a, V b, V c) { return a * b + c; }
  static V load_bf16(const bf16* x) {
    typedef std::uint32_t U __attribute__((vector_size(16)));
    const U bits = {x[0].bits, x[1].bits, x[2].bits, x[3].bits};
    return __builtin_bit_cast(V, bits << 16);
  }
  static void store_bf16(bf16* x, V v);
  static void store_two_bf16(bf16* x, V a, V b) {
    store_bf16(x, a);
    store_bf16(x + kCount, b);
  }
};

}  // namespace
}  // namespace quern

#include "math/matmul_tile-inl.hpp"

namespace quern {
namespace {

void Lanes::store_bf16(bf16* x, V v) {
  for (int i = 0; i < 4; ++i) x[i] = to_bf16(v[i]);
}

}  // namespace

// 6 x 8: twelve sums, two vectors of B and one of A in sixteen registers.
const MatmulKernels* matmul_kernels_portable() {
  static constexpr MatmulKernels kKernels = f32_operand_kernels<6, 2>("portable");
  return &kKernels;
}

}  // namespace quern
