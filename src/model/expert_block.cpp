// The feed-forward part of models with experts: routing, the experts' products, and the weighted sum.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "math/matmul.hpp"
#include "model/layers.hpp"
#include "model/layers_internal.hpp"

namespace quern {

using internal::element_type_of;
using internal::rows_of;
using internal::split_rows;

namespace {

/// Chooses `used` of `experts` logits, the largest first (the lower index where equal), and their softmax. (Mixtral and
/// Qwen3 state a softmax over all experts, renormalized over the chosen ones: the same, since the sum over all cancels.)
/// NaN is never larger than anything, so that any logits give valid indices.
void choose_experts(const float* logits, std::int64_t experts, std::int64_t used, std::int32_t* chosen, float* weight) {
  for (std::int64_t k = 0; k < used; ++k) {
    std::int32_t best = -1;
    for (std::int32_t e = 0; e < experts; ++e) {
      if (std::find(chosen, chosen + k, e) != chosen + k) continue;
      if (best < 0 || logits[e] > logits[best]) best = e;
    }
    chosen[k] = best;
  }
  double sum = 0.0;
  const auto largest = static_cast<double>(logits[chosen[0]]);
  for (std::int64_t k = 0; k < used; ++k) {
    const double p = std::exp(static_cast<double>(logits[chosen[k]]) - largest);
    weight[k] = static_cast<float>(p);
    sum += p;
  }
  for (std::int64_t k = 0; k < used; ++k) weight[k] = static_cast<float>(static_cast<double>(weight[k]) / sum);
}

/// Orders the rows' choices by expert, then by row.
void place_slots(const std::int32_t* chosen, std::int64_t choices, std::int64_t experts, std::int64_t* first_slot,
                 std::int32_t* slot) {
  std::fill_n(first_slot, experts + 1, std::int64_t{0});
  for (std::int64_t i = 0; i < choices; ++i) ++first_slot[chosen[i] + 1];
  for (std::int64_t e = 0; e < experts; ++e) first_slot[e + 1] += first_slot[e];
  // Each expert's next free slot is kept in its own start, which is restored afterwards by shifting.
  for (std::int64_t i = 0; i < choices; ++i) slot[i] = static_cast<std::int32_t>(first_slot[chosen[i]]++);
  for (std::int64_t e = experts; e > 0; --e) first_slot[e] = first_slot[e - 1];
  first_slot[0] = 0;
}

StackedWeight expert_in(const LayerWeights& w, std::int64_t experts, std::int64_t expert) {
  StackedWeight in;
  for (const Weight& piece : w.expert_in.pieces()) in.append(expert_slice(piece, experts, expert, w.expert_in_pack));
  return in;
}

/// Slots whose experts are computed together.
constexpr std::int64_t kFewSlots = 32;

/// b.out from b.input, for at most kFewSlots slots.
template <class T>
void few_experts(Exec& exec, const ModelConfig& config, const LayerWeights& w, const ExpertBuffers<T>& b) {
  const std::int64_t experts = config.experts;
  const std::int64_t hidden = config.mlp_width;
  std::array<ForwardPart, 2 * kFewSlots> parts;
  std::size_t count = 0;
  const auto for_used = [&](auto&& work) {
    for (std::int64_t e = 0; e < experts; ++e) {
      const RowRange slots{b.first_slot[e], b.first_slot[e + 1]};
      if (slots.rows() > 0) work(e, slots);
    }
  };
  for_used([&](std::int64_t e, RowRange slots) {
    count += internal::stacked_parts(rows_of(b.input, slots, config.width), expert_in(w, experts, e),
                                     internal::mutable_rows_of(b.pre, slots, 2 * hidden),
                                     internal::offset_or_null(w.expert_in_bias, e * 2 * hidden), parts.data() + count);
  });
  matmul_forward_parts(exec, {parts.data(), count});
  internal::gate(exec, config, b.pre, b.act, {0, b.first_slot[experts]});
  count = 0;
  for_used([&](std::int64_t e, RowRange slots) {
    parts[count++] = {.x = rows_of(b.act, slots, hidden),
                      .weight = expert_slice(w.expert_out, experts, e, w.expert_out_pack),
                      .y = internal::mutable_rows_of(b.out, slots, config.width),
                      .epilogue = {.bias = internal::offset_or_null(w.expert_out_bias, e * config.width)}};
  });
  matmul_forward_parts(exec, {parts.data(), count});
}

}  // namespace

template <class T>
void experts_forward(Exec& exec, const ModelWeights& weights, std::int64_t layer, const BlockBuffers<T>& buffers,
                     const BlockDropout& dropout, RowRange range) {
  const ModelConfig& config = weights.config;
  const LayerWeights& w = weights.layers[static_cast<std::size_t>(layer)];
  const ExpertBuffers<T>& b = *buffers.experts;
  const std::int64_t width = config.width;
  const std::int64_t hidden = config.mlp_width;
  const std::int64_t experts = config.experts;
  const std::int64_t used = config.experts_used;
  const std::int64_t rows = range.rows();

  matmul_forward(exec, rows_of(buffers.norm2_out, range, width), w.router,
                 {b.router_logits, ElementType::f32, rows, experts, experts}, {.bias = w.router_bias});
  const auto* input = buffers.norm2_out + range.begin * width;
  const auto choose = [&](RowRange piece) {
    for (std::int64_t row = piece.begin; row < piece.end; ++row) {
      choose_experts(b.router_logits + row * experts, experts, used, b.chosen + row * used, b.chosen_weight + row * used);
    }
  };
  const auto gather = [&](RowRange piece) {
    for (std::int64_t i = piece.begin * used; i < piece.end * used; ++i) {
      std::memcpy(b.input + b.slot[i] * width, input + i / used * width, static_cast<std::size_t>(width) * sizeof(T));
    }
  };
  const bool few = rows <= internal::kOwnRows;  // one member does it while the others wait once
  if (!few) split_rows(exec, {0, rows}, choose);
  if (exec.member.index() == 0) {
    if (few) choose({0, rows});
    place_slots(b.chosen, rows * used, experts, b.first_slot, b.slot);
    if (few) gather({0, rows});
  }
  exec.member.barrier();
  if (!few) split_rows(exec, {0, rows}, gather);

  // Few choices: the products of all experts in one go, for none of them keeps the threads busy for long.
  if (rows * used <= kFewSlots) {
    few_experts(exec, config, w, b);
  } else {
    for (std::int64_t e = 0; e < experts; ++e) {
      const RowRange slots{b.first_slot[e], b.first_slot[e + 1]};
      if (slots.rows() == 0) continue;
      internal::stacked_forward(exec, rows_of(b.input, slots, width), expert_in(w, experts, e),
                                internal::mutable_rows_of(b.pre, slots, 2 * hidden),
                                internal::offset_or_null(w.expert_in_bias, e * 2 * hidden));
      internal::gate(exec, config, b.pre, b.act, slots);
      matmul_forward(exec, rows_of(b.act, slots, hidden), expert_slice(w.expert_out, experts, e, w.expert_out_pack),
                     internal::mutable_rows_of(b.out, slots, width),
                     {.bias = internal::offset_or_null(w.expert_out_bias, e * width)});
    }
  }

  // The weighted sum is added to the residual at once where nothing stands between.
  const DropoutMask mask = dropout.mlp_out(range.begin);
  const bool at_once = w.post_norm2 == nullptr && mask.probability == 0.0F;
  float* sums = w.post_norm2 != nullptr ? buffers.branch2 : buffers.x_out;
  split_rows(exec, range, [&](RowRange piece) {
    for (std::int64_t row = piece.begin; row < piece.end; ++row) {
      const std::int64_t first = (row - range.begin) * used;
      const float* x = buffers.x_mid + row * width;
      float* out = sums + row * width;
      if (!at_once) {
        std::fill_n(out, width, 0.0F);
      } else if (out != x) {
        std::copy_n(x, width, out);
      }
      for (std::int64_t k = first; k < first + used; ++k) {
        const float* y = b.out + b.slot[k] * width;
        const float scale = b.chosen_weight[k];
        for (std::int64_t i = 0; i < width; ++i) out[i] += scale * y[i];
      }
    }
    if (w.post_norm2 == nullptr && !at_once) {
      float* out = buffers.x_out + piece.begin * width;
      exec.backend.kernels->elementwise->dropout_add(out, width, buffers.x_mid + piece.begin * width, width, out, width,
                                                     piece.rows(), width, dropout.mlp_out(piece.begin));
    }
  });
  if (w.post_norm2 != nullptr) {
    internal::add_normed_branch(exec, config, w.post_norm2, buffers.branch2, buffers.branch2_rstd, buffers.x_mid,
                                buffers.x_out, mask, range);
  }
  const auto slots = static_cast<double>(rows * used);
  mark(exec, Operation::experts, StepPhase::forward, layer, {6.0 * slots * static_cast<double>(width * hidden), 0.0});
}

template void experts_forward<float>(Exec&, const ModelWeights&, std::int64_t, const BlockBuffers<float>&,
                                     const BlockDropout&, RowRange);
template void experts_forward<bf16>(Exec&, const ModelWeights&, std::int64_t, const BlockBuffers<bf16>&, const BlockDropout&,
                                    RowRange);

}  // namespace quern
