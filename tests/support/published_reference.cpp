#include "support/published_reference.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <stdexcept>
#include <string>

#include "math/block_decode.hpp"

namespace quern {

namespace {

using Row = std::vector<double>;
using Rows = std::vector<Row>;

/// A tensor's values with its first two dimensions; expert e of a third dimension is `at(e)`.
struct Tensor {
  std::int64_t cols = 0, rows = 0;
  std::vector<float> values;
  std::string name = {};
  [[nodiscard]] bool present() const { return !values.empty(); }
  [[nodiscard]] const float* row(std::int64_t r, std::int64_t expert = 0) const {
    return values.data() + (expert * rows + r) * cols;
  }
};

struct Reader {
  const GgufFile& file;
  std::string architecture = std::string(*file.require_string("general.architecture"));

  [[nodiscard]] double number(const std::string& key, double fallback) const {
    return *file.number_or(architecture + "." + key, fallback);
  }
  [[nodiscard]] std::int64_t integer(const std::string& key, std::int64_t fallback) const {
    return static_cast<std::int64_t>(number(key, static_cast<double>(fallback)));
  }
  [[nodiscard]] Tensor maybe(const std::string& name) const {
    const GgufTensor* t = file.find_tensor(name);
    if (t == nullptr) return {};
    Tensor tensor{t->shape[0], t->shape[1], std::vector<float>(static_cast<std::size_t>(t->elements())), name};
    block_decoder_portable()(t->type, t->data, t->elements(), tensor.values.data());
    return tensor;
  }
  [[nodiscard]] Tensor get(const std::string& name) const {
    Tensor tensor = maybe(name);
    if (!tensor.present()) throw std::runtime_error("no tensor " + name);
    return tensor;
  }
};

/// Told of every product's input while it is set.
const ReferenceObserver* observer = nullptr;

Row linear(const Tensor& w, const Row& x, const Tensor& bias, std::int64_t expert = 0) {
  if (observer != nullptr) (*observer)(w.name, expert, x);
  Row y(static_cast<std::size_t>(w.rows));
  for (std::int64_t r = 0; r < w.rows; ++r) {
    double sum = bias.present() ? static_cast<double>(bias.values[static_cast<std::size_t>(expert * w.rows + r)]) : 0.0;
    for (std::int64_t c = 0; c < w.cols; ++c)
      sum += static_cast<double>(w.row(r, expert)[c]) * x[static_cast<std::size_t>(c)];
    y[static_cast<std::size_t>(r)] = sum;
  }
  return y;
}

/// RMS norm of a piece of a row, or layer norm where there is a bias.
void norm(double* x, std::int64_t n, const Tensor& weight, const Tensor& bias, double eps, bool rms) {
  double mean = 0.0;
  double square = 0.0;
  if (!rms) mean = std::accumulate(x, x + n, 0.0) / static_cast<double>(n);
  for (std::int64_t i = 0; i < n; ++i) square += (x[i] - mean) * (x[i] - mean);
  const double scale = 1.0 / std::sqrt(square / static_cast<double>(n) + eps);
  for (std::int64_t i = 0; i < n; ++i) {
    x[i] = (x[i] - mean) * scale * static_cast<double>(weight.values[static_cast<std::size_t>(i)]);
    if (bias.present()) x[i] += static_cast<double>(bias.values[static_cast<std::size_t>(i)]);
  }
}
Row normed(Row x, const Tensor& weight, const Tensor& bias, double eps, bool rms) {
  norm(x.data(), std::ssize(x), weight, bias, eps, rms);
  return x;
}

double silu(double x) { return x / (1.0 + std::exp(-x)); }
double gelu(double x) { return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x))); }

