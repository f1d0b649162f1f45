#include "infer/collect_importance.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "infer/decoder.hpp"
#include "math/number_formats.hpp"

namespace quern {

namespace {

/// Columns that one task sums: a few cache lines of a row.
constexpr std::int64_t kStripColumns = 128;

float value_at(const float* data, std::int64_t i) { return data[i]; }
float value_at(const bf16* data, std::int64_t i) { return float_from_bf16(data[i]); }

template <class T>
void add_squares(const T* data, std::int64_t rows, std::int64_t stride, std::int64_t columns, double* sums) {
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t i = 0; i < columns; ++i) {
      const auto x = static_cast<double>(value_at(data + row * stride, i));
      sums[i] += x * x;
    }
  }
}

std::string layer_name(std::int64_t layer, std::string_view name) { return fmt::format("blk.{}.{}.weight", layer, name); }

/// Gives sequences back however the work ends.
class ChunkSequences {
 public:
  explicit ChunkSequences(KvCache& cache) : cache_(cache) {}
  ~ChunkSequences() {
    for (const KvCache::SequenceId id : ids_) cache_.remove_sequence(id);
  }
  ChunkSequences(const ChunkSequences&) = delete;
  ChunkSequences& operator=(const ChunkSequences&) = delete;
  Result<KvCache::SequenceId> add() {
    auto id = cache_.add_sequence();
    if (id) ids_.push_back(*id);
    return id;
  }

 private:
  KvCache& cache_;
  std::vector<KvCache::SequenceId> ids_;
};

}  // namespace

std::vector<ObservedMatrix> observed_matrices(const ModelWeights& weights, bool fused_too) {
  const ModelConfig& config = weights.config;
  std::vector<ObservedMatrix> matrices;
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    const LayerWeights& w = weights.layers[static_cast<std::size_t>(layer)];
    const auto add = [&](std::string_view name, MatrixInput input) {
      matrices.push_back({layer_name(layer, name), input, layer});
    };
    if (w.qkv.count > 1 || fused_too) {
      for (const char* name : {"attn_q", "attn_k", "attn_v"}) add(name, MatrixInput::qkv);
    }
    if (w.qkv.count == 1 || fused_too) add("attn_qkv", MatrixInput::qkv);
    add("attn_output", MatrixInput::attention_out);
    if (config.experts > 0) {
      add("ffn_gate_inp", MatrixInput::router);
      if (w.expert_in.count > 1 || fused_too) {
        add("ffn_gate_exps", MatrixInput::expert_in);
        add("ffn_up_exps", MatrixInput::expert_in);
      }
      if (w.expert_in.count == 1) add("ffn_gate_up_exps", MatrixInput::expert_in);
      add("ffn_down_exps", MatrixInput::expert_out);
      continue;
    }
    if (config.gated() && (w.mlp_in.count > 1 || fused_too)) add("ffn_gate", MatrixInput::mlp_in);
    add("ffn_up", MatrixInput::mlp_in);
    add("ffn_down", MatrixInput::mlp_out);
  }
  matrices.push_back({config.tied_embeddings ? "token_embd.weight" : "output.weight", MatrixInput::head, -1});
  return matrices;
}

Result<void> observe_chunks(const Backend& backend, const ModelWeights& weights, ThreadTeam& team,
                            const ScoringChunks& chunks, ActivationObserver& observer, bool logits,
                            const ChunkProgress& progress) {
  Decoder::Limits limits = scoring_limits(chunks, weights.config.vocab);
  if (!logits) limits.logit_rows = 1;
  limits.observer = &observer;
  auto decoder = Decoder::create(backend, weights, team, limits);
  if (!decoder) return tl::make_unexpected(decoder.error());
  const std::int64_t room = logits ? std::min(limits.batch_tokens, limits.logit_rows) : limits.batch_tokens;
  const std::int64_t together = std::min(limits.sequences, room);
  std::vector<KvCache::SequenceId> ids;
  std::vector<SequenceTokens> batch;
  for (std::int64_t first = 0; first < chunks.count(); first += together) {
    const std::int64_t count = std::min(together, chunks.count() - first);
    ChunkSequences sequences((*decoder)->cache());
    ids.clear();
    for (std::int64_t i = 0; i < count; ++i) {
      const auto id = sequences.add();
      if (!id) return tl::make_unexpected(id.error());
      ids.push_back(*id);
    }
    for (std::int64_t position = 0; position < chunks.context;) {
      const std::int64_t tokens = std::min(std::max<std::int64_t>(1, room / count), chunks.context - position);
      batch.clear();
      for (std::int64_t i = 0; i < count; ++i) {
        const auto chunk = chunks.chunk(first + i);
        batch.push_back({ids[static_cast<std::size_t>(i)],
                         chunk.subspan(static_cast<std::size_t>(position), static_cast<std::size_t>(tokens)),
                         logits ? LogitRows::all : LogitRows::none});
      }
      if (auto done = (*decoder)->forward(batch); !done) return done;
      position += tokens;
    }
    if (progress) {
      if (auto on = progress(first + count); !on) return on;
    }
  }
  return {};
}

