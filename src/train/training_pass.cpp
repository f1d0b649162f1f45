#include "train/training_pass.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "math/attention.hpp"
#include "model/embedding.hpp"
#include "model/output_head.hpp"

namespace quern {

namespace {

/// Bytes of a chunk's buffers: some of them wait outside a 2 MiB L2, but weights are read for more rows at a time.
constexpr std::int64_t kChunkBytes = std::int64_t{3} << 20;

/// Rows per chunk of the row-wise parts of a pass: where these are not fused, all that are a thread's share, so that each
/// part passes over all of them before the next begins.
std::int64_t pass_chunk_rows(const Backend& backend, const ModelConfig& config, const PassShape& shape) {
  if (!backend.fused)
    return std::max<std::int64_t>(sum_groups((shape.rows + shape.threads - 1) / shape.threads), 1) * kSumRows;
  const std::int64_t hidden = config.gated() ? 3 * config.mlp_width : 2 * config.mlp_width;
  const std::int64_t row_bytes = 8 * config.width + 2 * (config.qkv_width() + config.query_width() + hidden);
  const std::int64_t cache_rows = kChunkBytes / row_bytes;
  const std::int64_t spread_rows = shape.rows / (4 * shape.threads);  // threads take at least four in turns
  return std::clamp<std::int64_t>(std::min(cache_rows, spread_rows) / kSumRows * kSumRows, kSumRows, 256);
}

/// Sequences that one thread takes through attention and all that surrounds it, so that what these pass on stays in its
/// caches: as many whole sequences as a chunk holds. 0: sequences are cut among threads instead, since they are of different
/// lengths, do not begin at multiples of kSumRows, or are too few or too long.
std::int64_t sequences_per_group(const ModelConfig& config, const BatchView& batch, std::int64_t chunk_rows, int threads) {
  /// Of a group's queries, keys and values.
  constexpr std::int64_t kMaxBytes = std::int64_t{3} << 19;
  const std::int64_t length = batch.sequences.front().rows;
  for (std::size_t i = 0; i < batch.sequences.size(); ++i) {
    const SequenceRows& sequence = batch.sequences[i];
    if (sequence.rows != length || sequence.first_row != static_cast<std::int64_t>(i) * length) return 0;
  }
  const std::int64_t count = std::ssize(batch.sequences);
  const std::int64_t sequences = std::max<std::int64_t>(chunk_rows / length, 1);
  const std::int64_t groups = (count + sequences - 1) / sequences;
  const bool balanced = groups % threads == 0 || groups >= 8 * threads;
  if (config.experts > 0 || !balanced || (count > sequences && sequences * length % kSumRows != 0)) return 0;
  return 2 * sequences * length * config.qkv_width() <= kMaxBytes ? sequences : 0;
}

template <class T>
class TypedTrainingPass final : public TrainingPass {
 public:
  TypedTrainingPass(const Backend& backend, const ModelConfig& config, const PassShape& shape, bool backward,
                    MemoryPlan& plan)
      : backend_(backend), config_(config), shape_(shape), chunk_rows_(pass_chunk_rows(backend, config, shape)) {
    plan_buffers(backward, plan);
    sequences_.resize(static_cast<std::size_t>(config.layers * shape.max_sequences));
    pages_.resize(static_cast<std::size_t>(config.layers * shape.max_sequences * 2));
    attention_shapes_.reserve(static_cast<std::size_t>(config.layers));
    for (std::int64_t layer = 0; layer < config.layers; ++layer) {
      attention_shapes_.push_back(config.attention_shape(layer));
    }
  }

