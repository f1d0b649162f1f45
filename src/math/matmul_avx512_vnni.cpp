// Matrix products for AVX-512 with bf16 dot products (VDPBF16PS: two products per 4-byte lane). f32 products are AVX-512's.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // false alarms inside GCC 12's intrinsics
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

/// bf16 activations [k, cols <= 32] into a panel.
void pack_b_pairs(const MatmulBlock& source, std::int64_t padded_k, void* out) {
  auto* panel = static_cast<std::uint16_t*>(out);
  const __mmask32 cols = low_bits32(source.cols);
  for (std::int64_t k = 0; k < padded_k; k += 2, panel += 2 * kPairPanel) {
    const RowPair pair = interleave(load_row(source, k, cols), load_row(source, k + 1, cols));
    _mm512_storeu_si512(panel, pair.low);
    _mm512_storeu_si512(panel + 32, pair.high);
  }
}

/// f32 weights [k, cols <= 32] into a panel.
void pack_weight_rows_pairs(const MatmulBlock& source, std::int64_t padded_k, void* out) {
  auto* panel = static_cast<std::uint16_t*>(out);
  const float* data = static_cast<const float*>(source.data);
  const __m512i high_half = _mm512_set1_epi32(static_cast<int>(0xffff0000U));
  for (std::int64_t k = 0; k < padded_k; k += 2, panel += 2 * kPairPanel) {
    for (int half = 0; half < 2; ++half) {
      const __mmask16 cols = low_bits16(source.cols - 16 * half);
      const float* row = data + k * source.stride + 16 * half;
      const __m512 even = k < source.rows && cols != 0 ? _mm512_maskz_loadu_ps(cols, row) : _mm512_setzero_ps();
      const __m512 odd =
          k + 1 < source.rows && cols != 0 ? _mm512_maskz_loadu_ps(cols, row + source.stride) : _mm512_setzero_ps();
      const __m512i low = _mm512_srli_epi32(Lanes::round_to_bf16(even), 16);
      const __m512i high = _mm512_and_si512(Lanes::round_to_bf16(odd), high_half);
      _mm512_storeu_si512(panel + 32 * half, _mm512_or_si512(low, high));
    }
  }
}

/// Thirty-two f32 of a weight's row, from element k on, as bf16 in order; zeros past `end`.
inline __m512i load_weight_row(const float* row, std::int64_t k, std::int64_t end) {
  if (k >= end) return _mm512_setzero_si512();
  const __m512 a = _mm512_maskz_loadu_ps(low_bits16(end - k), row + k);
  const __m512 b = end - k > 16 ? _mm512_maskz_loadu_ps(low_bits16(end - k - 16), row + k + 16) : _mm512_setzero_ps();
  const __m256i low = _mm512_cvtepi32_epi16(_mm512_srli_epi32(Lanes::round_to_bf16(a), 16));
  const __m256i high = _mm512_cvtepi32_epi16(_mm512_srli_epi32(Lanes::round_to_bf16(b), 16));
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

/// f32 weights [cols <= 32, k] transposed into a panel.
void pack_weight_transposed_pairs(const MatmulBlock& source, std::int64_t padded_k, void* out) {
  auto* panel = static_cast<std::uint16_t*>(out);
  const float* data = static_cast<const float*>(source.data);
  for (std::int64_t k = 0; k < padded_k; k += 32) {
    const std::int64_t pairs = padded_k - k >= 32 ? 16 : (padded_k - k) / 2;
    for (std::int64_t j0 = 0; j0 < kPairPanel; j0 += 16) {
      __m512i r[16];
      for (std::int64_t j = 0; j < 16; ++j) {
        r[j] =
            j0 + j < source.rows ? load_weight_row(data + (j0 + j) * source.stride, k, source.cols) : _mm512_setzero_si512();
      }
      transpose16(r);
      for (std::int64_t p = 0; p < pairs; ++p) _mm512_storeu_si512(panel + (k / 2 + p) * 2 * kPairPanel + 2 * j0, r[p]);
    }
  }
}

/// bf16 rows copied, with zeros up to padded_cols.
void copy_rows_bf16(const MatmulBlock& source, std::int64_t padded_cols, void* out, std::int64_t out_stride) {
  for (std::int64_t r = 0; r < source.rows; ++r) {
    const auto* from = static_cast<const std::uint16_t*>(source.data) + r * source.stride;
    auto* to = static_cast<std::uint16_t*>(out) + r * out_stride;
    for (std::int64_t c = 0; c < padded_cols; c += 32) {
      const __mmask32 present = c < source.cols ? low_bits32(source.cols - c) : __mmask32{0};
      const __m512i v = present != 0 ? _mm512_maskz_loadu_epi16(present, from + c) : _mm512_setzero_si512();
      _mm512_mask_storeu_epi16(to + c, low_bits32(padded_cols - c), v);
    }
  }
}

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

MatmulKernels make_kernels() {
  MatmulKernels kernels;
  kernels.name = "avx512_vnni";
  kernels.f32 = matmul_kernels_avx512()->f32;
  kernels.store = store;
  kernels.begin = nothing;
  kernels.end = nothing;
  ProductKernels& p = kernels.b16;
  p.operand = ElementType::bf16;
  p.tile_rows = kRows;
  p.panel_cols = kPairPanel;
  p.step = 2;
  p.packed_a_row_stride = 2;
  p.packed_a_step_stride = 2 * kRows;
  p.tile = tile<PairDot, kRows, 2>;
  p.pack_weight_rows = pack_weight_rows_pairs;
  p.pack_weight_transposed = pack_weight_transposed_pairs;
  p.pack_b = pack_b_pairs;
  p.pack_a = pack_a_pairs;
  p.copy_a = copy_rows_bf16;
  p.column_sums = column_sums<bf16>;
  p.register_loop = pair_register_loop;
  return kernels;
}

}  // namespace

const MatmulKernels* matmul_kernels_avx512_vnni() {
  static const MatmulKernels kKernels = make_kernels();
  return &kKernels;
}

}  // namespace quern
