// Block kernels for any processor, written to be read first: they say what the others compute.
#include <bit>
#include <cmath>
#include <cstring>

#include "math/block_kernels.hpp"
#include "math/number_formats.hpp"

namespace quern {
namespace {

using Byte = std::uint8_t;

constexpr int kSuperBlock = 256;

std::uint16_t u16_at(const Byte* p) {
  std::uint16_t v = 0;
  std::memcpy(&v, p, sizeof v);
  return v;
}
float half_at(const Byte* p) { return float_from_f16(u16_at(p)); }

/// One block, or super-block, as integers with a scale and a minimum for each 16: w[i] = scale[i / 16] * q[i] - min[i / 16].
struct Unpacked {
  std::int8_t q[kSuperBlock];
  float scale[kSuperBlock / 16];
  float min[kSuperBlock / 16];

  void set(int group, float group_scale, float group_min = 0.0F) {
    scale[group] = group_scale;
    min[group] = group_min;
  }
};

// --- Blocks of 32 ----------------------------------------------------------------------------------------------------

constexpr std::int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
/// Twice the values of E2M1.
constexpr std::int8_t kMxfp4Values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/// Byte j holds element j in its low nibble and element j + 16 in its high one.
void unpack_nibbles(const Byte* bytes, std::int8_t* q) {
  for (int j = 0; j < 16; ++j) q[j] = static_cast<std::int8_t>(bytes[j] & 15);
  for (int j = 0; j < 16; ++j) q[16 + j] = static_cast<std::int8_t>(bytes[j] >> 4);
}

/// Adds 16 where bit i of the four bytes at `high` is set, for element i.
void add_fifth_bits(const Byte* high, std::int8_t* q) {
  for (int i = 0; i < 32; ++i) q[i] = static_cast<std::int8_t>(q[i] | (((high[i / 8] >> (i % 8)) & 1) << 4));
}

void subtract(int offset, std::int8_t* q) {
  for (int i = 0; i < 32; ++i) q[i] = static_cast<std::int8_t>(q[i] - offset);
}

void look_up(const std::int8_t (&table)[16], std::int8_t* q) {
  for (int i = 0; i < 32; ++i) q[i] = table[q[i]];
}

void set_both(Unpacked& u, float scale, float min = 0.0F) {
  u.set(0, scale, min);
  u.set(1, scale, min);
}

void unpack_q4_0(const Byte* b, Unpacked& u) {
  set_both(u, half_at(b));
  unpack_nibbles(b + 2, u.q);
  subtract(8, u.q);
}

void unpack_q4_1(const Byte* b, Unpacked& u) {
  set_both(u, half_at(b), -half_at(b + 2));
  unpack_nibbles(b + 4, u.q);
}

void unpack_q5_0(const Byte* b, Unpacked& u) {
  set_both(u, half_at(b));
  unpack_nibbles(b + 6, u.q);
  add_fifth_bits(b + 2, u.q);
  subtract(16, u.q);
}

void unpack_q5_1(const Byte* b, Unpacked& u) {
  set_both(u, half_at(b), -half_at(b + 2));
  unpack_nibbles(b + 8, u.q);
  add_fifth_bits(b + 4, u.q);
}

void unpack_q8_0(const Byte* b, Unpacked& u) {
  set_both(u, half_at(b));
  std::memcpy(u.q, b + 2, 32);
}

void unpack_iq4_nl(const Byte* b, Unpacked& u) {
  set_both(u, half_at(b));
  unpack_nibbles(b + 2, u.q);
  look_up(kIq4Values, u.q);
}

/// 2^(e - 128): half the scale that the exponent means, for the values are doubled.
float mxfp4_scale(Byte e) {
  return std::bit_cast<float>(e < 2 ? std::uint32_t{0x00200000} << e : static_cast<std::uint32_t>(e - 1) << 23);
}

void unpack_mxfp4(const Byte* b, Unpacked& u) {
  set_both(u, mxfp4_scale(b[0]));
  unpack_nibbles(b + 1, u.q);
  look_up(kMxfp4Values, u.q);
}

// --- Super-blocks of 256 ---------------------------------------------------------------------------------------------

/// The two low bits of Q2_K and Q3_K: halves of 128 elements in 32 bytes each, 32 elements at a time in two bits of them.
void unpack_two_bits(const Byte* bytes, std::int8_t* q) {
  for (int k = 0; k < 8; ++k) {
    for (int l = 0; l < 32; ++l) q[32 * k + l] = static_cast<std::int8_t>((bytes[32 * (k / 4) + l] >> (2 * (k % 4))) & 3);
  }
}

void unpack_q2_k(const Byte* b, Unpacked& u) {
  const float d = half_at(b + 80);
  const float dmin = half_at(b + 82);
  for (int g = 0; g < 16; ++g) u.set(g, d * static_cast<float>(b[g] & 15), dmin * static_cast<float>(b[g] >> 4));
  unpack_two_bits(b + 16, u.q);
}

void unpack_q3_k(const Byte* b, Unpacked& u) {
  const Byte* packed = b + 96;
  const float d = half_at(b + 108);
  for (int g = 0; g < 16; ++g) {
    const int low = g < 8 ? packed[g] & 15 : packed[g - 8] >> 4;
    const int high = (packed[8 + g % 4] >> (2 * (g / 4))) & 3;
    u.set(g, d * static_cast<float>((low | (high << 4)) - 32));
  }
  unpack_two_bits(b + 32, u.q);
  for (int k = 0; k < 8; ++k) {
    for (int l = 0; l < 32; ++l) {
      const int third = (b[l] >> k) & 1;
      u.q[32 * k + l] = static_cast<std::int8_t>(u.q[32 * k + l] + 4 * third - 4);
    }
  }
}

/// Scales and minima of Q4_K and Q5_K: d and dmin, then eight of six bits each in twelve bytes.
void unpack_six_bit_scales(const Byte* b, Unpacked& u) {
  const float d = half_at(b);
  const float dmin = half_at(b + 2);
  const Byte* s = b + 4;
  for (int k = 0; k < 8; ++k) {
    const int scale = k < 4 ? s[k] & 63 : (s[k + 4] & 15) | ((s[k - 4] >> 6) << 4);
    const int min = k < 4 ? s[k + 4] & 63 : (s[k + 4] >> 4) | ((s[k] >> 6) << 4);
    u.set(2 * k, d * static_cast<float>(scale), dmin * static_cast<float>(min));
    u.set(2 * k + 1, u.scale[2 * k], u.min[2 * k]);
  }
}

/// Pairs of 32 elements share 32 bytes: the first in the low nibbles.
void unpack_paired_nibbles(const Byte* bytes, std::int8_t* q) {
  for (int k = 0; k < 8; ++k) {
    for (int l = 0; l < 32; ++l) q[32 * k + l] = static_cast<std::int8_t>((bytes[32 * (k / 2) + l] >> (4 * (k % 2))) & 15);
  }
}

void unpack_q4_k(const Byte* b, Unpacked& u) {
  unpack_six_bit_scales(b, u);
  unpack_paired_nibbles(b + 16, u.q);
}

void unpack_q5_k(const Byte* b, Unpacked& u) {
  unpack_six_bit_scales(b, u);
  unpack_paired_nibbles(b + 48, u.q);
  for (int k = 0; k < 8; ++k) {
    for (int l = 0; l < 32; ++l) {
      const int fifth = (b[16 + l] >> k) & 1;
      u.q[32 * k + l] = static_cast<std::int8_t>(u.q[32 * k + l] | (fifth << 4));
    }
  }
}

void unpack_q6_k(const Byte* b, Unpacked& u) {
  const float d = half_at(b + 208);
  for (int g = 0; g < 16; ++g) u.set(g, d * static_cast<float>(static_cast<std::int8_t>(b[192 + g])));
  for (int k = 0; k < 8; ++k) {
    const Byte* low = b + 64 * (k / 4) + 32 * (k % 2);
    const Byte* high = b + 128 + 32 * (k / 4);
    for (int l = 0; l < 32; ++l) {
      const int four = (low[l] >> (4 * (k / 2 % 2))) & 15;
      const int two = (high[l] >> (2 * (k % 4))) & 3;
      u.q[32 * k + l] = static_cast<std::int8_t>((four | (two << 4)) - 32);
    }
  }
}

void unpack_iq4_xs(const Byte* b, Unpacked& u) {
  const float d = half_at(b);
  const int high = u16_at(b + 2);
  for (int k = 0; k < 8; ++k) {
    const int scale = (((b[4 + k / 2] >> (4 * (k % 2))) & 15) | (((high >> (2 * k)) & 3) << 4)) - 32;
    u.set(2 * k, d * static_cast<float>(scale));
    u.set(2 * k + 1, u.scale[2 * k]);
    unpack_nibbles(b + 8 + 16 * k, u.q + 32 * k);
    look_up(kIq4Values, u.q + 32 * k);
  }
}

// --- Products --------------------------------------------------------------------------------------------------------

struct Unpacker {
  int elements = 0;
  std::size_t bytes = 0;
  void (*unpack)(const Byte* block, Unpacked& u) = nullptr;
};

Unpacker unpacker(ElementType type) {
  switch (type) {
    case ElementType::q4_0:
      return {32, 18, unpack_q4_0};
    case ElementType::q4_1:
      return {32, 20, unpack_q4_1};
    case ElementType::q5_0:
      return {32, 22, unpack_q5_0};
    case ElementType::q5_1:
      return {32, 24, unpack_q5_1};
    case ElementType::q8_0:
      return {32, 34, unpack_q8_0};
    case ElementType::iq4_nl:
      return {32, 18, unpack_iq4_nl};
    case ElementType::mxfp4:
      return {32, 17, unpack_mxfp4};
    case ElementType::q2_k:
      return {256, 84, unpack_q2_k};
    case ElementType::q3_k:
      return {256, 110, unpack_q3_k};
    case ElementType::q4_k:
      return {256, 144, unpack_q4_k};
    case ElementType::q5_k:
      return {256, 176, unpack_q5_k};
    case ElementType::q6_k:
      return {256, 210, unpack_q6_k};
    case ElementType::iq4_xs:
      return {256, 136, unpack_iq4_xs};
    default:
      return {};
  }
}

bool has_dot(ElementType type) { return unpacker(type).unpack != nullptr; }

/// The part of a block in a dot product: 32 elements at a time, in order.
float add_block(const Unpacked& u, int elements, const ActivationRow& x, std::int64_t first, float sum) {
  for (int i = 0; i < elements; i += kActivationBlock) {
    int products[2] = {0, 0};
    for (int half = 0; half < 2; ++half) {
      for (int j = 0; j < 16; ++j) products[half] += u.q[i + 16 * half + j] * x.values[first + i + 16 * half + j];
    }
    float part = 0.0F;
    for (int half = 0; half < 2; ++half) {
      const int group = i / 16 + half;
      const std::int16_t values = x.sums[(first + i) / 16 + half];
      part += u.scale[group] * static_cast<float>(products[half]) - u.min[group] * static_cast<float>(values);
    }
    sum += x.scales[(first + i) / kActivationBlock] * part;
  }
  return sum;
}

void dot(const BlockDot& d) {
  const Unpacker format = unpacker(d.type);
  Unpacked u;
  for (std::int64_t r = 0; r < d.rows; ++r) {
    const auto* block = reinterpret_cast<const Byte*>(d.weight) + static_cast<std::size_t>(r) * d.row_bytes;
    for (std::int64_t t = 0; t < d.tokens; ++t) d.out[t * d.out_stride + r] = 0.0F;
    for (std::int64_t first = 0; first < d.cols; first += format.elements, block += format.bytes) {
      format.unpack(block, u);
      for (std::int64_t t = 0; t < d.tokens; ++t) {
        float& sum = d.out[t * d.out_stride + r];
        sum = add_block(u, format.elements, d.x[t], first, sum);
      }
    }
  }
}

template <ElementType kType>
float float_at(const std::byte* row, std::int64_t i) {
  if constexpr (kType == ElementType::f32) {
    float v = 0.0F;
    std::memcpy(&v, row + 4 * i, sizeof v);
    return v;
  }
  const std::uint16_t bits = u16_at(reinterpret_cast<const Byte*>(row) + 2 * i);
  return kType == ElementType::f16 ? float_from_f16(bits) : float_from_bf16({bits});
}

/// Eight sums, of elements 0, 8, 16, ..., then 1, 9, ...; added in order.
template <ElementType kType>
float float_row(const std::byte* row, const float* x, std::int64_t cols) {
  constexpr std::int64_t kSums = 8;
  float sums[kSums] = {};
  std::int64_t i = 0;
  for (; i + kSums <= cols; i += kSums) {
    for (std::int64_t s = 0; s < kSums; ++s) sums[s] += float_at<kType>(row, i + s) * x[i + s];
  }
  for (std::int64_t s = 0; i < cols; ++i, ++s) sums[s] += float_at<kType>(row, i) * x[i];
  float total = 0.0F;
  for (const float sum : sums) total += sum;
  return total;
}

void float_dot(ElementType type, const std::byte* weight, std::size_t row_bytes, std::int64_t rows, std::int64_t cols,
               const float* x, std::int64_t x_stride, std::int64_t tokens, float* out, std::int64_t out_stride) {
  const auto row_dot = type == ElementType::f32   ? float_row<ElementType::f32>
                       : type == ElementType::f16 ? float_row<ElementType::f16>
                                                  : float_row<ElementType::bf16>;
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t t = 0; t < tokens; ++t) {
      out[t * out_stride + r] = row_dot(weight + static_cast<std::size_t>(r) * row_bytes, x + t * x_stride, cols);
    }
  }
}

