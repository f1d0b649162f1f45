#include "infer/perplexity.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace quern {

namespace {

// Tokens of one forward pass: enough rows for the products to run at their best speed.
constexpr std::int64_t kBatchTokens = 1024;
constexpr std::int64_t kLogitBytes = std::int64_t{64} << 20;

/// Gives the sequences back however the scoring ends.
class Sequences {
 public:
  explicit Sequences(KvCache& cache) : cache_(cache) {}
  ~Sequences() {
    for (const KvCache::SequenceId id : ids_) cache_.remove_sequence(id);
  }
  Sequences(const Sequences&) = delete;
  Sequences& operator=(const Sequences&) = delete;

  Result<void> add() {
    const auto id = cache_.add_sequence();
    if (!id) return tl::make_unexpected(id.error());
    ids_.push_back(*id);
    return {};
  }
  [[nodiscard]] KvCache::SequenceId operator[](std::int64_t i) const { return ids_[static_cast<std::size_t>(i)]; }

 private:
  KvCache& cache_;
  std::vector<KvCache::SequenceId> ids_;
};

/// Scores chunks side by side, each at the same positions.
class Scorer {
 public:
  Scorer(Decoder& decoder, ThreadTeam& team, const ScoringChunks& chunks, const RowsVisitor& visit)
      : decoder_(decoder), team_(team), chunks_(chunks), visit_(visit), nll_(static_cast<std::size_t>(chunks.rows())) {}

  Result<void> score(std::int64_t first_chunk, std::int64_t count) {
    Sequences sequences(decoder_.cache());
    for (std::int64_t i = 0; i < count; ++i) {
      if (auto added = sequences.add(); !added) return added;
    }
    const Decoder::Limits& limits = decoder_.limits();
    // The last token of a chunk is a target only.
    for (std::int64_t position = 0; position < chunks_.context - 1;) {
      const bool scored = position >= chunks_.first_scored();
      const std::int64_t end = scored ? chunks_.context - 1 : chunks_.first_scored();
      const std::int64_t room = scored ? std::min(limits.batch_tokens, limits.logit_rows) : limits.batch_tokens;
      const std::int64_t tokens = std::min(std::max<std::int64_t>(1, room / count), end - position);
      batch_.clear();
      for (std::int64_t i = 0; i < count; ++i) {
        batch_.push_back(
            {sequences[i],
             chunks_.chunk(first_chunk + i).subspan(static_cast<std::size_t>(position), static_cast<std::size_t>(tokens)),
             scored ? LogitRows::all : LogitRows::none});
      }
      if (auto done = decoder_.forward(batch_); !done) return done;
      if (scored) {
        if (auto done = take_rows(first_chunk, count, position, tokens); !done) return done;
      }
      position += tokens;
    }
    return {};
  }

  std::vector<double> take() { return std::move(nll_); }

 private:
  Result<void> take_rows(std::int64_t first_chunk, std::int64_t count, std::int64_t position, std::int64_t tokens) {
    rows_.clear();
    for (std::int64_t i = 0; i < count; ++i) {
      for (std::int64_t t = 0; t < tokens; ++t) {
        const std::int64_t chunk = first_chunk + i;
        rows_.push_back({.index = chunk * chunks_.scored() + position + t - chunks_.first_scored(),
                         .target = chunks_.chunk(chunk)[static_cast<std::size_t>(position + t + 1)],
                         .logits = decoder_.logits(i * tokens + t)});
      }
    }
    team_.run([&](TeamMember& member) {
      member.for_each(std::ssize(rows_), [&](std::int64_t i) {
        ScoredRow& row = rows_[static_cast<std::size_t>(i)];
        row.log_normalizer = log_normalizer(row.logits);
      });
    });
    for (const ScoredRow& row : rows_) {
      if (!std::isfinite(row.log_normalizer)) {
        return bad_input(fmt::format("scoring: the model's logits at position {} of chunk {} are not finite",
                                     chunks_.first_scored() + row.index % chunks_.scored(), row.index / chunks_.scored()));
      }
      nll_[static_cast<std::size_t>(row.index)] = row.log_normalizer - row.logits[static_cast<std::size_t>(row.target)];
    }
    return visit_ ? visit_(rows_) : Result<void>{};
  }