  void bind(const MemoryPlan& plan, Arena& arena) override {
    for (const Binding& binding : bindings_) *binding.pointer = arena.get<std::byte>(plan, binding.id);
    for (std::int64_t layer = 0; layer < config_.layers; ++layer) {
      BlockBuffers<T>& block = blocks_[static_cast<std::size_t>(layer)];
      if (layer + 1 < config_.layers) block.x_out = blocks_[static_cast<std::size_t>(layer + 1)].x_in;
    }
    blocks_.back().x_out = final_x_;
    for (ExpertBuffers<T>& experts : experts_) {
      experts.router_logits = shared_experts_.router_logits;
      experts.input = shared_experts_.input;
      experts.out = shared_experts_.out;
    }
  }

  [[nodiscard]] std::size_t scratch_bytes() const override {
    const ElementType type = std::is_same_v<T, float> ? ElementType::f32 : ElementType::bf16;
    const std::int64_t hidden = config_.gated() ? 2 * config_.mlp_width : config_.mlp_width;
    const std::size_t weight_gradient =
        matmul_scratch_bytes(backend_, shape_.rows, std::max({config_.width, hidden, config_.qkv_width(), config_.experts}));
    return std::max({block_scratch_bytes(backend_, config_, chunk_rows_, true), weight_gradient,
                     head_scratch_bytes(backend_, config_, shape_.rows),
                     attention_scratch_bytes(backend_, attention_shapes_.front(), type, shape_.max_length)});
  }

  void set_batch(const BatchView& batch, const PassOptions& options) override {
    batch_ = batch;
    options_ = options;
    group_sequences_ = backend_.fused ? sequences_per_group(config_, batch, chunk_rows_, shape_.threads) : 0;
    for (std::int64_t row = 0; row < batch.rows; ++row) scaled_weight_[row] = batch.weights[row] * options.gradient_scale;
    const std::int64_t count = std::ssize(batch.sequences);
    for (std::int64_t layer = 0; layer < config_.layers; ++layer) {
      for (std::int64_t i = 0; i < count; ++i) {
        const SequenceRows& rows = batch.sequences[static_cast<std::size_t>(i)];
        const auto slot = static_cast<std::size_t>(layer * shape_.max_sequences + i);
        const T* first = blocks_[static_cast<std::size_t>(layer)].qkv + rows.first_row * config_.qkv_width();
        pages_[2 * slot] = first + config_.query_width();
        pages_[2 * slot + 1] = first + config_.query_width() + config_.kv_width();
        sequences_[slot] = {.first_row = rows.first_row,
                            .rows = rows.rows,
                            .first_position = 0,
                            .kv = {.key_pages = &pages_[2 * slot],
                                   .value_pages = &pages_[2 * slot + 1],
                                   .type = std::is_same_v<T, float> ? ElementType::f32 : ElementType::bf16,
                                   .page_tokens = rows.rows,
                                   .token_stride = config_.qkv_width(),
                                   .head_stride = config_.head_dim,
                                   .length = rows.rows}};
      }
    }
  }

  void evaluate(Exec& exec, const ModelWeights& weights) override {
    forward(exec, weights);
    head_loss<T>(exec, weights, final_x_, batch_.targets, batch_.weights, batch_.rows, head_);
  }

  void forward_backward(Exec& exec, const ModelWeights& weights, const ParameterLayout& layout, float* gradients) override {
    forward(exec, weights);
    head_loss_backward<T>(exec, weights, layout, final_x_, batch_.targets, scaled_weight_, batch_.rows, head_,
                          gradients_.residual, options_.accumulate, gradients);
    for (std::int64_t layer = config_.layers - 1; layer >= 0; --layer)
      layer_backward(exec, weights, layout, layer, gradients);
    embedding_gradients(exec, layout, gradients);
  }

  [[nodiscard]] double loss_sum() const override {
    double sum = 0.0;
    for (std::int64_t row = 0; row < batch_.rows; ++row) {
      sum += static_cast<double>(batch_.weights[row]) * static_cast<double>(head_.loss[row]);
    }
    return sum;
  }

  [[nodiscard]] std::span<const float> row_losses() const override {
    return {head_.loss, static_cast<std::size_t>(batch_.rows)};
  }

 private:
  struct Binding {
    std::byte** pointer;
    BufferId id;
  };

