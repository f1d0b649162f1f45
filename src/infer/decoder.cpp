#include "infer/decoder.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "infer/activation_observer.hpp"
#include "infer/profiler.hpp"
#include "math/attention.hpp"
#include "math/memory_plan.hpp"
#include "math/process_memory.hpp"
#include "model/embedding.hpp"
#include "model/layers.hpp"
#include "model/output_head.hpp"

namespace quern {

namespace {

/// Cache and working memory must fit into what this process may use. Weights do not count: they are there already, and
/// mapped ones may leave memory again.
Result<void> check_memory(const Decoder::Limits& limits, std::size_t cache_bytes, std::size_t arena_bytes) {
  const std::size_t allowed = default_memory_limit();
  if (cache_bytes <= allowed && arena_bytes <= allowed - cache_bytes) return {};
  const auto gib = [](std::size_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024.0 * 1024.0); };
  return no_memory(
      fmt::format("a context of {} tokens needs {:.1f} GiB ({:.1f} GiB of them the KV cache in {}), but this "
                  "process may use {:.1f} GiB; a lower --context or a smaller --kv-type needs less",
                  limits.context_tokens, gib(cache_bytes) + gib(arena_bytes), gib(cache_bytes),
                  kv_type_name(*limits.kv_type), gib(allowed)));
}

template <class T>
class TypedDecoder final : public Decoder {
 public:
  TypedDecoder(const Backend& backend, const ModelWeights& weights, ThreadTeam& team, const Limits& limits, KvCache cache)
      : backend_(backend),
        weights_(weights),
        team_(team),
        limits_(limits),
        cache_(std::move(cache)),
        plan_(limits.arena ? Placement::arena : Placement::apart) {}

  Result<void> allocate() {
    const ModelConfig& c = weights_.config;
    const std::int64_t rows = limits_.batch_tokens;
    const std::int64_t logit_rows = limits_.logit_rows;
    const std::int64_t hidden = c.experts > 0 ? 0 : c.mlp_width;
    plan_one(buffers_.x_in, "residual", rows * c.width);
    // A residual that is added in a pass of its own is not where the product goes.
    if (!backend_.fused) plan_one(buffers_.x_mid, "residual mid", rows * c.width);
    plan_one(buffers_.norm1_out, "norm", rows * c.width);
    plan_one(buffers_.qkv, "qkv", rows * c.qkv_width());
    plan_one(buffers_.attention, "attention", rows * c.query_width());
    if (c.gated() && hidden > 0) plan_one(buffers_.mlp_pre, "mlp pre-activation", rows * 2 * hidden);
    plan_one(buffers_.mlp_act, "mlp activation", rows * hidden);
    if (c.post_norms) plan_one(buffers_.branch1, "branch", rows * c.width);
    if (c.experts > 0) {
      const std::int64_t slots = rows * c.experts_used;
      plan_one(experts_.router_logits, "router logits", rows * c.experts);
      plan_one(experts_.chosen, "chosen experts", slots);
      plan_one(experts_.chosen_weight, "weights of chosen experts", slots);
      plan_one(experts_.slot, "slots", slots);
      plan_one(experts_.first_slot, "first slots", c.experts + 1);
      plan_one(experts_.input, "expert input", slots * c.width);
      plan_one(experts_.pre, "expert pre-activation", slots * 2 * c.mlp_width);
      plan_one(experts_.act, "expert activation", slots * c.mlp_width);
      plan_one(experts_.out, "expert output", slots * c.width);
      buffers_.experts = &experts_;
    }
    plan_one(last_x_, "residual of logits", logit_rows * c.width);
    plan_one(last_norm_, "norm of logits", logit_rows * c.width);
    plan_one(logits_, "logits", logit_rows * c.vocab);
    scratch_bytes_ = std::max({block_scratch_bytes(backend_, c, rows, false),
                               matmul_scratch_bytes(backend_, logit_rows, std::max(c.vocab, c.width)),
                               attention_scratch_bytes(backend_, c.attention_shape(0), kType, 0)});
    plan_one(scratch_, "scratch", static_cast<std::int64_t>(scratch_bytes_) * team_.size(), MemoryCategory::scratch);
    if (auto placed = plan_.place(); !placed) return placed;
    if (auto fits = check_memory(limits_, cache_.bytes(), plan_.arena_bytes()); !fits) return fits;
    if (auto allocated = allocate_buffers(); !allocated) return allocated;

    tokens_.resize(static_cast<std::size_t>(rows));
    positions_.resize(static_cast<std::size_t>(rows));
    row_sequence_.resize(static_cast<std::size_t>(rows));
    logit_rows_.resize(static_cast<std::size_t>(logit_rows));
    sequences_.resize(static_cast<std::size_t>(c.layers * limits_.sequences));
    for (std::int64_t layer = 0; layer < c.layers; ++layer) {
      shapes_.push_back(c.attention_shape(layer));
      shapes_.back().sinks = weights_.layers[static_cast<std::size_t>(layer)].sinks;
    }
    return {};
  }

