#include "model/weights.hpp"

#include <algorithm>

#include "math/block_formats.hpp"

namespace quern {

Weight expert_slice(const Weight& all, std::int64_t experts, std::int64_t expert, const PackedWeightBytes& pack) {
  Weight slice = all;
  slice.rows = all.rows / experts;
  if (all.layout == WeightLayout::packed) {
    const auto part = [&](const void* packs, std::size_t bytes) -> const void* {
      return packs == nullptr ? nullptr : static_cast<const std::byte*>(packs) + static_cast<std::size_t>(expert) * bytes;
    };
    slice.forward = part(all.forward, pack.forward);
    slice.backward = part(all.backward, pack.backward);
    return slice;
  }
  const std::size_t bytes = bytes_of(all.type, slice.rows * all.cols).value_or(0);
  slice.forward = static_cast<const std::byte*>(all.forward) + static_cast<std::size_t>(expert) * bytes;
  slice.backward = slice.forward;
  return slice;
}

WeightPacks::WeightPacks(const Backend& backend, ComputeType compute, const ModelConfig& config,
                         const ParameterLayout& layout, bool for_backward, MemoryPlan& plan)
    : backend_(backend),
      compute_(compute),
      config_(config),
      layout_(layout),
      for_backward_(for_backward),
      by_parameter_(layout.parameters.size()) {
  layers_.reserve(layout.layers.size());
  for (const LayerParameters& layer : layout.layers) {
    layers_.push_back({plan_one(layer.qkv, plan), plan_one(layer.attention_out, plan), plan_one(layer.mlp_in, plan),
                       plan_one(layer.mlp_out, plan), plan_one(layer.router, plan), plan_one(layer.expert_in, plan),
                       plan_one(layer.expert_out, plan)});
  }
  head_ = plan_one(layout.head, plan);
}

WeightPacks::Pack WeightPacks::plan_one(int parameter, MemoryPlan& plan) {
  if (parameter < 0) return {};
  const Parameter& p = layout_.parameters[static_cast<std::size_t>(parameter)];
  Pack pack{.parameter = parameter};
  pack.parts = backend_.eigen ? 1 : p.experts;  // Eigen's are plain: one copy of all rows
  pack.bytes = packed_weight_bytes(backend_, compute_, p.rows / pack.parts, p.cols);
  const auto parts = static_cast<std::size_t>(pack.parts);
  pack.forward = plan.add(p.name + " pack", parts * pack.bytes.forward, MemoryCategory::weights);
  if (for_backward_) {
    pack.backward = plan.add(p.name + " backward pack", parts * pack.bytes.backward, MemoryCategory::weights);
  }
  by_parameter_[static_cast<std::size_t>(parameter)] = pack;
  return pack;
}

Weight WeightPacks::weight(const Pack& pack, const MemoryPlan& plan, Arena& arena) const {
  if (pack.parameter < 0) return {};
  const Parameter& p = layout_.parameters[static_cast<std::size_t>(pack.parameter)];
  const std::byte* forward = arena.get<std::byte>(plan, pack.forward);
  const std::byte* backward = nullptr;
  if (for_backward_) backward = backend_.eigen ? forward : arena.get<std::byte>(plan, pack.backward);
  return Weight{.type = compute_ == ComputeType::bf16 ? ElementType::bf16 : ElementType::f32,
                .layout = backend_.eigen ? WeightLayout::plain : WeightLayout::packed,
                .rows = p.rows,
                .cols = p.cols,
                .forward = forward,
                .backward = backward};
}

ModelWeights WeightPacks::view(const float* parameters, const MemoryPlan& plan, Arena& arena, std::int64_t rope_positions) {
  parameters_ = parameters;
  for (Pack& pack : by_parameter_) {
    if (pack.parameter < 0) continue;
    pack.forward_data = arena.get<std::byte>(plan, pack.forward);
    if (for_backward_ && !backend_.eigen) pack.backward_data = arena.get<std::byte>(plan, pack.backward);
  }
  const auto vector = [&](int index) {
    return index < 0 ? nullptr : parameters + layout_.parameters[static_cast<std::size_t>(index)].offset;
  };
  ModelWeights weights;
  weights.config = config_;
  weights.compute = compute_;
  weights.token_embedding = vector(layout_.token_embedding);
  weights.position_embedding = vector(layout_.position_embedding);
  weights.layers.reserve(layers_.size());
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const LayerParameters& p = layout_.layers[i];
    LayerWeights& w = weights.layers.emplace_back();
    w.norm1 = vector(p.norm1);
    w.norm1_bias = vector(p.norm1_bias);
    w.qkv = weight(layers_[i].qkv, plan, arena);
    w.qkv_bias = vector(p.qkv_bias);
    w.q_norm = vector(p.q_norm);
    w.k_norm = vector(p.k_norm);
    w.attention_out = weight(layers_[i].attention_out, plan, arena);
    w.attention_out_bias = vector(p.attention_out_bias);
    w.norm2 = vector(p.norm2);
    w.norm2_bias = vector(p.norm2_bias);
    w.mlp_in = weight(layers_[i].mlp_in, plan, arena);
    w.mlp_in_bias = vector(p.mlp_in_bias);
    w.mlp_out = weight(layers_[i].mlp_out, plan, arena);
    w.mlp_out_bias = vector(p.mlp_out_bias);
    w.router = weight(layers_[i].router, plan, arena);
    w.router_bias = vector(p.router_bias);
    w.expert_in_pack = layers_[i].expert_in.bytes;
    w.expert_in = weight(layers_[i].expert_in, plan, arena);
    w.expert_in_bias = vector(p.expert_in_bias);
    w.expert_out_pack = layers_[i].expert_out.bytes;
    w.expert_out = weight(layers_[i].expert_out, plan, arena);
    w.expert_out_bias = vector(p.expert_out_bias);
    w.sinks = vector(p.sinks);
    w.post_norm1 = vector(p.post_norm1);
    w.post_norm2 = vector(p.post_norm2);
  }
  weights.final_norm = vector(layout_.final_norm);
  weights.final_norm_bias = vector(layout_.final_norm_bias);
  weights.head = weight(head_, plan, arena);
  weights.rope_table = make_rope_table(config_, rope_positions);
  weights.rope_table_windowed = make_windowed_rope_table(config_, rope_positions);
  return weights;
}

