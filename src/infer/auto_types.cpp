#include "infer/auto_types.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>

#include "infer/activation_sampler.hpp"
#include "infer/collect_importance.hpp"
#include "infer/output_error.hpp"
#include "infer/sensitivity.hpp"
#include "math/block_formats.hpp"
#include "math/quantize.hpp"
#include "model/gguf_model.hpp"

namespace quern {

namespace {

constexpr std::array kCandidates{ElementType::q2_k, ElementType::q3_k, ElementType::iq4_xs, ElementType::q4_k,
                                 ElementType::q5_k, ElementType::q6_k, ElementType::q8_0,   ElementType::f16};
constexpr std::int64_t kProbeContext = 256;
constexpr std::int64_t kProbeChunks = 8;
constexpr std::int64_t kProbeChunksOfLarge = 4;
constexpr std::int64_t kLargeModel = 1'000'000'000;
constexpr std::int64_t kMostLogits = std::int64_t{64} << 20;  // kept predictions: 256 MiB of f32
constexpr std::int64_t kLookupRows = 1024;
/// Input rows above this times the median norm count as that (ActivationSampler::limit_norms).
constexpr double kNormLimit = 4.0;

/// Both gatherers at once.
class Both final : public ActivationObserver {
 public:
  Both(ActivationObserver* first, ActivationObserver& second) : first_(first), second_(second) {}
  void observe(TeamMember& member, const ObservedRows& rows) override {
    if (first_ != nullptr) first_->observe(member, rows);
    second_.observe(member, rows);
  }

 private:
  ActivationObserver* first_;
  ActivationObserver& second_;
};

/// A tensor that can be quantized.
struct Candidate {
  const GgufTensor* tensor = nullptr;
  std::size_t index = 0;  // in the file
  std::optional<ElementType> asked_for;
  std::optional<ObservedMatrix> matrix;  // what enters it; none of a table that is only looked up
  std::vector<ElementType> types;
  std::vector<double> errors;  // relative squared output error by type
  double probe_error = 0.0;
  double sensitivity = 0.0;
};

/// Evenly spread chunks of a text, `wanted` of them.
Result<ScoringChunks> spread_chunks(std::span<const std::int32_t> tokens, std::int64_t context, std::int64_t wanted,
                                    std::optional<std::int32_t> first_token) {
  auto all = ScoringChunks::cut(tokens, context, 0, first_token, "calibration text");
  if (!all || wanted <= 0 || all->count() <= wanted) return all;
  ScoringChunks some;
  some.context = context;
  for (std::int64_t i = 0; i < wanted; ++i) {
    const auto chunk = all->chunk(i * all->count() / wanted);
    some.tokens.insert(some.tokens.end(), chunk.begin(), chunk.end());
  }
  return some;
}

/// "attn_q.weight" of "blk.3.attn_q.weight".
std::string kind_of(std::string_view name) {
  if (!name.starts_with("blk.")) return std::string(name);
  const std::size_t dot = name.find('.', 4);
  return std::string(dot == std::string_view::npos ? name : name.substr(dot + 1));
}

class AutoChooser {
 public:
  AutoChooser(const GgufFile& file, const Backend& backend, ThreadTeam& team, std::span<const std::int32_t> tokens,
              std::optional<std::int32_t> first_token, const AutoTypesOptions& options)
      : file_(file), backend_(backend), team_(team), tokens_(tokens), first_token_(first_token), options_(options) {}

  Result<AutoTypes> choose() {
    if (auto done = bind(); !done) return tl::make_unexpected(done.error());
    if (auto done = list_candidates(); !done) return tl::make_unexpected(done.error());
    if (auto room = budget_of_candidates(); !room) return tl::make_unexpected(room.error());
    if (auto done = gather(); !done) return tl::make_unexpected(done.error());
    if (auto done = measure_errors(); !done) return tl::make_unexpected(done.error());
    if (auto done = measure_sensitivity(); !done) return tl::make_unexpected(done.error());
    return solve();
  }

