#include "infer/recomputing_decoder.hpp"

#include <algorithm>
#include <cassert>
#include <map>
#include <utility>
#include <vector>

namespace quern {

namespace {

class RecomputingDecoder final : public Decoder {
 public:
  explicit RecomputingDecoder(std::unique_ptr<Decoder> decoder) : decoder_(std::move(decoder)) {}

  KvCache& cache() override { return decoder_->cache(); }
  const Limits& limits() const override { return decoder_->limits(); }
  const ModelWeights& weights() const override { return decoder_->weights(); }

  Result<void> forward(std::span<const SequenceTokens> batch) override {
    for (const SequenceTokens& entry : batch) {
      if (limits().all_logits || (entry.tokens.size() > 1 && entry.logits == LogitRows::all)) {
        return bad_input("without a KV cache only a sequence's last token has logits");
      }
    }
    logits_.clear();
    for (const SequenceTokens& entry : batch) {
      if (auto done = append(entry); !done) return done;
    }
    return {};
  }

  std::span<const float> logits(std::int64_t i) const override { return logits_[static_cast<std::size_t>(i)]; }

 private:
  Result<void> append(const SequenceTokens& entry) {
    std::vector<std::int32_t>& text = texts_[entry.sequence];
    // The cache says what is left of a sequence that was cut, or replaced by a new one of the same number.
    assert(std::ssize(text) >= cache().length(entry.sequence) && "sequences are not forked");
    text.resize(static_cast<std::size_t>(cache().length(entry.sequence)));
    if (entry.logits == LogitRows::none) {
      if (auto room = cache().extend(entry.sequence, std::ssize(entry.tokens)); !room) return room;
      text.insert(text.end(), entry.tokens.begin(), entry.tokens.end());
      return {};
    }
    text.insert(text.end(), entry.tokens.begin(), entry.tokens.end());
    if (auto cut = cache().truncate(entry.sequence, 0); !cut) return cut;
    std::span<const std::int32_t> left = text;
    while (!left.empty()) {
      const std::size_t count = std::min(left.size(), static_cast<std::size_t>(limits().batch_tokens));
      const bool last = count == left.size();
      const SequenceTokens chunk{entry.sequence, left.first(count), last ? LogitRows::last : LogitRows::none};
      if (auto done = decoder_->forward(std::span(&chunk, 1)); !done) return done;
      left = left.subspan(count);
    }
    const std::span<const float> row = decoder_->logits(0);
    logits_.emplace_back(row.begin(), row.end());
    return {};
  }

  std::unique_ptr<Decoder> decoder_;
  std::map<KvCache::SequenceId, std::vector<std::int32_t>> texts_;
  std::vector<std::vector<float>> logits_;  // of the last forward()
};

}  // namespace

std::unique_ptr<Decoder> without_kv_cache(std::unique_ptr<Decoder> decoder) {
  return std::make_unique<RecomputingDecoder>(std::move(decoder));
}

}  // namespace quern
