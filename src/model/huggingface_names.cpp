#include "model/huggingface_names.hpp"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <span>

namespace quern::internal {
namespace {

struct NameRow {
  std::string_view stream;  // without .weight or .bias
  std::string_view file;
};

constexpr std::array kTop{NameRow{"token_embd", "embed_tokens"}, NameRow{"output_norm", "norm"}};
constexpr std::array kGpt2Top{NameRow{"token_embd", "wte"}, NameRow{"position_embd", "wpe"}, NameRow{"output_norm", "ln_f"}};

constexpr std::array kLlama{
    NameRow{"attn_norm", "input_layernorm"},
    NameRow{"attn_q", "self_attn.q_proj"},
    NameRow{"attn_k", "self_attn.k_proj"},
    NameRow{"attn_v", "self_attn.v_proj"},
    NameRow{"attn_q_norm", "self_attn.q_norm"},
    NameRow{"attn_k_norm", "self_attn.k_norm"},
    NameRow{"attn_output", "self_attn.o_proj"},
    NameRow{"attn_sinks", "self_attn.sinks"},
    NameRow{"ffn_norm", "post_attention_layernorm"},
    NameRow{"ffn_gate", "mlp.gate_proj"},
    NameRow{"ffn_up", "mlp.up_proj"},
    NameRow{"ffn_down", "mlp.down_proj"},
};
// What other classes call otherwise; looked up first.
constexpr std::array kPhi3{NameRow{"attn_q", "self_attn.qkv_proj"}, NameRow{"attn_k", "self_attn.qkv_proj"},
                           NameRow{"attn_v", "self_attn.qkv_proj"}, NameRow{"ffn_gate", "mlp.gate_up_proj"},
                           NameRow{"ffn_up", "mlp.gate_up_proj"}};
constexpr std::array kGemma{NameRow{"post_attention_norm", "post_attention_layernorm"},
                            NameRow{"ffn_norm", "pre_feedforward_layernorm"},
                            NameRow{"post_ffw_norm", "post_feedforward_layernorm"}};
constexpr std::array kMixtral{
    NameRow{"ffn_gate_inp", "block_sparse_moe.gate"}, NameRow{"ffn_gate_exps", "block_sparse_moe.experts.%.w1"},
    NameRow{"ffn_up_exps", "block_sparse_moe.experts.%.w3"}, NameRow{"ffn_down_exps", "block_sparse_moe.experts.%.w2"}};
constexpr std::array kQwenMoe{NameRow{"ffn_gate_inp", "mlp.gate"}, NameRow{"ffn_gate_exps", "mlp.experts.%.gate_proj"},
                              NameRow{"ffn_up_exps", "mlp.experts.%.up_proj"},
                              NameRow{"ffn_down_exps", "mlp.experts.%.down_proj"}};
constexpr std::array kGptOss{NameRow{"ffn_gate_inp", "mlp.router"}, NameRow{"ffn_gate_exps", "mlp.experts.gate_up_proj"},
                             NameRow{"ffn_up_exps", "mlp.experts.gate_up_proj"},
                             NameRow{"ffn_down_exps", "mlp.experts.down_proj"}};
constexpr std::array kGpt2{NameRow{"attn_norm", "ln_1"},          NameRow{"attn_q", "attn.c_attn"},
                           NameRow{"attn_k", "attn.c_attn"},      NameRow{"attn_v", "attn.c_attn"},
                           NameRow{"attn_output", "attn.c_proj"}, NameRow{"ffn_norm", "ln_2"},
                           NameRow{"ffn_up", "mlp.c_fc"},         NameRow{"ffn_down", "mlp.c_proj"}};

std::string_view look_up(std::span<const NameRow> rows, std::string_view stem) {
  for (const NameRow& row : rows) {
    if (row.stream == stem) return row.file;
  }
  return {};
}

std::string_view layer_stem(HuggingFaceLayout layout, std::string_view stem) {
  std::span<const NameRow> own;
  switch (layout) {
    case HuggingFaceLayout::llama:
      break;
    case HuggingFaceLayout::phi3:
      own = kPhi3;
      break;
    case HuggingFaceLayout::gemma:
      own = kGemma;
      break;
    case HuggingFaceLayout::gpt2:
      return look_up(kGpt2, stem);
    case HuggingFaceLayout::mixtral:
      own = kMixtral;
      break;
    case HuggingFaceLayout::qwen_moe:
      own = kQwenMoe;
      break;
    case HuggingFaceLayout::gpt_oss:
      own = kGptOss;
      break;
  }
  const std::string_view found = look_up(own, stem);
  return found.empty() ? look_up(kLlama, stem) : found;
}

}  // namespace

StreamName split_stream_name(std::string_view name) {
  if (!name.starts_with("blk.")) return {-1, name};
  StreamName parts;
  const auto [end, error] = std::from_chars(name.data() + 4, name.data() + name.size(), parts.layer);
  parts.rest = name.substr(static_cast<std::size_t>(end - name.data()) + 1);
  return parts;
}

std::string huggingface_name(HuggingFaceLayout layout, std::string_view stream_name) {
  if (stream_name == "output.weight") return "lm_head.weight";
  const StreamName name = split_stream_name(stream_name);
  const std::size_t dot = name.rest.rfind('.');
  const std::string_view stem = name.rest.substr(0, dot);
  const std::string_view kind = name.rest.substr(dot + 1);
  const bool gpt2 = layout == HuggingFaceLayout::gpt2;
  if (name.layer < 0) {
    const std::string_view found = gpt2 ? look_up(kGpt2Top, stem) : look_up(kTop, stem);
    return found.empty() ? "" : fmt::format("{}.{}", found, kind);
  }
  const std::string_view found = layer_stem(layout, stem);
  if (found.empty()) return "";
  const std::string base = fmt::format("{}.{}.{}", gpt2 ? "h" : "layers", name.layer, found);
  if (stem == "attn_sinks") return base;
  if (layout == HuggingFaceLayout::gpt_oss && stem.ends_with("_exps")) return kind == "bias" ? base + "_bias" : base;
  return base + "." + std::string(kind);
}

bool huggingface_norm_is_less_one(HuggingFaceLayout layout, std::string_view stream_name) {
  return layout == HuggingFaceLayout::gemma && stream_name.ends_with("norm.weight");
}

}  // namespace quern::internal
