#include "support/block_reference.hpp"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "math/block_formats.hpp"
#include "math/block_grids.hpp"
#include "math/number_formats.hpp"

namespace quern {
namespace {

/// A block's bytes, read as the formats' description names them.
class Block {
 public:
  explicit Block(const std::byte* bytes) : bytes_(bytes) {}
  [[nodiscard]] int u8(int at) const { return std::to_integer<int>(bytes_[at]); }
  [[nodiscard]] int i8(int at) const { return u8(at) < 128 ? u8(at) : u8(at) - 256; }
  [[nodiscard]] int u16(int at) const { return u8(at) + 256 * u8(at + 1); }
  [[nodiscard]] std::uint32_t u32(int at) const {
    return static_cast<std::uint32_t>(u16(at)) + 65536U * static_cast<std::uint32_t>(u16(at + 2));
  }
  [[nodiscard]] int nibble(int at, bool high) const { return high ? u8(at) / 16 : u8(at) % 16; }
  [[nodiscard]] double f16(int at) const { return f16_value(u16(at)); }
  [[nodiscard]] static double f16_value(int bits) {
    const double sign = bits >= 0x8000 ? -1.0 : 1.0;
    const int exponent = bits / 1024 % 32;
    const int fraction = bits % 1024;
    if (exponent == 31) {
      return fraction == 0 ? sign * std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
    }
    return sign * (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25));
  }
  template <class T>
  [[nodiscard]] T number() const {
    T value;
    std::memcpy(&value, bytes_, sizeof value);
    return value;
  }