  KvCache& cache() override { return cache_; }
  const Limits& limits() const override { return limits_; }
  const ModelWeights& weights() const override { return weights_; }

  Result<void> forward(std::span<const SequenceTokens> batch) override {
    if (!limits_.arena) {
      if (auto allocated = allocate_buffers(); !allocated) return allocated;
    }
    if (auto ready = stage(batch); !ready) return ready;
    if (limits_.profiler != nullptr) {
      const bool decode = std::all_of(batch.begin(), batch.end(),
                                      [](const auto& entry) { return entry.drafts || entry.tokens.size() == 1; });
      limits_.profiler->begin(decode ? WorkPhase::decode : WorkPhase::prefill, rows_, batch_size_);
    }
    team_.run([&](TeamMember& member) {
      Exec exec{member, backend_, {scratch_ + static_cast<std::size_t>(member.index()) * scratch_bytes_, scratch_bytes_}};
      compute(exec);
    });
    if (limits_.profiler != nullptr) limits_.profiler->end();
    return {};
  }

  std::span<const float> logits(std::int64_t i) const override {
    return {logits_ + i * weights_.config.vocab, static_cast<std::size_t>(weights_.config.vocab)};
  }

 private:
  struct Binding {
    std::byte** pointer;
    BufferId id;
  };

  template <class U>
  void plan_one(U*& pointer, const char* name, std::int64_t elements,
                MemoryCategory category = MemoryCategory::activations) {
    const BufferId id = plan_.add(name, static_cast<std::size_t>(elements) * sizeof(U), category);
    bindings_.push_back({reinterpret_cast<std::byte**>(&pointer), id});
  }

  /// The planned buffers' memory, in the place of what they had.
  Result<void> allocate_buffers() {
    arena_ = Arena();
    auto arena = Arena::allocate(plan_);
    if (!arena) return tl::make_unexpected(arena.error());
    arena_ = std::move(*arena);
    for (const Binding& binding : bindings_) *binding.pointer = arena_.get<std::byte>(plan_, binding.id);
    buffers_.x_out = buffers_.x_in;
    if (backend_.fused) buffers_.x_mid = buffers_.x_in;
    buffers_.norm2_out = buffers_.norm1_out;
    buffers_.branch2 = buffers_.branch1;
    return {};
  }

  /// Checks the batch, makes room in the cache and lays out rows. Undoes itself on an error.
  Result<void> stage(std::span<const SequenceTokens> batch) {
    const ModelConfig& c = weights_.config;
    std::int64_t rows = 0;
    std::int64_t logit_rows = 0;
    for (const SequenceTokens& entry : batch) {
      rows += std::ssize(entry.tokens);
      for (std::int64_t t = 0; t < std::ssize(entry.tokens); ++t) logit_rows += wants_logits(entry, t) ? 1 : 0;
      if (entry.tokens.empty()) return bad_input("decoder: a batch entry has no tokens");
      for (const std::int32_t token : entry.tokens) {
        if (token < 0 || token >= c.vocab) {
          return bad_input("decoder: token " + std::to_string(token) + " is outside the vocabulary of " +
                           std::to_string(c.vocab));
        }
      }
    }
    if (rows > limits_.batch_tokens || std::ssize(batch) > limits_.sequences) {
      return bad_input("decoder: " + std::to_string(rows) + " tokens of " + std::to_string(batch.size()) +
                       " sequences, the limits are " + std::to_string(limits_.batch_tokens) + " and " +
                       std::to_string(limits_.sequences));
    }
    if (logit_rows > limits_.logit_rows) {
      return bad_input("decoder: " + std::to_string(logit_rows) + " rows of logits, the limit is " +
                       std::to_string(limits_.logit_rows));
    }
    for (std::size_t i = 0; i < batch.size(); ++i) {
      const std::int64_t tokens = std::ssize(batch[i].tokens);
      Result<void> room;
      if (cache_.length(batch[i].sequence) + tokens > limits_.context_tokens) {
        room = no_memory("decoder: the context of " + std::to_string(limits_.context_tokens) + " tokens is full");
      } else {
        room = cache_.extend(batch[i].sequence, tokens);
      }
      if (room) continue;
      for (std::size_t j = 0; j < i; ++j) {
        cache_.truncate(batch[j].sequence, cache_.length(batch[j].sequence) - std::ssize(batch[j].tokens));
      }
      return room;
    }

    rows_ = 0;
    logit_count_ = 0;
    batch_size_ = std::ssize(batch);
    for (std::int64_t i = 0; i < batch_size_; ++i) {
      const SequenceTokens& entry = batch[static_cast<std::size_t>(i)];
      const std::int64_t count = std::ssize(entry.tokens);
      const std::int64_t first_position = cache_.length(entry.sequence) - count;
      for (std::int64_t layer = 0; layer < c.layers; ++layer) {
        sequences_[static_cast<std::size_t>(layer * limits_.sequences + i)] = {
            .first_row = rows_, .rows = count, .first_position = first_position, .kv = cache_.view(entry.sequence, layer)};
      }
      for (std::int64_t t = 0; t < count; ++t) {
        const auto row = static_cast<std::size_t>(rows_ + t);
        tokens_[row] = entry.tokens[static_cast<std::size_t>(t)];
        positions_[row] = static_cast<std::int32_t>(first_position + t);
        row_sequence_[row] = entry.sequence;
        if (wants_logits(entry, t)) {
          logit_rows_[static_cast<std::size_t>(logit_count_++)] = rows_ + t;
        }
      }
      rows_ += count;
    }
    return {};
  }

