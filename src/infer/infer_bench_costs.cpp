#include "infer/infer_bench_costs.hpp"

#include <algorithm>
#include <cmath>

#include "math/block_formats.hpp"
#include "math/kv_rows.hpp"

namespace quern {

namespace {

double expert_bytes(const ModelWeights& weights) {
  std::size_t bytes = 0;
  const auto add = [&](const StackedWeight& weight) {
    for (const Weight& part : weight.pieces()) bytes += bytes_of(part.type, part.rows * part.cols).value_or(0);
  };
  for (const LayerWeights& layer : weights.layers) {
    add(layer.expert_in);
    add(layer.expert_out);
  }
  return static_cast<double>(bytes);
}

/// The sum over positions p = first .. first + tokens - 1 of min(p + 1, window), or of p + 1 without a window.
double keys_of_layer(std::int64_t first, std::int64_t tokens, std::int64_t window) {
  const std::int64_t last = first + tokens;
  const std::int64_t growing = window > 0 ? std::clamp(window, first, last) : last;  // positions below see all before them
  const auto triangle = [](std::int64_t n) { return 0.5 * static_cast<double>(n) * static_cast<double>(n + 1); };
  return triangle(growing) - triangle(first) + static_cast<double>(last - growing) * static_cast<double>(window);
}

}  // namespace

double visible_keys(const ModelConfig& config, std::int64_t first, std::int64_t tokens) {
  double keys = 0.0;
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    keys += keys_of_layer(first, tokens, config.windowed(layer) ? config.window : 0);
  }
  return keys;
}

double forward_flops(const ModelConfig& config, std::int64_t first, std::int64_t tokens, std::int64_t logit_rows) {
  const double head = static_cast<double>(config.vocab) * static_cast<double>(config.width);
  const double matrices = static_cast<double>(parameter_layout(config).matmul_parameter_count()) - head;
  return 2.0 * (matrices * static_cast<double>(tokens) + head * static_cast<double>(logit_rows)) +
         4.0 * static_cast<double>(config.query_width()) * visible_keys(config, first, tokens);
}

double kv_bytes_read(const ModelConfig& config, ElementType type, std::int64_t first, std::int64_t tokens) {
  const double row = static_cast<double>(config.kv_heads) * static_cast<double>(kv_row_bytes(type, config.head_dim));
  return 2.0 * row * visible_keys(config, first, tokens);
}

double step_weight_bytes(const ModelWeights& weights, std::size_t bytes_per_token, std::int64_t sequences) {
  const ModelConfig& c = weights.config;
  const double more = static_cast<double>(sequences - 1);
  double bytes = static_cast<double>(bytes_per_token) +
                 more * static_cast<double>(bytes_of(weights.embedding_table.type, c.width).value_or(0));
  if (c.experts > 0) {
    const double used = static_cast<double>(c.experts_used) / static_cast<double>(c.experts);
    bytes += expert_bytes(weights) * (1.0 - std::pow(1.0 - used, static_cast<double>(sequences)) - used);
  }
  return bytes;
}

}  // namespace quern
