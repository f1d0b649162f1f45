#include "support/huggingface_models.hpp"

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string_view>

namespace quern {

namespace {

using Json = nlohmann::ordered_json;
using Values = std::vector<float>;
using Shape = std::vector<std::int64_t>;

class Publisher {
 public:
  Publisher(const ModelStream& stream, std::string type) : stream_(stream), c_(stream.config), type_(std::move(type)) {}

  HuggingFaceModel make() {
    config();
    if (type_ == "gpt2") {
      gpt2();
    } else {
      put("model.embed_tokens.weight", "token_embd.weight");
      for (std::int64_t layer = 0; layer < c_.layers; ++layer) {
        attention("model.layers." + std::to_string(layer) + ".", "blk." + std::to_string(layer) + ".");
        feed_forward("model.layers." + std::to_string(layer) + ".", "blk." + std::to_string(layer) + ".");
      }
      norm("model.norm.weight", "output_norm.weight");
    }
    if (!c_.tied_embeddings) put("lm_head.weight", "output.weight");
    return std::move(model_);
  }

 private:
  const StreamTensor& tensor(const std::string& name) const {
    const StreamTensor* found = stream_.find(name);
    if (found == nullptr) std::abort();
    return *found;
  }
  bool has(const std::string& name) const { return stream_.find(name) != nullptr; }
  Values values(const std::string& name) const { return values_of(tensor(name)); }
  void add(std::string name, Shape shape, const Values& v) {
    model_.tensors.push_back(f32_image_tensor(std::move(name), std::move(shape), v));
  }
  void put(const std::string& name, const std::string& from) { add(name, tensor(from).shape, values(from)); }
  void put_if(const std::string& name, const std::string& from) {
    if (has(from)) put(name, from);
  }
  void norm(const std::string& name, const std::string& from) {
    Values v = values(from);
    if (type_.starts_with("gemma")) {
      for (float& x : v) x -= 1.0F;
    }
    add(name, tensor(from).shape, v);
  }
  Values joined(const std::vector<std::string>& names) const {
    Values all;
    for (const std::string& name : names) {
      const Values v = values(name);
      all.insert(all.end(), v.begin(), v.end());
    }
    return all;
  }
  static Values transposed(const Values& v, std::int64_t rows, std::int64_t cols) {
    Values turned(v.size());
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t k = 0; k < cols; ++k) {
        turned[static_cast<std::size_t>(k * rows + r)] = v[static_cast<std::size_t>(r * cols + k)];
      }
    }
    return turned;
  }

  void attention(const std::string& to, const std::string& from) {
    norm(to + "input_layernorm.weight", from + "attn_norm.weight");
    const std::string a = to + "self_attn.";
    if (type_ == "phi3") {
      add(a + "qkv_proj.weight", {c_.qkv_width(), c_.width},
          joined({from + "attn_q.weight", from + "attn_k.weight", from + "attn_v.weight"}));
    } else {
      for (const std::string_view part : {"q", "k", "v"}) {
        const std::string p(part);
        put(a + p + "_proj.weight", from + "attn_" + p + ".weight");
        put_if(a + p + "_proj.bias", from + "attn_" + p + ".bias");
      }
    }
    put(a + "o_proj.weight", from + "attn_output.weight");
    put_if(a + "o_proj.bias", from + "attn_output.bias");
    if (c_.qk_norm) {
      norm(a + "q_norm.weight", from + "attn_q_norm.weight");
      norm(a + "k_norm.weight", from + "attn_k_norm.weight");
    }
    put_if(a + "sinks", from + "attn_sinks.weight");
    if (c_.post_norms) {
      norm(to + "post_attention_layernorm.weight", from + "post_attention_norm.weight");
      norm(to + "pre_feedforward_layernorm.weight", from + "ffn_norm.weight");
      norm(to + "post_feedforward_layernorm.weight", from + "post_ffw_norm.weight");
    } else {
      norm(to + "post_attention_layernorm.weight", from + "ffn_norm.weight");
    }
  }

  void feed_forward(const std::string& to, const std::string& from) {
    if (type_ == "gpt_oss") {
      gpt_oss_experts(to + "mlp.", from);
    } else if (c_.experts > 0) {
      const bool mixtral = type_ == "mixtral";
      const std::string block = to + (mixtral ? "block_sparse_moe." : "mlp.");
      put(block + "gate.weight", from + "ffn_gate_inp.weight");
      const char* const names[3][3] = {
          {"ffn_gate_exps", "w1", "gate_proj"}, {"ffn_up_exps", "w3", "up_proj"}, {"ffn_down_exps", "w2", "down_proj"}};
      for (const auto& row : names) {
        const StreamTensor& all = tensor(from + row[0] + ".weight");
        const Values v = values_of(all);
        const auto each = v.size() / static_cast<std::size_t>(c_.experts);
        for (std::int64_t e = 0; e < c_.experts; ++e) {
          const auto begin = v.begin() + e * static_cast<std::int64_t>(each);
          add(block + "experts." + std::to_string(e) + "." + row[mixtral ? 1 : 2] + ".weight", {all.shape[1], all.shape[2]},
              Values(begin, begin + static_cast<std::int64_t>(each)));
        }
      }
    } else if (type_ == "phi3") {
      add(to + "mlp.gate_up_proj.weight", {2 * c_.mlp_width, c_.width},
          joined({from + "ffn_gate.weight", from + "ffn_up.weight"}));
      put(to + "mlp.down_proj.weight", from + "ffn_down.weight");
    } else {
      for (const std::string_view part : {"gate", "up", "down"}) {
        const std::string p(part);
        put(to + "mlp." + p + "_proj.weight", from + "ffn_" + p + ".weight");
        put_if(to + "mlp." + p + "_proj.bias", from + "ffn_" + p + ".bias");
      }
    }
  }

