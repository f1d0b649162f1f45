// Attention with AMX tiles for bf16: TDPBF16PS multiplies 16 x 32 by 32 x 16. f32 runs as in AVX-512.
//
// Left operands are row-major bf16 [m, k]; right operands hold pairs of k side by side, [k / 2][n][2]. Scores are
// transposed (attention_softmax-inl.hpp), so probabilities leave the registers in either form without a transpose.
#include <immintrin.h>

#include "math/attention_tasks-inl.hpp"

#if HWY_STATIC_TARGET != HWY_AVX3
#error "This file must be compiled for AVX-512 F, CD, BW, DQ, VL"
#endif

namespace quern {
namespace {

struct TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

/// Right operand: dword (k / 2, n) at data + k / 2 * stride + n.
struct RightPairs {
  const std::uint32_t* data;
  std::int64_t stride;  ///< dwords
};

/// C [m, n] f32 (+)= A [m, k] B [k, n]; m and n in tiles of 16, depth in chunks of 32. Four sums (32 x 32) at a time: each
/// tile of A and B that is loaded serves two products.
void multiply_tiles(std::int64_t m_tiles, std::int64_t n_tiles, std::int64_t chunks, const std::uint16_t* a,
                    std::int64_t a_stride, const RightPairs& b, float* c, std::int64_t c_stride, bool accumulate) {
  // The tile instructions are opaque to the compiler: vector stores to the operands must be done by here.
  asm volatile("" ::: "memory");
  const std::int64_t a_bytes = a_stride * 2;
  const std::int64_t b_bytes = b.stride * 4;
  const std::int64_t c_bytes = c_stride * 4;
  for (std::int64_t n = 0; n < n_tiles; n += 2) {
    const bool two_n = n + 1 < n_tiles;
    for (std::int64_t m = 0; m < m_tiles; m += 2) {
      const bool two_m = m + 1 < m_tiles;
      float* c00 = c + m * 16 * c_stride + n * 16;
      float* c10 = c00 + 16 * c_stride;
      if (accumulate) {
        _tile_loadd(0, c00, c_bytes);
        if (two_n) _tile_loadd(1, c00 + 16, c_bytes);
        if (two_m) _tile_loadd(2, c10, c_bytes);
        if (two_m && two_n) _tile_loadd(3, c10 + 16, c_bytes);
      } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
      }
      const std::uint16_t* left = a + m * 16 * a_stride;
      const std::uint32_t* right = b.data + n * 16;
      for (std::int64_t k = 0; k < chunks; ++k, left += 32, right += 16 * b.stride) {
        _tile_loadd(4, left, a_bytes);
        _tile_loadd(6, right, b_bytes);
        _tile_dpbf16ps(0, 4, 6);
        if (two_m) {
          _tile_loadd(5, left + 16 * a_stride, a_bytes);
          _tile_dpbf16ps(2, 5, 6);
        }
        if (two_n) {
          _tile_loadd(7, right + 16, b_bytes);
          _tile_dpbf16ps(1, 4, 7);
          if (two_m) _tile_dpbf16ps(3, 5, 7);
        }
      }
      _tile_stored(0, c00, c_bytes);
      if (two_n) _tile_stored(1, c00 + 16, c_bytes);
      if (two_m) _tile_stored(2, c10, c_bytes);
      if (two_m && two_n) _tile_stored(3, c10 + 16, c_bytes);
    }
  }
}

/// to [r / 2][c] = the pair (from[r][c], from[r + 1][c]); rows even, cols a multiple of 32.
void interleave_rows(const std::uint16_t* from, std::int64_t rows, std::int64_t cols, std::uint32_t* to) {
  for (std::int64_t r = 0; r < rows; r += 2) {
    for (std::int64_t c = 0; c < cols; c += 16) {
      const VU even = load_u16(from + r * cols + c);
      const VU odd = load_u16(from + (r + 1) * cols + c);
      hn::StoreU(hn::Or(even, hn::ShiftLeft<16>(odd)), DU(), to + r / 2 * cols + c);
    }
  }
}

void copy_row(const bf16* from, std::int64_t cols, std::uint16_t* to, std::int64_t padded) {
  std::int64_t c = 0;
  for (; c + 32 <= cols; c += 32) _mm512_storeu_si512(to + c, _mm512_loadu_si512(from + c));
  if (c < padded) {
    const auto mask = static_cast<__mmask32>((1ULL << (cols - c)) - 1);
    _mm512_storeu_si512(to + c, _mm512_maskz_loadu_epi16(mask, from + c));
  }
}

void zero_rows(std::uint16_t* to, std::int64_t elements) {
  for (std::int64_t i = 0; i < elements; i += 32) _mm512_storeu_si512(to + i, _mm512_setzero_si512());
}

struct AmxProducts {
  using Element = bf16;
  using Operand = std::uint16_t;
  static constexpr bool kOneForm = false;
  static constexpr bool kRound = true;

  static void begin() {
    const TileConfig config;
    _tile_loadconfig(&config);
  }
  static void end() { _tile_release(); }

  static void pack_rows(const VirtualRows<const bf16>& rows, std::int64_t first, std::int64_t count, std::int64_t head,
                        Operand* right, Operand* t, Operand* staging) {
    for (std::int64_t r = 0; r < count; ++r) copy_row(rows.at(first + r), rows.head_dim, staging + r * head, head);
    zero_rows(staging + count * head, (kRowBlock - count) * head);
    transpose32(dwords(staging), head / 2, round_up(count, 16), head / 2, dwords(t), kRowBlock);
    interleave_rows(staging, kRowBlock, head, dwords(right));
  }

