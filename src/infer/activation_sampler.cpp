#include "infer/activation_sampler.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "math/number_formats.hpp"

namespace quern {

namespace {

/// Mixes bits (the finalizer of SplitMix64, Steele et al. 2014).
std::uint64_t mixed(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15U;
  x = (x ^ (x >> 30U)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27U)) * 0x94D049BB133111EBU;
  return x ^ (x >> 31U);
}

void copy_row(const ObservedRows& rows, std::int64_t row, float* out) {
  if (rows.type == ElementType::f32) {
    std::memcpy(out, static_cast<const float*>(rows.data) + row * rows.cols,
                static_cast<std::size_t>(rows.cols) * sizeof(float));
    return;
  }
  const bf16* data = static_cast<const bf16*>(rows.data) + row * rows.cols;
  for (std::int64_t i = 0; i < rows.cols; ++i) out[i] = float_from_bf16(data[i]);
}

double norm_of(const float* row, std::int64_t cols) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < cols; ++i) sum += static_cast<double>(row[i]) * static_cast<double>(row[i]);
  return std::sqrt(sum);
}

}  // namespace

ActivationSampler::ActivationSampler(const ModelConfig& config, const Plan& plan)
    : plan_(plan), kept_(static_cast<std::size_t>(config.layers * kMatrixInputs)) {
  plan_.rows = std::min(plan_.rows, plan_.rows_in_all);
  const auto size = [&](MatrixInput input, std::int64_t layer, std::int64_t cols, std::int64_t experts) {
    Kept& kept = kept_[index(input, layer)];
    kept.cols = cols;
    kept.dense = experts == 0;
    kept.capacity = kept.dense ? plan_.rows : plan_.expert_rows;
    const std::int64_t count = kept.dense ? 1 : std::min(experts, plan_.experts);
    for (std::int64_t i = 0; i < count; ++i) kept.experts.push_back(kept.dense ? 0 : i * experts / count);
    kept.count.resize(kept.experts.size());
    kept.data.resize(static_cast<std::size_t>(count * kept.capacity * cols));
  };
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    size(MatrixInput::qkv, layer, config.width, 0);
    size(MatrixInput::attention_out, layer, config.query_width(), 0);
    if (config.experts > 0) {
      size(MatrixInput::expert_in, layer, config.width, config.experts);
      size(MatrixInput::expert_out, layer, config.mlp_width, config.experts);
    } else {
      size(MatrixInput::mlp_in, layer, config.width, 0);
      size(MatrixInput::mlp_out, layer, config.mlp_width, 0);
    }
  }
  if (plan_.head) size(MatrixInput::head, -1, config.width, 0);
}

void ActivationSampler::observe(TeamMember& member, const ObservedRows& rows) {
  Kept& kept = kept_[index(rows.input, rows.layer)];
  if (kept.data.empty()) return;
  if (kept.dense) {
    keep_dense(member, rows, kept);
    // No other member looks at this input again before the forward pass ends.
    if (member.index() == 0) {
      kept.seen += rows.rows;
      kept.count[0] = std::min(kept.seen, plan_.rows_in_all) * plan_.rows / plan_.rows_in_all;
    }
  } else {
    keep_experts(member, rows, kept);
  }
}

void ActivationSampler::keep_dense(TeamMember& member, const ObservedRows& rows, Kept& kept) const {
  const std::int64_t seen = kept.seen;
  const std::int64_t wanted = plan_.rows;
  const std::int64_t all = plan_.rows_in_all;
  const std::uint64_t salt = index(rows.input, rows.layer);
  member.for_each(wanted, [&](std::int64_t slot) {
    const std::int64_t begin = slot * all / wanted;
    const auto length = static_cast<std::uint64_t>((slot + 1) * all / wanted - begin);
    const std::int64_t row =
        begin + static_cast<std::int64_t>(mixed(salt << 32U | static_cast<std::uint64_t>(slot)) % length);
    if (row >= seen && row < seen + rows.rows) copy_row(rows, row - seen, kept.data.data() + slot * kept.cols);
  });
}

void ActivationSampler::keep_experts(TeamMember& member, const ObservedRows& rows, Kept& kept) {
  member.for_each(std::ssize(kept.experts), [&](std::int64_t i) {
    const std::int64_t expert = kept.experts[static_cast<std::size_t>(i)];
    std::int64_t& count = kept.count[static_cast<std::size_t>(i)];
    const std::int64_t take = std::min(rows.rows_of(expert), kept.capacity - count);
    for (std::int64_t k = 0; k < take; ++k) {
      copy_row(rows, rows.first_of(expert) + k, kept.data.data() + (i * kept.capacity + count + k) * kept.cols);
    }
    count += take;
  });
}

std::vector<ActivationSampler::Rows> ActivationSampler::rows(MatrixInput input, std::int64_t layer) const {
  const Kept& kept = kept_[index(input, layer)];
  std::vector<Rows> all;
  for (std::size_t i = 0; i < kept.experts.size(); ++i) {
    if (kept.count[i] == 0) continue;
    all.push_back({kept.experts[i], kept.count[i], kept.cols,
                   kept.data.data() + static_cast<std::int64_t>(i) * kept.capacity * kept.cols});
  }
  return all;
}

void ActivationSampler::limit_norms(double factor) {
  std::vector<double> norms;
  for (Kept& kept : kept_) {
    norms.clear();
    for (std::size_t i = 0; i < kept.experts.size(); ++i) {
      float* rows = kept.data.data() + static_cast<std::int64_t>(i) * kept.capacity * kept.cols;
      for (std::int64_t k = 0; k < kept.count[i]; ++k) norms.push_back(norm_of(rows + k * kept.cols, kept.cols));
    }
    if (norms.empty()) continue;
    std::vector<double> sorted = norms;
    const auto middle = sorted.begin() + std::ssize(sorted) / 2;
    std::nth_element(sorted.begin(), middle, sorted.end());
    const double limit = *middle * factor;
    if (!(limit > 0.0)) continue;
    std::size_t at = 0;
    for (std::size_t i = 0; i < kept.experts.size(); ++i) {
      float* rows = kept.data.data() + static_cast<std::int64_t>(i) * kept.capacity * kept.cols;
      for (std::int64_t k = 0; k < kept.count[i]; ++k, ++at) {
        if (norms[at] <= limit) continue;
        const auto scale = static_cast<float>(limit / norms[at]);
        for (std::int64_t c = 0; c < kept.cols; ++c) rows[k * kept.cols + c] *= scale;
      }
    }
  }
}

}  // namespace quern
