// Tile, packing and store kernels with f32 operands, written once over a vector type. Each instruction set's file defines
// `struct Lanes` (its vector of floats) in quern's anonymous namespace and then includes this header, so that everything
// here is compiled with that file's flags and has internal linkage. No include guard on purpose, no standard headers.
//
// struct Lanes has: V, kCount, zero, load, load_some (the first so many lanes, zeros after them), store, broadcast, add,
// fma(a, b, c) = a * b + c, load_bf16, store_bf16 and store_two_bf16 (which round to nearest even).
namespace quern {
namespace {

constexpr std::int64_t kLanes = Lanes::kCount;

inline std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

inline float to_float(float x) { return x; }
inline float to_float(bf16 x) { return __builtin_bit_cast(float, static_cast<std::uint32_t>(x.bits) << 16); }

inline bf16 to_bf16(float x) {
  const auto bits = __builtin_bit_cast(std::uint32_t, x);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return {static_cast<std::uint16_t>((bits >> 16) | 0x40U)};  // quiet NaN
  return {static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16)};
}

/// What a weight becomes before it enters a product of the compute type.
template <bool kRound>
inline float rounded(float x) {
  return kRound ? to_float(to_bf16(x)) : x;
}

inline Lanes::V load_lanes(const float* x) { return Lanes::load(x); }
inline Lanes::V load_lanes(const bf16* x) { return Lanes::load_bf16(x); }
inline void store_lanes(float* x, Lanes::V v) { Lanes::store(x, v); }
inline void store_lanes(bf16* x, Lanes::V v) { Lanes::store_bf16(x, v); }
inline void store_scalar(float* x, float v) { *x = v; }
inline void store_scalar(bf16* x, float v) { *x = to_bf16(v); }

// --- Tiles -----------------------------------------------------------------------------------------------------------

/// How a step multiplies: one element of A (4 bytes, broadcast) by a vector of B (4-byte lanes).
struct FusedMultiplyAdd {
  static Lanes::V load_b(const char* b) { return Lanes::load(reinterpret_cast<const float*>(b)); }
  static Lanes::V broadcast_a(const char* a) { return Lanes::broadcast(reinterpret_cast<const float*>(a)); }
  static Lanes::V dot(Lanes::V a, Lanes::V b, Lanes::V c) { return Lanes::fma(a, b, c); }
  static constexpr std::int64_t kElementBytes = 4;
};

constexpr std::int64_t kLineBytes = 64;

/// To be read, into second-level cache.
inline void fetch_far(const char* line) { __builtin_prefetch(line, 0, 2); }
/// To be written, into first-level cache: taken from another core that holds it. (The builtin needs a flag to say so.)
inline void fetch_owned(const char* line) {
#if defined(__x86_64__)
  asm volatile("prefetchw %0" : : "m"(*line));
#else
  __builtin_prefetch(line, 1, 3);
#endif
}

/// Fetches one row, unless none is left; returns the next.
template <void (*kFetch)(const char*)>
inline const char* fetch_row(const char* row, const MatmulFetch& fetch, std::int64_t& left) {
  if (left <= 0) return row;
  --left;
  for (std::int64_t i = 0; i < fetch.lines; ++i) kFetch(row + i * kLineBytes);
  return row + fetch.stride;
}

/// kRows x (kVectors * kLanes) sums held in registers, of a panel of kPanelVectors. `Step` says what one step of 4 bytes of
/// A does.
template <class Step, int kRows, int kVectors, int kPanelVectors, bool kStridesB>
void tile_rows(const MatmulTile& given) {
  using V = Lanes::V;
  constexpr std::int64_t kStepsAhead = 8;  // B comes from second-level cache
  constexpr int kBases = (kRows + 2) / 3;  // rows r, r+1, r+2 share a base register; x86 scales the stride by 1 and 2
  const MatmulTile t = given;              // a copy that stores cannot alias
  const std::int64_t row_bytes = t.a_row_stride * Step::kElementBytes;
  const std::int64_t step_bytes = t.a_step_stride * Step::kElementBytes;
  const std::int64_t b_step_bytes = (kStridesB ? t.b_step_stride : kPanelVectors * kLanes) * 4;
  const char* a[kBases];
  a[0] = static_cast<const char*>(t.a);
#pragma GCC unroll 8
  for (int i = 1; i < kBases; ++i) {
    a[i] = a[i - 1] + 3 * row_bytes;
    asm("" : "+r"(a[i]));  // else these few additions become vector code
  }
  const char* b = static_cast<const char*>(t.b);

  V sum[kRows][kVectors];
  if (t.add) {
    const float* c = t.c;
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r, c += t.c_stride) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] = Lanes::load(c + v * kLanes);
    }
  } else {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] = Lanes::zero();
    }
  }
  std::int64_t stretches = 1;  // between fetches
  if (stretches < t.fetch_a.rows) stretches = t.fetch_a.rows;
  if (stretches < t.fetch_b.rows) stretches = t.fetch_b.rows;
  if (stretches < t.fetch_c.rows) stretches = t.fetch_c.rows;
  const std::int64_t stretch = (t.steps + stretches - 1) / stretches;
  const char* fetch_a = static_cast<const char*>(t.fetch_a.data);
  const char* fetch_b = static_cast<const char*>(t.fetch_b.data);
  const char* fetch_c = static_cast<const char*>(t.fetch_c.data);
  std::int64_t left_a = t.fetch_a.rows;
  std::int64_t left_b = t.fetch_b.rows;
  std::int64_t left_c = t.fetch_c.rows;
  for (std::int64_t left = t.steps; left > 0; left -= stretch) {
    fetch_c = fetch_row<fetch_owned>(fetch_c, t.fetch_c, left_c);
    fetch_a = fetch_row<fetch_far>(fetch_a, t.fetch_a, left_a);
    fetch_b = fetch_row<fetch_far>(fetch_b, t.fetch_b, left_b);
    for (std::int64_t s = smaller(stretch, left); s > 0; --s) {
      V bv[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) bv[v] = Step::load_b(b + v * kLanes * 4);
#pragma GCC unroll 4
      for (std::int64_t i = 0; i < kVectors * kLanes * 4; i += kLineBytes)
        __builtin_prefetch(b + kStepsAhead * b_step_bytes + i);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const V av = Step::broadcast_a(a[r / 3] + (r % 3) * row_bytes);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sum[r][v] = Step::dot(av, bv[v], sum[r][v]);
      }
#pragma GCC unroll 8
      for (int i = 0; i < kBases; ++i) a[i] += step_bytes;
      b += b_step_bytes;
    }
  }
  float* c = t.c;
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r, c += t.c_stride) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) Lanes::store(c + v * kLanes, sum[r][v]);
  }
}

