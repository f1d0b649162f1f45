// How well a model predicts a text: negative log-likelihoods of its tokens in chunks, and the perplexity they give.
//
// The convention is the one of llama.cpp's perplexity tool, so that figures compare: the text is tokenized once and cut into
// chunks of `context` tokens; the last partial chunk is dropped; each chunk is a sequence of its own whose first token is
// replaced by the beginning-of-text token where the vocabulary adds one; the predictions that positions context/2 to
// context-2 make (of the tokens one further) are scored, so that each has at least half a context before it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "infer/decoder.hpp"
#include "math/result.hpp"
#include "math/thread_team.hpp"

namespace quern {

/// A text cut into chunks.
struct ScoringChunks {
  std::int64_t context = 0;          ///< tokens of a chunk
  std::vector<std::int32_t> tokens;  ///< [chunks, context]

  [[nodiscard]] std::int64_t count() const { return context > 0 ? std::ssize(tokens) / context : 0; }
  [[nodiscard]] std::span<const std::int32_t> chunk(std::int64_t i) const {
    return std::span(tokens).subspan(static_cast<std::size_t>(i * context), static_cast<std::size_t>(context));
  }
  /// The first position whose prediction is scored, and how many are in each chunk.
  [[nodiscard]] std::int64_t first_scored() const { return context / 2; }
  [[nodiscard]] std::int64_t scored() const { return context - 1 - first_scored(); }
  /// Scored predictions in all: "rows".
  [[nodiscard]] std::int64_t rows() const { return count() * scored(); }

  /// Cuts `tokens` into chunks of `context` >= 4 tokens, `most_chunks` at most (0: all). `first_token` replaces the first
  /// of each. Error bad_input, which begins with `where`, when there is not one whole chunk.
  [[nodiscard]] static Result<ScoringChunks> cut(std::span<const std::int32_t> tokens, std::int64_t context,
                                                 std::int64_t most_chunks, std::optional<std::int32_t> first_token,
                                                 std::string_view where);
};

/// One scored prediction.
struct ScoredRow {
  std::int64_t index = 0;         ///< chunk * scored() + position - first_scored()
  std::int32_t target = 0;        ///< the token that came
  std::span<const float> logits;  ///< [vocab]
  double log_normalizer = 0.0;    ///< log of the sum of exp(logits): log p(i) = logits[i] - log_normalizer
};

/// log(sum(exp(logits))) in double precision; not finite where a logit is NaN or +infinity, or all are -infinity.
[[nodiscard]] double log_normalizer(std::span<const float> logits);

/// The limits of a decoder that scores such chunks: as many chunks at once as make a good batch, and as many rows of logits
/// as fit 64 MiB.
[[nodiscard]] Decoder::Limits scoring_limits(const ScoringChunks& chunks, std::int64_t vocab);

/// Called with the rows of one forward pass, in no particular order of indices, but those of one chunk ascending; the views
/// hold until it returns. An error ends the scoring.
using RowsVisitor = std::function<Result<void>(std::span<const ScoredRow>)>;
/// Called now and then with the number of chunks done so far.
using ScoringProgress = std::function<void(std::int64_t chunks_done)>;

/// Runs the chunks through `decoder` (made with scoring_limits(); its cache is given back) and returns the negative
/// log-likelihood of every row, by index. `team` normalizes the logits. Errors: the decoder's, the visitor's; bad_input
/// where logits are not finite. Deterministic where the decoder is.
[[nodiscard]] Result<std::vector<double>> score_chunks(Decoder& decoder, ThreadTeam& team, const ScoringChunks& chunks,
                                                       const RowsVisitor& visit = {}, const ScoringProgress& progress = {});

struct Perplexity {
  std::int64_t tokens = 0;  ///< scored
  double mean_nll = 0.0;    ///< nats a token
  double value = 0.0;       ///< exp(mean_nll)
  double error = 0.0;       ///< value times the standard error of mean_nll; 0 below two tokens
};
[[nodiscard]] Perplexity perplexity_of(std::span<const double> negative_log_likelihoods);

/// Mean of `values` and the standard error of that mean (0 below two values), in two passes.
struct MeanAndError {
  double mean = 0.0;
  double error = 0.0;
};
[[nodiscard]] MeanAndError mean_and_error(std::span<const double> values);

}  // namespace quern
