#include "train/run_config_schema.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <numeric>

#include "math/exec.hpp"

namespace quern {

std::string_view to_word(WindowOrder order) { return order == WindowOrder::shuffled ? "shuffled" : "random"; }
std::string_view to_word(DocumentAttention documents) {
  return documents == DocumentAttention::across ? "across" : "isolate";
}
std::string_view to_word(Precision precision) {
  return precision == Precision::automatic ? "auto" : precision == Precision::f32 ? "f32" : "bf16";
}
std::string_view to_word(BackendKind backend) { return backend == BackendKind::kernels ? "kernels" : "eigen"; }
std::string_view to_word(OptimizerKind kind) { return kind == OptimizerKind::adamw ? "adamw" : "muon"; }
std::string_view to_word(ScheduleKind kind) { return kind == ScheduleKind::cosine ? "cosine" : "wsd"; }
std::string_view to_word(CooldownShape shape) { return shape == CooldownShape::linear ? "linear" : "sqrt"; }
std::string_view to_word(AffinityKind affinity) {
  switch (affinity) {
    case AffinityKind::automatic:
      return "auto";
    case AffinityKind::none:
      return "none";
    case AffinityKind::compact:
      return "compact";
    case AffinityKind::spread:
      return "spread";
  }
  return "unknown";
}
std::string_view to_word(NumaPolicy policy) { return numa_policy_name(policy); }

Affinity RunConfig::affinity() const { return affinity_named(to_word(system.affinity)).value_or(Affinity::none); }

namespace internal {

namespace {

constexpr std::array kWindowOrders{WindowOrder::shuffled, WindowOrder::random};
constexpr std::array kDocumentAttentions{DocumentAttention::across, DocumentAttention::isolate};
constexpr std::array kPrecisions{Precision::automatic, Precision::f32, Precision::bf16};
constexpr std::array kBackends{BackendKind::kernels, BackendKind::eigen};
constexpr std::array kOptimizers{OptimizerKind::adamw, OptimizerKind::muon};
constexpr std::array kSchedules{ScheduleKind::cosine, ScheduleKind::wsd};
constexpr std::array kCooldowns{CooldownShape::linear, CooldownShape::sqrt};
constexpr std::array kAffinities{AffinityKind::automatic, AffinityKind::none, AffinityKind::compact, AffinityKind::spread};
constexpr std::array kNumaPolicies{NumaPolicy::local, NumaPolicy::interleave};

/// A key whose words are to_word of the enumerators in `All`; `Member` is a captureless function to the field.
template <const auto& All, auto Member>
ChoiceKey choice() {
  ChoiceKey key;
  for (const auto value : All) key.words.push_back(to_word(value));
  key.get = [](const RunConfig& config) {
    const auto value = Member(const_cast<RunConfig&>(config));
    return static_cast<std::size_t>(std::find(All.begin(), All.end(), value) - All.begin());
  };
  key.set = [](RunConfig& config, std::size_t index) { Member(config) = All[index]; };
  return key;
}

constexpr std::int64_t kMaxSteps = 1'000'000'000;
constexpr std::int64_t kMaxTokens = std::int64_t{1} << 48;

// One row per key; a lambda names the field. QUERN_FIELD(model.width) is "the function that returns config.model.width".
#define QUERN_FIELD(path) [](RunConfig& config) -> decltype(auto) { return (config.path); }

void add_model_keys(std::vector<RunKey>& keys) {
  const auto add = [&](RunKey key) { keys.push_back(std::move(key)); };
  add({"model.vocab", IntegerKey{QUERN_FIELD(model.vocab), 0, 1 << 24},
       "rows of the embedding table and the head; more than the corpus has tokens pads them; 0: as many", "", false});
  add({"model.context", IntegerKey{QUERN_FIELD(model.context), 1, 1 << 24},
       "tokens: longest sequence in training; rows of the learned position table", "", false});
  add({"model.layers", IntegerKey{QUERN_FIELD(model.layers), 1, 1024}, "transformer blocks", "", false});
  add({"model.width", IntegerKey{QUERN_FIELD(model.width), 1, 1 << 20}, "size of the residual stream", "", false});
  add({"model.heads", IntegerKey{QUERN_FIELD(model.heads), 1, 1 << 16}, "query heads", "", false});
  add({"model.kv_heads", IntegerKey{QUERN_FIELD(model.kv_heads), 1, 1 << 16},
       "key/value heads; divides model.heads; 1 is multi-query attention", "model.heads", false});
  add({"model.head_dim", IntegerKey{QUERN_FIELD(model.head_dim), 1, 1 << 20}, "elements per head",
       "model.width / model.heads", false});
  add({"model.mlp_width", IntegerKey{QUERN_FIELD(model.mlp_width), 1, 1 << 22}, "inner size of the feed-forward part",
       "4 * model.width; gated kinds: 8/3 * model.width, up to a multiple of 32", false});
  add({"model.norm", choice<kNormKinds, QUERN_FIELD(model.norm)>(), "normalization before each part and the head", "",
       false});
  add({"model.norm_eps", NumberKey{QUERN_FIELD(model.norm_eps), 0.0F, 1.0F, true}, "added to the variance in norms", "",
       false});
  add({"model.position", choice<kPositionKinds, QUERN_FIELD(model.position)>(), "how positions enter", "", false});
  add({"model.rope_base", NumberKey{QUERN_FIELD(model.rope_base), 1.0F, 1e12F}, "base of the rotation frequencies", "",
       false});
  add({"model.rope_pairing", choice<kRopePairings, QUERN_FIELD(model.rope_pairing)>(), "which elements of a head RoPE pairs",
       "", false});
  add({"model.rope_dims", IntegerKey{QUERN_FIELD(model.rope_dims), 0, 1 << 20},
       "rotated elements per head, even; 0: model.head_dim", "", false});
  add({"model.rope_base_windowed", NumberKey{QUERN_FIELD(model.rope_base_windowed), 0.0F, 1e12F},
       "base of windowed layers, which are not scaled then; 0: as the others (Gemma 3)", "", false});
  add({"model.rope_scaling", choice<kRopeScalings, QUERN_FIELD(model.rope_scaling)>(),
       "how angles are stretched; factors: only in models that were converted, which bring their factors", "", false});
  add({"model.rope_factor", NumberKey{QUERN_FIELD(model.rope_factor), 0.0F, 1e6F, true},
       "linear, yarn: how much longer contexts become", "", false});
  add({"model.rope_original_context", IntegerKey{QUERN_FIELD(model.rope_original_context), 0, 1 << 24},
       "tokens; yarn: the context trained before; factors: the longest for the first list", "", false});
  add({"model.rope_beta_fast", NumberKey{QUERN_FIELD(model.rope_beta_fast), 0.0F, 1e6F, true},
       "yarn: pairs that turn more often than this over the original context keep their angles", "", false});
  add({"model.rope_beta_slow", NumberKey{QUERN_FIELD(model.rope_beta_slow), 0.0F, 1e6F, true},
       "yarn: pairs that turn less often than this are scaled in full", "", false});
  add({"model.rope_magnitude", NumberKey{QUERN_FIELD(model.rope_magnitude), 0.0F, 1e6F, true},
       "multiplies cosines and sines; yarn: times 1 + 0.1 ln rope_factor", "", false});
  add({"model.mlp", choice<kMlpKinds, QUERN_FIELD(model.mlp)>(),
       "feed-forward kind; swiglu, geglu and swiglu_clamped (GPT-OSS) are gated", "", false});
  add({"model.experts", IntegerKey{QUERN_FIELD(model.experts), 0, 4096},
       "experts of each feed-forward part, each of model.mlp_width; gated kinds; 0: a dense part", "", false});
  add({"model.experts_used", IntegerKey{QUERN_FIELD(model.experts_used), 0, 4096}, "experts that a token takes", "", false});
  add({"model.router_bias", BooleanKey{QUERN_FIELD(model.router_bias)}, "a bias of the router that chooses experts", "",
       false});
  add({"model.qk_norm", BooleanKey{QUERN_FIELD(model.qk_norm)}, "RMS norm of each query and key head before RoPE", "",
       false});
  add({"model.attention_bias", BooleanKey{QUERN_FIELD(model.attention_bias)}, "biases of the attention projections", "",
       false});
  add({"model.qkv_bias", BooleanKey{QUERN_FIELD(model.qkv_bias)},
       "biases of the q, k and v projections without one of the output (Qwen2)", "", false});
  add({"model.mlp_bias", BooleanKey{QUERN_FIELD(model.mlp_bias)}, "biases of the feed-forward matrices", "", false});
  add({"model.norm_bias", BooleanKey{QUERN_FIELD(model.norm_bias)}, "biases of the norms; layer_norm only", "", false});
  add({"model.post_norms", BooleanKey{QUERN_FIELD(model.post_norms)},
       "RMS norms of both halves' outputs before they are added (Gemma 2 and 3)", "", false});
  add({"model.attention_sinks", BooleanKey{QUERN_FIELD(model.attention_sinks)},
       "a trained logit per head that takes probability and has no value (GPT-OSS)", "", false});
  add({"model.tied_embeddings", BooleanKey{QUERN_FIELD(model.tied_embeddings)}, "the head is the embedding table", "",
       false});
  add({"model.embedding_scale", NumberKey{QUERN_FIELD(model.embedding_scale), 0.0F, 1e6F, true},
       "multiplies token embeddings", "", false});
  add({"model.final_soft_cap", NumberKey{QUERN_FIELD(model.final_soft_cap), 0.0F, 1e6F},
       "logits become cap * tanh(logits / cap); 0: none", "", false});
  add({"model.attention_soft_cap", NumberKey{QUERN_FIELD(model.attention_soft_cap), 0.0F, 1e6F},
       "the same on attention scores; 0: none", "", false});
  add({"model.attention_scale", NumberKey{QUERN_FIELD(model.attention_scale), 0.0F, 1e6F},
       "multiplies q . k; 0: 1 / sqrt(model.head_dim)", "", false});
  add({"model.window", IntegerKey{QUERN_FIELD(model.window), 0, 1 << 24},
       "tokens: sliding window of windowed layers; 0: none", "", false});
  add({"model.window_period", IntegerKey{QUERN_FIELD(model.window_period), 1, 1024},
       "layer i is windowed when i % period < period - 1; 1: every layer", "", false});
}

void add_data_keys(std::vector<RunKey>& keys) {
  const auto add = [&](RunKey key) { keys.push_back(std::move(key)); };
  add({"data.corpus", TextKey{QUERN_FIELD(data.corpus), false}, "prepared corpus (HDF5), as `quern data prepare` writes it",
       "", true});
  add({"data.order", choice<kWindowOrders, QUERN_FIELD(data.order)>(),
       "shuffled: every window once an epoch; random: independent offsets", "", false});
  add({"data.documents", choice<kDocumentAttentions, QUERN_FIELD(data.documents)>(),
       "across: windows span documents; isolate: attention and positions restart at each", "", false});
}

void add_optimizer_keys(std::vector<RunKey>& keys) {
  const auto add = [&](RunKey key) { keys.push_back(std::move(key)); };
  add({"optimizer.kind", choice<kOptimizers, QUERN_FIELD(optimizer.kind)>(),
       "adamw, or muon: Muon for the matrices of the blocks, AdamW for embeddings, head, routers, norms and biases", "",
       false});
  add({"optimizer.learning_rate", NumberKey{QUERN_FIELD(optimizer.learning_rate), 0.0F, 10.0F, true},
       "AdamW's rate after warm-up", "", false});
  add({"optimizer.min_learning_rate", NumberKey{QUERN_FIELD(optimizer.min_learning_rate), 0.0F, 10.0F},
       "AdamW's rate at the end of the decay; Muon's is the same part of its own", "optimizer.learning_rate / 10", false});
  add({"optimizer.warmup_steps", IntegerKey{QUERN_FIELD(optimizer.warmup_steps), 0, kMaxSteps},
       "steps of linear rise to the learning rate", "100, at most train.steps / 10", false});
  add({"optimizer.decay_steps", IntegerKey{QUERN_FIELD(optimizer.decay_steps), 0, kMaxSteps},
       "step at which the decay ends; 0: train.steps", "", false});
  add({"optimizer.schedule", choice<kSchedules, QUERN_FIELD(optimizer.schedule)>(),
       "cosine: half a cosine after warm-up; wsd: a plateau, then a cooldown", "", false});
  add({"optimizer.cooldown_steps", IntegerKey{QUERN_FIELD(optimizer.cooldown_steps), 0, kMaxSteps},
       "wsd: steps of the cooldown, before the decay ends", "wsd: a fifth of the steps until the decay ends", false});
  add({"optimizer.cooldown", choice<kCooldowns, QUERN_FIELD(optimizer.cooldown)>(),
       "wsd: how the rate falls; sqrt: 1 - sqrt", "", false});
  add({"optimizer.muon_learning_rate", NumberKey{QUERN_FIELD(optimizer.muon_learning_rate), 0.0F, 10.0F, true},
       "Muon's rate while AdamW's is optimizer.learning_rate: both follow one schedule", "", false});
  add({"optimizer.muon_momentum", NumberKey{QUERN_FIELD(optimizer.muon_momentum), 0.0F, 1.0F, false, true},
       "decay of Muon's momentum, which looks ahead (Nesterov)", "", false});
  add({"optimizer.newton_schulz_steps", IntegerKey{QUERN_FIELD(optimizer.newton_schulz_steps), 1, 100},
       "Muon: steps of the iteration that makes updates orthogonal", "", false});
  add({"optimizer.beta1", NumberKey{QUERN_FIELD(optimizer.beta1), 0.0F, 1.0F, false, true},
       "AdamW: decay of the first moment", "", false});
  add({"optimizer.beta2", NumberKey{QUERN_FIELD(optimizer.beta2), 0.0F, 1.0F, false, true},
       "AdamW: decay of the second moment", "", false});
  add({"optimizer.eps", NumberKey{QUERN_FIELD(optimizer.eps), 0.0F, 1.0F, true}, "added to the root of the second moment",
       "", false});
  add({"optimizer.weight_decay", NumberKey{QUERN_FIELD(optimizer.weight_decay), 0.0F, 100.0F},
       "decoupled; matrices and embeddings only", "", false});
  add({"optimizer.clip_norm", NumberKey{QUERN_FIELD(optimizer.clip_norm), 0.0F, 1e9F},
       "largest global gradient norm; 0: no clipping", "", false});
}

void add_train_keys(std::vector<RunKey>& keys) {
  const auto add = [&](RunKey key) { keys.push_back(std::move(key)); };
  add({"train.from", TextKey{QUERN_FIELD(train.from)},
       "checkpoint, or run folder (its best), whose weights and model training starts from; empty: random weights", "",
       false});
  add({"train.steps", IntegerKey{QUERN_FIELD(train.steps), 1, kMaxSteps}, "optimizer steps", "", false});
  add({"train.batch", IntegerKey{QUERN_FIELD(train.batch), 1, 65536}, "sequences per micro-batch", "", false});
  add({"train.accumulation", IntegerKey{QUERN_FIELD(train.accumulation), 1, 65536}, "micro-batches per optimizer step", "",
       false});
  add({"train.growth_step", IntegerKey{QUERN_FIELD(train.growth_step), 0, kMaxSteps},
       "the batch grows: steps after which train.grown_accumulation takes the place of train.accumulation; 0: never", "",
       false});
  add({"train.grown_accumulation", IntegerKey{QUERN_FIELD(train.grown_accumulation), 0, 65536},
       "micro-batches per optimizer step after train.growth_step steps; 0: twice train.accumulation", "", false});
  add({"train.context", IntegerKey{QUERN_FIELD(train.context), 0, 1 << 24}, "tokens per sequence; 0: model.context", "",
       false});
  add({"train.precision", choice<kPrecisions, QUERN_FIELD(train.precision)>(),
       "compute type; auto: bf16 where it is faster, else f32", "", false});
  add({"train.seed", SeedKey{QUERN_FIELD(train.seed)}, "of initialization, data order and dropout", "", false});
  add({"train.dropout", NumberKey{QUERN_FIELD(train.dropout), 0.0F, 0.95F},
       "probability: embeddings, attention, residual branches", "", false});
  add({"train.init_std", NumberKey{QUERN_FIELD(train.init_std), 0.0F, 10.0F, true},
       "standard deviation of initial matrices and embeddings", "", false});
  add({"train.log_every", IntegerKey{QUERN_FIELD(train.log_every), 1, kMaxSteps}, "steps between lines of metrics.jsonl", "",
       false});
  add({"train.eval_every", IntegerKey{QUERN_FIELD(train.eval_every), 0, kMaxSteps}, "steps between validations; 0: never",
       "", false});
  add({"train.eval_from", IntegerKey{QUERN_FIELD(train.eval_from), 0, kMaxSteps}, "no validation before this step", "",
       false});
  add({"train.eval_tokens", IntegerKey{QUERN_FIELD(train.eval_tokens), 0, kMaxTokens},
       "at most so many validation tokens; 0: the whole split", "", false});
  add({"train.target_loss", NumberKey{QUERN_FIELD(train.target_loss), 0.0F, 1e6F},
       "nats per token: the run ends with the first validation at or below it; 0: none", "", false});
  add({"train.save_every", IntegerKey{QUERN_FIELD(train.save_every), 0, kMaxSteps},
       "steps between checkpoints; 0: with validations and at the end", "", false});
  add({"train.keep", IntegerKey{QUERN_FIELD(train.keep), 0, 1'000'000}, "numbered checkpoints kept besides best and last",
       "", false});
}

void add_sample_keys(std::vector<RunKey>& keys) {
  const auto add = [&](RunKey key) { keys.push_back(std::move(key)); };
  add({"sample.every", IntegerKey{QUERN_FIELD(sample.every), 0, kMaxSteps}, "steps between samples; 0: only at the end", "",
       false});
  add({"sample.tokens", IntegerKey{QUERN_FIELD(sample.tokens), 0, 1'000'000}, "tokens per sample; 0: no samples", "",
       false});
  add({"sample.prompt", TextKey{QUERN_FIELD(sample.prompt)}, "text that samples continue", "", false});
  add({"sample.temperature", NumberKey{QUERN_FIELD(sample.temperature), 0.0F, 100.0F}, "0: the likeliest token", "", false});
  add({"sample.top_k", IntegerKey{QUERN_FIELD(sample.top_k), 0, 1 << 24}, "draw from the k likeliest tokens; 0: all", "",
       false});
  add({"sample.top_p", NumberKey{QUERN_FIELD(sample.top_p), 0.0F, 1.0F, true},
       "draw from the likeliest tokens that hold this probability", "", false});
}

void add_system_keys(std::vector<RunKey>& keys) {
  const auto add = [&](RunKey key) { keys.push_back(std::move(key)); };
  add({"system.threads", IntegerKey{QUERN_FIELD(system.threads), 0, 1024}, "0: the processors this process may use", "",
       false});
  add({"system.memory_limit_mib", IntegerKey{QUERN_FIELD(system.memory_limit_mib), 0, 1 << 30},
       "MiB: refuse plans above this; 0: the memory this process may use", "", false});
  add({"system.backend", choice<kBackends, QUERN_FIELD(system.backend)>(), "who computes matrix products", "", false});
  add({"system.fused", BooleanKey{QUERN_FIELD(system.fused)},
       "false, to measure: what follows a product, the loss and packing are passes of their own", "", false});
  add({"system.arena", BooleanKey{QUERN_FIELD(system.arena)},
       "false, to measure: each buffer of a micro-batch is allocated for it", "", false});
  add({"system.affinity", choice<kAffinities, QUERN_FIELD(system.affinity)>(),
       "of threads: compact: neighbouring cores, one package first; spread: over packages and caches; auto: what "
       "`quern tune` found, else none",
       "", false});
  add({"system.numa", choice<kNumaPolicies, QUERN_FIELD(system.numa)>(),
       "of memory that is touched first: on the thread's NUMA node, or taking turns over the nodes", "", false});
  add({"system.block_rows", IntegerKey{QUERN_FIELD(system.block_rows), 0, BlockSizes::kMostBlockRows},
       "tokens for which a thread reads weights once; 0: what `quern tune` found, else 256", "", false});
}

#undef QUERN_FIELD

/// The float that `text` spells in full, or nothing.
bool parse_float(std::string_view text, float& out) {
  if (!text.empty() && text.front() == '+') text.remove_prefix(1);
  if (text.empty() || text.front() == '+') return false;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), out);
  return code == std::errc{} && end == text.data() + text.size() && std::isfinite(out);
}

template <class Integer>
bool parse_integer(std::string_view text, Integer& out) {
  if (!text.empty() && text.front() == '+') text.remove_prefix(1);
  if (text.empty() || text.front() == '+') return false;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), out);
  return code == std::errc{} && end == text.data() + text.size();
}

