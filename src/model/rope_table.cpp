// Cosines and sines of RoPE, with the ways in which published models stretch it to longer contexts.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "model/weights.hpp"

namespace quern {

namespace {

/// The pair index at which a full turn takes `turns` times less than the original context (Peng et al. 2023, equation 17's
/// inverse).
double yarn_pair(const ModelConfig& config, double turns) {
  const auto rotated = static_cast<double>(config.rotated());
  const auto context = static_cast<double>(config.rope_original_context);
  return rotated * std::log(context / (turns * 2.0 * std::numbers::pi)) /
         (2.0 * std::log(static_cast<double>(config.rope_base)));
}

/// What each pair's frequency is multiplied with.
std::vector<double> frequency_scales(const ModelConfig& config, std::int64_t positions) {
  const auto pairs = static_cast<std::size_t>(config.rotated() / 2);
  std::vector<double> scales(pairs, 1.0);
  const double stretch = 1.0 / static_cast<double>(config.rope_factor);
  switch (config.rope_scaling) {
    case RopeScaling::none:
      break;
    case RopeScaling::linear:
      std::fill(scales.begin(), scales.end(), stretch);
      break;
    case RopeScaling::yarn: {
      // The ends are rounded outwards, as GGUF engines do (the paper's own code does; OpenAI's reference does not).
      const double low = std::max(0.0, std::floor(yarn_pair(config, static_cast<double>(config.rope_beta_fast))));
      const double high = std::min(static_cast<double>(config.rotated() - 1),
                                   std::ceil(yarn_pair(config, static_cast<double>(config.rope_beta_slow))));
      for (std::size_t i = 0; i < pairs; ++i) {
        const double keep = 1.0 - std::clamp((static_cast<double>(i) - low) / std::max(0.001, high - low), 0.0, 1.0);
        scales[i] = stretch * (1.0 - keep) + keep;
      }
      break;
    }
    case RopeScaling::factors: {
      const bool use_long = !config.rope_factors_long.empty() && positions > config.rope_original_context;
      const std::vector<float>& factors = use_long ? config.rope_factors_long : config.rope_factors;
      for (std::size_t i = 0; i < pairs; ++i) scales[i] = 1.0 / static_cast<double>(factors[i]);
      break;
    }
  }
  return scales;
}

std::vector<float> make_table(std::int64_t rotated, std::int64_t positions, double base, const std::vector<double>& scales,
                              double magnitude) {
  const std::int64_t pairs = rotated / 2;
  std::vector<float> table(static_cast<std::size_t>(positions * rotated));
  for (std::int64_t pair = 0; pair < pairs; ++pair) {
    const double frequency = std::pow(base, -2.0 * static_cast<double>(pair) / static_cast<double>(rotated)) *
                             scales[static_cast<std::size_t>(pair)];
    for (std::int64_t position = 0; position < positions; ++position) {
      const double angle = static_cast<double>(position) * frequency;
      table[static_cast<std::size_t>(position * rotated + pair)] = static_cast<float>(std::cos(angle) * magnitude);
      table[static_cast<std::size_t>(position * rotated + pairs + pair)] = static_cast<float>(std::sin(angle) * magnitude);
    }
  }
  return table;
}

}  // namespace

std::vector<float> make_rope_table(const ModelConfig& config, std::int64_t positions) {
  if (config.position != PositionKind::rope) return {};
  double magnitude = static_cast<double>(config.rope_magnitude);
  if (config.rope_scaling == RopeScaling::yarn) {
    magnitude *= 1.0 + 0.1 * std::log(std::max(1.0, static_cast<double>(config.rope_factor)));
  }
  return make_table(config.rotated(), positions, static_cast<double>(config.rope_base), frequency_scales(config, positions),
                    magnitude);
}

std::vector<float> make_windowed_rope_table(const ModelConfig& config, std::int64_t positions) {
  if (config.position != PositionKind::rope || config.window == 0 || config.rope_base_windowed <= 0.0F) return {};
  const std::vector<double> plain(static_cast<std::size_t>(config.rotated() / 2), 1.0);
  return make_table(config.rotated(), positions, static_cast<double>(config.rope_base_windowed), plain, 1.0);
}

}  // namespace quern