  Decoder& decoder_;
  ThreadTeam& team_;
  const ScoringChunks& chunks_;
  const RowsVisitor& visit_;
  std::vector<double> nll_;
  std::vector<SequenceTokens> batch_;
  std::vector<ScoredRow> rows_;
};

}  // namespace

Result<ScoringChunks> ScoringChunks::cut(std::span<const std::int32_t> tokens, std::int64_t context,
                                         std::int64_t most_chunks, std::optional<std::int32_t> first_token,
                                         std::string_view where) {
  if (context < 4) return bad_input(fmt::format("{}: chunks of {} tokens are too short, 4 are the least", where, context));
  std::int64_t count = std::ssize(tokens) / context;
  if (count == 0) {
    return bad_input(
        fmt::format("{}: {} tokens are less than one chunk of {}; a smaller --context fits", where, tokens.size(), context));
  }
  if (most_chunks > 0) count = std::min(count, most_chunks);
  ScoringChunks chunks;
  chunks.context = context;
  chunks.tokens.assign(tokens.begin(), tokens.begin() + count * context);
  if (first_token) {
    for (std::int64_t i = 0; i < count; ++i) chunks.tokens[static_cast<std::size_t>(i * context)] = *first_token;
  }
  return chunks;
}

double log_normalizer(std::span<const float> logits) {
  double largest = -HUGE_VAL;
  for (const float logit : logits) largest = std::max(largest, static_cast<double>(logit));
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - largest);
  return largest + std::log(sum);
}

Decoder::Limits scoring_limits(const ScoringChunks& chunks, std::int64_t vocab) {
  Decoder::Limits limits;
  limits.context_tokens = chunks.context;
  limits.sequences = std::clamp<std::int64_t>(kBatchTokens / chunks.context, 1, std::max<std::int64_t>(1, chunks.count()));
  limits.batch_tokens = std::min(kBatchTokens, limits.sequences * chunks.context);
  const std::int64_t row_bytes = vocab * static_cast<std::int64_t>(sizeof(float));
  limits.logit_rows = std::clamp(kLogitBytes / row_bytes, limits.sequences, limits.batch_tokens);
  return limits;
}

Result<std::vector<double>> score_chunks(Decoder& decoder, ThreadTeam& team, const ScoringChunks& chunks,
                                         const RowsVisitor& visit, const ScoringProgress& progress) {
  Scorer scorer(decoder, team, chunks, visit);
  const std::int64_t together =
      std::max<std::int64_t>(1, std::min(decoder.limits().sequences, decoder.limits().batch_tokens));
  for (std::int64_t first = 0; first < chunks.count(); first += together) {
    const std::int64_t count = std::min(together, chunks.count() - first);
    if (auto done = scorer.score(first, count); !done) return tl::make_unexpected(done.error());
    if (progress) progress(first + count);
  }
  return scorer.take();
}

MeanAndError mean_and_error(std::span<const double> values) {
  if (values.empty()) return {};
  const auto count = static_cast<double>(values.size());
  double sum = 0.0;
  for (const double value : values) sum += value;
  const double mean = sum / count;
  if (values.size() < 2) return {mean, 0.0};
  double squares = 0.0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  return {mean, std::sqrt(squares / (count - 1.0) / count)};
}

Perplexity perplexity_of(std::span<const double> negative_log_likelihoods) {
  const MeanAndError nll = mean_and_error(negative_log_likelihoods);
  const double value = std::exp(nll.mean);
  return {std::ssize(negative_log_likelihoods), nll.mean, value, value * nll.error};
}

}  // namespace quern
