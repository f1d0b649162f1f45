// Dot products of f32, f16 and bf16 weight rows with f32 activations, written once over a vector of floats. Each
// instruction-set file defines `struct FloatLanes` in quern's anonymous namespace and then includes this header, so that
// everything here is compiled with that file's flags and has internal linkage. No standard headers.
//
// struct FloatLanes has: V, kCount, zero, load, load_f16, load_bf16 (each kCount elements from any address), add,
// fma(a, b, c) = a * b + c and sum (of the lanes, in a fixed order).
namespace quern {
namespace {

/// For one token, fetches `bytes` that will be read in the next pass over rows, at the place of those read now: short rows
/// are streams that hardware prefetchers lose at each row's end.
template <int T>
inline void fetch_ahead([[maybe_unused]] const std::byte* p, [[maybe_unused]] std::int64_t bytes) {
  if constexpr (T == 1) {
    for (std::int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i);
  }
}

/// How kCount weights of a type become floats.
struct F32Weights {
  static constexpr std::int64_t kBytes = 4;
  static FloatLanes::V load(const std::byte* p) { return FloatLanes::load(p); }
};
struct F16Weights {
  static constexpr std::int64_t kBytes = 2;
  static FloatLanes::V load(const std::byte* p) { return FloatLanes::load_f16(p); }
};
struct Bf16Weights {
  static constexpr std::int64_t kBytes = 2;
  static FloatLanes::V load(const std::byte* p) { return FloatLanes::load_bf16(p); }
};

struct FloatDot {
  const std::byte* weight;
  std::size_t row_bytes;
  std::int64_t cols;
  const float* x;
  std::int64_t x_stride;
  float* out;
  std::int64_t out_stride;
};

/// Independent sums per element, which hide the latency of additions: vector v adds to sum v % kSums.
constexpr std::int64_t kFloatSums = 4;

/// One row by T tokens. The last, partial vector is read through a copy padded with zeros.
template <class Weights, int T>
void float_tile(const FloatDot& d, std::int64_t r, std::int64_t t) {
  using V = FloatLanes::V;
  constexpr std::int64_t kCount = FloatLanes::kCount;
  const std::byte* w = d.weight + static_cast<std::size_t>(r) * d.row_bytes;
  const float* x = d.x + t * d.x_stride;
  V sums[T][kFloatSums];
#pragma GCC unroll 4
  for (int i = 0; i < T; ++i) {
#pragma GCC unroll 4
    for (int s = 0; s < kFloatSums; ++s) sums[i][s] = FloatLanes::zero();
  }
  std::int64_t c = 0;
  for (; c + kFloatSums * kCount <= d.cols; c += kFloatSums * kCount) {
    fetch_ahead<T>(w + c * Weights::kBytes + d.row_bytes, kFloatSums * kCount * Weights::kBytes);
#pragma GCC unroll 4
    for (int s = 0; s < kFloatSums; ++s) {
      const V wv = Weights::load(w + (c + s * kCount) * Weights::kBytes);
#pragma GCC unroll 4
      for (int i = 0; i < T; ++i) {
        sums[i][s] = FloatLanes::fma(wv, FloatLanes::load(x + i * d.x_stride + c + s * kCount), sums[i][s]);
      }
    }
  }
#pragma GCC unroll 4
  for (int s = 0; s < kFloatSums; ++s, c += kCount) {
    if (c >= d.cols) break;
    const std::int64_t present = d.cols - c < kCount ? d.cols - c : kCount;
    std::byte padded_w[kCount * Weights::kBytes] = {};
    __builtin_memcpy(padded_w, w + c * Weights::kBytes, static_cast<std::size_t>(present * Weights::kBytes));
    const V wv = Weights::load(padded_w);
    for (int i = 0; i < T; ++i) {
      float padded_x[kCount] = {};
      __builtin_memcpy(padded_x, x + i * d.x_stride + c, static_cast<std::size_t>(present) * sizeof(float));
      sums[i][s] = FloatLanes::fma(wv, FloatLanes::load(padded_x), sums[i][s]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < T; ++i) {
    const V total = FloatLanes::add(FloatLanes::add(sums[i][0], sums[i][1]), FloatLanes::add(sums[i][2], sums[i][3]));
    d.out[(t + i) * d.out_stride + r] = FloatLanes::sum(total);
  }
}

template <class Weights>
void float_rows(const FloatDot& d, std::int64_t rows, std::int64_t tokens) {
  for (std::int64_t r = 0; r < rows; ++r) {
    std::int64_t t = 0;
    for (; t + 4 <= tokens; t += 4) float_tile<Weights, 4>(d, r, t);
    for (; t + 2 <= tokens; t += 2) float_tile<Weights, 2>(d, r, t);
    for (; t < tokens; ++t) float_tile<Weights, 1>(d, r, t);
  }
}

void float_dot(ElementType type, const std::byte* weight, std::size_t row_bytes, std::int64_t rows, std::int64_t cols,
               const float* x, std::int64_t x_stride, std::int64_t tokens, float* out, std::int64_t out_stride) {
  const FloatDot d{weight, row_bytes, cols, x, x_stride, out, out_stride};
  switch (type) {
    case ElementType::f16:
      return float_rows<F16Weights>(d, rows, tokens);
    case ElementType::bf16:
      return float_rows<Bf16Weights>(d, rows, tokens);
    default:
      return float_rows<F32Weights>(d, rows, tokens);
  }
}

}  // namespace
}  // namespace quern
