// Many requests on one decoder: continuous batching, samplers and text of each. A server or a program loops over step().
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "infer/decoder.hpp"
#include "infer/request.hpp"
#include "infer/scheduler.hpp"
#include "infer/speculation.hpp"
#include "math/result.hpp"
#include "model/tokenizer.hpp"

namespace quern {

namespace internal {
class EngineRoom;
}

struct EngineOptions {
  std::int64_t batch_tokens = 0;    ///< of one step at most; 0: the decoder's
  std::int64_t sequences = 0;       ///< running at once at most; 0: the decoder's
  std::int64_t cache_tokens = 0;    ///< of the cache at most, in whole pages; 0: all of it
  std::int64_t prefill_tokens = 0;  ///< of one step at most while others decode, so that these keep their pace; 0: no limit
  std::int64_t longest_turn = 256;  ///< see Scheduler; 0: running requests never make way for waiting ones
  std::int64_t vocab = 0;           ///< only tokens below are drawn; 0: the tokenizer's (of a padded vocabulary), else all
  bool share_prefixes = true;       ///< a prompt that begins like a live sequence takes that part from it
  /// Sequences of finished requests that stay in the cache until room is needed, so that a prompt which continues one (the
  /// next turn of a chat) computes only what is new. Each needs one of the decoder's sequences.
  std::int64_t kept_sequences = 0;
  SpeculationOptions speculation{};  ///< tokens drawn in one pass where that is faster; the same tokens
};

/// Generates text for requests. What a request gets depends on nothing but itself where the decoder's rows do not depend on
/// their neighbours (f32 and bf16 products in deterministic mode, and decoding of quantized weights): not on other requests,
/// chunks, preemptions or sharing.
///
/// submit(), cancel() and wait() may be called from any thread at any time; everything else belongs to the one thread that
/// calls step(). The decoder's cache belongs to the engine while it lives.
class Engine {
 public:
  /// `decoder` (made without all_logits) and `tokenizer` must outlive the engine. Without a tokenizer (null) events have
  /// tokens but no text, and requests no stop strings. Error bad_input: options that the decoder cannot serve.
  [[nodiscard]] static Result<std::unique_ptr<Engine>> create(Decoder& decoder, const Tokenizer* tokenizer,
                                                              const EngineOptions& options = {});
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// Takes a request; its first event comes from a later step(). Error bad_input says what is wrong: no tokens, a token
  /// outside the vocabulary, a prompt longer than the context (unless it shifts), settings out of range.
  [[nodiscard]] Result<RequestId> submit(Request request);
  /// The same with a sampler of the caller's, which must outlive the request; request.sampler is ignored. It is told of the
  /// prompt's tokens.
  [[nodiscard]] Result<RequestId> submit(Request request, Sampler& sampler);

  /// Ends a request: the next step() has its last event, StopReason::interrupted with the text that was held back. An
  /// unknown or finished id does nothing.
  void cancel(RequestId request);

  /// One batch: takes submitted and cancelled requests in, computes, draws. The events are in the order in which they
  /// happened and stay valid until the next step(). Without work: no events, at once. An error of the decoder ends the
  /// requests concerned (StopReason::failed), not the engine.
  [[nodiscard]] std::span<const EngineEvent> step();

  /// Nothing runs, waits or was submitted.
  [[nodiscard]] bool idle() const;
  /// Blocks until there is something to do or the time is over; whether there is. For a server's loop.
  bool wait(std::chrono::milliseconds timeout);

  /// Longest text of a request: the decoder's context, or the cache's room where that is less.
  [[nodiscard]] std::int64_t context_tokens() const { return context_tokens_; }
  /// Requests in the last step, and those that wait for room.
  [[nodiscard]] std::int64_t running() const { return scheduler_->running(); }
  [[nodiscard]] std::int64_t waiting() const { return scheduler_->waiting(); }
  [[nodiscard]] const EngineTotals& totals() const { return totals_; }
  [[nodiscard]] const Decoder& decoder() const { return decoder_; }
  /// Gives the sequences of finished requests back (see EngineOptions::kept_sequences).
  void forget_kept_sequences();

 private:
  using Clock = std::chrono::steady_clock;
  struct Live;

  Engine(Decoder& decoder, const Tokenizer* tokenizer, const EngineOptions& options);
  Result<void> check(const Request& request) const;
  Result<RequestId> enqueue(Request&& request, Sampler* sampler);
  void take_inbox();
  void propose();
  void compute();
  Result<void> forward(std::span<const ScheduledTokens> plan);
  void count(std::span<const ScheduledTokens> plan, double forward_seconds);
  void draw(std::span<const ScheduledTokens> plan);
  /// Draws the tokens of a part, the first of whose rows of logits is `row`; how many.
  std::int64_t draw_part(const ScheduledTokens& part, std::int64_t row);
  /// Whether the request goes on from its cache: else it is finished (and `live` gone), or its text was cut.
  bool draw_one(Live& live, std::span<const float> logits, bool is_decode);
  void shift(Live& live);
  /// Completes the event and forgets the request; `live` is gone then. False.
  bool finish(Live& live, EngineEvent event, StopReason reason);
  bool fail(RequestId request, Error error);

  Decoder& decoder_;
  const Tokenizer* tokenizer_;
  EngineOptions options_;
  std::int64_t context_tokens_ = 0;
  std::int64_t vocab_ = 0;  // tokens that are drawn
  std::unique_ptr<internal::EngineRoom> room_;
  std::unique_ptr<Scheduler> scheduler_;
  std::shared_ptr<SamplerCandidates> workspace_;
  std::unique_ptr<internal::Speculation> speculation_;  // null: none
  std::vector<internal::Speculation::Text> texts_;      // of propose()
  double draft_seconds_ = 0.0;                          // of this step
  double forward_seconds_ = 0.0;
  std::map<RequestId, std::unique_ptr<Live>> live_;
  std::vector<SequenceTokens> batch_;
  std::vector<ScheduledTokens> plan_;  // of this step, while draws change the scheduler
  std::vector<EngineEvent> events_;
  EngineTotals totals_;

  mutable std::mutex mutex_;
  std::condition_variable arrived_;
  std::vector<std::unique_ptr<Live>> inbox_;  // guarded by mutex_, as what follows
  std::vector<RequestId> cancelled_;
  RequestId next_id_ = 1;
  bool busy_ = false;
};

}  // namespace quern