  [[nodiscard]] bool wants_logits(const SequenceTokens& entry, std::int64_t t) const {
    if (limits_.all_logits || entry.logits == LogitRows::all) return true;
    return entry.logits == LogitRows::last && t + 1 == std::ssize(entry.tokens);
  }

  void compute(Exec& exec) {
    const ModelConfig& c = weights_.config;
    const RowRange all{0, rows_};
    const BlockDropout no_dropout;
    const auto mark = [&](WorkKind kind, std::int64_t layer) {
      if (limits_.profiler != nullptr && exec.member.index() == 0) limits_.profiler->mark(kind, layer);
    };
    const auto observe = [&](MatrixInput input, std::int64_t layer, const T* data, std::int64_t rows, std::int64_t cols) {
      if (limits_.observer == nullptr) return;
      limits_.observer->observe(exec.member,
                                {.input = input, .layer = layer, .data = data, .type = kType, .rows = rows, .cols = cols});
    };
    exec.member.for_each(rows_, [&](std::int64_t row) {
      embedding_forward(exec, weights_, tokens_.data(), positions_.data(), buffers_.x_in, {}, {row, row + 1});
    });
    mark(WorkKind::embedding, -1);
    for (std::int64_t layer = 0; layer < c.layers; ++layer) {
      const auto store = [&](RowRange rows) {
        for (std::int64_t row = rows.begin; row < rows.end; ++row) store_kv(layer, row);
      };
      attention_input_forward(
          exec, weights_, layer, buffers_, positions_.data(), all,
          {.context = const_cast<void*>(static_cast<const void*>(&store)),
           .call = [](void* context, RowRange rows) { (*static_cast<const decltype(store)*>(context))(rows); }});
      mark(WorkKind::attention_input, layer);
      observe(MatrixInput::qkv, layer, buffers_.norm1_out, rows_, c.width);
      attention_forward<T>(exec, shapes_[static_cast<std::size_t>(layer)],
                           {sequences_.data() + layer * limits_.sequences, static_cast<std::size_t>(batch_size_)},
                           {buffers_.qkv, c.qkv_width()}, {buffers_.attention, c.query_width()}, nullptr, {});
      mark(WorkKind::attention, layer);
      observe(MatrixInput::attention_out, layer, buffers_.attention, rows_, c.query_width());
      attention_output_forward(exec, weights_, layer, buffers_, no_dropout, all);
      mark(WorkKind::attention_output, layer);
      mlp_forward(exec, weights_, layer, buffers_, no_dropout, all);
      mark(WorkKind::feed_forward, layer);
      if (c.experts > 0) {
        observe(MatrixInput::router, layer, buffers_.norm2_out, rows_, c.width);
        observe_experts(exec.member, layer);
      } else {
        observe(MatrixInput::mlp_in, layer, buffers_.norm2_out, rows_, c.width);
        observe(MatrixInput::mlp_out, layer, buffers_.mlp_act, rows_, c.mlp_width);
      }
    }
    if (logit_count_ == 0) return;
    exec.member.for_each(logit_count_, [&](std::int64_t i) {
      std::memcpy(last_x_ + i * c.width, buffers_.x_out + logit_rows_[static_cast<std::size_t>(i)] * c.width,
                  static_cast<std::size_t>(c.width) * sizeof(float));
    });
    head_logits(exec, weights_, last_x_, last_norm_, logits_, logit_count_);
    mark(WorkKind::head, -1);
    observe(MatrixInput::head, -1, last_norm_, logit_count_, c.width);
  }

