#include "run_sampling.hpp"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <limits>
#include <string_view>

namespace quern::tools {

namespace {

/// "15=-2.5", "15=-inf".
Result<LogitBias> parse_bias(std::string_view text) {
  LogitBias bias;
  const std::size_t sign = text.find('=');
  const std::string_view token = text.substr(0, sign);
  const std::string_view value = sign == std::string_view::npos ? "" : text.substr(sign + 1);
  const auto parsed_token = std::from_chars(token.data(), token.data() + token.size(), bias.token);
  const auto parsed_value = std::from_chars(value.data(), value.data() + value.size(), bias.bias);
  if (token.empty() || parsed_token.ec != std::errc() || parsed_token.ptr != token.data() + token.size() || value.empty() ||
      parsed_value.ec != std::errc() || parsed_value.ptr != value.data() + value.size() || std::isnan(bias.bias)) {
    return bad_input(fmt::format("--logit-bias: `{}` where TOKEN=BIAS was expected, such as 15=-2.5 or 15=-inf", text));
  }
  return bias;
}

}  // namespace

void add_sampling_options(CLI::App& command, SamplingOptions& options) {
  SamplerConfig& config = options.config;
  constexpr auto kMost = static_cast<double>(std::numeric_limits<float>::max());
  command.add_option("--temperature", config.temperature, "0: always the likeliest token")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  command.add_option("--top-k", config.top_k, "Draw among the K likeliest tokens; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command.add_option("--top-p", config.top_p, "Draw among the likeliest tokens of this total probability")
      ->check(CLI::Range(1e-6, 1.0))
      ->capture_default_str();
  command
      .add_option("--min-p", config.min_p, "Draw among tokens with this share of the likeliest one's probability; 0: all")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command.add_option("--typical", config.typical_p, "Draw among the most typical tokens of this total probability")
      ->check(CLI::Range(1e-6, 1.0))
      ->capture_default_str();
  command.add_option("--repetition-penalty", config.penalties.repetition, "Divides logits of recent tokens; 1: none")
      ->check(CLI::Range(1e-6, 100.0))
      ->capture_default_str();
  command.add_option("--presence-penalty", config.penalties.presence, "Subtracted from logits of recent tokens")
      ->check(CLI::Range(-kMost, kMost))
      ->capture_default_str();
  command.add_option("--frequency-penalty", config.penalties.frequency, "Subtracted for each time a token is recent")
      ->check(CLI::Range(-kMost, kMost))
      ->capture_default_str();
  command.add_option("--penalty-last", config.penalties.last_tokens, "How many tokens are recent; -1: all")
      ->check(CLI::Range(std::int64_t{-1}, std::int64_t{1} << 24))
      ->capture_default_str();
  command.add_option("--logit-bias", options.logit_bias, "TOKEN=BIAS, added to the token's logit; can be repeated")
      ->type_name("TOKEN=BIAS")
      ->allow_extra_args(false);
  command.add_option("--samplers", options.order, "The chain, in order; what is not named is left out")
      ->capture_default_str();
  command.add_option("--seed", config.seed, "Of the draws")->capture_default_str();
}

Result<SamplerConfig> sampler_config(const SamplingOptions& options, std::int64_t vocab) {
  SamplerConfig config = options.config;
  auto order = parse_sampler_order(options.order);
  if (!order) return bad_input("--samplers: " + order.error().message);
  config.order = std::move(*order);
  for (const std::string& text : options.logit_bias) {
    const auto bias = parse_bias(text);
    if (!bias) return tl::make_unexpected(bias.error());
    config.logit_bias.push_back(*bias);
  }
  if (auto valid = validate(config, vocab); !valid) return tl::make_unexpected(valid.error());
  return config;
}

std::string unescape(const std::string& text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    constexpr std::string_view kNames = "nrt\\\"'";
    constexpr std::string_view kCharacters = "\n\r\t\\\"'";
    const std::size_t name = text[i] == '\\' && i + 1 < text.size() ? kNames.find(text[i + 1]) : std::string_view::npos;
    out += name != std::string_view::npos ? kCharacters[name] : text[i];
    if (name != std::string_view::npos) ++i;
  }
  return out;
}

}  // namespace quern::tools