  /// Gate at even places, up at odd ones, of the dimension `outer` of [experts, outer, inner].
  static Values alternate(const Values& gate, const Values& up, std::int64_t inner) {
    Values both;
    for (std::size_t row = 0; row < gate.size() / static_cast<std::size_t>(inner); ++row) {
      for (const Values* from : {&gate, &up}) {
        const auto begin = from->begin() + static_cast<std::int64_t>(row) * inner;
        both.insert(both.end(), begin, begin + inner);
      }
    }
    return both;
  }

  void gpt_oss_experts(const std::string& to, const std::string& from) {
    put(to + "router.weight", from + "ffn_gate_inp.weight");
    put(to + "router.bias", from + "ffn_gate_inp.bias");
    const std::int64_t e = c_.experts, m = c_.mlp_width, w = c_.width;
    add(to + "experts.gate_up_proj_bias", {e, 2 * m},
        alternate(values(from + "ffn_gate_exps.bias"), values(from + "ffn_up_exps.bias"), 1));
    put(to + "experts.down_proj_bias", from + "ffn_down_exps.bias");
    if (tensor(from + "ffn_up_exps.weight").type == ElementType::mxfp4) {
      mxfp4(to + "experts.gate_up_proj", {from + "ffn_gate_exps.weight", from + "ffn_up_exps.weight"}, e, m, w);
      mxfp4(to + "experts.down_proj", {from + "ffn_down_exps.weight"}, e, w, m);
      return;
    }
    const Values both = alternate(values(from + "ffn_gate_exps.weight"), values(from + "ffn_up_exps.weight"), w);
    experts_transposed(to + "experts.gate_up_proj", both, e, 2 * m, w);
    experts_transposed(to + "experts.down_proj", values(from + "ffn_down_exps.weight"), e, w, m);
  }

  void experts_transposed(const std::string& name, const Values& v, std::int64_t experts, std::int64_t out,
                          std::int64_t in) {
    Values all;
    for (std::int64_t e = 0; e < experts; ++e) {
      const Values one = transposed(Values(v.begin() + e * out * in, v.begin() + (e + 1) * out * in), out, in);
      all.insert(all.end(), one.begin(), one.end());
    }
    add(name, {experts, in, out}, all);
  }

  /// Blocks of 17 bytes into elements in consecutive pairs and scales; the rows of several tensors alternate.
  void mxfp4(const std::string& name, const std::vector<std::string>& from, std::int64_t experts, std::int64_t rows,
             std::int64_t cols) {
    std::string packed, scales;
    const auto count = static_cast<std::int64_t>(from.size());
    for (std::int64_t row = 0; row < experts * rows; ++row) {
      for (const std::string& source : from) {
        std::vector<std::byte> bytes(static_cast<std::size_t>(cols / 32 * 17));
        if (!tensor(source).read(row, 1, bytes)) std::abort();
        for (std::size_t at = 0; at < bytes.size(); at += 17) {
          int element[32];
          for (std::size_t j = 0; j < 16; ++j) {
            element[j] = static_cast<int>(bytes[at + 1 + j]) & 15;
            element[j + 16] = static_cast<int>(bytes[at + 1 + j]) >> 4;
          }
          scales.push_back(static_cast<char>(bytes[at]));
          for (std::size_t j = 0; j < 16; ++j) packed.push_back(static_cast<char>(element[2 * j] | element[2 * j + 1] << 4));
        }
      }
    }
    model_.tensors.push_back({name + "_blocks", "U8", {experts, rows * count, cols / 32, 16}, packed});
    model_.tensors.push_back({name + "_scales", "U8", {experts, rows * count, cols / 32}, scales});
  }