  template <class U>
  void plan_one(U*& pointer, const char* name, std::int64_t elements, std::int64_t first, std::int64_t last,
                MemoryPlan& plan) {
    const BufferId id =
        plan.add(name, static_cast<std::size_t>(elements) * sizeof(U), MemoryCategory::activations, first, last);
    bindings_.push_back({reinterpret_cast<std::byte**>(&pointer), id});
  }

  // Time of the plan: forward of layer l is l, the head is L, backward of layer l is 2 L - l.
  void plan_buffers(bool backward, MemoryPlan& plan) {
    const ModelConfig& c = config_;
    const std::int64_t rows = shape_.rows;
    const std::int64_t L = c.layers;
    const std::int64_t pre_width = c.gated() ? 2 * c.mlp_width : c.mlp_width;
    const bool layer_norm = c.norm == NormKind::layer_norm;
    const std::int64_t pre_bytes = rows * pre_width * static_cast<std::int64_t>(sizeof(T));
    gradients_.outgrow_caches = pre_bytes > shape_.cached_bytes;
    blocks_.resize(static_cast<std::size_t>(L));
    bindings_.reserve(static_cast<std::size_t>(L * 16 + 24));
    for (std::int64_t l = 0; l < L; ++l) {
      BlockBuffers<T>& b = blocks_[static_cast<std::size_t>(l)];
      const std::int64_t last = backward ? 2 * L - l : l;
      b.outgrow_caches = backward && L * pre_bytes > shape_.cached_bytes;
      // The first layer's input is written by the embedding before anything else runs; later inputs by the layer below.
      plan_one(b.x_in, "residual in", rows * c.width, std::max<std::int64_t>(l - 1, 0), last, plan);
      plan_one(b.norm1_out, "norm 1", rows * c.width, std::max<std::int64_t>(l - 1, 0), last, plan);
      if (layer_norm) plan_one(b.norm1_mean, "norm 1 mean", rows, std::max<std::int64_t>(l - 1, 0), last, plan);
      plan_one(b.norm1_rstd, "norm 1 rstd", rows, std::max<std::int64_t>(l - 1, 0), last, plan);
      plan_one(b.qkv, "qkv", rows * c.qkv_width(), std::max<std::int64_t>(l - 1, 0), last, plan);
      if (c.qk_norm && backward) {
        plan_one(b.qk_raw, "qk before norm", rows * (c.query_width() + c.kv_width()), std::max<std::int64_t>(l - 1, 0), last,
                 plan);
        plan_one(b.qk_rstd, "qk rstd", rows * (c.heads + c.kv_heads), std::max<std::int64_t>(l - 1, 0), last, plan);
      }
      plan_one(b.attention, "attention", rows * c.query_width(), l, last, plan);
      plan_one(b.lse, "log-sum-exp", rows * c.heads, l, last, plan);
      if (c.post_norms) {
        plan_one(b.branch1, "attention output", rows * c.width, l, last, plan);
        plan_one(b.branch1_rstd, "attention output rstd", rows, l, last, plan);
        plan_one(b.branch2, "feed-forward output", rows * c.width, l, last, plan);
        plan_one(b.branch2_rstd, "feed-forward output rstd", rows, l, last, plan);
      }
      plan_one(b.x_mid, "residual mid", rows * c.width, l, last, plan);
      plan_one(b.norm2_out, "norm 2", rows * c.width, l, last, plan);
      if (layer_norm) plan_one(b.norm2_mean, "norm 2 mean", rows, l, last, plan);
      plan_one(b.norm2_rstd, "norm 2 rstd", rows, l, last, plan);
      if (c.experts > 0) {
        plan_experts(l, last, plan);
        continue;
      }
      if (c.gated() || backward) plan_one(b.mlp_pre, "mlp pre-activation", rows * pre_width, l, last, plan);
    }
    const std::int64_t end = 2 * L + 1;
    plan_one(final_x_, "residual out", rows * c.width, L - 1, L, plan);
    plan_one(head_.norm_out, "final norm", rows * c.width, L, L, plan);
    if (layer_norm) plan_one(head_.norm_mean, "final norm mean", rows, L, L, plan);
    plan_one(head_.norm_rstd, "final norm rstd", rows, L, L, plan);
    plan_one(head_.loss, "loss", rows, 0, MemoryPlan::kForever, plan);
    plan_one(scaled_weight_, "scaled weights", rows, 0, MemoryPlan::kForever, plan);
    if (!backward) return;
    const HeadTiling tiling = head_tiling(c, rows);
    plan_one(head_.d_logits, "logit gradients", tiling.block_rows * c.vocab, L, L, plan);
    plan_one(head_.norm_partials, "final norm sums", (rows + tiling.chunk_rows - 1) / tiling.chunk_rows * 2 * c.width, L, L,
             plan);
    plan_one(gradients_.residual, "residual gradient", rows * c.width, L, end, plan);
    if (c.experts > 0) {
      plan_expert_gradients(L + 1, end, plan);
    } else {
      plan_one(gradients_.mlp_out, "mlp output gradient", rows * c.width, L + 1, end, plan);
      plan_one(gradients_.mlp_pre, "mlp gradient", rows * pre_width, L + 1, end, plan);
    }
    plan_one(gradients_.attention_out, "attention output gradient", rows * c.width, L + 1, end, plan);
    plan_one(gradients_.attention, "attention gradient", rows * c.query_width(), L + 1, end, plan);
    plan_one(gradients_.qkv, "qkv gradient", rows * c.qkv_width(), L + 1, end, plan);
    plan_one(gradients_.norm_partials, "norm sums", sum_groups(rows) * norm_partials(c).width, L + 1, end, plan);
  }