/// Restricted Damerau-Levenshtein distance: insertions, deletions, replacements and swaps of neighbours.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before(b.size() + 1), previous(b.size() + 1), current(b.size() + 1);
  std::iota(previous.begin(), previous.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    current[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = previous[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      current[j] = std::min({previous[j] + 1, current[j - 1] + 1, replaced});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        current[j] = std::min(current[j], before[j - 2] + 1);
    }
    std::swap(before, previous);
    std::swap(previous, current);
  }
  return previous[b.size()];
}

std::string_view last_part(std::string_view key) { return key.substr(key.rfind('.') + 1); }

/// Calls one of several lambdas by the alternative of a variant.
template <class... Lambdas>
struct Overload : Lambdas... {
  using Lambdas::operator()...;
};
template <class... Lambdas>
Overload(Lambdas...) -> Overload<Lambdas...>;

}  // namespace

const std::vector<RunKey>& run_schema() {
  static const std::vector<RunKey> schema = [] {
    std::vector<RunKey> keys;
    keys.push_back({"run.dir", TextKey{[](RunConfig& config) -> std::string& { return config.dir; }, false},
                    "folder for checkpoints, metrics.jsonl and run.yaml", "", true});
    add_model_keys(keys);
    add_data_keys(keys);
    add_optimizer_keys(keys);
    add_train_keys(keys);
    add_sample_keys(keys);
    add_system_keys(keys);
    return keys;
  }();
  return schema;
}

