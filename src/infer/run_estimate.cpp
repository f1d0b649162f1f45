#include "infer/run_estimate.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "infer/shape_types.hpp"
#include "math/block_formats.hpp"
#include "model/kv_cache.hpp"
#include "model/model_memory.hpp"

namespace quern {
namespace {

constexpr std::int64_t kMostTokens = std::int64_t{1} << 30;

/// Of each thing of `layer`: keys that the last token of a context sees.
std::int64_t visible_keys(const ModelConfig& config, std::int64_t layer, std::int64_t context) {
  return config.windowed(layer) ? std::min(config.window, context) : context;
}

bool is_experts(const ShapeTensor& tensor) { return tensor.name.find("_exps.") != std::string::npos; }

/// Matrix products and attention of a prompt's token, on average. The head works for the last one alone.
double prefill_flops(const PublishedShape& shape, const std::vector<ShapeTensor>& tensors, std::int64_t prompt) {
  const ModelConfig& c = shape.config;
  double flops = 0.0;
  for (const ShapeTensor& tensor : tensors) {
    if (!tensor.name.starts_with("blk.") || !tensor.name.ends_with(".weight") || tensor.dimensions < 2) continue;
    const double used = is_experts(tensor) ? static_cast<double>(c.experts_used) / static_cast<double>(c.experts) : 1.0;
    flops += 2.0 * used * static_cast<double>(tensor.elements());
  }
  for (std::int64_t layer = 0; layer < c.layers; ++layer) {
    flops += 4.0 * static_cast<double>(c.query_width()) * mean_visible_keys(prompt, c.windowed(layer) ? c.window : 0);
  }
  return flops + 2.0 * static_cast<double>(c.width * c.vocab) / static_cast<double>(prompt);
}

}  // namespace

const ReachedShares& reached_shares() {
  // Medians of the runs that docs/hardware.md lists; re-measure with the commands there.
  static constexpr ReachedShares kShares{.decode_dense = 0.77,
                                         .decode_experts = 0.78,
                                         .prefill_tiles = 0.236,
                                         .prefill_tiles_experts = 0.117,
                                         .prefill_int8 = 0.5,
                                         .prefill_int8_experts = 0.55,
                                         .prefill_vectors = 0.5};
  return kShares;
}

Result<ModelCost> model_cost(const PublishedShape& shape, std::string_view mix, const EstimateOptions& options) {
  const ModelConfig& c = shape.config;
  if (options.context_tokens < 1 || options.context_tokens > kMostTokens || options.prompt_tokens < 1 ||
      options.prompt_tokens > kMostTokens) {
    return bad_input(fmt::format("context and prompt: expected 1 to {} tokens, found {} and {}", kMostTokens,
                                 options.context_tokens, options.prompt_tokens));
  }
  const auto types = shape_types(shape, mix);
  if (!types) return tl::make_unexpected(types.error());
  const std::vector<ShapeTensor>& shapes = types->shapes;

  ModelCost cost;
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const std::size_t bytes = types->tensors[i].bytes;
    cost.weight_bytes += bytes;
    if (shapes[i].name == "token_embd.weight" && !c.tied_embeddings) {
      cost.weight_bytes_per_token += bytes / static_cast<std::size_t>(c.vocab);
    } else if (is_experts(shapes[i])) {
      cost.weight_bytes_per_token += bytes / static_cast<std::size_t>(c.experts) * static_cast<std::size_t>(c.experts_used);
    } else {
      cost.weight_bytes_per_token += bytes;
    }
  }

  const std::optional<std::size_t> row = bytes_of(options.kv_type, c.kv_width());
  const RunMemory memory = run_memory(c, cost.weight_bytes, options.context_tokens);
  const auto kv = std::find(kReportedKvTypes.begin(), kReportedKvTypes.end(), options.kv_type);
  if (!row || kv == kReportedKvTypes.end() || !memory.kv_bytes[static_cast<std::size_t>(kv - kReportedKvTypes.begin())]) {
    return bad_input(fmt::format("{}: heads of {} elements cannot be kept in a cache of {}", shape.name, c.head_dim,
                                 block_format(options.kv_type).name));
  }
  cost.kv_bytes = *memory.kv_bytes[static_cast<std::size_t>(kv - kReportedKvTypes.begin())];
  cost.working_bytes = memory.working_bytes;
  for (std::int64_t layer = 0; layer < c.layers; ++layer) {
    cost.kv_bytes_per_token +=
        2.0 * static_cast<double>(*row) * static_cast<double>(visible_keys(c, layer, options.context_tokens));
  }
  cost.prefill_flops_per_token = prefill_flops(shape, shapes, options.prompt_tokens);
  return cost;
}

PrefillRoof prefill_roof(const MachineWalls& walls, const ReachedShares& shares, bool experts) {
  if (walls.bf16_tile_flops > 0.0) {
    return {walls.bf16_tile_flops, experts ? shares.prefill_tiles_experts : shares.prefill_tiles, "bf16 tiles"};
  }
  if (walls.int8_vector_flops > 0.0) {
    return {walls.int8_vector_flops, experts ? shares.prefill_int8_experts : shares.prefill_int8, "int8 vectors"};
  }
  return {walls.f32_flops, shares.prefill_vectors, "f32 vectors"};
}

RunEstimate estimate_run(const PublishedShape& shape, const ModelCost& cost, const MachineWalls& walls,
                         const ReachedShares& shares) {
  RunEstimate estimate;
  const bool experts = shape.config.experts > 0;
  estimate.fits = walls.usable_bytes > 0 && cost.total_bytes() <= walls.usable_bytes;
  const double bytes = static_cast<double>(cost.weight_bytes_per_token) + cost.kv_bytes_per_token;
  estimate.decode_wall = walls.read_bytes_per_second / bytes;
  estimate.decode = estimate.decode_wall * (experts ? shares.decode_experts : shares.decode_dense);
  const PrefillRoof roof = prefill_roof(walls, shares, experts);
  estimate.prefill_wall = roof.flops / cost.prefill_flops_per_token;
  estimate.prefill = estimate.prefill_wall * roof.share;
  return estimate;
}

std::vector<std::string_view> usual_mixes(const PublishedShape& shape) {
  if (shape.architecture == "gpt-oss") return {"MXFP4_MOE"};
  return {"Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "BF16"};
}

}  // namespace quern