  /// What layer l's experts keep, and once what all share.
  void plan_experts(std::int64_t l, std::int64_t last, MemoryPlan& plan) {
    const ModelConfig& c = config_;
    const std::int64_t slots = shape_.rows * c.experts_used;
    if (l == 0) {
      const std::int64_t end = last;  // of the first layer: the latest
      experts_.resize(static_cast<std::size_t>(c.layers));
      plan_one(shared_experts_.router_logits, "router logits", shape_.rows * c.experts, 0, c.layers - 1, plan);
      plan_one(shared_experts_.input, "expert input", slots * c.width, 0, std::max(end, c.layers - 1), plan);
      plan_one(shared_experts_.out, "expert output", slots * c.width, 0, c.layers - 1, plan);
    }
    ExpertBuffers<T>& b = experts_[static_cast<std::size_t>(l)];
    plan_one(b.chosen, "chosen experts", slots, l, last, plan);
    plan_one(b.chosen_weight, "weights of chosen experts", slots, l, last, plan);
    plan_one(b.slot, "slots", slots, l, last, plan);
    plan_one(b.first_slot, "first slots", c.experts + 1, l, last, plan);
    plan_one(b.pre, "expert pre-activation", slots * 2 * c.mlp_width, l, last, plan);
    plan_one(b.act, "expert activation", slots * c.mlp_width, l, last, plan);
    blocks_[static_cast<std::size_t>(l)].experts = &b;
  }

  void plan_expert_gradients(std::int64_t first, std::int64_t end, MemoryPlan& plan) {
    const ModelConfig& c = config_;
    const std::int64_t slots = shape_.rows * c.experts_used;
    ExpertGradients<T>& d = expert_gradients_;
    plan_one(d.branch, "expert sum gradient", shape_.rows * c.width, first, end, plan);
    plan_one(d.output, "expert output gradient", slots * c.width, first, end, plan);
    plan_one(d.act, "expert activation gradient", slots * c.mlp_width, first, end, plan);
    plan_one(d.pre, "expert pre-activation gradient", slots * 2 * c.mlp_width, first, end, plan);
    plan_one(d.input, "expert input gradient", slots * c.width, first, end, plan);
    plan_one(d.router_logits, "router gradient", shape_.rows * c.experts, first, end, plan);
    gradients_.experts = &d;
  }