 private:
  Result<void> report(std::string_view stage, std::int64_t done, std::int64_t all) const {
    return options_.progress ? options_.progress(stage, done, all) : Result<void>{};
  }
  [[nodiscard]] const ImportanceMatrix* importance() const {
    return options_.importance != nullptr ? options_.importance : &gathered_;
  }

  Result<void> bind() {
    auto config = model_config_from_gguf(file_);
    if (!config) return tl::make_unexpected(config.error());
    context_ = options_.context_tokens;
    if (config->position == PositionKind::learned) context_ = std::min(context_, config->context);
    probe_context_ = std::min(kProbeContext, context_);
    auto bound = bind_gguf_weights(file_, *config, WeightPrecision::fast, context_);
    if (!bound) return tl::make_unexpected(bound.error());
    bound_ = std::move(*bound);
    return {};
  }

  Result<void> list_candidates() {
    MixOptions fixed{.mix = "F16", .pure = true, .output = options_.output, .overrides = options_.overrides};
    auto choices = choose_types(file_, fixed);
    if (!choices) return tl::make_unexpected(choices.error());
    choices_ = std::move(*choices);
    std::map<std::string, ObservedMatrix, std::less<>> matrices;
    for (ObservedMatrix& matrix : observed_matrices(bound_.weights, false)) matrices.emplace(matrix.tensor, matrix);
    const std::span<const ElementType> wanted =
        options_.candidates.empty() ? std::span<const ElementType>(kCandidates) : options_.candidates;
    for (std::size_t i = 0; i < choices_.size(); ++i) {
      const GgufTensor& tensor = *choices_[i].tensor;
      if (!is_quantized_tensor(tensor)) continue;
      Candidate candidate;
      candidate.tensor = &tensor;
      candidate.index = i;
      const auto matrix = matrices.find(tensor.name);
      if (matrix != matrices.end()) candidate.matrix = matrix->second;
      if (!choices_[i].note.empty()) candidate.asked_for = choices_[i].type;
      const auto add = [&](ElementType type) {
        if (std::find(candidate.types.begin(), candidate.types.end(), type) == candidate.types.end()) {
          candidate.types.push_back(type);
        }
      };
      if (candidate.asked_for) {
        add(*candidate.asked_for);
      } else {
        for (const ElementType type : wanted) {
          const ElementType fitting = fallback_type(type, tensor.shape[0]);
          const bool smaller = block_format(fitting).bits_per_element() < block_format(tensor.type).bits_per_element();
          if (smaller && can_quantize(fitting)) add(fitting);
        }
        add(tensor.type);
      }
      candidates_.push_back(std::move(candidate));
    }
    if (candidates_.empty()) return bad_input(fmt::format("{}: no tensor can be quantized", file_.name()));
    return {};
  }

  [[nodiscard]] std::size_t padded(std::size_t bytes) const {
    return (bytes + file_.alignment() - 1) / file_.alignment() * file_.alignment();
  }
  static std::size_t bytes_in(const GgufTensor& tensor, ElementType type) { return *bytes_of(type, tensor.elements()); }