  void gpt2() {
    put("wte.weight", "token_embd.weight");
    put("wpe.weight", "position_embd.weight");
    for (std::int64_t layer = 0; layer < c_.layers; ++layer) {
      const std::string to = "h." + std::to_string(layer) + ".", from = "blk." + std::to_string(layer) + ".";
      for (const std::string_view kind : {".weight", ".bias"}) {
        const std::string k(kind);
        put(to + "ln_1" + k, from + "attn_norm" + k);
        put(to + "ln_2" + k, from + "ffn_norm" + k);
      }
      const Values qkv = joined({from + "attn_q.weight", from + "attn_k.weight", from + "attn_v.weight"});
      add(to + "attn.c_attn.weight", {c_.width, c_.qkv_width()}, transposed(qkv, c_.qkv_width(), c_.width));
      add(to + "attn.c_attn.bias", {c_.qkv_width()},
          joined({from + "attn_q.bias", from + "attn_k.bias", from + "attn_v.bias"}));
      turned(to + "attn.c_proj", from + "attn_output");
      turned(to + "mlp.c_fc", from + "ffn_up");
      turned(to + "mlp.c_proj", from + "ffn_down");
    }
    put("ln_f.weight", "output_norm.weight");
    put("ln_f.bias", "output_norm.bias");
  }
  void turned(const std::string& to, const std::string& from) {
    const StreamTensor& t = tensor(from + ".weight");
    add(to + ".weight", {t.shape[1], t.shape[0]}, transposed(values_of(t), t.shape[0], t.shape[1]));
    put(to + ".bias", from + ".bias");
  }

  void config() {
    Json& j = model_.config;
    j["model_type"] = type_;
    j["vocab_size"] = c_.vocab;
    j["tie_word_embeddings"] = c_.tied_embeddings;
    const auto number = [](float x) { return std::strtod(std::to_string(x).c_str(), nullptr); };
    if (type_ == "gpt2") {
      j["n_embd"] = c_.width;
      j["n_layer"] = c_.layers;
      j["n_head"] = c_.heads;
      j["n_positions"] = c_.context;
      j["n_inner"] = c_.mlp_width;
      j["activation_function"] = "gelu_new";
      j["layer_norm_epsilon"] = number(c_.norm_eps);
      return;
    }
    j["hidden_size"] = c_.width;
    j["num_hidden_layers"] = c_.layers;
    j["num_attention_heads"] = c_.heads;
    j["num_key_value_heads"] = c_.kv_heads;
    j["head_dim"] = c_.head_dim;
    j["max_position_embeddings"] = c_.context;
    j["rms_norm_eps"] = number(c_.norm_eps);
    j["rope_theta"] = number(c_.rope_base);
    j["rope_scaling"] = nullptr;
    if (c_.rope_scaling == RopeScaling::linear) j["rope_scaling"] = {{"type", "linear"}, {"factor", number(c_.rope_factor)}};
    if (c_.rope_scaling == RopeScaling::yarn) {
      j["rope_scaling"] = {{"rope_type", "yarn"},
                           {"factor", number(c_.rope_factor)},
                           {"original_max_position_embeddings", c_.rope_original_context}};
    }
    if (c_.rope_scaling == RopeScaling::factors) {
      const bool two = !c_.rope_factors_long.empty();
      j["rope_scaling"] = {{"rope_type", "longrope"},
                           {"short_factor", c_.rope_factors},
                           {"long_factor", two ? c_.rope_factors_long : c_.rope_factors},
                           {"attention_factor", number(c_.rope_magnitude)}};
      j["original_max_position_embeddings"] = c_.rope_original_context;
    }
    if (c_.window > 0) j["sliding_window"] = c_.window;
    j[type_.starts_with("gemma") ? "hidden_activation" : "hidden_act"] =
        c_.mlp == MlpKind::geglu ? "gelu_pytorch_tanh" : "silu";
    if (type_.starts_with("gemma")) {
      j["query_pre_attn_scalar"] = c_.head_dim;
      j["attn_logit_softcapping"] = c_.attention_soft_cap > 0 ? Json(number(c_.attention_soft_cap)) : Json(nullptr);
      j["final_logit_softcapping"] = c_.final_soft_cap > 0 ? Json(number(c_.final_soft_cap)) : Json(nullptr);
    }
    if (type_ == "qwen3_moe") {
      j["moe_intermediate_size"] = c_.mlp_width;
      j["num_experts"] = c_.experts;
      j["norm_topk_prob"] = true;
    } else {
      j["intermediate_size"] = c_.mlp_width;
      if (c_.experts > 0) j["num_local_experts"] = c_.experts;
    }
    if (c_.experts > 0) j["num_experts_per_tok"] = c_.experts_used;
    if (type_ == "llama" || type_ == "qwen3") j["attention_bias"] = c_.attention_bias;
    if (type_ == "llama") j["mlp_bias"] = c_.mlp_bias;
  }

  const ModelStream& stream_;
  const ModelConfig& c_;
  std::string type_;
  HuggingFaceModel model_;
};

}  // namespace

HuggingFaceModel huggingface_model(const ModelStream& stream, const std::string& model_type) {
  return Publisher(stream, model_type).make();
}

void write_huggingface_model(const HuggingFaceModel& model, const ScratchFolder& folder) {
  folder.write("config.json", model.config.dump(2));
  folder.write("model.safetensors", safetensors_image(model.tensors));
}

std::vector<float> values_of(const StreamTensor& tensor) {
  std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
  if (!read_rows_f32(tensor, 0, tensor.rows(), values)) std::abort();
  return values;
}

}  // namespace quern