  /// Runs `work(Exec&, RowRange)` on every chunk of rows, one thread each.
  template <class Work>
  void for_chunks(Exec& exec, Work&& work) {
    exec.member.for_each((batch_.rows + chunk_rows_ - 1) / chunk_rows_, [&](std::int64_t chunk) {
      TeamMember alone = exec.member.alone();
      Exec serial{alone, exec.backend, exec.scratch};
      work(serial, RowRange{chunk * chunk_rows_, std::min((chunk + 1) * chunk_rows_, batch_.rows)});
    });
  }

  /// Sequences first .. first+count-1 of the batch and their rows.
  struct Group {
    std::size_t first = 0;
    std::size_t count = 0;
    RowRange rows;
  };

  /// Runs `work(Exec&, const Group&)` on every group of sequences, one thread each.
  template <class Work>
  void for_groups(Exec& exec, Work&& work) {
    const auto count = static_cast<std::int64_t>(batch_.sequences.size());
    const std::int64_t length = batch_.sequences.front().rows;
    exec.member.for_each((count + group_sequences_ - 1) / group_sequences_, [&](std::int64_t index) {
      const std::int64_t first = index * group_sequences_;
      const std::int64_t sequences = std::min(group_sequences_, count - first);
      TeamMember alone = exec.member.alone();
      Exec serial{alone, exec.backend, exec.scratch};
      work(serial, Group{static_cast<std::size_t>(first),
                         static_cast<std::size_t>(sequences),
                         {first * length, (first + sequences) * length}});
    });
  }

  /// Runs `work(RowRange)` on the chunks of a group's rows.
  template <class Work>
  void for_chunks_of(const Group& group, Work&& work) {
    for (std::int64_t begin = group.rows.begin; begin < group.rows.end; begin += chunk_rows_) {
      work(RowRange{begin, std::min(begin + chunk_rows_, group.rows.end)});
    }
  }

  [[nodiscard]] Group whole_batch() const { return {0, batch_.sequences.size(), {0, batch_.rows}}; }

  [[nodiscard]] std::span<const AttentionSequence> layer_sequences(std::int64_t layer, const Group& group) const {
    return {sequences_.data() + layer * shape_.max_sequences + static_cast<std::int64_t>(group.first), group.count};
  }

  [[nodiscard]] AttentionShape shape_of(const ModelWeights& weights, std::int64_t layer) const {
    AttentionShape shape = attention_shapes_[static_cast<std::size_t>(layer)];
    shape.sinks = weights.layers[static_cast<std::size_t>(layer)].sinks;
    return shape;
  }

  /// Of the products with the keys that queries see, forward (`passes` 1) or backward (2: recomputation is not counted).
  [[nodiscard]] OperationCost attention_cost(std::int64_t layer, const Group& group, std::int64_t passes) const {
    const std::int64_t window = attention_shapes_[static_cast<std::size_t>(layer)].window;
    double pairs = 0.0;
    for (const SequenceRows& sequence : batch_.sequences.subspan(group.first, group.count)) {
      pairs += static_cast<double>(sequence.rows) * mean_visible_keys(sequence.rows, window);
    }
    const std::int64_t elements = group.rows.rows() * (config_.qkv_width() + config_.query_width());
    return {4.0 * static_cast<double>(passes * config_.query_width()) * pairs,
            moved_cost(elements * passes, sizeof(T)).bytes};
  }

  [[nodiscard]] BlockDropout dropout_of(std::int64_t layer) const {
    BlockDropout dropout = options_.dropout;
    dropout.layer = static_cast<std::uint32_t>(layer);
    return dropout;
  }

