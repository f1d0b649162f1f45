#include "model_estimates.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "infer/quantize_mix.hpp"
#include "math/block_formats.hpp"
#include "math/system_files.hpp"
#include "summary_report.hpp"

namespace quern::tools {

namespace {

using Json = nlohmann::ordered_json;

std::string gigabytes(std::size_t bytes) { return fmt::format("{:.2f} GB", static_cast<double>(bytes) * 1e-9); }

/// "12.3 (18.6)".
std::string rate_text(double expected, double wall) {
  return wall > 0.0 ? fmt::format("{} ({})", number_text(expected), number_text(wall)) : "-";
}

}  // namespace

MachineWalls walls_of(const HardwareReport& report, const MachineMeasurement& measurement) {
  const bool tiles = measurement.instruction_set == isa_name(Isa::amx);
  const bool vectors = !tiles && measurement.instruction_set != isa_name(Isa::portable);
  return {.read_bytes_per_second = measurement.bandwidth(0, StreamAccess::read).maximum,
          .f32_flops = measurement.peak(PeakType::f32).maximum,
          .bf16_tile_flops = tiles ? measurement.peak(PeakType::bf16).maximum : 0.0,
          .int8_vector_flops = vectors ? measurement.peak(PeakType::int8).maximum : 0.0,
          .usable_bytes = report.memory.usable_bytes};
}

Result<std::vector<ModelEstimate>> estimate_models(const EstimateChoice& choice, const MachineWalls& walls) {
  std::vector<const PublishedShape*> shapes;
  for (const std::string& name : choice.models) {
    const PublishedShape* const shape = find_published_shape(name);
    if (shape == nullptr) {
      std::vector<std::string_view> names;
      for (const PublishedShape& known : published_shapes()) names.push_back(known.name);
      return bad_input(fmt::format("--models: there is no `{}`; there are {}", name, fmt::join(names, ", ")));
    }
    shapes.push_back(shape);
  }
  if (shapes.empty()) {
    for (const PublishedShape& shape : published_shapes()) shapes.push_back(&shape);
  }
  std::vector<ModelEstimate> estimates;
  for (const PublishedShape* shape : shapes) {
    const std::vector<std::string_view> usual = usual_mixes(*shape);
    std::vector<std::string> mixes = choice.types;
    if (mixes.empty()) mixes.assign(usual.begin(), usual.end());
    for (const std::string& mix : mixes) {
      auto cost = model_cost(*shape, mix, choice.options);
      if (!cost) return tl::make_unexpected(cost.error());
      estimates.push_back({.shape = shape, .mix = mix, .cost = *cost, .run = estimate_run(*shape, *cost, walls)});
    }
  }
  return estimates;
}

std::string estimates_text(const std::vector<ModelEstimate>& estimates, const EstimateChoice& choice,
                           const MachineWalls& walls) {
  const ReachedShares& shares = reached_shares();
  const PrefillRoof roof = prefill_roof(walls, shares, false), with_experts = prefill_roof(walls, shares, true);
  std::string text = fmt::format(
      "What published models would need and give here, from their shapes. Memory: weights, a cache of {} tokens in {} and\n"
      "working memory, of {} that this process may take. Decode: at the end of that context, one sequence; in brackets the "
      "wall,\n"
      "{:.1f} GB/s over the bytes of a token, of which Quern reached {:.0f} % (with experts {:.0f} %). Prefill: a prompt of "
      "{} "
      "tokens;\n"
      "in brackets the wall, {:.0f} GFLOP/s of {}, of which Quern reached {:.1f} %{}.\n\n",
      choice.options.context_tokens, block_format(choice.options.kv_type).name, byte_count_text(walls.usable_bytes),
      walls.read_bytes_per_second * 1e-9, 100.0 * shares.decode_dense, 100.0 * shares.decode_experts,
      choice.options.prompt_tokens, roof.flops * 1e-9, roof.what, 100.0 * roof.share,
      with_experts.share != roof.share ? fmt::format(" (with experts {:.1f} %)", 100.0 * with_experts.share) : "");
  text +=
      "| model | type | weights | read a token | KV cache | fits | decode, tokens/s (wall) | prefill, tokens/s (wall) |\n"
      "|---|---|---|---|---|---|---|---|\n";
  for (const ModelEstimate& estimate : estimates) {
    const ModelCost& cost = estimate.cost;
    text += fmt::format("| {} | {} | {} | {} | {} | {} | {} | {} |\n", estimate.shape->title, estimate.mix,
                        gigabytes(cost.weight_bytes), gigabytes(cost.weight_bytes_per_token), gigabytes(cost.kv_bytes),
                        estimate.run.fits ? "yes" : fmt::format("no: {}", gigabytes(cost.total_bytes())),
                        estimate.run.fits ? rate_text(estimate.run.decode, estimate.run.decode_wall) : "-",
                        estimate.run.fits ? rate_text(estimate.run.prefill, estimate.run.prefill_wall) : "-");
  }
  return text;
}

Json estimates_json(const std::vector<ModelEstimate>& estimates, const EstimateChoice& choice, const MachineWalls& walls) {
  const ReachedShares& shares = reached_shares();
  Json models = Json::array();
  for (const ModelEstimate& estimate : estimates) {
    const ModelCost& cost = estimate.cost;
    models.push_back({{"name", estimate.shape->name},
                      {"title", estimate.shape->title},
                      {"type", estimate.mix},
                      {"weight_bytes", cost.weight_bytes},
                      {"weight_bytes_per_token", cost.weight_bytes_per_token},
                      {"kv_bytes", cost.kv_bytes},
                      {"kv_bytes_per_token", cost.kv_bytes_per_token},
                      {"working_bytes", cost.working_bytes},
                      {"total_bytes", cost.total_bytes()},
                      {"fits", estimate.run.fits},
                      {"prefill_flops_per_token", cost.prefill_flops_per_token},
                      {"decode_tokens_per_second", estimate.run.decode},
                      {"decode_wall_tokens_per_second", estimate.run.decode_wall},
                      {"prefill_tokens_per_second", estimate.run.prefill},
                      {"prefill_wall_tokens_per_second", estimate.run.prefill_wall}});
  }
  return {{"context_tokens", choice.options.context_tokens},
          {"prompt_tokens", choice.options.prompt_tokens},
          {"kv_type", block_format(choice.options.kv_type).name},
          {"walls",
           {{"read_bytes_per_second", walls.read_bytes_per_second},
            {"f32_flops", walls.f32_flops},
            {"bf16_tile_flops", walls.bf16_tile_flops},
            {"int8_vector_flops", walls.int8_vector_flops},
            {"usable_bytes", walls.usable_bytes}}},
          {"reached_shares",
           {{"decode_dense", shares.decode_dense},
            {"decode_experts", shares.decode_experts},
            {"prefill_tiles", shares.prefill_tiles},
            {"prefill_tiles_experts", shares.prefill_tiles_experts},
            {"prefill_int8", shares.prefill_int8},
            {"prefill_int8_experts", shares.prefill_int8_experts},
            {"prefill_vectors", shares.prefill_vectors}}},
          {"models", std::move(models)}};
}

}  // namespace quern::tools
