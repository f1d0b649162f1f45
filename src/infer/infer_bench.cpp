#include "infer/infer_bench.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <random>
#include <utility>

#include "infer/infer_bench_costs.hpp"
#include "math/bandwidth.hpp"
#include "math/peak.hpp"

namespace quern {

namespace {

using Clock = std::chrono::steady_clock;

/// Of decode between two looks at the memory's bandwidth: other users of a shared machine come and go in seconds.
constexpr double kBandwidthEverySeconds = 1.0;
/// Of each look: some passes over the buffer, of which the best counts.
constexpr double kBandwidthSeconds = 0.06;
constexpr double kPeakSeconds = 0.03;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double median(std::vector<double> values) {
  if (values.empty()) return 0.0;
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : 0.5 * (values[half - 1] + values[half]);
}

template <class Value>
double median_of_rounds(const InferBenchRow& row, const Value& value) {
  std::vector<double> values;
  for (const InferBenchRound& round : row.rounds) values.push_back(value(round));
  return median(std::move(values));
}

double share(const InferBenchRow& row, double per_round, double MachineRates::*rate) {
  return median_of_rounds(row, [&](const InferBenchRound& round) {
    const double machine = round.machine.*rate;
    return machine > 0.0 ? per_round / round.seconds / machine : 0.0;
  });
}

double bytes_of_round(const InferBenchRow& row) {
  return (row.weight_bytes + row.kv_bytes) * static_cast<double>(row.steps);
}

std::int64_t largest(const std::vector<std::int64_t>& values) {
  return values.empty() ? 0 : *std::max_element(values.begin(), values.end());
}

std::int64_t whole_pages(std::int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens * kPageTokens; }

/// Everything that one benchmark needs.
class Bench {
 public:
  Bench(Decoder& decoder, const Backend& backend, ThreadTeam& team, std::size_t bytes_per_token,
        const InferBenchOptions& options, const InferBenchWatcher& watcher, InferBenchRoom* room)
      : decoder_(decoder),
        backend_(backend),
        team_(team),
        bytes_per_token_(bytes_per_token),
        options_(options),
        watcher_(watcher),
        room_(room),
        random_(options.seed) {}

  Result<InferBench> run() {
    for (const std::int64_t prompt : options_.prompts) {
      InferBenchRow row{.kind = InferBenchKind::prefill, .round_tokens = prompt};
      if (auto done = run_row(row, fmt::format("prefill {}", prompt)); !done) return tl::make_unexpected(done.error());
      if (bench_.stopped) return std::move(bench_);
    }
    if (!options_.decodes()) return std::move(bench_);
    if (room_ != nullptr) room_->rows.resize(options_.depths.size() * options_.sequences.size());
    std::size_t number = 0;  // among the rows of decode
    for (const std::int64_t depth : options_.depths) {
      for (const std::int64_t sequences : options_.sequences) {
        if (room_ != nullptr) alive_ = std::exchange(room_->rows[number], {});
        InferBenchRow row{.kind = InferBenchKind::decode,
                          .depth = depth,
                          .sequences = sequences,
                          .round_tokens = sequences * options_.decode_tokens};
        const std::string stage =
            sequences == 1 ? fmt::format("decode at {}", depth) : fmt::format("decode of {} at {}", sequences, depth);
        const auto done = run_row(row, stage, room_ != nullptr ? &room_->rows[number] : nullptr);
        if (!done) return tl::make_unexpected(done.error());
        if (bench_.stopped) return std::move(bench_);
        ++number;
      }
    }
    return std::move(bench_);
  }

 private:
  const ModelConfig& config() const { return decoder_.weights().config; }
  bool stop() {
    if (!bench_.stopped && watcher_.stop && watcher_.stop()) bench_.stopped = true;
    return bench_.stopped;
  }

