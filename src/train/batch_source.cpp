#include "train/batch_source.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>

namespace quern {
namespace {

// SplitMix64's finalizer (Steele, Lea, Flood 2014): every input bit changes every output bit with probability near 1/2.
std::uint64_t mix(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

std::uint64_t mix(std::uint64_t seed, std::uint64_t stream, std::uint64_t counter) {
  return mix(mix(mix(seed) ^ stream) ^ counter);
}

// A number below `count` from 64 random bits; the bias is below count / 2^64.
std::uint64_t below(std::uint64_t bits, std::uint64_t count) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<std::uint64_t>(static_cast<Wide>(bits) * count >> 64);
}

// Streams of random numbers that must not meet.
enum Stream : std::uint64_t { kOrigin = 1, kOrder = 2, kStart = 3 };

// Most documents that begin inside (not at the start of) any window of `context` tokens.
std::int64_t most_starts_inside(std::span<const std::int64_t> documents, std::int64_t context) {
  std::int64_t most = 0;
  std::size_t first = 0;
  for (std::size_t last = 0; last < documents.size(); ++last) {
    // A window that begins one token before documents[first] holds context-1 tokens from there on.
    while (documents[last] - documents[first] > context - 2 && first < last) ++first;
    most = std::max(most, static_cast<std::int64_t>(last - first + 1));
  }
  return context > 1 ? most : 0;
}

}  // namespace

std::uint64_t keyed_permutation(std::uint64_t index, std::uint64_t count, std::uint64_t key) {
  if (count <= 1) return index;
  const auto half_bits = (static_cast<int>(std::bit_width(count - 1)) + 1) / 2;
  const std::uint64_t mask = (std::uint64_t{1} << half_bits) - 1;
  constexpr std::uint64_t kRounds = 6;  // four give a pseudo-random permutation (Luby, Rackoff 1988); small halves want more
  do {
    std::uint64_t left = index >> half_bits;
    std::uint64_t right = index & mask;
    for (std::uint64_t round = 0; round < kRounds; ++round) {
      const std::uint64_t next = left ^ (mix(key, round, right) & mask);
      left = right;
      right = next;
    }
    index = left << half_bits | right;
  } while (index >= count);  // the domain is less than four times `count`
  return index;
}

WindowSchedule::WindowSchedule(std::int64_t tokens, std::int64_t context, std::uint64_t seed, WindowOrder order)
    : tokens_(tokens), context_(context), seed_(seed), order_(order) {
  // So many windows and their last target fit behind any origin; a text of less than two windows has one.
  windows_ = std::max<std::int64_t>(1, (tokens - context) / context);
}

std::int64_t WindowSchedule::start(std::int64_t sample) const {
  const auto number = static_cast<std::uint64_t>(sample);
  if (order_ == WindowOrder::random) {
    return static_cast<std::int64_t>(below(mix(seed_, kStart, number), static_cast<std::uint64_t>(tokens_ - context_)));
  }
  const auto count = static_cast<std::uint64_t>(windows_);
  const std::uint64_t epoch = number / count;
  const std::int64_t origins = std::min(context_, tokens_ - windows_ * context_);
  const auto origin = static_cast<std::int64_t>(
      below(mix(seed_, kOrigin, epoch), static_cast<std::uint64_t>(std::max<std::int64_t>(origins, 1))));
  const auto window = static_cast<std::int64_t>(keyed_permutation(number % count, count, mix(seed_, kOrder, epoch)));
  return origin + window * context_;
}

Result<BatchSource> BatchSource::create(Corpus corpus, const BatchOptions& options) {
  constexpr std::int64_t kMaxRows = std::int64_t{1} << 30;
  if (options.batch < 1 || options.context < 1 || options.batch > kMaxRows / options.context) {
    return bad_input(
        fmt::format("batches: expected at least 1 window of 1 token and at most {} tokens, found {} windows of {}", kMaxRows,
                    options.batch, options.context));
  }
  const std::int64_t train = corpus.tokens(Split::train);
  const std::int64_t validation = corpus.tokens(Split::validation);
  if (train <= options.context) {
    return bad_input(
        fmt::format("{}: the train split has {} tokens; a context of {} needs at least {}: lower the context or "
                    "prepare more text",
                    corpus.path(), train, options.context, options.context + 1));
  }
  if (validation < 2) {
    return bad_input(
        fmt::format("{}: the validation split has {} tokens, at least 2 are needed", corpus.path(), validation));
  }
  BatchSource source(std::move(corpus), options, WindowSchedule(train, options.context, options.seed, options.order));
  source.validation_windows_ = (validation - 1 + options.context - 1) / options.context;
  std::int64_t cuts = 0;
  if (options.documents == DocumentAttention::isolate) {
    for (const Split split : kSplits) {
      cuts = std::max(cuts, most_starts_inside(source.corpus_.documents(split), options.context));
    }
  }
  source.max_sequences_ = options.batch * (cuts + 1);
  return source;
}

std::int64_t BatchSource::micro_batches_per_epoch() const {
  return (schedule_.windows_per_epoch() + options_.batch - 1) / options_.batch;
}

void BatchSource::prepare(Batch& batch) const {
  const auto count = static_cast<std::size_t>(rows());
  batch.inputs.resize(count);
  batch.targets.resize(count);
  batch.weights.resize(count);
  batch.positions.resize(count);
  batch.window.resize(static_cast<std::size_t>(options_.context) + 1);
  batch.sequences.reserve(static_cast<std::size_t>(max_sequences_));
}

// Fills rows slot*context .. with the window from token `start`; rows beyond the split's end are padding.
Result<void> BatchSource::fill_window(Split split, std::int64_t start, std::int64_t slot, Batch& batch) const {
  const std::int64_t context = options_.context;
  const std::int64_t row = slot * context;
  // Tokens from `start` on: `inputs` of them have a target behind them.
  const std::int64_t have = std::clamp<std::int64_t>(corpus_.tokens(split) - start, 0, context + 1);
  const std::int64_t inputs = std::max<std::int64_t>(have - 1, 0);
  if (inputs > 0) {
    const auto window = std::span(batch.window).first(static_cast<std::size_t>(have));
    if (auto read = corpus_.read(split, start, window); !read) return read;
  }
  for (std::int64_t t = 0; t < context; ++t) {
    batch.inputs[row + t] = t < inputs ? batch.window[t] : 0;
    batch.targets[row + t] = t < inputs ? batch.window[t + 1] : 0;
    batch.weights[row + t] = t < inputs ? 1.0F : 0.0F;
  }
  batch.target_count += inputs;
  const auto add_sequence = [&](std::int64_t first, std::int64_t end) {
    batch.sequences.push_back({row + first, end - first});
    for (std::int64_t t = first; t < end; ++t) batch.positions[row + t] = static_cast<std::int32_t>(t - first);
  };
  std::int64_t first = 0;
  if (options_.documents == DocumentAttention::isolate) {
    const auto documents = corpus_.documents(split);
    auto next = std::upper_bound(documents.begin(), documents.end(), start);
    for (; next != documents.end() && *next - start <= inputs; ++next) {
      const std::int64_t begin = *next - start;
      batch.weights[row + begin - 1] = 0.0F;  // its target is another document's first token
      --batch.target_count;
      if (begin == inputs) break;
      add_sequence(first, begin);
      first = begin;
    }
  }
  add_sequence(first, context);  // padding stands behind all that counts, where causal attention does not see it
  return {};
}

Result<void> BatchSource::fill(std::int64_t number, Batch& batch) const {
  prepare(batch);
  batch.number = -1;
  batch.target_count = 0;
  batch.sequences.clear();
  for (std::int64_t slot = 0; slot < options_.batch; ++slot) {
    const std::int64_t start = schedule_.start(number * options_.batch + slot);
    if (auto filled = fill_window(Split::train, start, slot, batch); !filled) return filled;
  }
  batch.number = number;
  return {};
}

Result<void> BatchSource::fill_validation(std::int64_t first, Batch& batch) const {
  prepare(batch);
  batch.number = -1;
  batch.target_count = 0;
  batch.sequences.clear();
  for (std::int64_t slot = 0; slot < options_.batch; ++slot) {
    const std::int64_t window = std::min(first + slot, validation_windows_);
    if (auto filled = fill_window(Split::validation, window * options_.context, slot, batch); !filled) return filled;
  }
  batch.number = first;
  return {};
}

// ---- the reader thread

struct BatchPrefetcher::Shared {
  static constexpr std::size_t kBatches = 3;  // one in use and two ahead
  BatchSource source;
  std::array<Batch, kBatches> batches;
  std::mutex mutex;
  std::condition_variable changed;
  // Guarded by the mutex. Batches are filled and handed out in turn: filled - taken are ready.
  std::uint64_t filled = 0;
  std::uint64_t taken = 0;
  bool in_use = false;  // batch taken-1 is with the caller
  bool stop = false;
  std::optional<Error> error;
  std::thread thread;

