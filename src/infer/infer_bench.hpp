// Times inference on random tokens: prefill, decode at several depths of context, and decode of several sequences at once,
// each beside what this machine reads and multiplies at the time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "infer/decoder.hpp"
#include "math/exec.hpp"
#include "math/result.hpp"
#include "math/thread_team.hpp"
#include "model/weights.hpp"

namespace quern {

/// The most tokens, sequences or rounds that a benchmark takes.
inline constexpr std::int64_t kMaxBenchTokens = std::int64_t{1} << 24;

struct InferBenchOptions {
  std::vector<std::int64_t> prompts{512};  ///< a row of prefill for each length
  std::vector<std::int64_t> depths{0};     ///< tokens in the cache of each sequence before the timed ones
  std::vector<std::int64_t> sequences{1};  ///< decoded together; a row for each, at every depth
  std::int64_t decode_tokens = 64;         ///< of each sequence in a round; 0: no rows of decode
  std::int64_t warmup = 1;                 ///< whole rounds before the first that counts
  std::int64_t rounds = 3;
  std::uint64_t seed = 1337;  ///< of the tokens
  bool kv_cache = true;       ///< false: the decoder is one of without_kv_cache(), whose work is counted

  /// Whether there are rows of decode.
  [[nodiscard]] bool decodes() const { return decode_tokens > 0 && !depths.empty() && !sequences.empty(); }
  /// The longest text of a row.
  [[nodiscard]] std::int64_t context_tokens() const;
  /// Room in the cache that the largest row needs, in whole pages.
  [[nodiscard]] std::int64_t cache_tokens() const;
  [[nodiscard]] std::int64_t most_sequences() const;
  /// The same with an InferBenchRoom: every row of decode has its own sequences.
  [[nodiscard]] std::int64_t kept_cache_tokens() const;
  [[nodiscard]] std::int64_t kept_sequences() const;
};

/// Sequences of the rows of decode that stay in a decoder's cache from one bench_inference() to the next with the same
/// options, so that a cache is filled to its depth once and not for every call.
struct InferBenchRoom {
  std::vector<std::vector<KvCache::SequenceId>> rows;
};

/// What the machine does on the same threads. 0 where there is no such thing.
struct MachineRates {
  double read_bandwidth = 0.0;   ///< bytes/s from memory
  double f32_flops = 0.0;        ///< multiply-adds on registers
  double bf16_tile_flops = 0.0;  ///< 2 x 2 matrix tiles fed from L1
  double int8_tile_ops = 0.0;    ///< the same with bytes
};

struct InferBenchRound {
  double seconds = 0.0;    ///< of the forward passes
  MachineRates machine{};  ///< means of what was measured before, after, and during the round in pauses of its clock
};

enum class InferBenchKind : std::uint8_t { prefill, decode };
[[nodiscard]] std::string_view to_word(InferBenchKind kind);

/// One line of the table. Figures without `round` are medians over rounds.
struct InferBenchRow {
  InferBenchKind kind = InferBenchKind::prefill;
  std::int64_t depth = 0;         ///< tokens in the cache before each round; 0 for prefill
  std::int64_t sequences = 1;     ///< 1 for prefill
  std::int64_t round_tokens = 0;  ///< of all sequences
  std::int64_t steps = 0;         ///< forward passes of a round
  /// Floating-point operations of a round: matrices that are used, attention over the keys that are visible; the head for
  /// the tokens that get logits (of a prompt the last one).
  double flops = 0.0;
  /// Bytes that a step of decode reads: matrices (of the embedding one row a token; of experts those in use, which for
  /// several sequences is what equal odds for all experts would give), and keys and values, mean over the round. 0 for
  /// prefill. Without a KV cache: matrices once for each chunk of each sequence, and no keys and values.
  double weight_bytes = 0.0;
  double kv_bytes = 0.0;
  std::vector<InferBenchRound> rounds{};

  [[nodiscard]] double tokens_per_second() const;
  [[nodiscard]] double slowest() const;  ///< tokens/s of the slowest round
  [[nodiscard]] double fastest() const;  ///< tokens/s of the fastest round
  [[nodiscard]] double flops_per_second() const;
  [[nodiscard]] double bytes_per_second() const;  ///< of weights, keys and values; 0 for prefill
  [[nodiscard]] MachineRates machine() const;
  /// Medians of each round's rate over the machine's in that round; 0 where there is none.
  [[nodiscard]] double bandwidth_share() const;
  [[nodiscard]] double f32_share() const;
  [[nodiscard]] double bf16_tile_share() const;
  [[nodiscard]] double int8_tile_share() const;
};

/// Who looks on. Each may be empty.
struct InferBenchWatcher {
  /// Tokens computed of those that the row's rounds, warm-up and filling of the cache have.
  std::function<void(std::string_view stage, std::int64_t done, std::int64_t total)> progress{};
  std::function<bool()> stop{};  ///< asked between forward passes; true ends the benchmark
  /// Measures the machine in the place of the functions of math/bandwidth.hpp and math/peak.hpp; between rounds with
  /// `peaks`, else only the memory.
  std::function<MachineRates(bool peaks)> machine{};
  std::function<void(const InferBenchRow& row)> row{};  ///< a row is complete, or has at least one round when stopped
};

struct InferBench {
  std::vector<InferBenchRow> rows;  ///< prefill first, then decode by depth, then by sequences
  bool stopped = false;             ///< before all rows were complete
};

/// Error bad_input: an option out of range, or nothing to measure.
[[nodiscard]] Result<void> check_infer_bench(const InferBenchOptions& options);

/// Runs every row on `decoder`, which needs options.context_tokens(), cache_tokens() and most_sequences(), and whose cache
/// must be empty; it is again after. `bytes_per_token` as LoadedModel says. Tokens are random, so that experts are chosen
/// as for random text. The machine is measured before the first round, between rounds and after the last; its memory also
/// about every second of decode. With a `room` the decoder needs kept_cache_tokens() and kept_sequences(), and the cache
/// keeps the room's sequences. Errors: those of check_infer_bench() and of the decoder.
[[nodiscard]] Result<InferBench> bench_inference(Decoder& decoder, const Backend& backend, ThreadTeam& team,
                                                 std::size_t bytes_per_token, const InferBenchOptions& options,
                                                 const InferBenchWatcher& watcher = {}, InferBenchRoom* room = nullptr);

}  // namespace quern