  /// Bytes that the candidates may have together; an error where the smallest types have more.
  Result<std::size_t> budget_of_candidates() const {
    const bool whole_file = options_.budget.bytes.has_value();
    const auto counted = [&](std::size_t bytes) { return whole_file ? padded(bytes) : bytes; };
    double elements = 0.0;
    std::size_t taken = 0;  // by what is not a candidate
    std::size_t data = 0;   // of the source
    for (const TensorChoice& choice : choices_) {
      elements += static_cast<double>(choice.tensor->elements());
      data += padded(choice.tensor->bytes);
      if (!is_quantized_tensor(*choice.tensor)) taken += counted(bytes_in(*choice.tensor, choice.type));
    }
    std::size_t smallest = taken;
    for (const Candidate& candidate : candidates_) {
      std::size_t least = std::numeric_limits<std::size_t>::max();
      for (const ElementType type : candidate.types) least = std::min(least, bytes_in(*candidate.tensor, type));
      smallest += counted(least);
    }
    if (whole_file) {
      const std::size_t metadata = file_.file_bytes() - std::min(file_.file_bytes(), data) + options_.metadata_bytes;
      taken += metadata;
      smallest += metadata;
    }
    const std::size_t all =
        whole_file ? *options_.budget.bytes
                   : static_cast<std::size_t>(std::min(*options_.budget.bits_per_weight * elements / 8.0, 0x1p62));
    if (all < smallest) {
      const std::string asked =
          whole_file ? fmt::format("{} bytes", all) : fmt::format("{} bits per weight", *options_.budget.bits_per_weight);
      const std::string least = whole_file
                                    ? fmt::format("{} bytes", smallest)
                                    : fmt::format("{:.3f}", std::ceil(static_cast<double>(smallest) * 8e3 / elements) / 1e3);
      return bad_input(
          fmt::format("auto: {} are too few for {}: with the smallest types it takes {}", asked, file_.name(), least));
    }
    return all - taken;
  }

  Result<void> gather() {
    const std::int64_t wanted = options_.chunks > 0 || options_.importance == nullptr ? options_.chunks : kSamplingChunks;
    const auto chunks = spread_chunks(tokens_, context_, wanted, first_token_);
    if (!chunks) return tl::make_unexpected(chunks.error());
    const ModelConfig& config = bound_.weights.config;
    sampler_.emplace(config,
                     ActivationSampler::Plan{.rows_in_all = chunks->count() * chunks->context, .rows = options_.input_rows});
    std::optional<ImportanceCollector> collector;
    if (options_.importance == nullptr) collector.emplace(config);
    Both both(collector ? &*collector : nullptr, *sampler_);
    const auto on = [&](std::int64_t done) { return report("gathering activations", done, chunks->count()); };
    if (auto done = observe_chunks(backend_, bound_.weights, team_, *chunks, both, true, on); !done) return done;
    sampler_->limit_norms(kNormLimit);
    if (collector) {
      gathered_ = collector->result(observed_matrices(bound_.weights, false));
      gathered_.datasets.push_back(options_.dataset);
      gathered_.chunks = chunks->count();
      gathered_.chunk_tokens = chunks->context;
    }
    return {};
  }

  Result<std::vector<double>> errors_of(const Candidate& candidate, std::span<const ElementType> types) {
    const TensorQuantizer quantizer(*backend_.kernels, team_, importance());
    const GgufTensor& tensor = *candidate.tensor;
    if (candidate.matrix) {
      const auto inputs = sampler_->rows(candidate.matrix->input, candidate.matrix->layer);
      return output_errors(backend_, team_, quantizer, tensor, types, inputs, options_.elements);
    }
    std::vector<std::int64_t> rows;
    const std::int64_t count = std::min(kLookupRows, std::int64_t{std::ssize(tokens_)});
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int32_t token = tokens_[static_cast<std::size_t>(i * std::ssize(tokens_) / count)];
      rows.push_back(std::clamp<std::int64_t>(token, 0, tensor.shape[1] - 1));
    }
    return lookup_errors(quantizer, tensor, types, rows);
  }

  [[nodiscard]] ElementType probe_type(const Candidate& candidate) const {
    return fallback_type(options_.probe, candidate.tensor->shape[0]);
  }

  Result<void> measure_errors() {
    for (std::size_t i = 0; i < candidates_.size(); ++i) {
      Candidate& candidate = candidates_[i];
      // The probe is measured with the rest; a tensor that is as coarse already is quantized further for it.
      std::vector<ElementType> types = candidate.types;
      const ElementType probe = probe_type(candidate);
      auto at = static_cast<std::size_t>(std::find(types.begin(), types.end(), probe) - types.begin());
      if (at == types.size()) types.push_back(probe);
      auto errors = errors_of(candidate, types);
      if (!errors) return tl::make_unexpected(errors.error());
      candidate.probe_error = (*errors)[at];
      errors->resize(candidate.types.size());
      candidate.errors = std::move(*errors);
      const auto done = static_cast<std::int64_t>(i) + 1;
      if (auto on = report("measuring output errors", done, std::ssize(candidates_)); !on) return on;
    }
    return {};
  }