class Model {
 public:
  Model(const GgufFile& file, std::int64_t context_in_use) : in_{file} {
    const std::string& a = in_.architecture;
    width_ = in_.integer("embedding_length", 0);
    heads_ = in_.integer("attention.head_count", 0);
    kv_heads_ = in_.integer("attention.head_count_kv", heads_);
    head_dim_ = in_.integer("attention.key_length", width_ / heads_);
    rotated_ = in_.integer("rope.dimension_count", head_dim_);
    rms_ = a != "gpt2";
    eps_ = in_.number(rms_ ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon", 0.0);
    gemma_ = a == "gemma2" || a == "gemma3";
    window_ = a == "gemma2" ? in_.integer("attention.sliding_window", 4096)
                            : (a == "gemma3" || a == "gpt-oss" ? in_.integer("attention.sliding_window", 0) : 0);
    period_ = a == "gemma3" ? 6 : 2;
    factors_ = in_.maybe("rope_freqs.weight");
    const std::int64_t original = in_.integer("rope.scaling.original_context_length", in_.integer("context_length", 0));
    if (!factors_.present()) {
      factors_ = in_.maybe(context_in_use > original ? "rope_factors_long.weight" : "rope_factors_short.weight");
    }
  }

  Rows run(std::span<const std::int32_t> tokens) {
    const Tensor embedding = in_.get("token_embd.weight");
    const Tensor positions = in_.maybe("position_embd.weight");
    Rows x;
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      Row row(embedding.row(tokens[t]), embedding.row(tokens[t]) + width_);
      for (double& v : row) v *= gemma_ ? std::sqrt(static_cast<double>(width_)) : 1.0;
      for (std::size_t i = 0; positions.present() && i < row.size(); ++i) {
        row[i] += static_cast<double>(positions.row(static_cast<std::int64_t>(t))[i]);
      }
      x.push_back(std::move(row));
    }
    for (std::int64_t layer = 0; layer < in_.integer("block_count", 0); ++layer) block(layer, x);
    const Tensor norm_weight = in_.get("output_norm.weight");
    const Tensor norm_bias = in_.maybe("output_norm.bias");
    const Tensor own_head = in_.maybe("output.weight");
    const Tensor& head = own_head.present() ? own_head : embedding;
    const double cap = in_.number("final_logit_softcapping", in_.architecture == "gemma2" ? 30.0 : 0.0);
    for (Row& row : x) {
      row = linear(head, normed(std::move(row), norm_weight, norm_bias, eps_, rms_), {});
      if (cap > 0.0) {
        for (double& v : row) v = cap * std::tanh(v / cap);
      }
    }
    return x;
  }

 private:
  void block(std::int64_t layer, Rows& x) {
    const std::string b = "blk." + std::to_string(layer) + ".";
    const Tensor post1 = gemma_ ? in_.get(b + "post_attention_norm.weight") : Tensor{};
    const Tensor post2 = gemma_ ? in_.get(b + "post_ffw_norm.weight") : Tensor{};
    const Tensor norm1 = in_.get(b + "attn_norm.weight");
    const Tensor norm1_bias = in_.maybe(b + "attn_norm.bias");
    Rows normal;
    for (const Row& row : x) normal.push_back(normed(row, norm1, norm1_bias, eps_, rms_));
    Rows attended = attention(layer, b, normal);
    for (std::size_t t = 0; t < x.size(); ++t) {
      if (gemma_) norm(attended[t].data(), width_, post1, {}, eps_, true);
      for (std::size_t i = 0; i < x[t].size(); ++i) x[t][i] += attended[t][i];
    }
    const Tensor norm2 = in_.get(b + (in_.architecture == "gpt-oss" ? "post_attention_norm.weight" : "ffn_norm.weight"));
    const Tensor norm2_bias = in_.maybe(b + "ffn_norm.bias");
    for (Row& row : x) {
      Row y = feed_forward(b, normed(row, norm2, norm2_bias, eps_, rms_));
      if (gemma_) norm(y.data(), width_, post2, {}, eps_, true);
      for (std::size_t i = 0; i < row.size(); ++i) row[i] += y[i];
    }
  }

