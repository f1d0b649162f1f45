// Micro-batches from a corpus: which tokens stand where is a pure function of the micro-batch's number.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "math/result.hpp"
#include "train/corpus.hpp"
#include "train/run_config.hpp"
#include "train/training_pass.hpp"

namespace quern {

/// A micro-batch of `batch` windows of `context` tokens each; row b * context + t is token t of window b. Memory is
/// allocated once, by BatchSource::prepare.
struct Batch {
  std::int64_t number = -1;             ///< micro-batch (training) or first window (validation); -1: not filled
  std::vector<std::int32_t> inputs;     ///< [rows]
  std::vector<std::int32_t> targets;    ///< [rows] the token after each input; 0 where there is none
  std::vector<float> weights;           ///< [rows] 1, or 0 where the target does not count
  std::vector<std::int32_t> positions;  ///< [rows] from 0 in each sequence
  std::vector<SequenceRows> sequences;  ///< cover all rows, in order
  std::int64_t target_count = 0;        ///< rows with weight 1
  std::vector<std::int32_t> window;     ///< working memory: context + 1 tokens

  [[nodiscard]] std::int64_t rows() const { return std::ssize(inputs); }
  /// Valid until the batch is filled again.
  [[nodiscard]] BatchView view() const {
    return {.rows = rows(),
            .inputs = inputs.data(),
            .targets = targets.data(),
            .weights = weights.data(),
            .positions = positions.data(),
            .sequences = sequences};
  }
};

struct BatchOptions {
  std::int64_t batch = 1;    ///< windows
  std::int64_t context = 1;  ///< tokens of a window
  std::uint64_t seed = 0;
  WindowOrder order = WindowOrder::shuffled;
  DocumentAttention documents = DocumentAttention::across;
};

/// Where training windows begin, without any table: sample number -> first token.
///
/// shuffled: an epoch is all windows of a grid whose origin (0 .. context-1) is drawn for each epoch, so that windows differ
/// between epochs; the order within the epoch is a keyed bijection (a Feistel network over the next power of four, walked
/// until the result lies in range). Each epoch has windows_per_epoch() windows; fewer than 2 * context tokens, at the two
/// ends together, are left out.
///
/// random: independent uniform starts, as nanoGPT draws them.
class WindowSchedule {
 public:
  /// `tokens` > `context` >= 1.
  WindowSchedule(std::int64_t tokens, std::int64_t context, std::uint64_t seed, WindowOrder order);
  /// First token of sample `sample` >= 0; the window and its last target lie within the tokens.
  [[nodiscard]] std::int64_t start(std::int64_t sample) const;
  [[nodiscard]] std::int64_t windows_per_epoch() const { return windows_; }

 private:
  std::int64_t tokens_;
  std::int64_t context_;
  std::uint64_t seed_;
  WindowOrder order_;
  std::int64_t windows_;
};

/// A bijection of 0 .. count-1 chosen by `key`: the image of `index`. Expected constant time, no memory.
[[nodiscard]] std::uint64_t keyed_permutation(std::uint64_t index, std::uint64_t count, std::uint64_t key);

/// Training micro-batches and validation windows of one corpus. Immutable: fill may run on several threads with batches of
/// their own, and gives the same for the same number, whatever came before; a run resumes with the number alone.
///
/// documents across: a window is one sequence. isolate: sequences are cut where documents begin, positions restart there,
/// and a target that is the first token of the next document has weight 0.
///
/// Validation: window i has the inputs i*context .. i*context+context-1 of the validation split and as targets the tokens
/// after them. Every token but the split's first is a target once; the last window is filled up with token 0 at weight 0.
class BatchSource {
 public:
  /// Error bad_input where options are out of range, or a split is too short (training: context + 1 tokens; validation: 2).
  [[nodiscard]] static Result<BatchSource> create(Corpus corpus, const BatchOptions& options);

  [[nodiscard]] const BatchOptions& options() const { return options_; }
  [[nodiscard]] const Corpus& corpus() const { return corpus_; }
  [[nodiscard]] std::int64_t rows() const { return options_.batch * options_.context; }
  /// Most sequences that any batch of this source has, training or validation; for planning memory.
  [[nodiscard]] std::int64_t max_sequences() const { return max_sequences_; }
  /// Micro-batches of an epoch, rounded up.
  [[nodiscard]] std::int64_t micro_batches_per_epoch() const;

  /// Gives the batch its memory; fill does this where it was not done.
  void prepare(Batch& batch) const;

  /// Training micro-batch `number` >= 0: samples number * batch .. + batch-1 of the schedule. Errors are the corpus's.
  [[nodiscard]] Result<void> fill(std::int64_t number, Batch& batch) const;

  [[nodiscard]] std::int64_t validation_windows() const { return validation_windows_; }
  /// Validation windows first .. first+batch-1; rows past the last are padding (weight 0).
  [[nodiscard]] Result<void> fill_validation(std::int64_t first, Batch& batch) const;

 private:
  BatchSource(Corpus corpus, const BatchOptions& options, const WindowSchedule& schedule)
      : corpus_(std::move(corpus)), options_(options), schedule_(schedule) {}
  [[nodiscard]] Result<void> fill_window(Split split, std::int64_t start, std::int64_t slot, Batch& batch) const;
  Corpus corpus_;
  BatchOptions options_;
  WindowSchedule schedule_;
  std::int64_t validation_windows_ = 0;
  std::int64_t max_sequences_ = 0;
};

/// Fills the training micro-batches first, first+1, ... on a thread of its own, two ahead of the one in use, so that the
/// corpus is never read on a thread that computes.
class BatchPrefetcher {
 public:
  BatchPrefetcher(BatchSource source, std::int64_t first);
  /// Stops the thread, after the batch it is filling.
  ~BatchPrefetcher();
  BatchPrefetcher(const BatchPrefetcher&) = delete;
  BatchPrefetcher& operator=(const BatchPrefetcher&) = delete;

  /// The next micro-batch, waiting where it is not ready yet; valid until the next call. After an error all calls return it.
  /// Allocates nothing. One caller at a time.
  [[nodiscard]] Result<const Batch*> next();

 private:
  struct Shared;
  std::unique_ptr<Shared> shared_;
};

}  // namespace quern