  void embed(Exec& serial, const ModelWeights& weights, RowRange range) {
    embedding_forward(serial, weights, batch_.inputs, batch_.positions, blocks_.front().x_in,
                      {options_.dropout.probability, options_.dropout.seed, options_.dropout.step, 0, 0}, range);
    attention_input_forward(serial, weights, 0, blocks_.front(), batch_.positions, range);
  }

  void attend(Exec& exec, const ModelWeights& weights, std::int64_t layer, const Group& group) {
    const BlockBuffers<T>& block = blocks_[static_cast<std::size_t>(layer)];
    attention_forward<T>(exec, shape_of(weights, layer), layer_sequences(layer, group), {block.qkv, config_.qkv_width()},
                         {block.attention, config_.query_width()}, block.lse, dropout_of(layer).attention());
    mark(exec, Operation::attention, StepPhase::forward, layer, attention_cost(layer, group, 1));
  }

  /// From a layer's attention to what the next layer's attention reads.
  void after_attention(Exec& serial, const ModelWeights& weights, std::int64_t layer, RowRange range) {
    const BlockBuffers<T>& block = blocks_[static_cast<std::size_t>(layer)];
    if (config_.experts == 0) {  // experts take all rows at once
      const BlockDropout dropout = dropout_of(layer);
      attention_output_forward(serial, weights, layer, block, dropout, range);
      mlp_forward(serial, weights, layer, block, dropout, range);
    }
    if (layer + 1 < config_.layers) {
      attention_input_forward(serial, weights, layer + 1, blocks_[static_cast<std::size_t>(layer + 1)], batch_.positions,
                              range);
    }
  }

  void forward(Exec& exec, const ModelWeights& weights) {
    if (group_sequences_ > 0) {
      for_groups(exec, [&](Exec& serial, const Group& group) {
        for_chunks_of(group, [&](RowRange range) { embed(serial, weights, range); });
        for (std::int64_t layer = 0; layer < config_.layers; ++layer) {
          attend(serial, weights, layer, group);
          for_chunks_of(group, [&](RowRange range) { after_attention(serial, weights, layer, range); });
        }
      });
      return;
    }
    for_chunks(exec, [&](Exec& serial, RowRange range) { embed(serial, weights, range); });
    for (std::int64_t layer = 0; layer < config_.layers; ++layer) {
      attend(exec, weights, layer, whole_batch());
      if (config_.experts > 0) {
        const BlockBuffers<T>& block = blocks_[static_cast<std::size_t>(layer)];
        const BlockDropout dropout = dropout_of(layer);
        for_chunks(exec, [&](Exec& serial, RowRange range) {
          attention_output_forward(serial, weights, layer, block, dropout, range);
        });
        mlp_forward(exec, weights, layer, block, dropout, {0, batch_.rows});
      }
      for_chunks(exec, [&](Exec& serial, RowRange range) { after_attention(serial, weights, layer, range); });
    }
  }

  void attend_backward(Exec& exec, const ModelWeights& weights, std::int64_t layer, const Group& group) {
    const BlockBuffers<T>& block = blocks_[static_cast<std::size_t>(layer)];
    const std::int64_t qkv_width = config_.qkv_width();
    const std::int64_t query_width = config_.query_width();
    attention_backward<T>(exec, shape_of(weights, layer), layer_sequences(layer, group), {block.qkv, qkv_width},
                          {block.attention, query_width}, {gradients_.attention, query_width}, block.lse,
                          {gradients_.qkv, qkv_width}, {gradients_.qkv + query_width, qkv_width},
                          {gradients_.qkv + query_width + config_.kv_width(), qkv_width}, dropout_of(layer).attention());
    mark(exec, Operation::attention, StepPhase::backward, layer, attention_cost(layer, group, 2));
  }