template <class Step, int kRows, int kVectors>
void tile(const MatmulTile& t) {
  if constexpr (kRows > 1) {
    if (t.rows < kRows) {
      tile<Step, kRows - 1, kVectors>(t);
      return;
    }
  }
  if constexpr (kVectors % 2 == 0) {
    if (t.half) {
      tile_rows<Step, kRows, kVectors / 2, kVectors, false>(t);
      return;
    }
  }
  if (t.b_step_stride != 0) {
    tile_rows<Step, kRows, kVectors, kVectors, true>(t);
  } else {
    tile_rows<Step, kRows, kVectors, kVectors, false>(t);
  }
}

// --- Packing ---------------------------------------------------------------------------------------------------------

/// Row-major [k, cols] into a panel [padded_k][kPanel].
template <class T, bool kRound, std::int64_t kPanel>
void pack_rows(const MatmulBlock& source, std::int64_t padded_k, void* out) {
  auto* panel = static_cast<float*>(out);
  for (std::int64_t k = 0; k < padded_k; ++k, panel += kPanel) {
    std::int64_t j = 0;
    if (k < source.rows) {
      const T* row = static_cast<const T*>(source.data) + k * source.stride;
      if (k + 32 < source.rows) __builtin_prefetch(row + 32 * source.stride);  // hardware does not follow short rows
      if constexpr (__is_same(T, float) && !kRound) {
        if (source.cols == kPanel) {
          __builtin_memcpy(panel, row, kPanel * sizeof(float));
          continue;
        }
      }
      if constexpr (!kRound) {
        for (; j + kLanes <= source.cols; j += kLanes) Lanes::store(panel + j, load_lanes(row + j));
      }
      for (; j < source.cols; ++j) panel[j] = rounded<kRound>(to_float(row[j]));
    }
    for (; j < kPanel; ++j) panel[j] = 0.0F;
  }
}

