#include "support/reference_model.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <random>

namespace quern {
namespace {

// A row-major [rows, cols] table of doubles, zero at first.
struct Table {
  std::int64_t rows = 0, cols = 0;
  std::vector<double> values;
  Table() = default;
  Table(std::int64_t r, std::int64_t c) : rows(r), cols(c), values(static_cast<std::size_t>(r * c), 0.0) {}
  double* row(std::int64_t r) { return values.data() + r * cols; }
  const double* row(std::int64_t r) const { return values.data() + r * cols; }
};

// A parameter block addressed by the layout's indices; index -1 gives null.
template <class T>
struct Block {
  const ParameterLayout& layout;
  std::span<T> data;
  T* operator[](int index) const {
    return index < 0 ? nullptr : data.data() + layout.parameters[static_cast<std::size_t>(index)].offset;
  }
};
using Weights = Block<const double>;
using Gradients = Block<double>;

// ---- linear maps: y = x W^T + b, W [outputs, inputs] ----

Table linear(const Table& x, const double* weight, const double* bias, std::int64_t outputs) {
  Table y(x.rows, outputs);
  for (std::int64_t r = 0; r < x.rows; ++r) {
    for (std::int64_t o = 0; o < outputs; ++o) {
      double sum = bias != nullptr ? bias[o] : 0.0;
      for (std::int64_t i = 0; i < x.cols; ++i) sum += x.row(r)[i] * weight[o * x.cols + i];
      y.row(r)[o] = sum;
    }
  }
  return y;
}

// dx = dy W is returned; dW += dy^T x; db += sum of dy over rows.
Table linear_backward(const Table& dy, const Table& x, const double* weight, double* dweight, double* dbias) {
  Table dx(x.rows, x.cols);
  for (std::int64_t r = 0; r < x.rows; ++r) {
    for (std::int64_t o = 0; o < dy.cols; ++o) {
      const double d = dy.row(r)[o];
      if (dbias != nullptr) dbias[o] += d;
      for (std::int64_t i = 0; i < x.cols; ++i) {
        dx.row(r)[i] += d * weight[o * x.cols + i];
        dweight[o * x.cols + i] += d * x.row(r)[i];
      }
    }
  }
  return dx;
}

// ---- norms of one row ----

// Both norms are y = w * xhat + b with xhat = (x - mean) * rstd; RMS norm has mean 0 and no bias.
struct RowStatistics {
  double mean = 0.0, rstd = 0.0;
};

RowStatistics row_statistics(NormKind kind, const double* x, std::int64_t n, double eps) {
  RowStatistics s;
  if (kind == NormKind::layer_norm) {
    for (std::int64_t i = 0; i < n; ++i) s.mean += x[i] / static_cast<double>(n);
  }
  double square = 0.0;
  for (std::int64_t i = 0; i < n; ++i) square += (x[i] - s.mean) * (x[i] - s.mean) / static_cast<double>(n);
  s.rstd = 1.0 / std::sqrt(square + eps);
  return s;
}

void norm_row(NormKind kind, const double* x, const double* weight, const double* bias, double eps, std::int64_t n,
              double* y) {
  const RowStatistics s = row_statistics(kind, x, n, eps);
  for (std::int64_t i = 0; i < n; ++i) {
    y[i] = weight[i] * (x[i] - s.mean) * s.rstd + (bias != nullptr ? bias[i] : 0.0);
  }
}

// With g = dy * w: dx = rstd * (g - mean(g) - xhat * mean(g * xhat)); RMS norm lacks the mean(g) term. dx (+=).
void norm_row_backward(NormKind kind, const double* dy, const double* x, const double* weight, double eps, std::int64_t n,
                       double* dx, double* dweight, double* dbias) {
  const RowStatistics s = row_statistics(kind, x, n, eps);
  double mean_g = 0.0, mean_g_xhat = 0.0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double xhat = (x[i] - s.mean) * s.rstd;
    const double g = dy[i] * weight[i];
    mean_g += g / static_cast<double>(n);
    mean_g_xhat += g * xhat / static_cast<double>(n);
    dweight[i] += dy[i] * xhat;
    if (dbias != nullptr) dbias[i] += dy[i];
  }
  if (kind == NormKind::rms_norm) mean_g = 0.0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double xhat = (x[i] - s.mean) * s.rstd;
    dx[i] += s.rstd * (dy[i] * weight[i] - mean_g - xhat * mean_g_xhat);
  }
}

Table norm(const ModelConfig& c, const Table& x, const double* weight, const double* bias) {
  Table y(x.rows, x.cols);
  for (std::int64_t r = 0; r < x.rows; ++r) norm_row(c.norm, x.row(r), weight, bias, c.norm_eps, x.cols, y.row(r));
  return y;
}