  static void pack_keys(const KvRows& from, std::int64_t count, std::int64_t head_dim, std::int64_t head, Operand* to) {
    switch (from.type) {
      case ElementType::bf16:
        for (std::int64_t k = 0; k < count; ++k) {
          copy_row(reinterpret_cast<const bf16*>(from.data + k * from.stride), head_dim, to + k * head, head);
        }
        break;
      case ElementType::f32:
        round_rows<F32Block>(from, count, head_dim, head, to);
        break;
      case ElementType::f16:
        round_rows<F16Block>(from, count, head_dim, head, to);
        break;
      case ElementType::q8_0:
        round_rows<Q8Block>(from, count, head_dim, head, to);
        break;
      default:
        round_rows<Q4Block>(from, count, head_dim, head, to);
        break;
    }
    zero_rows(to + count * head, (kKeyBlock - count) * head);
  }
  /// Transposed, [head, 64 keys]: the dwords of interleaved rows, transposed.
  static void pack_keys_t(const KvRows& from, std::int64_t count, std::int64_t head_dim, std::int64_t head, Operand* to,
                          Operand* staging, Operand* staging2) {
    pack_keys(from, count, head_dim, head, staging);
    interleave_rows(staging, kKeyBlock, head, dwords(staging2));
    transpose32(dwords(staging2), head, kKeyBlock / 2, head, dwords(to), kKeyBlock / 2);
  }

  static void scores(const Operand* keys, const Operand* t, float* scores, std::int64_t head, std::int64_t k0,
                     std::int64_t k1, std::int64_t c0, std::int64_t columns) {
    multiply_tiles((k1 - k0) / 16, columns / 16, head / 32, keys + k0 * head, head, {dwords(t) + c0, kRowBlock},
                   scores + k0 * kRowBlock + c0, kRowBlock, false);
  }
  static void add_values(const Operand* values, const Operand* weights, float* sums, std::int64_t head, std::int64_t k0,
                         std::int64_t k1, std::int64_t c0, std::int64_t columns, bool accumulate) {
    multiply_tiles(head / 16, columns / 16, (k1 - k0) / 32, values + k0, kKeyBlock,
                   {dwords(weights) + k0 / 2 * kRowBlock + c0, kRowBlock}, sums + c0, kRowBlock, accumulate);
  }
  static void add_rows(const Operand* weights, const Operand* right, float* sums, std::int64_t head, std::int64_t k0,
                       std::int64_t k1, std::int64_t rows) {
    multiply_tiles((k1 - k0) / 16, head / 16, rows / 32, weights + k0 * kRowBlock, kRowBlock, {dwords(right), head},
                   sums + k0 * head, head, true);
  }

  HWY_INLINE static void store_right(Operand* weights, std::int64_t k, std::int64_t c, VF x0, VF x1) {
    const __m512i both = rounded(x0, x1);
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                           20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    _mm512_storeu_si512(weights + k * kRowBlock + c * 2, _mm512_permutexvar_epi16(order, both));
  }
  HWY_INLINE static void store_left(Operand* weights, std::int64_t k, std::int64_t c, VF x0, VF x1) {
    const __m512i both = rounded(x0, x1);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(weights + k * kRowBlock + c),
                        _mm512_maskz_extracti64x4_epi64(0xF, both, 0));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(weights + (k + 1) * kRowBlock + c),
                        _mm512_maskz_extracti64x4_epi64(0xF, both, 1));
  }

 private:
  static std::uint32_t* dwords(Operand* x) { return reinterpret_cast<std::uint32_t*>(x); }
  static const std::uint32_t* dwords(const Operand* x) { return reinterpret_cast<const std::uint32_t*>(x); }
  /// bf16 of x0 in the lower half, of x1 in the upper.
  HWY_INLINE static __m512i rounded(VF x0, VF x1) { return (__m512i)_mm512_cvtne2ps_pbh(x1.raw, x0.raw); }

  /// Rows of another format, rounded to bf16.
  template <class Block>
  static void round_rows(const KvRows& from, std::int64_t count, std::int64_t head_dim, std::int64_t head, Operand* to) {
    for (std::int64_t k = 0; k < count; ++k, to += head) {
      const std::byte* row = from.data + k * from.stride;
      std::int64_t c = 0;
      for (; c + kKvBlock <= head_dim; c += kKvBlock) {
        const Block block(row, c);
        _mm512_storeu_si512(to + c, rounded(block.load(0), block.load(kLanes)));
      }
      if constexpr (Block::kNumbers) {
        const Block rest(row, 0);
        for (; c < head_dim; ++c) to[c] = static_cast<Operand>(rounded_bits(rest.element(c)) >> 16);
      }
      for (; c < head; ++c) to[c] = 0;
    }
  }
};

}  // namespace

const AttentionKernels* attention_kernels_amx() {
  static constexpr AttentionKernels kKernels = {"amx", forward_task<F32Products<float>>, forward_task<AmxProducts>,
                                                backward_task<F32Products<float>>, backward_task<AmxProducts>};
  return &kKernels;
}

}  // namespace quern
