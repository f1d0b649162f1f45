#include "infer/sensitivity.hpp"

#include <algorithm>
#include <cmath>

namespace quern {

Result<PredictionShift> PredictionShift::create(const Backend& backend, const ModelWeights& weights, ThreadTeam& team,
                                                const ScoringChunks& chunks) {
  PredictionShift shift(weights, team, chunks);
  auto decoder = Decoder::create(backend, weights, team, scoring_limits(chunks, weights.config.vocab));
  if (!decoder) return tl::make_unexpected(decoder.error());
  shift.decoder_ = std::move(*decoder);
  shift.logits_.resize(shift.row_start(chunks.rows()));
  shift.normalizer_.resize(static_cast<std::size_t>(chunks.rows()));
  const auto scored = score_chunks(*shift.decoder_, team, chunks, [&](std::span<const ScoredRow> rows) -> Result<void> {
    for (const ScoredRow& row : rows) {
      std::copy(row.logits.begin(), row.logits.end(), shift.logits_.begin() + std::ptrdiff_t(shift.row_start(row.index)));
      shift.normalizer_[static_cast<std::size_t>(row.index)] = row.log_normalizer;
    }
    return {};
  });
  if (!scored) return tl::make_unexpected(scored.error());
  return shift;
}

Result<double> PredictionShift::measure() {
  std::vector<double> divergence(normalizer_.size());
  const auto visit = [&](std::span<const ScoredRow> rows) -> Result<void> {
    team_->run([&](TeamMember& member) {
      member.for_each(std::ssize(rows), [&](std::int64_t i) {
        const ScoredRow& row = rows[static_cast<std::size_t>(i)];
        const float* base = logits_.data() + row_start(row.index);
        const double base_normalizer = normalizer_[static_cast<std::size_t>(row.index)];
        double sum = 0.0;
        for (std::size_t k = 0; k < row.logits.size(); ++k) {
          const double log_p = static_cast<double>(base[k]) - base_normalizer;
          const double log_q = static_cast<double>(row.logits[k]) - row.log_normalizer;
          const double p = std::exp(log_p);
          if (p > 0.0) sum += p * (log_p - log_q);
        }
        divergence[static_cast<std::size_t>(row.index)] = sum;
      });
    });
    return {};
  };
  const auto scored = score_chunks(*decoder_, *team_, *chunks_, visit);
  if (!scored) return tl::make_unexpected(scored.error());
  return mean_and_error(divergence).mean;
}

int repoint_weights(ModelWeights& weights, const void* from, ElementType type, const void* data) {
  int found = 0;
  const auto repoint = [&](Weight& weight) {
    if (weight.forward != from || weight.rows == 0) return;
    weight.type = type;
    weight.forward = weight.backward = data;
    ++found;
  };
  const auto repoint_all = [&](StackedWeight& stacked) {
    for (int i = 0; i < stacked.count; ++i) repoint(stacked.parts[static_cast<std::size_t>(i)]);
  };
  repoint(weights.embedding_table);
  repoint(weights.head);
  for (LayerWeights& w : weights.layers) {
    repoint_all(w.qkv);
    repoint(w.attention_out);
    repoint_all(w.mlp_in);
    repoint(w.mlp_out);
    repoint(w.router);
    repoint_all(w.expert_in);
    repoint(w.expert_out);
  }
  return found;
}

}  // namespace quern