void norm_backward(const ModelConfig& c, const Table& dy, const Table& x, const double* weight, Table& dx, double* dweight,
                   double* dbias) {
  for (std::int64_t r = 0; r < x.rows; ++r) {
    norm_row_backward(c.norm, dy.row(r), x.row(r), weight, c.norm_eps, x.cols, dx.row(r), dweight, dbias);
  }
}

// ---- rotary positions ----

bool is_windowed(const ModelConfig& c, std::int64_t layer) {
  return c.window > 0 && (c.window_period == 1 || layer % c.window_period < c.window_period - 1);
}

// The angle of pair i at position 1.
double rope_frequency(const ModelConfig& c, std::int64_t layer, std::int64_t i) {
  const auto rotated = static_cast<double>(c.rope_dims > 0 ? c.rope_dims : c.head_dim);
  const auto plain = [&](float base) {
    return std::pow(static_cast<double>(base), -2.0 * static_cast<double>(i) / rotated);
  };
  if (is_windowed(c, layer) && c.rope_base_windowed > 0.0F) return plain(c.rope_base_windowed);
  const double frequency = plain(c.rope_base);
  const auto at = static_cast<std::size_t>(i);
  switch (c.rope_scaling) {
    case RopeScaling::none:
      break;
    case RopeScaling::linear:
      return frequency / static_cast<double>(c.rope_factor);
    case RopeScaling::factors: {
      const bool beyond = !c.rope_factors_long.empty() && c.context > c.rope_original_context;
      return frequency / static_cast<double>(beyond ? c.rope_factors_long[at] : c.rope_factors[at]);
    }
    case RopeScaling::yarn: {
      // Pair d(t) turns t times over the original context; pairs up to d(fast) keep their angle, from d(slow) on they are
      // divided by the factor.
      const auto pair_of = [&](float turns) {
        return rotated *
               std::log(static_cast<double>(c.rope_original_context) /
                        (2.0 * std::numbers::pi * static_cast<double>(turns))) /
               (2.0 * std::log(static_cast<double>(c.rope_base)));
      };
      const double low = std::max(0.0, std::floor(pair_of(c.rope_beta_fast)));
      const double high = std::min(rotated - 1.0, std::ceil(pair_of(c.rope_beta_slow)));
      const double scaled = std::clamp((static_cast<double>(i) - low) / std::max(0.001, high - low), 0.0, 1.0);
      return frequency * (1.0 - scaled) + frequency / static_cast<double>(c.rope_factor) * scaled;
    }
  }
  return frequency;
}

double rope_magnitude(const ModelConfig& c, std::int64_t layer) {
  if (is_windowed(c, layer) && c.rope_base_windowed > 0.0F) return 1.0;
  const bool yarn = c.rope_scaling == RopeScaling::yarn;
  return static_cast<double>(c.rope_magnitude) *
         (yarn ? 1.0 + 0.1 * std::log(std::max(1.0, static_cast<double>(c.rope_factor))) : 1.0);
}

// Pair i turns by position * frequency; sign -1 turns back, which (with the same magnitude) is the backward pass.
void rope(const ModelConfig& c, std::int64_t layer, double* head, std::int64_t position, double sign) {
  const std::int64_t rotated = c.rope_dims > 0 ? c.rope_dims : c.head_dim;
  const double magnitude = rope_magnitude(c, layer);
  for (std::int64_t i = 0; i < rotated / 2; ++i) {
    const double angle = sign * static_cast<double>(position) * rope_frequency(c, layer, i);
    const bool adjacent = c.rope_pairing == RopePairing::adjacent;
    double& first = head[adjacent ? 2 * i : i];
    double& second = head[adjacent ? 2 * i + 1 : i + rotated / 2];
    const double a = first, b = second;
    first = magnitude * (a * std::cos(angle) - b * std::sin(angle));
    second = magnitude * (a * std::sin(angle) + b * std::cos(angle));
  }
}

// ---- activations: value and derivative ----

struct Value {
  double y = 0.0, dy = 0.0;
};

Value gelu_tanh(double x) {
  const double k = std::sqrt(2.0 / std::numbers::pi);
  const double t = std::tanh(k * (x + 0.044715 * x * x * x));
  return {0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * k * (1.0 + 3.0 * 0.044715 * x * x)};
}

Value activate(MlpKind kind, double x) {
  switch (kind) {
    case MlpKind::gelu:
    case MlpKind::geglu:
      return gelu_tanh(x);
    case MlpKind::gelu_erf: {
      const double cdf = 0.5 * (1.0 + std::erf(x / std::numbers::sqrt2));
      const double pdf = std::exp(-0.5 * x * x) / std::sqrt(2.0 * std::numbers::pi);
      return {x * cdf, cdf + x * pdf};
    }
    case MlpKind::relu2:
      return x > 0.0 ? Value{x * x, 2.0 * x} : Value{};
    case MlpKind::swiglu_clamped:  // in gated_unit
      break;
    case MlpKind::swiglu: {
      const double s = 1.0 / (1.0 + std::exp(-x));
      return {x * s, s + x * s * (1.0 - s)};
    }
  }
  return {};
}