  /// `keep`: who takes the row's sequences after; null: they are removed.
  Result<void> run_row(InferBenchRow& row, const std::string& stage, std::vector<KvCache::SequenceId>* keep = nullptr) {
    stage_ = stage;
    done_ = 0;
    total_ = row.round_tokens * (options_.warmup + options_.rounds) + row.depth * row.sequences;
    const bool decode = row.kind == InferBenchKind::decode;
    if (decode) {
      const std::int64_t tokens = options_.decode_tokens, sequences = row.sequences;
      row.steps = tokens;
      row.flops = static_cast<double>(sequences) * forward_flops(config(), row.depth, tokens, tokens);
      row.weight_bytes = step_weight_bytes(decoder_.weights(), bytes_per_token_, sequences);
      row.kv_bytes = static_cast<double>(sequences) * kv_bytes_read(config(), decoder_.cache().type(), row.depth, tokens) /
                     static_cast<double>(tokens);
      if (!options_.kv_cache) count_recomputation(row);
    } else {
      row.steps = (row.round_tokens + decoder_.limits().batch_tokens - 1) / decoder_.limits().batch_tokens;
      row.flops = forward_flops(config(), 0, row.round_tokens, 1);
    }
    progress(0);
    Result<void> done = measure(row);
    if (keep != nullptr) {
      *keep = std::exchange(alive_, {});
    } else {
      for (const KvCache::SequenceId sequence : alive_) decoder_.cache().remove_sequence(sequence);
      alive_.clear();
    }
    if (!done) return done;
    if (row.rounds.empty()) return {};
    bench_.rows.push_back(row);
    if (watcher_.row) watcher_.row(row);
    return {};
  }

  Result<void> measure(InferBenchRow& row) {
    const bool decode = row.kind == InferBenchKind::decode;
    for (std::int64_t round = -options_.warmup; round < options_.rounds; ++round) {
      if (auto ready = fill(row); !ready || stop()) return ready;
      if (round == 0) last_ = look(true);
      looks_ = {last_.read_bandwidth};
      double seconds = 0.0;
      if (auto ran = decode ? decode_round(round >= 0, seconds) : prefill(row.round_tokens, seconds); !ran || stop()) {
        return ran;
      }
      if (round < 0) continue;
      const MachineRates before = std::exchange(last_, look(true));
      looks_.push_back(last_.read_bandwidth);
      const auto mean = [&](double MachineRates::*rate) { return 0.5 * (before.*rate + last_.*rate); };
      const double all_looks = std::accumulate(looks_.begin(), looks_.end(), 0.0);
      row.rounds.push_back({.seconds = seconds,
                            .machine = {.read_bandwidth = all_looks / static_cast<double>(looks_.size()),
                                        .f32_flops = mean(&MachineRates::f32_flops),
                                        .bf16_tile_flops = mean(&MachineRates::bf16_tile_flops),
                                        .int8_tile_ops = mean(&MachineRates::int8_tile_ops)}});
    }
    return {};
  }

  /// What a round of decode computes and reads where each step computes whole sequences.
  void count_recomputation(InferBenchRow& row) const {
    row.flops = row.weight_bytes = row.kv_bytes = 0.0;
    const std::int64_t batch = decoder_.limits().batch_tokens;
    for (std::int64_t length = row.depth + 1; length <= row.depth + row.steps; ++length) {
      row.flops += static_cast<double>(row.sequences) * forward_flops(config(), 0, length, 1);
      for (std::int64_t first = 0; first < length; first += batch) {
        row.weight_bytes += static_cast<double>(row.sequences) / static_cast<double>(row.steps) *
                            step_weight_bytes(decoder_.weights(), bytes_per_token_, std::min(batch, length - first));
      }
    }
  }

  /// Brings every sequence of the row to its depth: empty ones for prefill.
  Result<void> fill(const InferBenchRow& row) {
    KvCache& cache = decoder_.cache();
    for (KvCache::SequenceId& sequence : alive_) {
      if (cache.truncate(sequence, row.depth)) continue;  // windowed layers may have lost what that depth sees
      cache.remove_sequence(sequence);
      auto again = cache.add_sequence();
      if (!again) return tl::make_unexpected(again.error());
      sequence = *again;
    }
    while (std::ssize(alive_) < row.sequences) {
      auto sequence = cache.add_sequence();
      if (!sequence) return tl::make_unexpected(sequence.error());
      alive_.push_back(*sequence);
    }
    double ignored = 0.0;
    for (const KvCache::SequenceId sequence : alive_) {
      if (auto ran = append(sequence, row.depth - cache.length(sequence), LogitRows::none, ignored); !ran || stop())
        return ran;
    }
    return {};
  }

