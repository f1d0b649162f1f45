// Proposes what a smaller model would say.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "infer/decoder.hpp"
#include "infer/drafter.hpp"
#include "infer/sampler.hpp"
#include "model/tokenizer.hpp"

namespace quern {

/// Whether a draft model's vocabulary is that of the model, token by token; either may be padded with unused tokens. Error
/// bad_input names the first token that differs.
[[nodiscard]] Result<void> check_draft_vocabulary(const Tokenizer& model, const Tokenizer& draft);

/// Runs a draft model beside the text, in a sequence of that decoder's own cache. Where proposals were wrong the sequence is
/// cut back to what was drawn.
///
/// Each proposal is drawn from the draft model's logits by the request's own chain (without penalties) with the very random
/// number that the sampler will use for that place. The two draws agree the more often the nearer the two distributions
/// are, and always where they are equal.
///
/// A text that went on for long without proposals, or that outgrows the draft model's context, is taken up again from its
/// last 256 tokens.
class ModelDrafter final : public Drafter {
 public:
  /// `draft` (made without all_logits) must outlive the drafter and have a free sequence. Only tokens below `vocab` are
  /// proposed. `sampler`: of the request; none: the likeliest token is proposed. Error no_memory without a free sequence.
  [[nodiscard]] static Result<std::unique_ptr<ModelDrafter>> create(Decoder& draft, std::int64_t vocab,
                                                                    const std::optional<SamplerConfig>& sampler);
  ~ModelDrafter() override;
  ModelDrafter(const ModelDrafter&) = delete;
  ModelDrafter& operator=(const ModelDrafter&) = delete;

  [[nodiscard]] Result<void> begin(std::span<const std::int32_t> text) override;
  void append(std::int32_t token) override;
  [[nodiscard]] Result<std::span<const DraftToken>> draft(std::span<const std::int32_t> text, std::int64_t most,
                                                          std::uint64_t draws, const GoOn& go_on) override;
  [[nodiscard]] double seconds_per_token() const override { return token_seconds_; }
  [[nodiscard]] double usual_chance() const override { return usual_.rate(); }
  [[nodiscard]] double seconds_behind(std::span<const std::int32_t> text) const override;

 private:
  static constexpr std::size_t kKinds = 10;  // tenths of the draft model's probability of its token

  ModelDrafter(Decoder& draft, std::int64_t vocab, const std::optional<SamplerConfig>& sampler,
               KvCache::SequenceId sequence);
  /// Brings the cache to all of `text` but its last token, from `first_` on, and computes the last.
  Result<void> catch_up(std::span<const std::int32_t> text);
  Result<void> forward(std::span<const std::int32_t> tokens, bool logits);
  /// Tokens of `text` from `first_` on that the cache has.
  [[nodiscard]] std::int64_t cached_of(std::span<const std::int32_t> text) const;

  Decoder& decoder_;
  std::int64_t vocab_;
  std::unique_ptr<Sampler> sampler_;
  KvCache::SequenceId sequence_;
  std::int64_t first_ = 0;            // of the text, where the cache begins
  std::vector<std::int32_t> cached_;  // what the cache has
  std::vector<DraftToken> draft_;
  std::vector<std::size_t> kinds_;  // of draft_
  std::size_t checked_ = 0;         // of draft_, by append()
  std::array<HitRate, kKinds> rates_;
  HitRate usual_{0.6};
  double token_seconds_ = 0.0, behind_seconds_ = 0.0;  // of one token alone, and of one among many
};

}  // namespace quern
