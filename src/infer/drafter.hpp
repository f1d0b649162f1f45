// Who proposes tokens that the model then checks together: the interface of speculative decoding's sources.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "math/result.hpp"

namespace quern {

/// A proposed token and how likely the model is to draw it, given that it draws all that were proposed before it.
struct DraftToken {
  std::int32_t token = 0;
  double chance = 0.0;
};

/// How often something happened lately, beginning with a guess that counts as `guess_weight` observations. An observation
/// counts half as much after about 90 later ones.
class HitRate {
 public:
  explicit HitRate(double guess = 0.5, double guess_weight = 8.0) : hits_(guess * guess_weight), all_(guess_weight) {}
  void observe(bool hit) {
    constexpr double kKept = 127.0 / 128.0;
    hits_ = hits_ * kKept + (hit ? 1.0 : 0.0);
    all_ = all_ * kKept + 1.0;
  }
  [[nodiscard]] double rate() const { return hits_ / all_; }

 private:
  double hits_, all_;
};

/// Proposes how one text goes on. It learns from every token that is drawn, proposed or not, how good its proposals are.
/// Belongs to the thread that steps the engine.
class Drafter {
 public:
  virtual ~Drafter() = default;

  /// The text so far, before the first proposal. Error: of a model that computes.
  [[nodiscard]] virtual Result<void> begin(std::span<const std::int32_t> text) = 0;
  /// The text grew by this token.
  virtual void append(std::int32_t token) = 0;

  /// Asked before each further token that has to be computed, with what is proposed so far.
  using GoOn = std::function<bool(std::span<const DraftToken> so_far)>;

  /// At most `most` tokens that may follow `text` (the text as it is now; its beginning may have been forgotten since
  /// begin()). `draws` numbers the next draw of the request's sampler. Valid until the next call. Proposals that cost
  /// nothing are made without asking `go_on`.
  [[nodiscard]] virtual Result<std::span<const DraftToken>> draft(std::span<const std::int32_t> text, std::int64_t most,
                                                                  std::uint64_t draws, const GoOn& go_on) = 0;

  /// Seconds that a further token of a proposal takes, and the chance that it is right before anything else is known of it.
  /// 0 seconds: proposals cost nothing.
  [[nodiscard]] virtual double seconds_per_token() const { return 0.0; }
  [[nodiscard]] virtual double usual_chance() const { return 1.0; }
  /// Seconds that draft() takes before its first token, because of tokens that it has not seen yet.
  [[nodiscard]] virtual double seconds_behind(std::span<const std::int32_t> /*text*/) const { return 0.0; }
};

}  // namespace quern
