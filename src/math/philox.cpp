#include "math/philox.hpp"

#include <cmath>
#include <cstddef>
#include <numbers>

namespace quern {

PhiloxBlock philox4x32_10(const PhiloxBlock& counter, const std::array<std::uint32_t, 2>& key) {
  PhiloxBlock c = counter;
  std::uint32_t key0 = key[0];
  std::uint32_t key1 = key[1];
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = std::uint64_t{0xD2511F53U} * c[0];
    const std::uint64_t product1 = std::uint64_t{0xCD9E8D57U} * c[2];
    c = {static_cast<std::uint32_t>(product1 >> 32) ^ c[1] ^ key0, static_cast<std::uint32_t>(product1),
         static_cast<std::uint32_t>(product0 >> 32) ^ c[3] ^ key1, static_cast<std::uint32_t>(product0)};
    key0 += 0x9E3779B9U;  // Weyl sequences: the golden ratio and sqrt(3) - 1
    key1 += 0xBB67AE85U;
  }
  return c;
}

PhiloxBlock RandomStream::block(std::uint64_t index) const {
  return philox4x32_10({static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32), purpose, stream},
                       {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
}

void fill_uniform(std::span<float> out, float low, float high, const RandomStream& stream, std::uint64_t first) {
  PhiloxBlock words{};
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::uint64_t word = first + i;
    if (i == 0 || word % 4 == 0) words = stream.block(word / 4);
    out[i] = low + (high - low) * uniform_from_word(words[word % 4]);
  }
}

void fill_normal(std::span<float> out, float mean, float stddev, const RandomStream& stream, std::uint64_t first) {
  double radius = 0.0;
  double angle = 0.0;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::uint64_t index = first + i;
    if (i == 0 || index % 2 == 0) {
      const PhiloxBlock words = stream.block(index / 2);
      // u1 in (0, 1], so that its logarithm is finite.
      const double u1 = (static_cast<double>((std::uint64_t{words[0]} << 32 | words[1]) >> 11) + 1.0) * 0x1p-53;
      const double u2 = static_cast<double>((std::uint64_t{words[2]} << 32 | words[3]) >> 11) * 0x1p-53;
      radius = std::sqrt(-2.0 * std::log(u1));
      angle = 2.0 * std::numbers::pi * u2;
    }
    const double z = radius * (index % 2 == 0 ? std::cos(angle) : std::sin(angle));
    out[i] = static_cast<float>(static_cast<double>(mean) + static_cast<double>(stddev) * z);
  }
}

std::uint32_t dropout_threshold(const DropoutMask& mask) {
  return static_cast<std::uint32_t>(static_cast<double>(mask.probability) * 65536.0 + 0.5);
}

float dropout_scale(const DropoutMask& mask) {
  const std::uint32_t threshold = dropout_threshold(mask);
  return threshold >= 65536U ? 0.0F : 65536.0F / static_cast<float>(65536U - threshold);
}

bool dropout_keeps(const DropoutMask& mask, std::uint32_t row, std::uint32_t col) {
  const PhiloxBlock block =
      philox4x32_10({col / 8, mask.first_row + row, mask.site, mask.step},
                    {static_cast<std::uint32_t>(mask.seed), static_cast<std::uint32_t>(mask.seed >> 32)});
  const std::uint32_t lane = col % 8;
  return ((block[lane / 2] >> (16 * (lane % 2))) & 0xFFFFU) >= dropout_threshold(mask);
}

}  // namespace quern