  explicit Shared(BatchSource from) : source(std::move(from)) {
    for (Batch& batch : batches) source.prepare(batch);
  }

  void run(std::int64_t first) {
    for (std::uint64_t i = 0;; ++i) {
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return stop || filled - taken + (in_use ? 1 : 0) < kBatches; });
        if (stop) return;
      }
      auto done = source.fill(first + static_cast<std::int64_t>(i), batches[i % kBatches]);
      const std::lock_guard lock(mutex);
      if (!done) error = done.error();
      filled += done ? 1 : 0;
      changed.notify_all();
      if (!done) return;
    }
  }
};

BatchPrefetcher::BatchPrefetcher(BatchSource source, std::int64_t first)
    : shared_(std::make_unique<Shared>(std::move(source))) {
  shared_->thread = std::thread([shared = shared_.get(), first] { shared->run(first); });
}

BatchPrefetcher::~BatchPrefetcher() {
  {
    const std::lock_guard lock(shared_->mutex);
    shared_->stop = true;
    shared_->changed.notify_all();
  }
  shared_->thread.join();
}

Result<const Batch*> BatchPrefetcher::next() {
  std::unique_lock lock(shared_->mutex);
  shared_->in_use = false;
  shared_->changed.notify_all();
  shared_->changed.wait(lock, [&] { return shared_->filled > shared_->taken || shared_->error; });
  if (shared_->filled == shared_->taken) return tl::make_unexpected(*shared_->error);
  const Batch* batch = &shared_->batches[shared_->taken++ % Shared::kBatches];
  shared_->in_use = true;
  return batch;
}

}  // namespace quern