  /// Tensors that are replaced together: of one kind, in neighbouring layers.
  [[nodiscard]] std::vector<std::vector<Candidate*>> groups() {
    const std::int64_t layers = bound_.weights.config.layers;
    std::set<std::string> kinds;
    std::int64_t alone = 0;
    for (const Candidate& candidate : candidates_) {
      const bool in_layer = candidate.matrix && candidate.matrix->layer >= 0;
      if (in_layer) kinds.insert(kind_of(candidate.tensor->name));
      alone += in_layer ? 0 : 1;
    }
    std::int64_t per_kind = 1;
    if (!options_.quick && !kinds.empty()) {
      per_kind = std::clamp<std::int64_t>((options_.probes - alone) / std::ssize(kinds), 1, layers);
    }
    const std::vector<std::int64_t> group_of = internal::layer_groups(layers, per_kind);
    std::map<std::pair<std::string, std::int64_t>, std::vector<Candidate*>> by_group;
    for (Candidate& candidate : candidates_) {
      const bool in_layer = candidate.matrix && candidate.matrix->layer >= 0;
      const std::int64_t group = in_layer ? group_of[static_cast<std::size_t>(candidate.matrix->layer)] : 0;
      by_group[{kind_of(candidate.tensor->name), group}].push_back(&candidate);
    }
    std::vector<std::vector<Candidate*>> all;
    for (auto& [key, members] : by_group) all.push_back(std::move(members));
    return all;
  }

  Result<void> measure_sensitivity() {
    const ModelConfig& config = bound_.weights.config;
    std::int64_t wanted = options_.probe_chunks;
    if (wanted <= 0) {
      std::int64_t weights = 0;
      for (const Candidate& candidate : candidates_) weights += candidate.tensor->elements();
      wanted = weights > kLargeModel ? kProbeChunksOfLarge : kProbeChunks;
    }
    wanted = std::clamp<std::int64_t>(kMostLogits / (config.vocab * (probe_context_ / 2)), 1, wanted);
    const auto chunks = spread_chunks(tokens_, probe_context_, wanted, first_token_);
    if (!chunks) return tl::make_unexpected(chunks.error());
    auto shift = PredictionShift::create(backend_, bound_.weights, team_, *chunks);
    if (!shift) return tl::make_unexpected(shift.error());
    const auto all = groups();
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (auto on = report("measuring sensitivity", static_cast<std::int64_t>(i), std::ssize(all)); !on) return on;
      if (auto done = probe_group(all[i], *shift); !done) return done;
    }
    return report("measuring sensitivity", std::ssize(all), std::ssize(all));
  }

  Result<void> probe_group(const std::vector<Candidate*>& group, PredictionShift& shift) {
    const TensorQuantizer quantizer(*backend_.kernels, team_, importance());
    std::vector<AlignedBuffer> replaced;
    double error = 0.0;
    Result<void> ready;
    for (const Candidate* candidate : group) {
      auto data = quantizer.quantize(*candidate->tensor, probe_type(*candidate));
      if (!data) {
        ready = tl::make_unexpected(data.error());
        break;
      }
      repoint_weights(bound_.weights, candidate->tensor->data, probe_type(*candidate), data->data());
      replaced.push_back(std::move(*data));
      error += candidate->probe_error;
    }
    Result<double> divergence = 0.0;
    if (ready) divergence = shift.measure();
    for (std::size_t i = 0; i < replaced.size(); ++i) {
      repoint_weights(bound_.weights, replaced[i].data(), group[i]->tensor->type, group[i]->tensor->data);
    }
    if (!ready) return ready;
    if (!divergence) return tl::make_unexpected(divergence.error());
    for (Candidate* candidate : group) {
      candidate->sensitivity = error > 0.0 ? std::max(0.0, *divergence) / error : 0.0;
    }
    return {};
  }

