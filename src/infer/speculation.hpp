// Speculative decoding: tokens proposed cheaply, checked by the model in one forward pass.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "infer/draft_control.hpp"
#include "infer/drafter.hpp"
#include "infer/request.hpp"

namespace quern {

class Decoder;

/// Who proposes.
enum class DraftSource : std::uint8_t {
  none,
  ngram,  ///< what followed the same words in the text before: ngram_drafter.hpp
  model   ///< a smaller model with the same vocabulary: model_drafter.hpp
};

/// What is drawn does not depend on any of this (see internal::Speculation), how fast it is drawn does.
struct SpeculationOptions {
  DraftSource source = DraftSource::none;
  /// Proposals that one step checks for one text at most. All texts together have at most kExactRows - 1 and what the
  /// decoder's logit_rows leave: one for each text and one for each proposal.
  std::int64_t tokens = kExactRows - 1;
  /// Only as many as pay; else as many as are proposed, always. Then the passes that are made do not depend on time.
  bool adaptive = true;
  Decoder* draft = nullptr;  ///< of the draft model, for DraftSource::model; must outlive the engine. It needs one sequence.
};

namespace internal {

/// An engine's drafters, one for each text that is being continued, and how many proposals each step checks.
///
/// The model computes the last token of a text and k proposals in one pass, with logits of all k + 1 rows. Row 0 gives the
/// token that plain decoding would draw: the request's own sampler draws it, with its own random number. Where it equals the
/// first proposal, row 1 has exactly the tokens before it that plain decoding would have, and so on; after the first
/// difference, the rest is thrown away and its keys and values are cut from the cache. So each token is drawn from the same
/// logits by the same chain with the same random number as without speculation: texts are equal token by token for every
/// seed, not only in distribution, where a row's bits do not depend on the other rows (f32 and bf16 products in
/// deterministic mode, block-quantized weights up to kExactRows). Greedy decoding is a special case.
///
/// The other exact rule, rejection sampling (Leviathan et al. 2023, Chen et al. 2023), accepts a proposal x of q with
/// probability min(1, p(x) / q(x)) and keeps 1 - TV(p, q) of them, the most any rule can. Proposals of text lookup have q(x)
/// = 1, where that is p(x): the same as here. Drafts of a model are drawn here with the random number that the target's
/// draw will use, which comes near: docs/inference.md has both figures. Rejection sampling would draw other tokens for the
/// same seed than plain decoding, and other ones whenever the draft's length changes; it is not worth that.
///
/// With several texts, lookup proposes for each where it pays (the cost of a step's rows is shared); a draft model proposes
/// while one request runs alone. Belongs to the thread that steps the engine.
class Speculation {
 public:
  /// `rows`: tokens of one step at most. `vocab`: only tokens below are drawn. `context_tokens`: of the longest text.
  Speculation(const SpeculationOptions& options, std::int64_t rows, std::int64_t vocab, std::int64_t context_tokens);

  /// A text whose next token is to be drawn.
  struct Text {
    RequestId request = 0;
    std::span<const std::int32_t> tokens;
    std::int64_t most = 0;                   ///< proposals that are of use
    std::uint64_t draws = 0;                 ///< number of the sampler's next draw
    const SamplerConfig* sampler = nullptr;  ///< null: the caller's own
  };
  struct Proposals {
    std::vector<std::span<const DraftToken>> tokens;  ///< to check, for each text; valid until the next call
    double begin_seconds = 0.0;                       ///< of a draft model for texts that it had not seen
    double draft_seconds = 0.0;                       ///< of making the proposals
  };
  /// A draft model that fails proposes no more for that text.
  [[nodiscard]] const Proposals& propose(std::span<const Text> texts);

  /// A token was drawn.
  void append(RequestId request, std::int32_t token);
  /// The request is finished.
  void forget(RequestId request) { drafters_.erase(request); }

  /// See DraftControl::observe.
  void observe(std::int64_t sequences, std::int64_t rows, std::int64_t drafted, std::int64_t drawn, double step_seconds,
               double draft_seconds) {
    control_.observe(sequences, rows, drafted, drawn, step_seconds, draft_seconds);
  }
  [[nodiscard]] const DraftControl& control() const { return control_; }

 private:
  /// The text's drafter, made and begun where it is new; null where there is none.
  Drafter* drafter(const Text& text);

  SpeculationOptions options_;
  std::int64_t vocab_, context_tokens_;
  DraftControl control_;
  std::map<RequestId, std::unique_ptr<Drafter>> drafters_;  // null: failed
  Proposals proposals_;
  std::vector<std::int64_t> taken_;
};

}  // namespace internal

}  // namespace quern