  void observe_experts(TeamMember& member, std::int64_t layer) {
    if (limits_.observer == nullptr) return;
    const ModelConfig& c = weights_.config;
    ObservedRows rows{.input = MatrixInput::expert_in,
                      .layer = layer,
                      .data = experts_.input,
                      .type = kType,
                      .rows = rows_ * c.experts_used,
                      .cols = c.width,
                      .first_row = experts_.first_slot,
                      .experts = c.experts};
    limits_.observer->observe(member, rows);
    rows.input = MatrixInput::expert_out;
    rows.data = experts_.act;
    rows.cols = c.mlp_width;
    limits_.observer->observe(member, rows);
  }

  void store_kv(std::int64_t layer, std::int64_t row) {
    const ModelConfig& c = weights_.config;
    const T* key = buffers_.qkv + row * c.qkv_width() + c.query_width();
    cache_.store(row_sequence_[static_cast<std::size_t>(row)], layer, positions_[static_cast<std::size_t>(row)], key,
                 key + c.kv_width());
  }

  static constexpr ElementType kType = std::is_same_v<T, float> ? ElementType::f32 : ElementType::bf16;

  Backend backend_;
  const ModelWeights& weights_;
  ThreadTeam& team_;
  Limits limits_;
  KvCache cache_;
  MemoryPlan plan_;
  Arena arena_;
  std::vector<Binding> bindings_;
  BlockBuffers<T> buffers_;
  ExpertBuffers<T> experts_;
  float* last_x_ = nullptr;
  T* last_norm_ = nullptr;
  float* logits_ = nullptr;
  std::byte* scratch_ = nullptr;
  std::size_t scratch_bytes_ = 0;
  std::vector<AttentionShape> shapes_;
  std::vector<AttentionSequence> sequences_;  // [layers, limits.sequences]
  std::vector<std::int32_t> tokens_, positions_;
  std::vector<KvCache::SequenceId> row_sequence_;
  std::vector<std::int64_t> logit_rows_;
  std::int64_t rows_ = 0, logit_count_ = 0, batch_size_ = 0;
};

template <class T>
Result<std::unique_ptr<Decoder>> create_typed(const Backend& backend, const ModelWeights& weights, ThreadTeam& team,
                                              const Decoder::Limits& limits) {
  const std::size_t cache_bytes =
      KvCache::bytes_needed(weights.config, *limits.kv_type, limits.cache_tokens, limits.sequences, limits.batch_tokens);
  // Where there is no such size, the cache says why.
  if (cache_bytes != SIZE_MAX) {
    if (auto fits = check_memory(limits, cache_bytes, 0); !fits) return tl::make_unexpected(fits.error());
  }
  auto cache = KvCache::create(weights.config, *limits.kv_type, limits.cache_tokens, limits.sequences, limits.batch_tokens);
  if (!cache) return tl::make_unexpected(cache.error());
  auto decoder = std::make_unique<TypedDecoder<T>>(backend, weights, team, limits, std::move(*cache));
  if (auto allocated = decoder->allocate(); !allocated) return tl::make_unexpected(allocated.error());
  return decoder;
}

}  // namespace

Result<std::unique_ptr<Decoder>> Decoder::create(const Backend& backend, const ModelWeights& weights, ThreadTeam& team,
                                                 const Limits& asked) {
  const ModelConfig& c = weights.config;
  Limits limits = asked;
  if (limits.cache_tokens == 0) {
    const std::int64_t longest = (limits.context_tokens + kPageTokens - 1) / kPageTokens * kPageTokens;
    limits.cache_tokens = longest * limits.sequences;
  }
  if (!limits.kv_type) limits.kv_type = weights.compute == ComputeType::bf16 ? ElementType::bf16 : ElementType::f32;
  if (limits.logit_rows == 0) limits.logit_rows = limits.all_logits ? limits.batch_tokens : limits.sequences;
  if (c.position == PositionKind::learned && limits.context_tokens > c.context) {
    return bad_input("decoder: a context of " + std::to_string(limits.context_tokens) +
                     " tokens, but the model has learned positions for " + std::to_string(c.context));
  }
  if (c.position == PositionKind::rope && std::ssize(weights.rope_table) < limits.context_tokens * c.rotated()) {
    return bad_input("decoder: a context of " + std::to_string(limits.context_tokens) +
                     " tokens, but the RoPE table ends at " + std::to_string(std::ssize(weights.rope_table) / c.rotated()));
  }
  if (weights.compute == ComputeType::bf16) return create_typed<bf16>(backend, weights, team, limits);
  return create_typed<float>(backend, weights, team, limits);
}

}  // namespace quern