std::int64_t WeightPacks::rows_per_part(int parameter) const {
  const Pack& pack = by_parameter_[static_cast<std::size_t>(parameter)];
  if (pack.parameter < 0) return 0;
  return layout_.parameters[static_cast<std::size_t>(parameter)].rows / pack.parts;
}

std::size_t WeightPacks::bytes_per_element() const {
  return (for_backward_ ? 2 : 1) * (compute_ == ComputeType::bf16 ? sizeof(bf16) : sizeof(float));
}

void WeightPacks::pack_rows(int parameter, std::int64_t first, std::int64_t count) const {
  const Pack& pack = by_parameter_[static_cast<std::size_t>(parameter)];
  const Parameter& p = layout_.parameters[static_cast<std::size_t>(parameter)];
  const std::int64_t part_rows = p.rows / pack.parts;
  const std::int64_t part = first / part_rows;
  const auto at = [&](std::byte* packs, std::size_t bytes) {
    return packs == nullptr ? nullptr : packs + static_cast<std::size_t>(part) * bytes;
  };
  pack_weight_part(backend_, compute_, parameters_ + p.offset + part * part_rows * p.cols, part_rows, p.cols,
                   first - part * part_rows, count, at(pack.forward_data, pack.bytes.forward),
                   at(pack.backward_data, pack.bytes.backward));
}

void WeightPacks::pack(Exec& exec) const {
  for (int parameter = 0; parameter < static_cast<int>(by_parameter_.size()); ++parameter) {
    const std::int64_t part_rows = rows_per_part(parameter);
    if (part_rows == 0) continue;
    const std::int64_t units = (part_rows + kWeightRowUnit - 1) / kWeightRowUnit;
    exec.member.for_each(units * by_parameter_[static_cast<std::size_t>(parameter)].parts, [&](std::int64_t unit) {
      const std::int64_t first = unit % units * kWeightRowUnit;
      pack_rows(parameter, unit / units * part_rows + first, std::min(kWeightRowUnit, part_rows - first));
    });
  }
}

}  // namespace quern
