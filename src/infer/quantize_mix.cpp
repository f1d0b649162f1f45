#include "infer/quantize_mix.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <memory>
#include <span>
#include <utility>

#include "math/block_formats.hpp"
#include "math/quantize.hpp"
#include "model/gguf_values.hpp"

namespace quern {
namespace {

using internal::shown;

/// What a matrix does, as far as mixes tell matrices apart. A fused attn_qkv counts as attn_v.
enum class Role { token_embedding, output, attn_k, attn_v, attn_output, ffn_down, other };

/// The layers in which a rule's type is taken.
enum class Where {
  nowhere,
  everywhere,
  grouped_heads,  ///< all, of models with at least four query heads per key-value head
  more_bits,      ///< the first and the last eighth, and every third between
  first_two,
  first_four,
  first_eighth,
  first_sixteenth,
  first_eighth_without_importance,
  first_eighth_with_importance
};

/// Which type a role takes: `there` in the layers of `where`, else `elsewhere`, or, without one, the mix's default.
struct Rule {
  Where where = Where::nowhere;
  ElementType there = ElementType::f32;
  std::optional<ElementType> elsewhere = {};
};

struct Mix {
  std::string_view name;
  std::uint32_t file_type;
  ElementType type;  ///< of what no rule is about
  Rule attn_v = {}, attn_output = {}, ffn_down = {};
  /// attn_output's type in models of eight experts, where the rule above does not hold; none: the default.
  std::optional<ElementType> attn_output_of_eight = {};
};

using enum ElementType;
constexpr Rule kMoreBits{Where::more_bits, q6_k};
constexpr Rule kGroupedQ5{Where::grouped_heads, q5_k};
constexpr Rule kEarlyQ5{Where::first_eighth_without_importance, q5_k};

/// llama-quantize's mixes (llama.cpp, llama-quant.cpp) in the order of their sizes, and MXFP4 for dense models too.
constexpr std::array kMixes{
    Mix{"Q2_K_S", 21, q2_k, {Where::grouped_heads, q4_k}, {}, {Where::first_eighth, q4_k}},
    Mix{"Q2_K", 10, q2_k, {Where::grouped_heads, q4_k, q3_k}, {Where::everywhere, q3_k}, {Where::everywhere, q3_k}, q5_k},
    Mix{"Q3_K_S", 11, q3_k, {}, {}, {}, q5_k},
    Mix{"Q3_K_M",
        12,
        q3_k,
        {Where::first_two, q5_k, q4_k},
        {Where::everywhere, q4_k},
        {Where::first_sixteenth, q5_k, q4_k},
        q5_k},
    Mix{"Q3_K_L", 13, q3_k, {Where::everywhere, q5_k}, {Where::everywhere, q5_k}, {Where::everywhere, q5_k}},
    Mix{"IQ4_XS", 30, iq4_xs, kGroupedQ5, {}, kEarlyQ5, q5_k},
    Mix{"MXFP4", 38, mxfp4},
    Mix{"MXFP4_MOE", 38, mxfp4},
    Mix{"Q4_0", 2, q4_0, {}, {}, {Where::first_eighth_with_importance, q4_1}},
    Mix{"IQ4_NL", 25, iq4_nl, kGroupedQ5, {}, kEarlyQ5, q5_k},
    Mix{"Q4_K_S", 14, q4_k, {Where::first_four, q5_k}, {}, {Where::first_eighth, q5_k}, q5_k},
    Mix{"Q4_K_M", 15, q4_k, kMoreBits, {}, kMoreBits, q5_k},
    Mix{"Q4_1", 3, q4_1},
    Mix{"Q5_0", 8, q5_0, {}, {}, {Where::first_eighth_with_importance, q5_1}},
    Mix{"Q5_K_S", 16, q5_k},
    Mix{"Q5_K_M", 17, q5_k, kMoreBits, {}, kMoreBits},
    Mix{"Q5_1", 9, q5_1},
    Mix{"Q6_K", 18, q6_k},
    Mix{"Q8_0", 7, q8_0},
    Mix{"F16", 1, f16},
    Mix{"BF16", 32, bf16},
    Mix{"F32", 0, f32},
};

const Mix* find_mix(std::string_view name) {
  const auto same = [](char a, char b) {
    return std::toupper(static_cast<unsigned char>(a)) == std::toupper(static_cast<unsigned char>(b));
  };
  const auto* at = std::find_if(kMixes.begin(), kMixes.end(), [&](const Mix& mix) {
    return std::equal(mix.name.begin(), mix.name.end(), name.begin(), name.end(), same);
  });
  return at == kMixes.end() ? nullptr : at;
}

Role role_of(std::string_view name) {
  const auto has = [name](std::string_view part) { return name.find(part) != std::string_view::npos; };
  if (name == "output.weight") return Role::output;
  if (name == "token_embd.weight" || name == "per_layer_token_embd.weight") return Role::token_embedding;
  if (has("attn_qkv.weight") || has("attn_kv_b.weight") || has("attn_v.weight")) return Role::attn_v;
  if (has("attn_k.weight")) return Role::attn_k;
  if (has("attn_output.weight")) return Role::attn_output;
  if (has("ffn_down")) return Role::ffn_down;
  return Role::other;
}

/// More layers than any model has: a file can claim what it likes.
constexpr std::int64_t kMaxLayers = std::int64_t{1} << 20;

/// N of "blk.N.", or 0.
std::int64_t layer_of(std::string_view name) {
  constexpr std::string_view kPrefix = "blk.";
  std::int64_t layer = 0;
  if (name.starts_with(kPrefix)) (void)std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), layer);
  return std::clamp<std::int64_t>(layer, 0, kMaxLayers);
}

