// Which tokens of which requests the next step computes. Pure logic: knows request numbers, lengths and room, no model.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "infer/request.hpp"
#include "math/result.hpp"

namespace quern {

/// What the scheduler must know of the cache and may do to it.
class CacheRoom {
 public:
  virtual ~CacheRoom() = default;
  /// Tokens of a page: sequences take whole pages.
  [[nodiscard]] virtual std::int64_t page_tokens() const = 0;
  /// Room in free pages.
  [[nodiscard]] virtual std::int64_t free_tokens() const = 0;
  /// Gives back a sequence that no request needs; false: there is none. `spare` (0: none) is a request whose shareable() it
  /// leaves as it is.
  virtual bool reclaim(RequestId spare) = 0;

  /// How much of a request's text a live sequence holds: now, in whole pages, and once the requests that run have
  /// computed the text that they already have.
  struct Shareable {
    std::int64_t now = 0;
    std::int64_t soon = 0;
  };
  [[nodiscard]] virtual Shareable shareable(RequestId request) const = 0;
  /// A sequence for the request; how many of its text's tokens are in it (never all of them).
  [[nodiscard]] virtual Result<std::int64_t> open(RequestId request) = 0;
  /// Gives the request's sequence back.
  virtual void close(RequestId request) = 0;
};

struct SchedulerLimits {
  std::int64_t batch_tokens = 1;    ///< of one step, >= sequences
  std::int64_t sequences = 1;       ///< running at once
  std::int64_t prefill_tokens = 0;  ///< of one step while some request decodes; 0: no limit
  std::int64_t longest_turn = 0;    ///< tokens; 0: see the rule of turns
};

/// A part of a request's text to be computed.
struct ScheduledTokens {
  RequestId request = 0;
  std::int64_t first = 0;  ///< position in the text
  std::int64_t count = 0;
  bool is_last = false;      ///< the text ends with it: its last token gets logits
  bool is_decode = false;    ///< one token, drawn in the step before, and proposals after it
  std::int64_t drafted = 0;  ///< of count: proposals, not of the text yet
};

/// Builds each step's batch.
///
/// Requests stand in the order of their turns, which is that of arrival until a turn ends. Waiting requests are admitted in
/// that order and never overtake one another: when a sequence is free and the cache has room for the request's whole text,
/// counted with what running prefills still need (a request that is alone is always admitted). A request whose text begins
/// like one that is being computed waits until it can share that. In a step every request that decodes gets its token;
/// prefills get what is left of the batch, in order, in chunks.
///
/// Where a running request needs a page and none is free, the last of the running ones in order is preempted: its pages are
/// given back, it waits in its old place in the order, and its text (prompt and what it drew) is computed again later. So
/// the first one in order always proceeds.
///
/// The rule of turns: a request that has drawn longest_turn tokens since it was admitted makes way when another has waited
/// for as many steps, and goes to the end of the order. A waiting request with k others before it therefore runs at the
/// latest when k + 1 turns of longest_turn tokens (and their prefills) are over; nobody waits for ever behind endless texts.
class Scheduler {
 public:
  /// `room` must outlive the scheduler.
  Scheduler(const SchedulerLimits& limits, CacheRoom& room) : limits_(limits), room_(room) {}

  /// A request with a text of `tokens` >= 1 tokens arrives.
  void add(RequestId request, std::int64_t tokens);
  /// It is finished or cancelled: its sequence, if any, is closed.
  void remove(RequestId request);

  /// The next step's batch, empty when nothing can be computed. Opens and closes sequences. Valid until the next call of a
  /// member that is not const. Each request has at most one part in it.
  [[nodiscard]] std::span<const ScheduledTokens> plan();
  /// Every running request decodes, so proposals make sense.
  [[nodiscard]] bool only_decodes() const;
  /// For a request that decodes: the next plan may add this many proposals to its token. It does where the whole batch
  /// decodes and has room; nobody makes way for proposals.
  void offer(RequestId request, std::int64_t drafts);
  /// The planned tokens are in the cache now (of proposals, nobody knows yet).
  void computed();
  /// The planned batch did not fit after all: preempts the last running request; false when at most one runs.
  bool make_room();

  /// A token was drawn for a request whose text was computed whole: the text is one longer.
  void drew(RequestId request);
  /// The token just drawn is the next proposal, which is in the cache: that text was computed whole too.
  void draft_was_right(RequestId request);
  /// The text was changed and has `tokens` tokens, of which the first `cached` are still in the cache.
  void replaced(RequestId request, std::int64_t tokens, std::int64_t cached);

  [[nodiscard]] std::int64_t running() const { return static_cast<std::int64_t>(running_.size()); }
  [[nodiscard]] std::int64_t waiting() const { return static_cast<std::int64_t>(waiting_.size()); }
  /// The first request in order among those that run, else among those that wait.
  [[nodiscard]] std::optional<RequestId> first() const;
  [[nodiscard]] std::int64_t preemptions() const { return preemptions_; }

 private:
  struct Entry {
    RequestId request = 0;
    std::int64_t turn = 0;    // place in the order
    std::int64_t text = 0;    // tokens
    std::int64_t cached = 0;  // of them in the cache
    std::int64_t drawn = 0;   // since admission
    std::int64_t waiting_since = 0;
    std::int64_t planned = 0;  // of the text
    std::int64_t offered = 0;  // proposals
    bool decodes = false;      // the one token that is not cached was drawn
  };
  using Entries = std::vector<Entry>;  // in the order of turns

  void end_turns();
  void plan_running();
  void plan_waiting();
  void plan_drafts();
  /// Plans what is wanted of the entry, as far as there is room.
  void plan_tokens(Entry& entry, std::int64_t wanted);
  void preempt(std::size_t index);
  [[nodiscard]] bool may_run(const Entry& entry, std::int64_t shared) const;
  [[nodiscard]] std::int64_t pages(std::int64_t tokens) const;
  [[nodiscard]] std::int64_t free_pages() const;
  /// Tokens that can be added to the entry now.
  [[nodiscard]] std::int64_t room_for(const Entry& entry) const;
  static Entry* find(Entries& entries, RequestId request);
  static Entry& insert(Entries& entries, const Entry& entry);

  SchedulerLimits limits_;
  CacheRoom& room_;
  Entries running_, waiting_;
  std::vector<ScheduledTokens> plan_;
  std::int64_t step_ = 0;
  std::int64_t next_turn_ = 0;
  std::int64_t preemptions_ = 0;
  std::int64_t planned_pages_ = 0;
  std::int64_t prefill_left_ = 0;  // tokens of this step
  bool short_of_room_ = false;     // a request was preempted for room in this step: nobody is admitted
};

}  // namespace quern