// activation(gate) * up, and its derivatives.
struct GatedValue {
  double y = 0.0, dgate = 0.0, dup = 0.0;
};

GatedValue gated_unit(MlpKind kind, double gate, double up) {
  if (kind != MlpKind::swiglu_clamped) {
    const Value a = activate(kind, gate);
    return {a.y * up, a.dy * up, a.y};
  }
  const double g = std::fmin(gate, 7.0), u = std::clamp(up, -7.0, 7.0);
  const double s = 1.0 / (1.0 + std::exp(-1.702 * g));
  return {g * s * (u + 1.0), gate > 7.0 ? 0.0 : (u + 1.0) * (s + 1.702 * g * s * (1.0 - s)),
          std::abs(up) > 7.0 ? 0.0 : g * s};
}

bool is_gated(const ModelConfig& c) {
  return c.mlp == MlpKind::swiglu || c.mlp == MlpKind::geglu || c.mlp == MlpKind::swiglu_clamped;
}

// cap * tanh(x / cap) and its derivative; the identity where cap is 0.
Value soft_cap(double x, double cap) {
  if (cap == 0.0) return {x, 1.0};
  const double t = std::tanh(x / cap);
  return {cap * t, 1.0 - t * t};
}

// ---- attention ----

// What one query sees: keys first .. query of its span, their probabilities, and d(capped score)/d(q . k).
struct QueryView {
  std::int64_t first = 0;
  std::vector<double> probability, slope;
  double sink = 0.0;  // the sink's probability
};

// Columns of qkv [rows, qkv_width]: query heads, key heads, value heads.
struct HeadColumns {
  std::int64_t q, k, v;
};
HeadColumns head_columns(const ModelConfig& c, std::int64_t head) {
  const std::int64_t kv = head / (c.heads / c.kv_heads);
  return {head * c.head_dim, (c.heads + kv) * c.head_dim, (c.heads + c.kv_heads + kv) * c.head_dim};
}

QueryView look(const ModelConfig& c, std::int64_t layer, const Table& qkv, const ReferenceSpan& span, std::int64_t query,
               const HeadColumns& at, const double* sink) {
  const std::int64_t window = is_windowed(c, layer) ? c.window : 0;
  QueryView view;
  if (window > 0 && query >= window) view.first = query - window + 1;
  const double scale =
      c.attention_scale > 0.0F ? static_cast<double>(c.attention_scale) : 1.0 / std::sqrt(static_cast<double>(c.head_dim));
  const double* q = qkv.row(span.first_row + query) + at.q;
  double largest = -INFINITY;
  for (std::int64_t key = view.first; key <= query; ++key) {
    const double* k = qkv.row(span.first_row + key) + at.k;
    double dot = 0.0;
    for (std::int64_t d = 0; d < c.head_dim; ++d) dot += q[d] * k[d];
    const Value capped = soft_cap(scale * dot, c.attention_soft_cap);
    view.probability.push_back(capped.y);
    view.slope.push_back(capped.dy * scale);
    largest = std::fmax(largest, capped.y);
  }
  if (sink != nullptr) largest = std::fmax(largest, *sink);
  double sum = 0.0;
  if (sink != nullptr) sum += view.sink = std::exp(*sink - largest);
  for (double& p : view.probability) sum += p = std::exp(p - largest);
  for (double& p : view.probability) p /= sum;
  view.sink /= sum;
  return view;
}

// sinks [heads] or null: a logit more in each softmax, whose value is 0.
Table attention(const ModelConfig& c, std::int64_t layer, const Table& qkv, const double* sinks,
                std::span<const ReferenceSpan> spans) {
  Table out(qkv.rows, c.heads * c.head_dim);
  for (const ReferenceSpan& span : spans) {
    for (std::int64_t head = 0; head < c.heads; ++head) {
      const HeadColumns at = head_columns(c, head);
      for (std::int64_t query = 0; query < span.rows; ++query) {
        const QueryView view = look(c, layer, qkv, span, query, at, sinks == nullptr ? nullptr : sinks + head);
        double* o = out.row(span.first_row + query) + at.q;
        for (std::size_t j = 0; j < view.probability.size(); ++j) {
          const double* v = qkv.row(span.first_row + view.first + static_cast<std::int64_t>(j)) + at.v;
          for (std::int64_t d = 0; d < c.head_dim; ++d) o[d] += view.probability[j] * v[d];
        }
      }
    }
  }
  return out;
}