/// What the rules ask about a model.
struct Model {
  std::int64_t layers = 0;
  std::int64_t attn_v_count = 0;
  std::int64_t experts = 0;
  bool grouped = false;    ///< at least four query heads per key-value head
  bool llama_70b = false;  ///< 80 layers with grouped heads
  bool tied = true;        ///< no output.weight
};

Model model_of(std::span<const GgufTensor> tensors, const MixModel& said) {
  Model model;
  model.experts = said.experts;
  model.grouped = said.kv_heads > 0 && said.heads / said.kv_heads >= 4;
  for (const GgufTensor& tensor : tensors) {
    const Role role = role_of(tensor.name);
    if (role == Role::attn_v) ++model.attn_v_count;
    if (role == Role::output) model.tied = false;
    if (tensor.name.starts_with("blk.")) model.layers = std::max(model.layers, layer_of(tensor.name) + 1);
  }
  if (said.layers > 0) model.layers = std::min(said.layers, kMaxLayers);
  model.llama_70b = model.layers == 80 && said.kv_heads > 0 && said.heads != said.kv_heads;
  return model;
}

/// Files that say less than a model's do are quantized all the same, as models without grouped heads and experts.
Result<MixModel> said_by(const GgufFile& file) {
  const auto architecture = file.string_or("general.architecture", "");
  if (!architecture) return tl::make_unexpected(architecture.error());
  const auto integer = [&](std::string_view key) -> std::int64_t {
    const auto values = file.integers(fmt::format("{}.{}", *architecture, key));
    return values && !values->empty() ? values->front() : 0;
  };
  return MixModel{.layers = integer("block_count"),
                  .heads = integer("attention.head_count"),
                  .kv_heads = integer("attention.head_count_kv"),
                  .experts = integer("expert_count")};
}

/// Whether `layer` of `layers` is one of `where`.
bool holds(Where where, std::int64_t layer, std::int64_t layers, const Model& model, bool has_importance) {
  switch (where) {
    case Where::nowhere:
      return false;
    case Where::everywhere:
      return true;
    case Where::grouped_heads:
      return model.grouped;
    case Where::more_bits:
      return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
    case Where::first_two:
      return layer < 2;
    case Where::first_four:
      return layer < 4;
    case Where::first_eighth:
      return layer < layers / 8;
    case Where::first_sixteenth:
      return layer < layers / 16;
    case Where::first_eighth_without_importance:
      return !has_importance && layer < layers / 8;
    case Where::first_eighth_with_importance:
      return has_importance && layer < layers / 8;
  }
  return false;
}

class Chooser {
 public:
  Chooser(const Mix& mix, const Model& model, bool has_importance)
      : mix_(mix), model_(model), has_importance_(has_importance) {}