 private:
  const std::byte* bytes_;
};

constexpr std::array<int, 16> kIq4 = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
constexpr std::array<double, 8> kE2m1 = {0, 0.5, 1, 1.5, 2, 3, 4, 6};

/// Element e of 32 from 16 bytes at `at`: the first 16 in low nibbles.
int nibble32(const Block& b, int at, int e) { return b.nibble(at + e % 16, e >= 16); }

/// Element e of 256 in the order of Q2_K, Q3_K and TQ2_0.
int two_bits(const Block& b, int at, int e) { return b.u8(at + e / 128 * 32 + e % 32) >> (e % 128 / 32 * 2) & 3; }

double q3_scale(const Block& b, int i) {
  const int low = b.nibble(96 + i % 8, i >= 8);
  const int high = b.u8(96 + 8 + i % 4) >> (2 * (i / 4)) & 3;
  return b.f16(108) * (low + 16 * high - 32);
}

/// Q4_K and Q5_K: code * scale - minimum of sub-block k.
double with_minimum(const Block& b, int k, int code) {
  const auto s = [&b](int i) { return b.u8(4 + i); };
  const int scale = k < 4 ? s(k) % 64 : s(k + 4) % 16 + s(k - 4) / 64 * 16;
  const int minimum = k < 4 ? s(k + 4) % 64 : s(k + 4) / 16 + s(k) / 64 * 16;
  return b.f16(0) * scale * code - b.f16(2) * minimum;
}

double q6_value(const Block& b, int e) {
  const int half = e / 128;
  const int group = e % 128 / 32;
  const int l = e % 32;
  const int low = b.nibble(64 * half + l + (group % 2 == 1 ? 32 : 0), group >= 2);
  const int high = b.u8(128 + 32 * half + l) >> (2 * group) & 3;
  return b.f16(208) * b.i8(192 + e / 16) * (low + 16 * high - 32);
}

double iq4_xs_scale(const Block& b, int k) {
  return b.f16(0) * (b.nibble(4 + k / 2, k % 2 == 1) + 16 * (b.u16(2) >> (2 * k) & 3) - 32);
}

double tq1_value(const Block& b, int e) {
  const int byte = e < 160 ? e % 32 : e < 240 ? 32 + (e - 160) % 16 : 48 + (e - 240) % 4;
  const int digit = e < 160 ? e / 32 : e < 240 ? (e - 160) / 16 : (e - 240) / 4;
  int fraction = b.u8(byte);
  for (int n = 0; n < digit; ++n) fraction = fraction * 3 % 256;
  return b.f16(52) * (fraction * 3 / 256 - 1);
}

/// -1 where element j of 8 is negative by the seven bits `code`, of which an eighth makes the count even.
double even_sign(unsigned code, int j) {
  code &= 127U;
  const bool negative = j < 7 ? (code >> j & 1U) != 0 : std::popcount(code) % 2 == 1;
  return negative ? -1.0 : 1.0;
}

double iq2_value(ElementType type, const Block& b, int e) {
  const int eight = e / 8;
  const int j = e % 8;
  if (type == ElementType::iq2_xxs) {
    const int group = 2 + e / 32 * 8;
    const std::uint32_t rest = b.u32(group + 4);
    const double scale = b.f16(0) * (0.5 + rest / (1U << 28)) / 4;
    return scale * internal::kIq2XxsGrid.rows[b.u8(group + eight % 4)][j] * even_sign(rest >> (7 * (eight % 4)), j);
  }
  const bool xs = type == ElementType::iq2_xs;
  const double scale = b.f16(0) * (0.5 + b.nibble((xs ? 66 : 74) + e / 32, e % 32 >= 16)) / 4;
  if (xs) {
    const int code = b.u16(2 + 2 * eight);
    return scale * internal::kIq2XsGrid.rows[code % 512][j] * even_sign(static_cast<unsigned>(code / 512), j);
  }
  const int code = b.u8(2 + eight) + 256 * (b.u8(66 + eight / 4) >> (2 * (eight % 4)) & 3);
  return scale * internal::kIq2SGrid.rows[code][j] * ((b.u8(34 + eight) >> j & 1) != 0 ? -1.0 : 1.0);
}

double iq3_value(ElementType type, const Block& b, int e) {
  const int four = e / 4;
  if (type == ElementType::iq3_xxs) {
    const std::uint32_t rest = b.u32(66 + e / 32 * 4);
    const double scale = b.f16(0) * (0.5 + rest / (1U << 28)) / 2;
    return scale * internal::kIq3XxsGrid.rows[b.u8(2 + four)][e % 4] * even_sign(rest >> (7 * (e % 32 / 8)), e % 8);
  }
  const double scale = b.f16(0) * (1 + 2 * b.nibble(106 + e / 64, e % 64 >= 32));
  const int code = b.u8(2 + four) + 256 * (b.u8(66 + four / 8) >> (four % 8) & 1);
  return scale * internal::kIq3SGrid.rows[code][e % 4] * ((b.u8(74 + e / 8) >> (e % 8) & 1) != 0 ? -1.0 : 1.0);
}

double iq1_value(ElementType type, const Block& b, int e) {
  const int eight = e / 8;
  int code = 0;
  double scale = 0;
  bool below = false;
  if (type == ElementType::iq1_s) {
    const int rest = b.u16(34 + e / 32 * 2);
    code = b.u8(2 + eight) + 256 * (rest >> (3 * (eight % 4)) & 7);
    scale = b.f16(0) * (2 * (rest >> 12 & 7) + 1);
    below = rest >= 0x8000;
  } else {
    const int nibble = b.nibble(32 + eight / 2, eight % 2 == 1);
    code = b.u8(eight) + 256 * (nibble % 8);
    below = nibble >= 8;
    int d = 0;
    for (int i = 3; i >= 0; --i) d = 16 * d + b.u16(48 + 2 * i) / 4096;
    scale = Block::f16_value(d) * (2 * (b.u16(48 + e / 64 * 2) >> (3 * (e % 64 / 16)) & 7) + 1);
  }
  return scale * (internal::kIq1Grid.rows[code][e % 8] + (below ? -0.125 : 0.125));
}

/// Element e of a block.
double value(ElementType type, const Block& b, int e) {
  switch (type) {
    case ElementType::f32:
      return b.number<float>();
    case ElementType::f64:
      return b.number<double>();
    case ElementType::f16:
      return b.f16(0);
    case ElementType::bf16:
      return std::bit_cast<float>(static_cast<std::uint32_t>(b.u16(0)) << 16);
    case ElementType::q4_0:
      return b.f16(0) * (nibble32(b, 2, e) - 8);
    case ElementType::q4_1:
      return b.f16(0) * nibble32(b, 4, e) + b.f16(2);
    case ElementType::q5_0:
      return b.f16(0) * (nibble32(b, 6, e) + 16 * static_cast<int>(b.u32(2) >> e & 1U) - 16);
    case ElementType::q5_1:
      return b.f16(0) * (nibble32(b, 8, e) + 16 * static_cast<int>(b.u32(4) >> e & 1U)) + b.f16(2);
    case ElementType::q8_0:
      return b.f16(0) * b.i8(2 + e);
    case ElementType::iq4_nl:
      return b.f16(0) * kIq4[static_cast<std::size_t>(nibble32(b, 2, e))];
    case ElementType::mxfp4: {
      const int code = nibble32(b, 1, e);
      return std::ldexp(code < 8 ? 1.0 : -1.0, b.u8(0) - 127) * kE2m1[static_cast<std::size_t>(code % 8)];
    }
    case ElementType::q2_k:
      return b.f16(80) * b.nibble(e / 16, false) * two_bits(b, 16, e) - b.f16(82) * b.nibble(e / 16, true);
    case ElementType::q3_k:
      return q3_scale(b, e / 16) * (two_bits(b, 32, e) - ((b.u8(e % 32) >> (e / 32) & 1) != 0 ? 0 : 4));
    case ElementType::q4_k:
      return with_minimum(b, e / 32, b.nibble(16 + e / 64 * 32 + e % 32, e % 64 >= 32));
    case ElementType::q5_k:
      return with_minimum(b, e / 32,
                          b.nibble(48 + e / 64 * 32 + e % 32, e % 64 >= 32) + 16 * (b.u8(16 + e % 32) >> (e / 32) & 1));
    case ElementType::q6_k:
      return q6_value(b, e);
    case ElementType::iq4_xs:
      return iq4_xs_scale(b, e / 32) * kIq4[static_cast<std::size_t>(nibble32(b, 8 + e / 32 * 16, e % 32))];
    case ElementType::tq1_0:
      return tq1_value(b, e);
    case ElementType::tq2_0:
      return b.f16(64) * (two_bits(b, 0, e) - 1);
    case ElementType::iq2_xxs:
    case ElementType::iq2_xs:
    case ElementType::iq2_s:
      return iq2_value(type, b, e);
    case ElementType::iq3_xxs:
    case ElementType::iq3_s:
      return iq3_value(type, b, e);
    case ElementType::iq1_s:
    case ElementType::iq1_m:
      return iq1_value(type, b, e);
    case ElementType::i8:
    case ElementType::i16:
    case ElementType::i32:
    case ElementType::i64:
      break;
  }
  return std::numeric_limits<double>::quiet_NaN();
}

/// Where a block keeps its f16 scales (IQ1_M's is spread, MXFP4's is an exponent), and the size of values that scale 1
/// gives.
struct ScaleFields {
  std::array<int, 2> at = {-1, -1};
  double typical_value = 1;
};

ScaleFields scale_fields(ElementType type) {
  switch (type) {
    case ElementType::q4_0:
    case ElementType::q5_0:
      return {{0, -1}, 8};
    case ElementType::q4_1:
    case ElementType::q5_1:
      return {{0, 2}, 16};
    case ElementType::q8_0:
    case ElementType::iq4_nl:
      return {{0, -1}, 64};
    case ElementType::q2_k:
      return {{80, 82}, 12};
    case ElementType::q3_k:
      return {{108, -1}, 32};
    case ElementType::q4_k:
    case ElementType::q5_k:
      return {{0, 2}, 256};
    case ElementType::q6_k:
      return {{208, -1}, 1024};
    case ElementType::iq4_xs:
      return {{0, -1}, 1024};
    case ElementType::tq1_0:
      return {{52, -1}, 1};
    case ElementType::tq2_0:
      return {{64, -1}, 1};
    case ElementType::iq2_xxs:
    case ElementType::iq2_xs:
    case ElementType::iq2_s:
    case ElementType::iq3_xxs:
    case ElementType::iq3_s:
      return {{0, -1}, 64};
    case ElementType::iq1_s:
      return {{0, -1}, 8};
    default:
      return {};
  }
}

}  // namespace