// dp_j = dout . v_j; ds_j = p_j (dp_j - sum_i p_i dp_i); dq += ds_j slope_j k_j; dk_j += ds_j slope_j q; dv_j += p_j dout.
// The sink is one more j whose v and dp are 0: dsinks (+=).
Table attention_backward(const ModelConfig& c, std::int64_t layer, const Table& dout, const Table& qkv, const double* sinks,
                         double* dsinks, std::span<const ReferenceSpan> spans) {
  Table dqkv(qkv.rows, qkv.cols);
  for (const ReferenceSpan& span : spans) {
    for (std::int64_t head = 0; head < c.heads; ++head) {
      const HeadColumns at = head_columns(c, head);
      for (std::int64_t query = 0; query < span.rows; ++query) {
        const QueryView view = look(c, layer, qkv, span, query, at, sinks == nullptr ? nullptr : sinks + head);
        const std::int64_t query_row = span.first_row + query;
        const double* d_out = dout.row(query_row) + at.q;
        std::vector<double> dp(view.probability.size(), 0.0);
        double mean = 0.0;
        for (std::size_t j = 0; j < dp.size(); ++j) {
          const double* v = qkv.row(span.first_row + view.first + static_cast<std::int64_t>(j)) + at.v;
          for (std::int64_t d = 0; d < c.head_dim; ++d) dp[j] += d_out[d] * v[d];
          mean += view.probability[j] * dp[j];
        }
        if (sinks != nullptr) dsinks[head] -= view.sink * mean;
        for (std::size_t j = 0; j < dp.size(); ++j) {
          const std::int64_t key_row = span.first_row + view.first + static_cast<std::int64_t>(j);
          const double ddot = view.probability[j] * (dp[j] - mean) * view.slope[j];
          for (std::int64_t d = 0; d < c.head_dim; ++d) {
            dqkv.row(query_row)[at.q + d] += ddot * qkv.row(key_row)[at.k + d];
            dqkv.row(key_row)[at.k + d] += ddot * qkv.row(query_row)[at.q + d];
            dqkv.row(key_row)[at.v + d] += view.probability[j] * d_out[d];
          }
        }
      }
    }
  }
  return dqkv;
}

// ---- the model ----

// One expert that a row takes: everything of it is a table of one row.
struct ExpertTrace {
  std::int64_t expert = 0;
  double weight = 0.0;  // softmax of the chosen logits
  Table pre, hidden, out;
};

// What the backward pass of one layer needs.
struct LayerTrace {
  std::vector<ExpertTrace> experts;  // [rows * experts_used]
  double router_margin = INFINITY;
  Table input, norm1, qkv_raw, qkv, attended, branch1, middle, norm2, mlp_pre, mlp_hidden, branch2;
};
struct Trace {
  std::vector<LayerTrace> layers;
  Table last, normed, logits_raw, logits;
};

// Visits each query and key head of a row: visit(column, weight index of its norm).
template <class Visit>
void for_each_query_and_key_head(const ModelConfig& c, const LayerParameters& p, Visit visit) {
  for (std::int64_t h = 0; h < c.heads + c.kv_heads; ++h) visit(h * c.head_dim, h < c.heads ? p.q_norm : p.k_norm);
}

void add(Table& x, const Table& y) {
  for (std::size_t i = 0; i < x.values.size(); ++i) x.values[i] += y.values[i];
}

// A half's output as it is added: through its RMS norm where the model has post norms.
Table post_norm(const ModelConfig& c, const Table& branch, const double* weight) {
  if (weight == nullptr) return branch;
  Table y(branch.rows, branch.cols);
  for (std::int64_t r = 0; r < y.rows; ++r) {
    norm_row(NormKind::rms_norm, branch.row(r), weight, nullptr, c.norm_eps, y.cols, y.row(r));
  }
  return y;
}

Table post_norm_backward(const ModelConfig& c, const Table& dy, const Table& branch, const double* weight, double* dweight) {
  if (weight == nullptr) return dy;
  Table d(dy.rows, dy.cols);
  for (std::int64_t r = 0; r < d.rows; ++r) {
    norm_row_backward(NormKind::rms_norm, dy.row(r), branch.row(r), weight, c.norm_eps, d.cols, d.row(r), dweight, nullptr);
  }
  return d;
}

// Row `row` alone.
Table row_of(const Table& x, std::int64_t row) {
  Table one(1, x.cols);
  std::copy_n(x.row(row), x.cols, one.row(0));
  return one;
}