  /// Appends `count` random tokens to a sequence in chunks; `last` says which logits the last chunk gets.
  Result<void> append(KvCache::SequenceId sequence, std::int64_t count, LogitRows last, double& seconds) {
    while (count > 0 && !stop()) {
      const std::int64_t chunk = std::min(count, decoder_.limits().batch_tokens);
      draw(chunk);
      count -= chunk;
      const SequenceTokens entry{sequence, tokens_, count == 0 ? last : LogitRows::none};
      const auto start = Clock::now();
      if (auto ran = decoder_.forward(std::span(&entry, 1)); !ran) return ran;
      seconds += seconds_since(start);
      progress(chunk);
    }
    return {};
  }

  Result<void> prefill(std::int64_t tokens, double& seconds) {
    return append(alive_.front(), tokens, LogitRows::last, seconds);
  }

  Result<void> decode_round(bool counts, double& seconds) {
    double looked = 0.0;
    for (std::int64_t token = 0; token < options_.decode_tokens && !stop(); ++token) {
      draw(std::ssize(alive_));
      batch_.clear();
      for (std::size_t i = 0; i < alive_.size(); ++i) {
        batch_.push_back({alive_[i], std::span<const std::int32_t>(tokens_).subspan(i, 1), LogitRows::last});
      }
      const auto start = Clock::now();
      if (auto ran = decoder_.forward(batch_); !ran) return ran;
      seconds += seconds_since(start);
      progress(std::ssize(alive_));
      if (!counts || seconds - looked < kBandwidthEverySeconds || token + 1 == options_.decode_tokens) continue;
      looks_.push_back(look(false).read_bandwidth);
      looked = seconds;
    }
    return {};
  }

  MachineRates look(bool peaks) {
    if (watcher_.machine) return watcher_.machine(peaks);
    MachineRates rates{.read_bandwidth = memory_read_bandwidth(team_, kBandwidthSeconds)};
    if (!peaks) return rates;
    rates.f32_flops = register_peak_flops(team_, backend_, ComputeType::f32, kPeakSeconds);
    rates.bf16_tile_flops = l1_tile_flops(team_, backend_, kPeakSeconds);
    rates.int8_tile_ops = l1_int8_tile_ops(team_, backend_, kPeakSeconds);
    return rates;
  }

  void draw(std::int64_t count) {
    tokens_.resize(static_cast<std::size_t>(count));
    for (std::int32_t& token : tokens_) {
      token = static_cast<std::int32_t>(random_() % static_cast<std::uint64_t>(config().vocab));
    }
  }

  void progress(std::int64_t tokens) {
    done_ += tokens;
    if (watcher_.progress) watcher_.progress(stage_, done_, std::max(done_, total_));
  }

