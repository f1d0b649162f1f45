// The predictions of one model over a text, kept in a file, and how far another model's are from them: Kullback-Leibler
// divergence, agreement, change of probability.
//
// The file (HDF5) holds the tokens, so that a comparison needs no text and cannot be made with another, and for each scored
// row the log-probabilities of the whole vocabulary as 16-bit steps between the largest and the smallest, or 24 nats below
// the largest where that is less. A log-probability is off by half a step at most, 24 / 65535 / 2 = 1.8e-4 nats; what lies
// deeper than 24 nats is raised to there. Rows are normalized again when they are read, so a divergence is never negative
// beyond rounding.
//
//   attributes            quern_format "logits-base", version 1, context, vocab, model
//   tokens                i32 [chunks, context]
//   log_probabilities     u16 [rows, vocab]
//   scales                f32 [rows, 2]: log-probability of step 0, size of a step
//   negative_log_likelihood  f64 [rows], not rounded
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "infer/perplexity.hpp"
#include "math/result.hpp"
#include "math/thread_team.hpp"
#include "model/atomic_file.hpp"
#include "model/hdf5_file.hpp"

namespace quern {

/// Writes a base file row by row; it appears under its name at commit().
class LogitsBaseWriter {
 public:
  [[nodiscard]] static Result<LogitsBaseWriter> create(const std::string& path, const ScoringChunks& chunks,
                                                       std::int64_t vocab, const std::string& model);
  /// Keeps these rows. Memory: two bytes a logit.
  [[nodiscard]] Result<void> write(std::span<const ScoredRow> rows, ThreadTeam& team);
  [[nodiscard]] Result<void> commit();

 private:
  LogitsBaseWriter(AtomicFile target, Hdf5File file) : target_(std::move(target)), file_(std::move(file)) {}
  AtomicFile target_;
  Hdf5File file_;
  Hdf5Dataset log_probabilities_, scales_, nll_;
  std::int64_t vocab_ = 0;
  std::vector<std::uint16_t> steps_;
  std::vector<float> row_scales_;
  std::vector<double> row_nll_;
};

/// An open base file.
class LogitsBase {
 public:
  /// Errors bad_input name what is not as it must be.
  [[nodiscard]] static Result<LogitsBase> open(const std::string& path);

  [[nodiscard]] const ScoringChunks& chunks() const { return chunks_; }
  [[nodiscard]] std::int64_t vocab() const { return vocab_; }
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] const std::string& model() const { return model_; }  ///< path of the model that made it
  [[nodiscard]] std::span<const double> negative_log_likelihoods() const { return nll_; }

  /// Rows first .. first+count-1: `steps` [count, vocab] and `scales` [count, 2].
  [[nodiscard]] Result<void> read(std::int64_t first, std::int64_t count, std::span<std::uint16_t> steps,
                                  std::span<float> scales) const;

 private:
  LogitsBase() = default;
  std::string path_, model_;
  Hdf5File file_;
  Hdf5Dataset log_probabilities_, scales_;
  ScoringChunks chunks_;
  std::int64_t vocab_ = 0;
  std::vector<double> nll_;
};

/// What two models' predictions of the same rows have to do with each other. Divergences are in nats, of the model from the
/// base: sum p_base log(p_base / p_model).
struct KlSummary {
  std::int64_t rows = 0;
  double mean = 0.0, mean_error = 0.0;
  double smallest = 0.0, largest = 0.0;
  double percentile_99_9 = 0.0, percentile_99 = 0.0, percentile_95 = 0.0, percentile_90 = 0.0, median = 0.0;
  double percentile_10 = 0.0, percentile_5 = 0.0, percentile_1 = 0.0;
  double top_agreement = 0.0, top_agreement_error = 0.0;  ///< share of rows with the same likeliest token
  double rms_probability_change = 0.0;                    ///< of the token that came, p_model - p_base
  double mean_probability_change = 0.0;
  Perplexity model, base;
  double perplexity_ratio = 0.0, perplexity_ratio_error = 0.0;  ///< model's / base's
};

/// Compares rows with a base file as they come. `base` must outlive it.
class KlComparison {
 public:
  explicit KlComparison(const LogitsBase& base);
  /// Error bad_input where the vocabularies differ, and those of reading.
  [[nodiscard]] Result<void> add(std::span<const ScoredRow> rows, ThreadTeam& team);
  /// `negative_log_likelihoods`: the model's, of all rows.
  [[nodiscard]] KlSummary summary(std::span<const double> negative_log_likelihoods) const;

 private:
  const LogitsBase& base_;
  std::vector<double> divergence_;  // by row
  std::vector<std::uint8_t> top_same_;
  std::vector<std::uint16_t> steps_;
  std::vector<float> scales_;
};

}  // namespace quern