/// Rows of a packed tile of kRows rows: whole vectors, so that every store is one and straddles no cache line.
template <std::int64_t kRows>
constexpr std::int64_t kPackedRows = (kRows + kLanes - 1) / kLanes* kLanes;
/// Between packed tiles: one more cache line, so that their starts do not share cache sets.
constexpr std::int64_t kPackedGap = 16;

/// Row-major [k, cols] into tiles [ceil(cols / kRows)][padded_k][kPackedRows], kPackedGap apart.
template <class T, std::int64_t kRows>
void pack_tiles(const MatmulBlock& source, std::int64_t padded_k, void* out) {
  constexpr std::int64_t kStride = kPackedRows<kRows>;
  const std::int64_t tile_floats = padded_k * kStride + kPackedGap;
  const std::int64_t tiles = (source.cols + kRows - 1) / kRows;
  // Tiles of whole vectors: the last of them reads columns of the next tile.
  const std::int64_t whole = source.cols < kStride ? 0 : (source.cols - kStride) / kRows + 1;
  for (std::int64_t k = 0; k < padded_k; ++k) {
    float* to = static_cast<float*>(out) + k * kStride;
    if (k >= source.rows) {
      for (std::int64_t t = 0; t < tiles; ++t, to += tile_floats) {
        for (std::int64_t i = 0; i < kStride; i += kLanes) Lanes::store(to + i, Lanes::zero());
      }
      continue;
    }
    const T* row = static_cast<const T*>(source.data) + k * source.stride;
    for (std::int64_t t = 0; t < whole; ++t, to += tile_floats, row += kRows) {
#pragma GCC unroll 4
      for (std::int64_t i = 0; i < kStride; i += kLanes) Lanes::store(to + i, load_lanes(row + i));
    }
    for (std::int64_t t = whole; t < tiles; ++t, to += tile_floats, row += kRows) {
      const std::int64_t cols = smaller(kRows, source.cols - t * kRows);
      if constexpr (__is_same(T, float) && kStride == kLanes) {
        Lanes::store(to, Lanes::load_some(row, cols));
      } else {
        for (std::int64_t i = 0; i < cols; ++i) to[i] = to_float(row[i]);
      }
    }
  }
}

/// Row-major [cols, k] into a panel [padded_k][kPanel], in blocks of a cache line of the source.
template <class T, bool kRound, std::int64_t kPanel>
void pack_transposed(const MatmulBlock& source, std::int64_t padded_k, void* out) {
  auto* panel = static_cast<float*>(out);
  const T* data = static_cast<const T*>(source.data);
  for (std::int64_t k0 = 0; k0 < padded_k; k0 += 16) {
    const std::int64_t end = smaller(k0 + 16, padded_k);
    const std::int64_t full = smaller(end, source.cols);
    for (std::int64_t j = 0; j < kPanel; ++j) {
      std::int64_t k = k0;
      if (j < source.rows) {
        const T* row = data + j * source.stride;
        for (; k < full; ++k) panel[k * kPanel + j] = rounded<kRound>(to_float(row[k]));
      }
      for (; k < end; ++k) panel[k * kPanel + j] = 0.0F;
    }
  }
}

/// Row-major [rows, cols] to f32 rows with zeros up to padded_cols.
template <class T>
void copy_rows(const MatmulBlock& source, std::int64_t padded_cols, void* out, std::int64_t out_stride) {
  for (std::int64_t r = 0; r < source.rows; ++r) {
    const T* from = static_cast<const T*>(source.data) + r * source.stride;
    float* to = static_cast<float*>(out) + r * out_stride;
    std::int64_t c = 0;
    for (; c + kLanes <= source.cols; c += kLanes) Lanes::store(to + c, load_lanes(from + c));
    for (; c < source.cols; ++c) to[c] = to_float(from[c]);
    for (; c < padded_cols; ++c) to[c] = 0.0F;
  }
}