// sum over the row's largest router logits of softmax(those)_k * expert_k(x).
void experts(const ModelConfig& c, const Weights& w, const LayerParameters& p, LayerTrace& t) {
  const std::int64_t in_rows = 2 * c.mlp_width;
  const Table logits = linear(t.norm2, w[p.router], w[p.router_bias], c.experts);
  t.branch2 = Table(t.norm2.rows, c.width);
  for (std::int64_t r = 0; r < t.norm2.rows; ++r) {
    std::vector<std::int64_t> order(static_cast<std::size_t>(c.experts));
    std::iota(order.begin(), order.end(), std::int64_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](std::int64_t a, std::int64_t b) { return logits.row(r)[a] > logits.row(r)[b]; });
    if (c.experts_used < c.experts) {
      const auto used = static_cast<std::size_t>(c.experts_used);
      t.router_margin = std::min(t.router_margin, logits.row(r)[order[used - 1]] - logits.row(r)[order[used]]);
    }
    double total = 0.0;
    for (std::int64_t k = 0; k < c.experts_used; ++k) {
      total += std::exp(logits.row(r)[order[static_cast<std::size_t>(k)]] - logits.row(r)[order[0]]);
    }
    for (std::int64_t k = 0; k < c.experts_used; ++k) {
      ExpertTrace e;
      e.expert = order[static_cast<std::size_t>(k)];
      e.weight = std::exp(logits.row(r)[e.expert] - logits.row(r)[order[0]]) / total;
      const double* in_bias = w[p.expert_in_bias];
      const double* out_bias = w[p.expert_out_bias];
      e.pre = linear(row_of(t.norm2, r), w[p.expert_in] + e.expert * in_rows * c.width,
                     in_bias == nullptr ? nullptr : in_bias + e.expert * in_rows, in_rows);
      e.hidden = Table(1, c.mlp_width);
      for (std::int64_t i = 0; i < c.mlp_width; ++i) {
        e.hidden.row(0)[i] = gated_unit(c.mlp, e.pre.row(0)[i], e.pre.row(0)[c.mlp_width + i]).y;
      }
      e.out = linear(e.hidden, w[p.expert_out] + e.expert * c.width * c.mlp_width,
                     out_bias == nullptr ? nullptr : out_bias + e.expert * c.width, c.width);
      for (std::int64_t i = 0; i < c.width; ++i) t.branch2.row(r)[i] += e.weight * e.out.row(0)[i];
      t.experts.push_back(std::move(e));
    }
  }
}

// Returns the gradient of norm2's output. With p = softmax(z): dz_k = p_k (dp_k - sum_j p_j dp_j).
Table experts_backward(const ModelConfig& c, const Weights& w, const Gradients& g, const LayerParameters& p,
                       const LayerTrace& t, const Table& dbranch) {
  const std::int64_t in_rows = 2 * c.mlp_width;
  Table dlogits(dbranch.rows, c.experts);
  Table from_experts(dbranch.rows, c.width);
  for (std::int64_t r = 0; r < dbranch.rows; ++r) {
    double mean = 0.0;
    for (std::int64_t k = 0; k < c.experts_used; ++k) {
      const ExpertTrace& e = t.experts[static_cast<std::size_t>(r * c.experts_used + k)];
      Table dout = row_of(dbranch, r);
      double dweight = 0.0;
      for (std::int64_t i = 0; i < c.width; ++i) {
        dweight += dout.row(0)[i] * e.out.row(0)[i];
        dout.row(0)[i] *= e.weight;
      }
      dlogits.row(r)[e.expert] = dweight;
      mean += e.weight * dweight;
      double* dout_bias = g[p.expert_out_bias];
      double* din_bias = g[p.expert_in_bias];
      const std::int64_t out_start = e.expert * c.width * c.mlp_width, in_start = e.expert * in_rows * c.width;
      const Table dhidden = linear_backward(dout, e.hidden, w[p.expert_out] + out_start, g[p.expert_out] + out_start,
                                            dout_bias == nullptr ? nullptr : dout_bias + e.expert * c.width);
      Table dpre(1, in_rows);
      for (std::int64_t i = 0; i < c.mlp_width; ++i) {
        const GatedValue unit = gated_unit(c.mlp, e.pre.row(0)[i], e.pre.row(0)[c.mlp_width + i]);
        dpre.row(0)[i] = dhidden.row(0)[i] * unit.dgate;
        dpre.row(0)[c.mlp_width + i] = dhidden.row(0)[i] * unit.dup;
      }
      const Table dinput = linear_backward(dpre, row_of(t.norm2, r), w[p.expert_in] + in_start, g[p.expert_in] + in_start,
                                           din_bias == nullptr ? nullptr : din_bias + e.expert * in_rows);
      for (std::int64_t i = 0; i < c.width; ++i) from_experts.row(r)[i] += dinput.row(0)[i];
    }
    for (std::int64_t k = 0; k < c.experts_used; ++k) {
      const ExpertTrace& e = t.experts[static_cast<std::size_t>(r * c.experts_used + k)];
      dlogits.row(r)[e.expert] = e.weight * (dlogits.row(r)[e.expert] - mean);
    }
  }
  add(from_experts, linear_backward(dlogits, t.norm2, w[p.router], g[p.router], g[p.router_bias]));
  return from_experts;
}

