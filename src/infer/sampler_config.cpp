#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "infer/sampler.hpp"

namespace quern {

namespace {
constexpr std::array kKinds{SamplerStepKind::penalties, SamplerStepKind::top_k, SamplerStepKind::typical,
                            SamplerStepKind::top_p,     SamplerStepKind::min_p, SamplerStepKind::temperature};
}  // namespace

std::string_view to_word(SamplerStepKind kind) {
  switch (kind) {
    case SamplerStepKind::penalties:
      return "penalties";
    case SamplerStepKind::top_k:
      return "top_k";
    case SamplerStepKind::typical:
      return "typical";
    case SamplerStepKind::top_p:
      return "top_p";
    case SamplerStepKind::min_p:
      return "min_p";
    case SamplerStepKind::temperature:
      return "temperature";
  }
  return "";
}

std::vector<SamplerStepKind> default_sampler_order() { return {kKinds.begin(), kKinds.end()}; }

std::string to_string(std::span<const SamplerStepKind> order) {
  std::string words;
  for (const SamplerStepKind kind : order) {
    if (!words.empty()) words += ',';
    words += to_word(kind);
  }
  return words;
}

Result<std::vector<SamplerStepKind>> parse_sampler_order(std::string_view words) {
  std::vector<SamplerStepKind> order;
  for (std::size_t begin = 0; begin <= words.size();) {
    const std::size_t end = std::min(words.find(',', begin), words.size());
    std::string_view word = words.substr(begin, end - begin);
    begin = end + 1;
    while (!word.empty() && word.front() == ' ') word.remove_prefix(1);
    while (!word.empty() && word.back() == ' ') word.remove_suffix(1);
    const auto kind = std::find_if(kKinds.begin(), kKinds.end(), [&](SamplerStepKind k) { return to_word(k) == word; });
    if (kind == kKinds.end()) {
      return bad_input(fmt::format("sampler order: unknown step '{}', expected some of {}", word, to_string(kKinds)));
    }
    if (std::find(order.begin(), order.end(), *kind) != order.end()) {
      return bad_input(fmt::format("sampler order: '{}' stands twice in '{}'", word, words));
    }
    order.push_back(*kind);
  }
  return order;
}

Result<void> validate(const SamplerConfig& config, std::int64_t vocab) {
  const auto wrong = [](std::string_view field, std::string_view range, auto found) {
    return bad_input(fmt::format("sampler: {} must be {}, found {}", field, range, found));
  };
  const auto finite_from_0 = [](float value) { return value >= 0.0F && std::isfinite(value); };
  const auto fraction = [](float value) { return value > 0.0F && value <= 1.0F; };
  if (!finite_from_0(config.temperature)) return wrong("temperature", "a number >= 0", config.temperature);
  if (config.top_k < 0) return wrong("top_k", ">= 0", config.top_k);
  if (!fraction(config.top_p)) return wrong("top_p", "above 0 and at most 1", config.top_p);
  if (!(config.min_p >= 0.0F && config.min_p <= 1.0F)) return wrong("min_p", "from 0 to 1", config.min_p);
  if (!fraction(config.typical_p)) return wrong("typical_p", "above 0 and at most 1", config.typical_p);
  const PenaltyConfig& penalties = config.penalties;
  constexpr std::int64_t kMostTokens = std::int64_t{1} << 24;
  if (penalties.last_tokens < -1 || penalties.last_tokens > kMostTokens) {
    return wrong("the penalties' last tokens", fmt::format("-1 (all) or from 0 to {}", kMostTokens), penalties.last_tokens);
  }
  if (!(penalties.repetition > 0.0F && std::isfinite(penalties.repetition))) {
    return wrong("the repetition penalty", "a number above 0", penalties.repetition);
  }
  if (!std::isfinite(penalties.presence)) return wrong("the presence penalty", "a number", penalties.presence);
  if (!std::isfinite(penalties.frequency)) return wrong("the frequency penalty", "a number", penalties.frequency);
  for (const LogitBias& bias : config.logit_bias) {
    if (bias.token < 0 || bias.token >= vocab) {
      return wrong("a token with a logit bias", fmt::format("from 0 to {}", vocab - 1), bias.token);
    }
    if (std::isnan(bias.bias) || bias.bias == std::numeric_limits<float>::infinity()) {
      return wrong(fmt::format("the logit bias of token {}", bias.token), "a number or -infinity", bias.bias);
    }
  }
  for (std::size_t i = 0; i < config.order.size(); ++i) {
    if (std::find(config.order.begin(), config.order.begin() + static_cast<std::ptrdiff_t>(i), config.order[i]) !=
        config.order.begin() + static_cast<std::ptrdiff_t>(i)) {
      return bad_input(fmt::format("sampler order: '{}' stands twice", to_word(config.order[i])));
    }
  }
  return {};
}

}  // namespace quern