/// Eight vectors of columns at a time: enough independent chains to hide an addition's latency.
template <class T>
void column_sums(const MatmulBlock& source, float* sums) {
  constexpr std::int64_t kChains = 8;
  const T* data = static_cast<const T*>(source.data);
  std::int64_t c = 0;
  for (; c + kChains * kLanes <= source.cols; c += kChains * kLanes) {
    Lanes::V sum[kChains];
#pragma GCC unroll 8
    for (std::int64_t i = 0; i < kChains; ++i) sum[i] = Lanes::zero();
    for (std::int64_t r = 0; r < source.rows; ++r) {
      const T* row = data + r * source.stride + c;
#pragma GCC unroll 8
      for (std::int64_t i = 0; i < kChains; ++i) sum[i] = Lanes::add(sum[i], load_lanes(row + i * kLanes));
    }
#pragma GCC unroll 8
    for (std::int64_t i = 0; i < kChains; ++i) {
      float* to = sums + c + i * kLanes;
      Lanes::store(to, Lanes::add(Lanes::load(to), sum[i]));
    }
  }
  for (; c + kLanes <= source.cols; c += kLanes) {
    Lanes::V sum = Lanes::zero();
    for (std::int64_t r = 0; r < source.rows; ++r) sum = Lanes::add(sum, load_lanes(data + r * source.stride + c));
    Lanes::store(sums + c, Lanes::add(Lanes::load(sums + c), sum));
  }
  for (; c < source.cols; ++c) {
    float sum = 0.0F;
    for (std::int64_t r = 0; r < source.rows; ++r) sum += to_float(data[r * source.stride + c]);
    sums[c] += sum;
  }
}

// --- Store -----------------------------------------------------------------------------------------------------------

inline void store_two(float* x, Lanes::V a, Lanes::V b) {
  Lanes::store(x, a);
  Lanes::store(x + kLanes, b);
}
inline void store_two(bf16* x, Lanes::V a, Lanes::V b) { Lanes::store_two_bf16(x, a, b); }

template <class Out, bool kBias, bool kResidual>
void store_rows(const MatmulStore& given) {
  const MatmulStore s = given;  // a copy that stores cannot alias
  for (std::int64_t r = 0; r < s.rows; ++r) {
    const float* from = s.tile + r * s.tile_stride;
    const float* residual = kResidual ? s.residual + r * s.residual_stride : nullptr;
    Out* to = static_cast<Out*>(s.out) + r * s.out_stride;
    const auto lanes = [&](std::int64_t c) {
      Lanes::V v = Lanes::load(from + c);
      if constexpr (kBias) v = Lanes::add(v, Lanes::load(s.bias + c));
      if constexpr (kResidual) v = Lanes::add(v, Lanes::load(residual + c));
      return v;
    };
    std::int64_t c = 0;
    for (; c + 2 * kLanes <= s.cols; c += 2 * kLanes) store_two(to + c, lanes(c), lanes(c + kLanes));
    for (; c + kLanes <= s.cols; c += kLanes) store_lanes(to + c, lanes(c));
    for (; c < s.cols; ++c) {
      float v = from[c];
      if constexpr (kBias) v += s.bias[c];
      if constexpr (kResidual) v += residual[c];
      store_scalar(to + c, v);
    }
  }
}

template <class Out>
void store_as(const MatmulStore& s) {
  if (s.bias != nullptr) {
    s.residual != nullptr ? store_rows<Out, true, true>(s) : store_rows<Out, true, false>(s);
  } else {
    s.residual != nullptr ? store_rows<Out, false, true>(s) : store_rows<Out, false, false>(s);
  }
}

void store(const MatmulStore& s) {
  if (s.out_type == ElementType::bf16) {
    store_as<bf16>(s);
  } else {
    store_as<float>(s);
  }
}

// --- Peak ------------------------------------------------------------------------------------------------------------