ImportanceCollector::ImportanceCollector(const ModelConfig& config)
    : sums_(static_cast<std::size_t>(config.layers * kMatrixInputs)) {
  const auto size = [&](MatrixInput input, std::int64_t layer, std::int64_t cols, std::int64_t matrices) {
    Sums& sums = sums_[index(input, layer)];
    sums.cols = cols;
    sums.matrices = matrices;
    sums.sum2.resize(static_cast<std::size_t>(cols * matrices));
    sums.counts.resize(static_cast<std::size_t>(matrices));
  };
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    size(MatrixInput::qkv, layer, config.width, 1);
    size(MatrixInput::attention_out, layer, config.query_width(), 1);
    if (config.experts > 0) {
      size(MatrixInput::router, layer, config.width, 1);
      size(MatrixInput::expert_in, layer, config.width, config.experts);
      size(MatrixInput::expert_out, layer, config.mlp_width, config.experts);
    } else {
      size(MatrixInput::mlp_in, layer, config.width, 1);
      size(MatrixInput::mlp_out, layer, config.mlp_width, 1);
    }
  }
  size(MatrixInput::head, -1, config.width, 1);
}

void ImportanceCollector::observe(TeamMember& member, const ObservedRows& rows) {
  Sums& sums = sums_[index(rows.input, rows.layer)];
  const std::int64_t strips = (rows.cols + kStripColumns - 1) / kStripColumns;
  member.for_each(strips * rows.experts, [&](std::int64_t task) {
    const std::int64_t expert = task / strips;
    const std::int64_t column = task % strips * kStripColumns;
    const std::int64_t columns = std::min(kStripColumns, rows.cols - column);
    const std::int64_t count = rows.rows_of(expert);
    const std::int64_t start = rows.first_of(expert) * rows.cols + column;
    double* out = sums.sum2.data() + expert * rows.cols + column;
    if (rows.type == ElementType::f32) {
      add_squares(static_cast<const float*>(rows.data) + start, count, rows.cols, columns, out);
    } else {
      add_squares(static_cast<const bf16*>(rows.data) + start, count, rows.cols, columns, out);
    }
    if (column == 0) sums.counts[static_cast<std::size_t>(expert)] += count;
  });
}

ImportanceMatrix ImportanceCollector::result(const std::vector<ObservedMatrix>& matrices) const {
  ImportanceMatrix out;
  for (const ObservedMatrix& matrix : matrices) {
    const Sums& sums = sums_[index(matrix.input, matrix.layer)];
    if (std::all_of(sums.counts.begin(), sums.counts.end(), [](std::int64_t count) { return count == 0; })) continue;
    ActivationSums& kept = out.weights[matrix.tensor];
    kept.cols = sums.cols;
    kept.matrices = sums.matrices;
    kept.sum2.assign(sums.sum2.begin(), sums.sum2.end());
    kept.counts.assign(sums.counts.begin(), sums.counts.end());
  }
  return out;
}

Result<ImportanceMatrix> collect_importance(const Backend& backend, const ModelWeights& weights, ThreadTeam& team,
                                            const ScoringChunks& chunks, const CollectOptions& options) {
  ImportanceCollector collector(weights.config);
  if (auto done = observe_chunks(backend, weights, team, chunks, collector, options.head, options.progress); !done) {
    return tl::make_unexpected(done.error());
  }
  ImportanceMatrix matrix = collector.result(observed_matrices(weights, options.fused_too));
  matrix.datasets.push_back(options.dataset);
  matrix.chunks = chunks.count();
  matrix.chunk_tokens = chunks.context;
  for (const auto& [name, sums] : matrix.weights) {
    for (const float sum : sums.sum2) {
      if (!std::isfinite(sum)) return bad_input(fmt::format("the inputs of {} are not finite", name));
    }
  }
  return matrix;
}

std::vector<ImportanceStatistics> importance_statistics(const ImportanceMatrix& matrix) {
  std::vector<ImportanceStatistics> all;
  for (const auto& [name, sums] : matrix.weights) {
    ImportanceStatistics statistics{.tensor = name};
    double total = 0.0;
    double largest = 0.0;
    for (const float count : sums.counts) statistics.rows += static_cast<double>(count);
    std::vector<double> columns(static_cast<std::size_t>(sums.cols), 0.0);
    for (std::size_t i = 0; i < sums.sum2.size(); ++i) {
      columns[i % columns.size()] += static_cast<double>(sums.sum2[i]);
    }
    for (const double column : columns) {
      total += column;
      largest = std::max(largest, column);
    }
    if (statistics.rows > 0.0 && total > 0.0) {
      double entropy = 0.0;
      for (const double column : columns) {
        if (column > 0.0) entropy -= column / total * std::log(column / total);
      }
      const auto cols = static_cast<double>(sums.cols);
      statistics.mean_square = total / (statistics.rows * cols);
      statistics.largest_share = largest / total;
      statistics.effective_share = std::exp(entropy) / cols;
    }
    all.push_back(std::move(statistics));
  }
  std::stable_sort(all.begin(), all.end(),
                   [](const auto& a, const auto& b) { return a.effective_share < b.effective_share; });
  return all;
}

}  // namespace quern