  Decoder& decoder_;
  const Backend& backend_;
  ThreadTeam& team_;
  std::size_t bytes_per_token_;
  const InferBenchOptions& options_;
  const InferBenchWatcher& watcher_;
  InferBenchRoom* room_;
  std::mt19937_64 random_;
  InferBench bench_;
  std::vector<KvCache::SequenceId> alive_;
  std::vector<std::int32_t> tokens_;
  std::vector<SequenceTokens> batch_;
  MachineRates last_;          // before the round under way
  std::vector<double> looks_;  // at the memory's bandwidth, of that round
  std::string stage_;
  std::int64_t done_ = 0, total_ = 0;
};

}  // namespace

std::string_view to_word(InferBenchKind kind) { return kind == InferBenchKind::prefill ? "prefill" : "decode"; }

std::int64_t InferBenchOptions::context_tokens() const {
  return std::max(largest(prompts), decodes() ? largest(depths) + decode_tokens : 0);
}

std::int64_t InferBenchOptions::cache_tokens() const {
  return std::max(whole_pages(largest(prompts)),
                  decodes() ? most_sequences() * whole_pages(largest(depths) + decode_tokens) : 0);
}

std::int64_t InferBenchOptions::kept_cache_tokens() const {
  std::int64_t tokens = whole_pages(largest(prompts));
  if (!decodes()) return tokens;
  const std::int64_t all_sequences = std::accumulate(sequences.begin(), sequences.end(), std::int64_t{0});
  for (const std::int64_t depth : depths) tokens += all_sequences * whole_pages(depth + decode_tokens);
  return tokens;
}

std::int64_t InferBenchOptions::kept_sequences() const {
  if (!decodes()) return 1;
  return 1 + std::ssize(depths) * std::accumulate(sequences.begin(), sequences.end(), std::int64_t{0});
}

std::int64_t InferBenchOptions::most_sequences() const { return decodes() ? largest(sequences) : 1; }

double InferBenchRow::tokens_per_second() const {
  return median_of_rounds(*this,
                          [&](const InferBenchRound& round) { return static_cast<double>(round_tokens) / round.seconds; });
}

double InferBenchRow::slowest() const {
  double rate = 0.0;
  for (const InferBenchRound& round : rounds) {
    const double own = static_cast<double>(round_tokens) / round.seconds;
    if (rate == 0.0 || own < rate) rate = own;
  }
  return rate;
}

double InferBenchRow::fastest() const {
  double rate = 0.0;
  for (const InferBenchRound& round : rounds) rate = std::max(rate, static_cast<double>(round_tokens) / round.seconds);
  return rate;
}

double InferBenchRow::flops_per_second() const {
  return median_of_rounds(*this, [&](const InferBenchRound& round) { return flops / round.seconds; });
}

double InferBenchRow::bytes_per_second() const {
  return median_of_rounds(*this, [&](const InferBenchRound& round) { return bytes_of_round(*this) / round.seconds; });
}

MachineRates InferBenchRow::machine() const {
  const auto of = [&](double MachineRates::*rate) {
    return median_of_rounds(*this, [&](const InferBenchRound& round) { return round.machine.*rate; });
  };
  return {.read_bandwidth = of(&MachineRates::read_bandwidth),
          .f32_flops = of(&MachineRates::f32_flops),
          .bf16_tile_flops = of(&MachineRates::bf16_tile_flops),
          .int8_tile_ops = of(&MachineRates::int8_tile_ops)};
}

double InferBenchRow::bandwidth_share() const { return share(*this, bytes_of_round(*this), &MachineRates::read_bandwidth); }
double InferBenchRow::f32_share() const { return share(*this, flops, &MachineRates::f32_flops); }
double InferBenchRow::bf16_tile_share() const { return share(*this, flops, &MachineRates::bf16_tile_flops); }
double InferBenchRow::int8_tile_share() const { return share(*this, flops, &MachineRates::int8_tile_ops); }

Result<void> check_infer_bench(const InferBenchOptions& options) {
  const auto check = [](const char* name, const std::vector<std::int64_t>& values, std::int64_t least) -> Result<void> {
    for (const std::int64_t value : values) {
      if (value < least || value > kMaxBenchTokens) {
        return bad_input(fmt::format("{}: expected {} to {}, found {}", name, least, kMaxBenchTokens, value));
      }
    }
    return {};
  };
  if (auto fine = check("length of a prompt", options.prompts, 1); !fine) return fine;
  if (auto fine = check("depth", options.depths, 0); !fine) return fine;
  if (auto fine = check("sequences", options.sequences, 1); !fine) return fine;
  if (auto fine = check("tokens to decode", {options.decode_tokens}, 0); !fine) return fine;
  if (auto fine = check("rounds", {options.rounds}, 1); !fine) return fine;
  if (auto fine = check("warm-up rounds", {options.warmup}, 0); !fine) return fine;
  if (options.prompts.empty() && !options.decodes())
    return bad_input("nothing to measure: no prompt, and no token to decode");
  return {};
}

Result<InferBench> bench_inference(Decoder& decoder, const Backend& backend, ThreadTeam& team, std::size_t bytes_per_token,
                                   const InferBenchOptions& options, const InferBenchWatcher& watcher,
                                   InferBenchRoom* room) {
  if (auto fine = check_infer_bench(options); !fine) return tl::make_unexpected(fine.error());
  return Bench(decoder, backend, team, bytes_per_token, options, watcher, room).run();
}

}  // namespace quern