const RunKey* find_run_key(std::string_view name) {
  for (const RunKey& key : run_schema()) {
    if (key.name == name) return &key;
  }
  return nullptr;
}

tl::expected<void, std::string> set_run_key(const RunKey& key, const YamlNode& value, RunConfig& config) {
  const auto refused = [&] {
    return tl::make_unexpected(fmt::format("must be {}, found {}", run_key_allowed(key), describe(value)));
  };
  if (value.kind != YamlNode::Kind::scalar) return refused();
  const std::string_view text = value.text;
  const bool ok =
      std::visit(Overload{[&](const IntegerKey& type) {
                            std::int64_t number = 0;
                            if (!value.plain || !parse_integer(text, number) || number < type.low || number > type.high)
                              return false;
                            type.member(config) = number;
                            return true;
                          },
                          [&](const SeedKey& type) {
                            std::uint64_t number = 0;
                            if (!value.plain || !parse_integer(text, number)) return false;
                            type.member(config) = number;
                            return true;
                          },
                          [&](const NumberKey& type) {
                            float number = 0.0F;
                            if (!value.plain || !parse_float(text, number)) return false;
                            if (number < type.low || (type.low_excluded && number <= type.low)) return false;
                            if (number > type.high || (type.high_excluded && number >= type.high)) return false;
                            type.member(config) = number;
                            return true;
                          },
                          [&](const BooleanKey& type) {
                            const bool yes = text == "true" || text == "True" || text == "TRUE";
                            const bool no = text == "false" || text == "False" || text == "FALSE";
                            if (!value.plain || !(yes || no)) return false;
                            type.member(config) = yes;
                            return true;
                          },
                          [&](const TextKey& type) {
                            if (text.empty() && !type.may_be_empty) return false;
                            if (text.find('\0') != std::string_view::npos) return false;
                            type.member(config) = text;
                            return true;
                          },
                          [&](const ChoiceKey& type) {
                            const auto found = std::find(type.words.begin(), type.words.end(), text);
                            if (found == type.words.end()) return false;
                            type.set(config, static_cast<std::size_t>(found - type.words.begin()));
                            return true;
                          }},
                 key.type);
  if (!ok) return refused();
  return {};
}