  /// The type before rows are looked at. `attn_v_rank`: how many attn_v tensors come before this one in layer order.
  [[nodiscard]] ElementType choose(const GgufTensor& tensor, std::int64_t attn_v_rank) const {
    if (!block_format(mix_.type).quantized) return mix_.type;
    const Role role = role_of(tensor.name);
    const bool is_head = role == Role::output || (role == Role::token_embedding && model_.tied);
    if (mix_.name == "MXFP4_MOE") return !is_head && tensor.shape[2] > 1 ? mxfp4 : q8_0;
    if (is_head) {
      const bool whole = tensor.shape[0] % block_format(mix_.type).block_elements == 0;
      return !whole || mix_.type == q8_0 ? q8_0 : q6_k;
    }
    const std::int64_t layer = layer_of(tensor.name);
    // Models of eight experts take more bits for what the experts share: it is small beside them.
    const bool eight = model_.experts == 8 && mix_.type != mxfp4;
    switch (role) {
      case Role::attn_k:
        return eight ? q8_0 : mix_.type;
      case Role::attn_v: {
        const ElementType type = apply(mix_.attn_v, attn_v_rank, model_.attn_v_count);
        if (eight) return q8_0;
        return model_.llama_70b && (type == q3_k || type == q4_k) ? q5_k : type;
      }
      case Role::attn_output:
        if (eight) return mix_.attn_output_of_eight.value_or(mix_.type);
        return apply(mix_.attn_output, layer, model_.layers);
      case Role::ffn_down:
        return apply(mix_.ffn_down, layer, model_.layers);
      default:
        return mix_.type;
    }
  }

 private:
  [[nodiscard]] ElementType apply(const Rule& rule, std::int64_t layer, std::int64_t layers) const {
    return holds(rule.where, layer, layers, model_, has_importance_) ? rule.there : rule.elsewhere.value_or(mix_.type);
  }
  const Mix& mix_;
  const Model& model_;
  bool has_importance_;
};

/// For each tensor, how many tensors of attn_v's role have a lower layer or, in the same, come before it.
std::vector<std::int64_t> attn_v_ranks(std::span<const GgufTensor> tensors) {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (role_of(tensors[i].name) == Role::attn_v) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return layer_of(tensors[a].name) < layer_of(tensors[b].name); });
  std::vector<std::int64_t> ranks(tensors.size());
  for (std::size_t i = 0; i < order.size(); ++i) ranks[order[i]] = static_cast<std::int64_t>(i);
  return ranks;
}

/// A compiled --tensor-type pattern.
class Pattern {
 public:
  [[nodiscard]] static Result<Pattern> compile(const std::string& text) {
    int error = 0;
    PCRE2_SIZE at = 0;
    Pattern pattern;
    pattern.text_ = text;
    pattern.code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR8>(text.data()), text.size(), 0, &error, &at, nullptr));
    if (pattern.code_ == nullptr) {
      std::array<PCRE2_UCHAR8, 200> reason{};
      pcre2_get_error_message(error, reason.data(), reason.size());
      return bad_input(fmt::format("tensor type pattern '{}': {} at character {}", shown(text),
                                   reinterpret_cast<const char*>(reason.data()), at + 1));
    }
    pattern.match_.reset(pcre2_match_data_create(1, nullptr));
    if (pattern.match_ == nullptr) return no_memory("no memory for a tensor type pattern");
    return pattern;
  }
  [[nodiscard]] Result<bool> is_in(std::string_view name) const {
    const int found =
        pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR8>(name.data()), name.size(), 0, 0, match_.get(), nullptr);
    if (found < PCRE2_ERROR_NOMATCH) {
      return bad_input(fmt::format("tensor type pattern '{}' takes too long on '{}'", shown(text_), shown(name)));
    }
    return found != PCRE2_ERROR_NOMATCH;
  }
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  struct Free {
    void operator()(pcre2_code* code) const { pcre2_code_free(code); }
    void operator()(pcre2_match_data* match) const { pcre2_match_data_free(match); }
  };
  std::string text_;
  std::unique_ptr<pcre2_code, Free> code_;
  std::unique_ptr<pcre2_match_data, Free> match_;
};