void quantize_activations(const float* x, std::int64_t n, const ActivationRow& out) {
  for (std::int64_t b = 0; b < n; b += kActivationBlock) {
    float largest = 0.0F;
    bool finite = true;
    for (int i = 0; i < kActivationBlock; ++i) {
      finite = finite && std::isfinite(x[b + i]);
      largest = std::fabs(x[b + i]) > largest ? std::fabs(x[b + i]) : largest;
    }
    const bool nothing = !finite || largest < kSmallestActivation;
    const float inverse = nothing ? 0.0F : 127.0F / largest;
    out.scales[b / kActivationBlock] = !finite ? std::bit_cast<float>(0x7fc00000U) : nothing ? 0.0F : largest / 127.0F;
    for (int half = 0; half < 2; ++half) {
      int sum = 0;
      for (std::int64_t i = b + 16 * half; i < b + 16 * half + 16; ++i) {
        const int value = nothing ? 0 : static_cast<int>(std::nearbyint(x[i] * inverse));
        out.values[i] = static_cast<std::int8_t>(value);
        sum += value;
      }
      out.sums[b / 16 + half] = static_cast<std::int16_t>(sum);
    }
  }
}

}  // namespace

const BlockKernels* block_kernels_portable() {
  static constexpr BlockKernels kKernels = {.name = "portable",
                                            .decode = nullptr,
                                            .quantize_activations = quantize_activations,
                                            .has_dot = has_dot,
                                            .dot = dot,
                                            .float_dot = float_dot};
  return &kKernels;
}

}  // namespace quern