// W_out activation(W_in x).
void dense(const ModelConfig& c, const Weights& w, const LayerParameters& p, LayerTrace& t) {
  const bool gated = is_gated(c);
  t.mlp_pre = linear(t.norm2, w[p.mlp_in], w[p.mlp_in_bias], gated ? 2 * c.mlp_width : c.mlp_width);
  t.mlp_hidden = Table(t.norm2.rows, c.mlp_width);
  for (std::int64_t r = 0; r < t.norm2.rows; ++r) {
    const double* pre = t.mlp_pre.row(r);
    for (std::int64_t i = 0; i < c.mlp_width; ++i) {
      t.mlp_hidden.row(r)[i] = gated ? gated_unit(c.mlp, pre[i], pre[c.mlp_width + i]).y : activate(c.mlp, pre[i]).y;
    }
  }
  t.branch2 = linear(t.mlp_hidden, w[p.mlp_out], w[p.mlp_out_bias], c.width);
}

Table dense_backward(const ModelConfig& c, const Weights& w, const Gradients& g, const LayerParameters& p,
                     const LayerTrace& t, const Table& dbranch) {
  const Table dhidden = linear_backward(dbranch, t.mlp_hidden, w[p.mlp_out], g[p.mlp_out], g[p.mlp_out_bias]);
  Table dpre(dbranch.rows, t.mlp_pre.cols);
  const bool gated = is_gated(c);
  for (std::int64_t r = 0; r < dbranch.rows; ++r) {
    const double* pre = t.mlp_pre.row(r);
    for (std::int64_t i = 0; i < c.mlp_width; ++i) {
      const double d = dhidden.row(r)[i];
      if (gated) {
        const GatedValue unit = gated_unit(c.mlp, pre[i], pre[c.mlp_width + i]);
        dpre.row(r)[i] = d * unit.dgate;
        dpre.row(r)[c.mlp_width + i] = d * unit.dup;
      } else {
        dpre.row(r)[i] = d * activate(c.mlp, pre[i]).dy;
      }
    }
  }
  return linear_backward(dpre, t.norm2, w[p.mlp_in], g[p.mlp_in], g[p.mlp_in_bias]);
}

Trace forward(const ModelConfig& c, const ParameterLayout& layout, std::span<const double> parameters,
              const ReferenceBatch& batch) {
  const Weights w{layout, parameters};
  const auto rows = static_cast<std::int64_t>(batch.inputs.size());
  Table x(rows, c.width);
  for (std::int64_t r = 0; r < rows; ++r) {
    const auto at = static_cast<std::size_t>(r);
    for (std::int64_t i = 0; i < c.width; ++i) {
      x.row(r)[i] = static_cast<double>(c.embedding_scale) * w[layout.token_embedding][batch.inputs[at] * c.width + i];
      if (c.position == PositionKind::learned) {
        x.row(r)[i] += w[layout.position_embedding][batch.positions[at] * c.width + i];
      }
    }
  }

  Trace trace;
  for (std::int64_t layer = 0; layer < c.layers; ++layer) {
    const LayerParameters& p = layout.layers[static_cast<std::size_t>(layer)];
    LayerTrace t;
    t.input = x;
    t.norm1 = norm(c, x, w[p.norm1], w[p.norm1_bias]);
    t.qkv_raw = linear(t.norm1, w[p.qkv], w[p.qkv_bias], (c.heads + 2 * c.kv_heads) * c.head_dim);
    t.qkv = t.qkv_raw;
    for (std::int64_t r = 0; r < rows; ++r) {
      for_each_query_and_key_head(c, p, [&](std::int64_t column, int weight) {
        double* head = t.qkv.row(r) + column;
        if (c.qk_norm) {
          norm_row(NormKind::rms_norm, t.qkv_raw.row(r) + column, w[weight], nullptr, c.norm_eps, c.head_dim, head);
        }
        if (c.position == PositionKind::rope) rope(c, layer, head, batch.positions[static_cast<std::size_t>(r)], 1.0);
      });
    }
    t.attended = attention(c, layer, t.qkv, w[p.sinks], batch.spans);
    t.branch1 = linear(t.attended, w[p.attention_out], w[p.attention_out_bias], c.width);
    add(x, post_norm(c, t.branch1, w[p.post_norm1]));

    t.middle = x;
    t.norm2 = norm(c, x, w[p.norm2], w[p.norm2_bias]);
    if (c.experts > 0) {
      experts(c, w, p, t);
    } else {
      dense(c, w, p, t);
    }
    add(x, post_norm(c, t.branch2, w[p.post_norm2]));
    trace.layers.push_back(std::move(t));
  }

  trace.last = x;
  trace.normed = norm(c, x, w[layout.final_norm], w[layout.final_norm_bias]);
  trace.logits_raw = linear(trace.normed, w[c.tied_embeddings ? layout.token_embedding : layout.head], nullptr, c.vocab);
  trace.logits = trace.logits_raw;
  for (double& logit : trace.logits.values) logit = soft_cap(logit, c.final_soft_cap).y;
  return trace;
}