  void layer_backward(Exec& exec, const ModelWeights& weights, const ParameterLayout& layout, std::int64_t layer,
                      float* gradients) {
    const BlockBuffers<T>& block = blocks_[static_cast<std::size_t>(layer)];
    const BlockDropout dropout = dropout_of(layer);
    const auto before_attention = [&](Exec& serial, RowRange range) {
      if (config_.experts == 0) mlp_backward(serial, weights, layer, block, gradients_, dropout, range);
      attention_output_backward(serial, weights, layer, block, gradients_, dropout, range);
    };
    const auto past_attention = [&](Exec& serial, RowRange range) {
      attention_input_backward(serial, weights, layer, block, gradients_, batch_.positions, range);
    };
    if (group_sequences_ > 0) {
      for_groups(exec, [&](Exec& serial, const Group& group) {
        for_chunks_of(group, [&](RowRange range) { before_attention(serial, range); });
        attend_backward(serial, weights, layer, group);
        for_chunks_of(group, [&](RowRange range) { past_attention(serial, range); });
      });
    } else {
      if (config_.experts > 0) {
        experts_backward(exec, weights, layer, block, gradients_, dropout, batch_.rows, chunk_rows_);
      }
      for_chunks(exec, before_attention);
      attend_backward(exec, weights, layer, whole_batch());
      for_chunks(exec, past_attention);
    }
    block_weight_gradients(exec, config_, layout, layer, block, gradients_, batch_.rows, options_.accumulate, gradients);
  }

  void embedding_gradients(Exec& exec, const ParameterLayout& layout, float* gradients) {
    const auto target = [&](int index) {
      return index < 0 ? nullptr : gradients + layout.parameters[static_cast<std::size_t>(index)].offset;
    };
    float* tokens = target(layout.token_embedding);
    float* positions = target(layout.position_embedding);
    if (!options_.accumulate) {
      if (layout.head != layout.token_embedding) zero(exec, tokens, config_.vocab * config_.width);
      if (positions != nullptr) zero(exec, positions, config_.context * config_.width);
    }
    embedding_backward(exec, config_, batch_.inputs, batch_.positions, gradients_.residual,
                       {options_.dropout.probability, options_.dropout.seed, options_.dropout.step, 0, 0}, batch_.rows,
                       tokens, positions);
  }

  static void zero(Exec& exec, float* data, std::int64_t count) {
    constexpr std::int64_t kPiece = 1 << 16;
    exec.member.for_each((count + kPiece - 1) / kPiece, [&](std::int64_t piece) {
      const std::int64_t begin = piece * kPiece;
      std::memset(data + begin, 0, static_cast<std::size_t>(std::min(kPiece, count - begin)) * sizeof(float));
    });
  }

  Backend backend_;
  ModelConfig config_;
  PassShape shape_;
  std::int64_t chunk_rows_;
  std::int64_t group_sequences_ = 0;  ///< of this batch; see sequences_per_group()
  std::vector<Binding> bindings_;
  std::vector<BlockBuffers<T>> blocks_;
  BlockGradients<T> gradients_;
  std::vector<ExpertBuffers<T>> experts_;  // [layers] where the model has them
  ExpertBuffers<T> shared_experts_;
  ExpertGradients<T> expert_gradients_;
  HeadBuffers<T> head_;
  float* final_x_ = nullptr;
  float* scaled_weight_ = nullptr;
  std::vector<AttentionShape> attention_shapes_;
  std::vector<AttentionSequence> sequences_;  // [layers, max_sequences]
  std::vector<const void*> pages_;            // [layers, max_sequences, 2]
  BatchView batch_;
  PassOptions options_;
};

}  // namespace

std::unique_ptr<TrainingPass> TrainingPass::create(const Backend& backend, ComputeType compute, const ModelConfig& config,
                                                   const PassShape& shape, bool backward, MemoryPlan& plan) {
  if (compute == ComputeType::bf16) {
    return std::make_unique<TypedTrainingPass<bf16>>(backend, config, shape, backward, plan);
  }
  return std::make_unique<TypedTrainingPass<float>>(backend, config, shape, backward, plan);
}

}  // namespace quern
