// Matrix products for AVX-512 with bf16 dot products (VDPBF16PS: two products per 4-byte lane). f32 products are AVX-512's.

// False alarms inside GCC 12's intrinsics.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "math/matmul_kernels.hpp"

// In this order: the kernels are written over Lanes.
#include "math/matmul_lanes_avx512-inl.hpp"
//
#include "math/matmul_tile-inl.hpp"
//
#include "math/matmul_pairs_avx512-inl.hpp"

namespace quern {
namespace {

/// One step is a pair of bf16: c + a0 * b0 + a1 * b1.
struct PairDot {
  static constexpr std::int64_t kElementBytes = 2;
  static Lanes::V load_b(const char* b) { return _mm512_loadu_ps(b); }
  static Lanes::V broadcast_a(const char* a) {
    int pair = 0;
    __builtin_memcpy(&pair, a, sizeof pair);
    return _mm512_castsi512_ps(_mm512_set1_epi32(pair));
  }
  static Lanes::V dot(Lanes::V a, Lanes::V b, Lanes::V c) {
    return _mm512_dpbf16_ps(c, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
};

constexpr int kRows = 14;

/// [k, cols <= kRows] into [padded_k / 2][kRows][2]: what broadcast_a reads.
void pack_a_pairs(const MatmulBlock& source, std::int64_t padded_k, void* out) {
  auto* to = static_cast<std::uint16_t*>(out);
  const __mmask32 cols = low_bits32(source.cols);
  for (std::int64_t k = 0; k < padded_k; k += 2, to += 2 * kRows) {
    const RowPair pair = interleave(load_row(source, k, cols), load_row(source, k + 1, cols));
    _mm512_mask_storeu_epi32(to, low_bits16(kRows), pair.low);
  }
}

double pair_register_loop(std::int64_t iterations) { return register_chains<PairDot>(iterations, 4.0); }

constexpr MatmulKernels make_kernels() {
  MatmulKernels kernels;
  kernels.name = "avx512_vnni";
  kernels.f32 = f32_operand_products<float, false, kRows, 2>();
  kernels.b16 = pair_operand_packs();
  kernels.store = store;
  kernels.begin = nothing;
  kernels.end = nothing;
  ProductKernels& p = kernels.b16;
  p.tile_rows = kRows;
  p.step = 2;
  p.packed_a_row_stride = 2;
  p.packed_a_step_stride = 2 * kRows;
  p.tile = tile<PairDot, kRows, 2>;
  p.pack_a = pack_a_pairs;
  p.register_loop = pair_register_loop;
  return kernels;
}

}  // namespace

const MatmulKernels* matmul_kernels_avx512_vnni() {
  static constexpr MatmulKernels kKernels = make_kernels();
  return &kKernels;
}

}  // namespace quern
