// The options of sampling and of stopping, which `quern run` and `quern chat` share.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "infer/sampler.hpp"
#include "math/result.hpp"

namespace quern::tools {

/// As the command line has them; sampler_config() makes the rest of it.
struct SamplingOptions {
  SamplerConfig config{.seed = 1};
  std::string order = to_string(default_sampler_order());
  std::vector<std::string> logit_bias;  ///< "TOKEN=BIAS"
};

/// --temperature, --top-k, ..., --samplers, --logit-bias, --seed.
void add_sampling_options(CLI::App& command, SamplingOptions& options);

/// The chain's settings, checked for a vocabulary of `vocab` tokens; errors name the option.
[[nodiscard]] Result<SamplerConfig> sampler_config(const SamplingOptions& options, std::int64_t vocab);

/// "\n", "\t", "\\" and so on as the characters that they stand for: shells make them hard to type.
[[nodiscard]] std::string unescape(const std::string& text);

}  // namespace quern::tools