double log_sum_exp(const double* x, std::int64_t n) {
  double largest = -INFINITY, sum = 0.0;
  for (std::int64_t i = 0; i < n; ++i) largest = std::fmax(largest, x[i]);
  for (std::int64_t i = 0; i < n; ++i) sum += std::exp(x[i] - largest);
  return largest + std::log(sum);
}

double weighted_loss(const ModelConfig& c, const Trace& trace, const ReferenceBatch& batch) {
  double loss = 0.0;
  for (std::int64_t r = 0; r < trace.logits.rows; ++r) {
    const auto at = static_cast<std::size_t>(r);
    if (batch.weights[at] == 0.0) continue;
    const double* logits = trace.logits.row(r);
    loss += batch.weights[at] * (log_sum_exp(logits, c.vocab) - logits[batch.targets[at]]);
  }
  return loss;
}

void backward(const ModelConfig& c, const ParameterLayout& layout, std::span<const double> parameters,
              const ReferenceBatch& batch, const Trace& trace, double total_weight, std::span<double> gradients) {
  const Weights w{layout, parameters};
  const Gradients g{layout, gradients};
  const std::int64_t rows = trace.last.rows;

  Table dlogits(rows, c.vocab);
  for (std::int64_t r = 0; r < rows; ++r) {
    const auto at = static_cast<std::size_t>(r);
    if (batch.weights[at] == 0.0) continue;
    const double normalizer = log_sum_exp(trace.logits.row(r), c.vocab);
    for (std::int64_t i = 0; i < c.vocab; ++i) {
      const double probability = std::exp(trace.logits.row(r)[i] - normalizer);
      const double d = (probability - (i == batch.targets[at] ? 1.0 : 0.0)) * batch.weights[at] / total_weight;
      dlogits.row(r)[i] = d * soft_cap(trace.logits_raw.row(r)[i], c.final_soft_cap).dy;
    }
  }
  const int head = c.tied_embeddings ? layout.token_embedding : layout.head;
  const Table dnormed = linear_backward(dlogits, trace.normed, w[head], g[head], nullptr);
  Table dx(rows, c.width);
  norm_backward(c, dnormed, trace.last, w[layout.final_norm], dx, g[layout.final_norm], g[layout.final_norm_bias]);

  for (std::int64_t layer = c.layers - 1; layer >= 0; --layer) {
    const LayerParameters& p = layout.layers[static_cast<std::size_t>(layer)];
    const LayerTrace& t = trace.layers[static_cast<std::size_t>(layer)];

    const Table dbranch2 = post_norm_backward(c, dx, t.branch2, w[p.post_norm2], g[p.post_norm2]);
    const Table dnorm2 = c.experts > 0 ? experts_backward(c, w, g, p, t, dbranch2) : dense_backward(c, w, g, p, t, dbranch2);
    norm_backward(c, dnorm2, t.middle, w[p.norm2], dx, g[p.norm2], g[p.norm2_bias]);

    const Table dbranch1 = post_norm_backward(c, dx, t.branch1, w[p.post_norm1], g[p.post_norm1]);
    const Table dattended =
        linear_backward(dbranch1, t.attended, w[p.attention_out], g[p.attention_out], g[p.attention_out_bias]);
    Table dqkv = attention_backward(c, layer, dattended, t.qkv, w[p.sinks], g[p.sinks], batch.spans);
    for (std::int64_t r = 0; r < rows; ++r) {
      for_each_query_and_key_head(c, p, [&](std::int64_t column, int weight) {
        double* dhead = dqkv.row(r) + column;
        if (c.position == PositionKind::rope) rope(c, layer, dhead, batch.positions[static_cast<std::size_t>(r)], -1.0);
        if (c.qk_norm) {
          const std::vector<double> dy(dhead, dhead + c.head_dim);
          for (std::int64_t d = 0; d < c.head_dim; ++d) dhead[d] = 0.0;
          norm_row_backward(NormKind::rms_norm, dy.data(), t.qkv_raw.row(r) + column, w[weight], c.norm_eps, c.head_dim,
                            dhead, g[weight], nullptr);
        }
      });
    }
    const Table dnorm1 = linear_backward(dqkv, t.norm1, w[p.qkv], g[p.qkv], g[p.qkv_bias]);
    norm_backward(c, dnorm1, t.input, w[p.norm1], dx, g[p.norm1], g[p.norm1_bias]);
  }

  for (std::int64_t r = 0; r < rows; ++r) {
    const auto at = static_cast<std::size_t>(r);
    for (std::int64_t i = 0; i < c.width; ++i) {
      g[layout.token_embedding][batch.inputs[at] * c.width + i] += static_cast<double>(c.embedding_scale) * dx.row(r)[i];
      if (c.position == PositionKind::learned) {
        g[layout.position_embedding][batch.positions[at] * c.width + i] += dx.row(r)[i];
      }
    }
  }
}