/// Twelve independent chains: enough to cover the latency of two units, few enough for sixteen registers.
template <class Step>
double register_chains(std::int64_t iterations, double flops_per_lane) {
  using V = Lanes::V;
  constexpr int kChains = 12;
  constexpr int kRounds = 16;
  float seed[kLanes];
  for (std::int64_t i = 0; i < kLanes; ++i) seed[i] = 1.0e-3F * static_cast<float>(i);
  const V x = Lanes::load(seed);
  V sum[kChains];
#pragma GCC unroll 16
  for (int i = 0; i < kChains; ++i) sum[i] = Lanes::broadcast(seed + i % kLanes);
  for (std::int64_t n = 0; n < iterations * kRounds; ++n) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) {
      sum[i] = Step::dot(x, x, sum[i]);
      asm volatile("" : "+x"(sum[i]));  // keeps the chain from being simplified
    }
  }
  V total = sum[0];
#pragma GCC unroll 16
  for (int i = 1; i < kChains; ++i) total = Lanes::add(total, sum[i]);
  Lanes::store(seed, total);
  volatile float sink = seed[0];
  static_cast<void>(sink);
  return static_cast<double>(iterations) * kRounds * kChains * static_cast<double>(kLanes) * flops_per_lane;
}

[[maybe_unused]] double fma_register_loop(std::int64_t iterations) {
  return register_chains<FusedMultiplyAdd>(iterations, 2.0);
}

// --- Table -----------------------------------------------------------------------------------------------------------

[[maybe_unused]] void nothing() {}

/// 512 columns of B at the longest piece of the reduction: then A, which comes from memory, is read once for widths up to
/// that.
constexpr std::int64_t kMaxBBytes = 768 * 1024;
/// Short pieces leave room for more columns in those bytes, so that dy is packed fewer times; and sums are fetched, so they
/// may come from beyond second-level cache, and x is packed fewer times.
constexpr std::int64_t kMaxGradientDepth = 256;
constexpr std::int64_t kMaxGradientBytes = 4 * 1024 * 1024;
/// Seven cache lines of a row (AVX-512).
constexpr std::int64_t kTilesPerPack = 8;

/// Products with f32 operands and activations of type T, from kRows x kVectors tiles. kRound: compute type bf16.
template <class T, bool kRound, int kRows, int kVectors>
constexpr ProductKernels f32_operand_products() {
  constexpr std::int64_t kPanel = kVectors * kLanes;
  ProductKernels p;
  p.operand = ElementType::f32;
  p.tile_rows = kRows;
  p.panel_cols = kPanel;
  p.step = 1;
  p.packed_a_row_stride = 1;
  p.packed_a_step_stride = kPackedRows<kRows>;
  p.packed_a_gap = kPackedGap;
  p.tile = tile<FusedMultiplyAdd, kRows, kVectors>;
  p.strides_b = __is_same(T, float);
  p.fetches = true;
  p.max_b_bytes = kMaxBBytes;
  p.max_whole_depth = 512;
  p.max_gradient_depth = kMaxGradientDepth;
  p.max_gradient_bytes = kMaxGradientBytes;
  p.pack_weight_rows = pack_rows<float, kRound, kPanel>;
  p.pack_weight_transposed = pack_transposed<float, kRound, kPanel>;
  p.pack_b = pack_rows<T, false, kPanel>;
  p.pack_a = pack_tiles<T, kRows>;
  p.tiles_per_pack = kTilesPerPack;
  p.copy_a = copy_rows<T>;
  p.column_sums = column_sums<T>;
  p.register_loop = fma_register_loop;
  return p;
}

template <int kRows, int kVectors>
constexpr MatmulKernels f32_operand_kernels(const char* name) {
  MatmulKernels kernels;
  kernels.name = name;
  kernels.f32 = f32_operand_products<float, false, kRows, kVectors>();
  kernels.b16 = f32_operand_products<bf16, true, kRows, kVectors>();
  kernels.store = store;
  kernels.begin = nothing;
  kernels.end = nothing;
  return kernels;
}

}  // namespace
}  // namespace quern