  Result<AutoTypes> solve() {
    const auto room = budget_of_candidates();
    if (!room) return tl::make_unexpected(room.error());
    const bool whole_file = options_.budget.bytes.has_value();
    std::vector<std::vector<SizeOption>> items;
    for (const Candidate& candidate : candidates_) {
      auto& item = items.emplace_back();
      for (std::size_t i = 0; i < candidate.types.size(); ++i) {
        const std::size_t bytes = bytes_in(*candidate.tensor, candidate.types[i]);
        item.push_back({whole_file ? padded(bytes) : bytes, candidate.sensitivity * candidate.errors[i]});
      }
    }
    const auto chosen = choose_within_budget(items, *room);
    if (!chosen) return bad_input(fmt::format("auto: {}: no choice of types fits the size", file_.name()));
    AutoTypes result;
    for (std::size_t i = 0; i < candidates_.size(); ++i) {
      const Candidate& candidate = candidates_[i];
      const std::size_t k = (*chosen)[i];
      TensorChoice& choice = choices_[candidate.index];
      choice.type = candidate.types[k];
      choice.quantize = choice.type != candidate.tensor->type;
      result.tensors.push_back({.name = std::string(candidate.tensor->name),
                                .type = choice.type,
                                .bytes = bytes_in(*candidate.tensor, choice.type),
                                .output_error = std::sqrt(candidate.errors[k]),
                                .sensitivity = candidate.sensitivity,
                                .divergence = items[i][k].cost,
                                .asked_for = candidate.asked_for.has_value()});
      result.divergence += items[i][k].cost;
    }
    double elements = 0.0;
    for (const TensorChoice& choice : choices_) {
      result.tensor_bytes += bytes_in(*choice.tensor, choice.type);
      elements += static_cast<double>(choice.tensor->elements());
    }
    result.bits_per_weight = static_cast<double>(result.tensor_bytes) * 8.0 / elements;
    result.choices = std::move(choices_);
    result.importance = std::move(gathered_);
    return result;
  }

  const GgufFile& file_;
  const Backend& backend_;
  ThreadTeam& team_;
  std::span<const std::int32_t> tokens_;
  std::optional<std::int32_t> first_token_;
  const AutoTypesOptions& options_;
  std::int64_t context_ = 0;
  std::int64_t probe_context_ = 0;
  GgufWeights bound_;
  std::vector<TensorChoice> choices_;
  std::vector<Candidate> candidates_;
  ImportanceMatrix gathered_;
  std::optional<ActivationSampler> sampler_;
};

}  // namespace

std::vector<std::int64_t> internal::layer_groups(std::int64_t layers, std::int64_t groups) {
  std::vector<std::int64_t> group(static_cast<std::size_t>(layers));
  constexpr std::int64_t kAlone = 3;  // the first two and the last
  const bool ends_alone = groups > kAlone && groups < layers;
  for (std::int64_t i = 0; i < layers; ++i) {
    std::int64_t& of = group[static_cast<std::size_t>(i)];
    if (!ends_alone) {
      of = i * std::min(groups, layers) / layers;
    } else if (i < 2) {
      of = i;
    } else if (i == layers - 1) {
      of = groups - 1;
    } else {
      of = 2 + (i - 2) * (groups - kAlone) / (layers - kAlone);
    }
  }
  return group;
}

Result<AutoTypes> choose_auto_types(const GgufFile& file, const Backend& backend, ThreadTeam& team,
                                    std::span<const std::int32_t> tokens, std::optional<std::int32_t> first_token,
                                    const AutoTypesOptions& options) {
  if (!options.budget.bytes && !options.budget.bits_per_weight) return bad_input("auto: no size is given");
  return AutoChooser(file, backend, team, tokens, first_token, options).choose();
}

}  // namespace quern