double sum_of_weights(std::span<const ReferenceBatch> batches) {
  double sum = 0.0;
  for (const ReferenceBatch& batch : batches) {
    for (const double weight : batch.weights) sum += weight;
  }
  return sum;
}

}  // namespace

ReferenceBatch random_reference_batch(const ModelConfig& config, std::int64_t spans, std::int64_t length,
                                      std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto token = [&] { return static_cast<std::int32_t>(random() % static_cast<std::uint64_t>(config.vocab)); };
  ReferenceBatch batch;
  for (std::int64_t s = 0; s < spans; ++s) {
    batch.spans.push_back({.first_row = s * length, .rows = length});
    for (std::int64_t t = 0; t < length; ++t) {
      batch.inputs.push_back(token());
      batch.targets.push_back(token());
      batch.weights.push_back(1.0);
      batch.positions.push_back(static_cast<std::int32_t>(t));
    }
  }
  return batch;
}

std::vector<double> reference_logits(const ModelConfig& config, const ParameterLayout& layout,
                                     std::span<const double> parameters, const ReferenceBatch& batch) {
  return forward(config, layout, parameters, batch).logits.values;
}

double reference_router_margin(const ModelConfig& config, const ParameterLayout& layout, std::span<const double> parameters,
                               const ReferenceBatch& batch) {
  double margin = INFINITY;
  for (const LayerTrace& layer : forward(config, layout, parameters, batch).layers) {
    margin = std::min(margin, layer.router_margin);
  }
  return margin;
}

double reference_loss(const ModelConfig& config, const ParameterLayout& layout, std::span<const double> parameters,
                      std::span<const ReferenceBatch> batches) {
  const double total = sum_of_weights(batches);
  if (total == 0.0) return 0.0;
  double loss = 0.0;
  for (const ReferenceBatch& batch : batches) {
    loss += weighted_loss(config, forward(config, layout, parameters, batch), batch);
  }
  return loss / total;
}

double reference_loss_and_gradients(const ModelConfig& config, const ParameterLayout& layout,
                                    std::span<const double> parameters, std::span<const ReferenceBatch> batches,
                                    std::span<double> gradients) {
  for (double& gradient : gradients) gradient = 0.0;
  const double total = sum_of_weights(batches);
  if (total == 0.0) return 0.0;
  double loss = 0.0;
  for (const ReferenceBatch& batch : batches) {
    const Trace trace = forward(config, layout, parameters, batch);
    loss += weighted_loss(config, trace, batch);
    backward(config, layout, parameters, batch, trace, total, gradients);
  }
  return loss / total;
}

double reference_adamw_step(const ReferenceAdamW& settings, const ParameterLayout& layout, std::span<const double> gradients,
                            ReferenceAdamWState& state, std::span<double> parameters) {
  state.m.resize(parameters.size(), 0.0);
  state.v.resize(parameters.size(), 0.0);
  state.step += 1;
  double square = 0.0;
  for (const Parameter& p : layout.parameters) {
    for (std::int64_t i = p.offset; i < p.offset + p.rows * p.cols; ++i) {
      const double g = gradients[static_cast<std::size_t>(i)];
      square += g * g;
    }
  }
  const double norm = std::sqrt(square);
  const double scale = settings.clip_norm > 0.0 && norm > settings.clip_norm ? settings.clip_norm / norm : 1.0;
  const double correction1 = 1.0 - std::pow(settings.beta1, static_cast<double>(state.step));
  const double correction2 = 1.0 - std::pow(settings.beta2, static_cast<double>(state.step));
  for (const Parameter& p : layout.parameters) {
    for (std::int64_t i = p.offset; i < p.offset + p.rows * p.cols; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const double g = gradients[at] * scale;
      state.m[at] = settings.beta1 * state.m[at] + (1.0 - settings.beta1) * g;
      state.v[at] = settings.beta2 * state.v[at] + (1.0 - settings.beta2) * g * g;
      if (p.decays()) parameters[at] -= settings.learning_rate * settings.weight_decay * parameters[at];
      parameters[at] -=
          settings.learning_rate * (state.m[at] / correction1) / (std::sqrt(state.v[at] / correction2) + settings.eps);
    }
  }
  return norm;
}

}  // namespace quern