/// --tensor-type options, and which of them any tensor has met.
class Overrides {
 public:
  [[nodiscard]] static Result<Overrides> compile(const std::vector<std::pair<std::string, ElementType>>& options) {
    Overrides overrides;
    for (const auto& [text, type] : options) {
      auto pattern = Pattern::compile(text);
      if (!pattern) return tl::make_unexpected(pattern.error());
      overrides.entries_.push_back({std::move(*pattern), type});
    }
    return overrides;
  }
  /// The type that the first pattern found in the name asks for, with that pattern.
  [[nodiscard]] Result<const std::pair<Pattern, ElementType>*> find(std::string_view name) {
    const std::pair<Pattern, ElementType>* first = nullptr;
    for (Entry& entry : entries_) {
      const auto found = entry.choice.first.is_in(name);
      if (!found) return tl::make_unexpected(found.error());
      entry.met = entry.met || *found;
      if (*found && first == nullptr) first = &entry.choice;
    }
    return first;
  }
  /// A pattern that no tensor's name held; null where all were met.
  [[nodiscard]] const Pattern* unmet() const {
    const auto at = std::find_if(entries_.begin(), entries_.end(), [](const Entry& entry) { return !entry.met; });
    return at == entries_.end() ? nullptr : &at->choice.first;
  }

 private:
  struct Entry {
    Entry(Pattern pattern, ElementType type) : choice(std::move(pattern), type) {}
    std::pair<Pattern, ElementType> choice;
    bool met = false;
  };
  std::vector<Entry> entries_;
};

bool can_decode(ElementType type) {
  const BlockFormat& format = block_format(type);
  return format.quantized || type == f32 || type == f16 || type == bf16 || type == f64;
}

Result<void> check_type(ElementType type, std::string_view option) {
  if (can_quantize(type)) return {};
  return bad_input(fmt::format("{}: type {} can be read but not written", option, block_format(type).name));
}

}  // namespace

std::vector<std::string_view> mix_names() {
  std::vector<std::string_view> names;
  for (const Mix& mix : kMixes) names.push_back(mix.name);
  return names;
}

bool is_mix(std::string_view name) { return find_mix(name) != nullptr; }

std::uint32_t mix_file_type(std::string_view mix) {
  const Mix* found = find_mix(mix);
  return found == nullptr ? 0 : found->file_type;
}

bool is_quantized_tensor(const GgufTensor& tensor) {
  // Trailing dimensions of 1 do not make a matrix.
  if (tensor.shape[1] * tensor.shape[2] * tensor.shape[3] <= 1) return false;
  const std::string_view name = tensor.name;
  if (!name.ends_with("weight") || name == "position_embd.weight" || name == "token_types.weight") return false;
  // Norms and routers; then what is small, or no matrix of a product, in recurrent, vision and audio models.
  constexpr std::array<std::string_view, 35> kKept{"_norm.weight",
                                                   "ffn_gate_inp.weight",
                                                   "ffn_gate_tid2eid.weight",
                                                   "altup",
                                                   "laurel",
                                                   "per_layer_model_proj",
                                                   "ssm_conv1d",
                                                   "shortconv.conv.weight",
                                                   "indexer.k_proj.weight",
                                                   "indexer.q_proj.weight",
                                                   "time_mix_first.weight",
                                                   "time_mix_w0.weight",
                                                   "time_mix_w1.weight",
                                                   "time_mix_w2.weight",
                                                   "time_mix_v0.weight",
                                                   "time_mix_v1.weight",
                                                   "time_mix_v2.weight",
                                                   "time_mix_a0.weight",
                                                   "time_mix_a1.weight",
                                                   "time_mix_a2.weight",
                                                   "time_mix_g1.weight",
                                                   "time_mix_g2.weight",
                                                   "time_mix_decay_w1.weight",
                                                   "time_mix_decay_w2.weight",
                                                   "attn_rel_b.weight",
                                                   "time_mix_lerp_fused.weight",
                                                   ".position_embd",
                                                   ".rel_pos",
                                                   ".patch_embd",
                                                   ".patch_merger",
                                                   "sam.pos_embd",
                                                   "sam.neck.",
                                                   "sam.net_",
                                                   "a.rvq.codebook",
                                                   "mm.a.code_embd"};
  return std::none_of(kKept.begin(), kKept.end(),
                      [&](std::string_view part) { return name.find(part) != std::string_view::npos; });
}