  void rotate(double* head, std::int64_t position, bool windowed) const {
    const bool adjacent = in_.architecture == "llama";
    const std::int64_t pairs = rotated_ / 2;
    double base = in_.number("rope.freq_base", 10000.0);
    const bool local = windowed && in_.architecture == "gemma3";
    if (local) base = in_.number("rope.freq_base_swa", 10000.0);
    const double factor = in_.number("rope.scaling.factor", 1.0);
    const auto type = *in_.file.string_or(in_.architecture + ".rope.scaling.type", "linear");
    double magnitude = in_.number("rope.scaling.attn_factor", 1.0);
    for (std::int64_t i = 0; i < pairs; ++i) {
      double angle =
          static_cast<double>(position) * std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(rotated_));
      double m = magnitude;
      if (local) {
        m = 1.0;
      } else if (factors_.present()) {
        angle /= static_cast<double>(factors_.values[static_cast<std::size_t>(i)]);
      } else if (type == "yarn") {
        const double original = static_cast<double>(in_.integer("rope.scaling.original_context_length", 0));
        const auto corr = [&](double beta) {
          return static_cast<double>(rotated_) * std::log(original / (2.0 * std::numbers::pi * beta)) /
                 (2.0 * std::log(base));
        };
        const double low = std::max(0.0, std::floor(corr(in_.number("rope.scaling.yarn_beta_fast", 32.0))));
        const double high =
            std::min(static_cast<double>(rotated_ - 1), std::ceil(corr(in_.number("rope.scaling.yarn_beta_slow", 1.0))));
        const double ramp = 1.0 - std::clamp((static_cast<double>(i) - low) / std::max(0.001, high - low), 0.0, 1.0);
        angle = angle / factor * (1.0 - ramp) + angle * ramp;
        m *= 1.0 + 0.1 * std::log(factor);
      } else {
        angle /= factor;
      }
      double& p = head[adjacent ? 2 * i : i];
      double& q = head[adjacent ? 2 * i + 1 : i + pairs];
      const double c = std::cos(angle) * m;
      const double s = std::sin(angle) * m;
      const double rotated_p = p * c - q * s;
      q = p * s + q * c;
      p = rotated_p;
    }
  }

  Rows attention(std::int64_t layer, const std::string& b, const Rows& x) {
    const std::int64_t q_width = heads_ * head_dim_;
    const std::int64_t kv_width = kv_heads_ * head_dim_;
    const bool windowed = window_ > 0 && layer % period_ < period_ - 1;
    const Tensor fused = in_.maybe(b + "attn_qkv.weight");
    const Tensor q_norm = in_.maybe(b + "attn_q_norm.weight");
    const Tensor k_norm = in_.maybe(b + "attn_k_norm.weight");
    const Tensor sinks = in_.maybe(b + "attn_sinks.weight");
    Rows q, k, v;
    for (std::size_t t = 0; t < x.size(); ++t) {
      if (fused.present()) {
        const Row all = linear(fused, x[t], in_.maybe(b + "attn_qkv.bias"));
        q.emplace_back(all.begin(), all.begin() + q_width);
        k.emplace_back(all.begin() + q_width, all.begin() + q_width + kv_width);
        v.emplace_back(all.begin() + q_width + kv_width, all.end());
      } else {
        q.push_back(linear(in_.get(b + "attn_q.weight"), x[t], in_.maybe(b + "attn_q.bias")));
        k.push_back(linear(in_.get(b + "attn_k.weight"), x[t], in_.maybe(b + "attn_k.bias")));
        v.push_back(linear(in_.get(b + "attn_v.weight"), x[t], in_.maybe(b + "attn_v.bias")));
      }
      for (std::int64_t h = 0; h < heads_ + kv_heads_; ++h) {
        double* head = h < heads_ ? q[t].data() + h * head_dim_ : k[t].data() + (h - heads_) * head_dim_;
        if (q_norm.present()) norm(head, head_dim_, h < heads_ ? q_norm : k_norm, {}, eps_, true);
        if (in_.architecture != "gpt2") rotate(head, static_cast<std::int64_t>(t), windowed);
      }
    }
    const double cap = in_.number("attn_logit_softcapping", in_.architecture == "gemma2" ? 50.0 : 0.0);
    Rows out;
    for (std::size_t t = 0; t < x.size(); ++t) {
      Row mixed(static_cast<std::size_t>(q_width), 0.0);
      for (std::int64_t h = 0; h < heads_; ++h) {
        const std::int64_t kv = h / (heads_ / kv_heads_) * head_dim_;
        Row score(t + 1, -INFINITY);
        double largest = sinks.present() ? static_cast<double>(sinks.values[static_cast<std::size_t>(h)]) : -INFINITY;
        for (std::size_t j = 0; j <= t; ++j) {
          if (windowed && static_cast<std::int64_t>(t - j) >= window_) continue;
          double dot = 0.0;
          for (std::int64_t i = 0; i < head_dim_; ++i)
            dot += q[t][static_cast<std::size_t>(h * head_dim_ + i)] * k[j][static_cast<std::size_t>(kv + i)];
          dot *= in_.number("attention.scale", 1.0 / std::sqrt(static_cast<double>(head_dim_)));
          score[j] = cap > 0.0 ? cap * std::tanh(dot / cap) : dot;
          largest = std::max(largest, score[j]);
        }
        double sum =
            sinks.present() ? std::exp(static_cast<double>(sinks.values[static_cast<std::size_t>(h)]) - largest) : 0.0;
        for (double& s : score) sum += s = std::exp(s - largest);
        for (std::size_t j = 0; j <= t; ++j) {
          for (std::int64_t i = 0; i < head_dim_; ++i) {
            mixed[static_cast<std::size_t>(h * head_dim_ + i)] += score[j] / sum * v[j][static_cast<std::size_t>(kv + i)];
          }
        }
      }
      out.push_back(linear(in_.get(b + "attn_output.weight"), mixed, in_.maybe(b + "attn_output.bias")));
    }
    return out;
  }

  /// The activation between the two products: gate and up (up empty: not gated).
  [[nodiscard]] Row activate(Row gate, const Row& up) const {
    for (std::size_t i = 0; i < gate.size(); ++i) {
      double& g = gate[i];
      if (in_.architecture == "gpt-oss") {
        const double clipped = std::min(g, 7.0);
        g = clipped / (1.0 + std::exp(-1.702 * clipped)) * (std::clamp(up[i], -7.0, 7.0) + 1.0);
      } else if (in_.architecture == "gpt2") {
        g = gelu(g);
      } else {
        g = (gemma_ ? gelu(g) : silu(g)) * up[i];
      }
    }
    return gate;
  }

  Row feed_forward(const std::string& b, const Row& x) {
    const std::int64_t experts = in_.integer("expert_count", 0);
    if (experts == 0) {
      Row up = linear(in_.get(b + "ffn_up.weight"), x, in_.maybe(b + "ffn_up.bias"));
      Row act;
      if (in_.architecture == "gpt2") {
        act = activate(std::move(up), {});
      } else if (in_.architecture == "phi3") {
        const auto half = static_cast<std::ptrdiff_t>(up.size() / 2);
        act = activate(Row(up.begin(), up.begin() + half), Row(up.begin() + half, up.end()));
      } else {
        act = activate(linear(in_.get(b + "ffn_gate.weight"), x, {}), up);
      }
      return linear(in_.get(b + "ffn_down.weight"), act, in_.maybe(b + "ffn_down.bias"));
    }
    const Row logits = linear(in_.get(b + "ffn_gate_inp.weight"), x, in_.maybe(b + "ffn_gate_inp.bias"));
    std::vector<std::int64_t> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto c) {
      return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(c)];
    });
    order.resize(static_cast<std::size_t>(in_.integer("expert_used_count", 0)));
    // Softmax over all, renormalized over the chosen (gpt-oss: over the chosen only).
    const bool all = in_.architecture != "gpt-oss";
    double sum_all = 0.0;
    double sum_chosen = 0.0;
    for (const double l : logits) sum_all += std::exp(l);
    for (const std::int64_t e : order) sum_chosen += std::exp(logits[static_cast<std::size_t>(e)]) / (all ? sum_all : 1.0);
    Row y(static_cast<std::size_t>(width_), 0.0);
    for (const std::int64_t e : order) {
      const double weight = std::exp(logits[static_cast<std::size_t>(e)]) / (all ? sum_all : 1.0) / sum_chosen;
      const Row gate = linear(in_.get(b + "ffn_gate_exps.weight"), x, in_.maybe(b + "ffn_gate_exps.bias"), e);
      const Row up = linear(in_.get(b + "ffn_up_exps.weight"), x, in_.maybe(b + "ffn_up_exps.bias"), e);
      const Row down =
          linear(in_.get(b + "ffn_down_exps.weight"), activate(gate, up), in_.maybe(b + "ffn_down_exps.bias"), e);
      for (std::size_t i = 0; i < y.size(); ++i) y[i] += weight * down[i];
    }
    return y;
  }

  Reader in_;
  std::int64_t width_ = 0, heads_ = 0, kv_heads_ = 0, head_dim_ = 0, rotated_ = 0, window_ = 0, period_ = 1;
  double eps_ = 0.0;
  bool rms_ = true, gemma_ = false;
  Tensor factors_;
};

}  // namespace

std::vector<double> published_reference_logits(const GgufFile& file, std::span<const std::int32_t> tokens,
                                               std::int64_t context_in_use, const ReferenceObserver& told) {
  std::vector<double> flat;
  observer = told ? &told : nullptr;
  for (const Row& row : Model(file, context_in_use).run(tokens)) flat.insert(flat.end(), row.begin(), row.end());
  observer = nullptr;
  return flat;
}

}  // namespace quern