std::string run_key_text(const RunKey& key, const RunConfig& config) {
  auto& source = const_cast<RunConfig&>(config);  // the table's accessors serve readers and writers alike
  return std::visit(
      Overload{[&](const IntegerKey& type) { return fmt::format("{}", type.member(source)); },
               [&](const SeedKey& type) { return fmt::format("{}", type.member(source)); },
               [&](const NumberKey& type) { return fmt::format("{}", type.member(source)); },  // shortest exact form
               [&](const BooleanKey& type) { return std::string(type.member(source) ? "true" : "false"); },
               [&](const TextKey& type) { return quote_yaml(type.member(source)); },
               [&](const ChoiceKey& type) { return std::string(type.words.at(type.get(source))); }},
      key.type);
}

std::string_view run_key_type(const RunKey& key) {
  return std::visit(Overload{[](const IntegerKey&) { return std::string_view("integer"); },
                             [](const SeedKey&) { return std::string_view("integer"); },
                             [](const NumberKey&) { return std::string_view("number"); },
                             [](const BooleanKey&) { return std::string_view("boolean"); },
                             [](const TextKey&) { return std::string_view("text"); },
                             [](const ChoiceKey&) { return std::string_view("word"); }},
                    key.type);
}

std::string run_key_allowed(const RunKey& key) {
  return std::visit(
      Overload{[](const IntegerKey& type) { return fmt::format("an integer from {} to {}", type.low, type.high); },
               [](const SeedKey&) { return std::string("an integer from 0 to 18446744073709551615"); },
               [](const NumberKey& type) {
                 return fmt::format("a number {} {} {} {}", type.low_excluded ? "above" : "from", type.low,
                                    type.high_excluded ? "to below" : "to", type.high);
               },
               [](const BooleanKey&) { return std::string("true or false"); },
               [](const TextKey& type) { return std::string(type.may_be_empty ? "text" : "text that is not empty"); },
               [](const ChoiceKey& type) { return fmt::format("one of {}", fmt::join(type.words, ", ")); }},
      key.type);
}

std::string_view nearest_run_key(std::string_view unknown) {
  const std::string_view shown = unknown.substr(0, 100);  // longer ones are near to nothing anyway
  std::string_view best;
  std::size_t best_distance = SIZE_MAX;
  for (const RunKey& key : run_schema()) {
    std::size_t distance = edit_distance(shown, key.name);
    distance = std::min(distance, 1 + edit_distance(last_part(shown), last_part(key.name)));
    if (distance < best_distance) {
      best_distance = distance;
      best = key.name;
    }
  }
  return best;
}

}  // namespace internal
}  // namespace quern