ElementType fallback_type(ElementType type, std::int64_t row_elements) {
  const auto divides = [row_elements](ElementType any) { return row_elements % block_format(any).block_elements == 0; };
  if (divides(type)) return type;
  ElementType other = f16;
  switch (type) {
    case q2_k:
    case q3_k:
    case tq1_0:
    case tq2_0:
      other = q4_0;
      break;
    case q4_k:
      other = q5_0;
      break;
    case q5_k:
      other = q5_1;
      break;
    case q6_k:
      other = q8_0;
      break;
    case iq4_xs:
      other = iq4_nl;
      break;
    default:
      break;
  }
  return divides(other) ? other : f16;
}

Result<std::vector<TensorChoice>> choose_types(std::span<const GgufTensor> tensors, const MixModel& said,
                                               const std::string& name, const MixOptions& options) {
  const Mix* mix = find_mix(options.mix);
  if (mix == nullptr) {
    return bad_input(fmt::format("unknown type '{}'; there are {}", shown(options.mix), fmt::join(mix_names(), ", ")));
  }
  if (options.output) {
    if (auto checked = check_type(*options.output, "output type"); !checked) return tl::make_unexpected(checked.error());
  }
  for (const auto& [text, type] : options.overrides) {
    if (auto checked = check_type(type, fmt::format("tensor type pattern '{}'", shown(text))); !checked) {
      return tl::make_unexpected(checked.error());
    }
  }
  auto overrides = Overrides::compile(options.overrides);
  if (!overrides) return tl::make_unexpected(overrides.error());
  const Model model = model_of(tensors, said);
  const Chooser chooser(*mix, model, options.has_importance);
  const std::vector<std::int64_t> ranks = attn_v_ranks(tensors);
  std::vector<TensorChoice> choices;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const GgufTensor& tensor = tensors[i];
    TensorChoice choice;
    choice.tensor = &tensor;
    choice.type = tensor.type;
    if (is_quantized_tensor(tensor)) {
      const auto asked = overrides->find(tensor.name);
      if (!asked) return tl::make_unexpected(asked.error());
      const Role role = role_of(tensor.name);
      const bool is_head = role == Role::output || (role == Role::token_embedding && model.tied);
      ElementType wanted = mix->type;
      if (is_head && options.output) {
        wanted = *options.output;
        choice.note = "asked for";
      } else if (*asked != nullptr) {
        wanted = (*asked)->second;
        choice.note = fmt::format("asked for by '{}'", (*asked)->first.text());
      } else if (!options.pure) {
        wanted = chooser.choose(tensor, ranks[i]);
      }
      choice.type = fallback_type(wanted, tensor.shape[0]);
      if (choice.type != wanted) {
        choice.note =
            fmt::format("rows of {} are no multiple of {}: {} for {}", tensor.shape[0], block_format(wanted).block_elements,
                        block_format(choice.type).name, block_format(wanted).name);
      }
      choice.quantize = choice.type != tensor.type;
      if (choice.quantize && !can_decode(tensor.type)) {
        return bad_input(fmt::format("{}: tensor '{}': expected floats or blocks to quantize, found {}", name,
                                     shown(tensor.name), block_format(tensor.type).name));
      }
    }
    choices.push_back(std::move(choice));
  }
  if (const Pattern* unmet = overrides->unmet(); unmet != nullptr) {
    return bad_input(fmt::format("tensor type pattern '{}': found in the name of no tensor of {} that is quantized",
                                 shown(unmet->text()), name));
  }
  return choices;
}

Result<std::vector<TensorChoice>> choose_types(const GgufFile& file, const MixOptions& options) {
  // An unknown mix is said before anything that the file lacks.
  const auto model = said_by(file);
  if (!model && is_mix(options.mix)) return tl::make_unexpected(model.error());
  return choose_types(file.tensors(), model.value_or(MixModel{}), file.name(), options);
}

}  // namespace quern