std::vector<double> decode_reference(ElementType type, std::span<const std::byte> bytes) {
  const BlockFormat& format = block_format(type);
  const auto block_bytes = static_cast<std::size_t>(format.block_bytes);
  std::vector<double> values;
  for (std::size_t at = 0; at + block_bytes <= bytes.size(); at += block_bytes) {
    const Block block(bytes.data() + at);
    for (int e = 0; e < format.block_elements; ++e) values.push_back(value(type, block, e));
  }
  return values;
}

std::vector<std::byte> random_blocks(ElementType type, std::int64_t elements, std::uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal;
  const BlockFormat& format = block_format(type);
  const auto block_bytes = static_cast<std::size_t>(format.block_bytes);
  std::vector<std::byte> bytes(static_cast<std::size_t>(elements / format.block_elements) * block_bytes);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(engine() & 255U);

  const auto scale_bits = [&](double typical_value) -> std::uint16_t {
    const std::uint32_t kind = engine() % 32;
    if (kind == 0) return 0;
    if (kind == 1) return static_cast<std::uint16_t>(engine() % 0x400U);  // subnormal
    const double magnitude = (0.5 + std::abs(normal(engine))) / typical_value;
    return f16_from_float(static_cast<float>(engine() % 2 == 0 ? magnitude : -magnitude));
  };
  const auto put = [](std::byte* at, auto number) { std::memcpy(at, &number, sizeof number); };
  const ScaleFields fields = scale_fields(type);
  for (std::size_t at = 0; at < bytes.size(); at += block_bytes) {
    std::byte* const block = bytes.data() + at;
    for (const int field : fields.at) {
      if (field >= 0) put(block + field, scale_bits(fields.typical_value));
    }
    const auto number = static_cast<float>(normal(engine));
    if (type == ElementType::f32) put(block, number);
    if (type == ElementType::f64) put(block, static_cast<double>(number));
    if (type == ElementType::f16) put(block, f16_from_float(number));
    if (type == ElementType::bf16) put(block, bf16_from_float(number).bits);
    if (type == ElementType::mxfp4) block[0] = static_cast<std::byte>(120U + engine() % 8);
    if (type == ElementType::iq1_m) {
      const std::uint16_t d = scale_bits(8);
      for (int i = 0; i < 4; ++i) {
        std::byte& top = block[48 + 2 * i + 1];
        top = (top & std::byte{0x0F}) | static_cast<std::byte>((d >> (4 * i) & 15) << 4);
      }
    }
  }
  return bytes;
}

}  // namespace quern
