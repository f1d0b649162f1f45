// The scheduler without a model: order, limits, preemption, turns and sharing, simulated over a counted pool of pages.
#include "infer/scheduler.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

namespace quern {
namespace {

constexpr std::int64_t kPage = 4;

class FakeRoom final : public CacheRoom {
 public:
  explicit FakeRoom(std::int64_t pages) : pages_(pages) {}
  std::int64_t page_tokens() const override { return kPage; }
  std::int64_t free_tokens() const override {
    std::int64_t used = kept_;
    for (const auto& [request, tokens] : cached) used += (tokens + kPage - 1) / kPage;
    return (pages_ - used) * kPage;
  }
  bool reclaim(RequestId /*spare*/) override {
    if (kept_ == 0) return false;
    --kept_;
    return true;
  }
  Shareable shareable(RequestId request) const override { return request == sharer ? share : Shareable{}; }
  Result<std::int64_t> open(RequestId request) override {
    opened.push_back(request);
    return cached[request] = request == sharer ? share.now : 0;
  }
  void close(RequestId request) override {
    EXPECT_EQ(cached.count(request), 1U);
    cached.erase(request);
  }
  void keep(std::int64_t pages) { kept_ = pages; }

  std::map<RequestId, std::int64_t> cached;  // tokens of open sequences
  std::vector<RequestId> opened;             // in order
  RequestId sharer = 0;
  Shareable share;

 private:
  std::int64_t pages_;
  std::int64_t kept_ = 0;
};

/// Runs requests of a given length and number of tokens to draw, checking every plan against the limits.
struct Simulation {
  Simulation(const SchedulerLimits& l, std::int64_t pages) : limits(l), room(pages), scheduler(l, room) {}

  void add(RequestId id, std::int64_t prompt, std::int64_t draws) {
    text[id] = prompt;
    left[id] = draws;
    arrived[id] = steps;
    scheduler.add(id, prompt);
  }

  void step() {
    const auto plan = scheduler.plan();
    std::int64_t tokens = 0, prefill = 0, decoding = 0;
    for (const ScheduledTokens& part : plan) {
      tokens += part.count;
      (part.is_decode ? decoding : prefill) += part.count;
      EXPECT_EQ(part.first, room.cached.at(part.request));
      EXPECT_LE(part.first + part.count, text.at(part.request));
      EXPECT_EQ(part.is_last, part.first + part.count == text.at(part.request));
      room.cached[part.request] += part.count;
      if (first_step.count(part.request) == 0) first_step[part.request] = steps;
    }
    EXPECT_GE(room.free_tokens(), 0) << "more pages than there are";
    EXPECT_LE(tokens, limits.batch_tokens);
    EXPECT_LE(std::ssize(room.cached), limits.sequences);
    if (limits.prefill_tokens > 0 && decoding > 0) {
      EXPECT_LE(prefill, limits.prefill_tokens);
    }
    if (scheduler.running() + scheduler.waiting() > 0) {
      EXPECT_FALSE(plan.empty()) << "nothing proceeds";
    }
    last_plan.assign(plan.begin(), plan.end());
    scheduler.computed();
    ++steps;
    for (const ScheduledTokens& part : last_plan) {
      if (!part.is_last) continue;
      if (--left[part.request] == 0) {
        finished[part.request] = steps;
        scheduler.remove(part.request);
      } else {
        ++text[part.request];
        scheduler.drew(part.request);
      }
    }
  }

  bool done() const { return scheduler.running() + scheduler.waiting() == 0; }
  const ScheduledTokens* part_of(RequestId id) const {
    const auto found = std::find_if(last_plan.begin(), last_plan.end(), [&](const auto& p) { return p.request == id; });
    return found == last_plan.end() ? nullptr : &*found;
  }

  SchedulerLimits limits;
  FakeRoom room;
  Scheduler scheduler;
  std::map<RequestId, std::int64_t> text, left, arrived, first_step, finished;
  std::vector<ScheduledTokens> last_plan;
  std::int64_t steps = 0;
};

TEST(Scheduler, PrefillsInChunksBesideDecoding) {
  Simulation s({.batch_tokens = 8, .sequences = 3, .prefill_tokens = 4}, 100);
  s.add(1, 20, 10);
  s.step();
  EXPECT_EQ(s.part_of(1)->count, 8);
  s.step();
  s.step();
  EXPECT_EQ(s.part_of(1)->count, 4);
  EXPECT_TRUE(s.part_of(1)->is_last);
  s.add(2, 9, 3);
  s.step();
  ASSERT_EQ(s.last_plan.size(), 2U);
  EXPECT_TRUE(s.part_of(1)->is_decode);
  EXPECT_EQ(s.part_of(2)->count, 4) << "prefill_tokens while another decodes";
  s.step();
  s.step();
  EXPECT_EQ(s.part_of(2)->count, 1);
  EXPECT_FALSE(s.part_of(2)->is_decode) << "the last token of a prompt is prefill";
  s.step();
  EXPECT_TRUE(s.part_of(2)->is_decode);
}

TEST(Scheduler, PlansProposalsWhereTheyCostNobodyAnything) {
  Simulation s({.batch_tokens = 8, .sequences = 3}, 4);
  EXPECT_FALSE(s.scheduler.only_decodes());
  s.add(1, 5, 100);
  s.step();
  EXPECT_TRUE(s.scheduler.only_decodes());
  const auto plan_of = [&](RequestId id, std::int64_t drafts) {
    s.scheduler.offer(id, drafts);
    const auto plan = s.scheduler.plan();
    for (const ScheduledTokens& part : plan) {
      EXPECT_EQ(part.count, part.drafted + (part.is_decode ? 1 : part.count));
      if (part.request == id) return part;
    }
    return ScheduledTokens{};
  };
  const ScheduledTokens three = plan_of(1, 3);
  EXPECT_EQ(three.drafted, 3);
  EXPECT_EQ(three.count, 4);
  EXPECT_TRUE(three.is_last && three.is_decode);
  EXPECT_EQ(plan_of(1, 0).drafted, 0) << "an offer is for one plan";
  EXPECT_EQ(plan_of(1, 31).drafted, 7) << "batch_tokens";
  EXPECT_EQ(plan_of(9, 3).request, 0) << "an unknown request";

  // Two of three proposals are right: three tokens are drawn, two of which are in the cache.
  EXPECT_EQ(plan_of(1, 3).drafted, 3);
  s.scheduler.computed();
  s.scheduler.drew(1);
  s.scheduler.draft_was_right(1);
  s.scheduler.drew(1);
  s.scheduler.draft_was_right(1);
  s.scheduler.drew(1);
  s.room.cached[1] = 8;
  s.text[1] = 9;
  const ScheduledTokens next = plan_of(1, 0);
  EXPECT_EQ(next.first, 8);
  EXPECT_EQ(next.count, 1);

  // A prompt beside it takes the step; then pages are short: nobody makes way for proposals.
  s.add(2, 3, 100);
  EXPECT_EQ(plan_of(1, 3).drafted, 0);
  s.scheduler.computed();
  s.scheduler.drew(1);
  s.scheduler.drew(2);
  s.room.cached[1] = 9;
  s.room.cached[2] = 3;
  s.text[1] = 10;
  s.text[2] = 4;
  ASSERT_EQ(s.room.free_tokens(), 0);
  const ScheduledTokens short_of_room = plan_of(1, 5);
  EXPECT_EQ(short_of_room.first, 9);
  EXPECT_EQ(short_of_room.drafted, 2) << "the rest of its page";
  EXPECT_EQ(s.scheduler.preemptions(), 0);
}

TEST(Scheduler, AdmitsInTheOrderOfArrival) {
  Simulation s({.batch_tokens = 16, .sequences = 2}, 100);
  for (RequestId id = 1; id <= 6; ++id) s.add(id, 3 + id, 4);
  while (!s.done()) s.step();
  EXPECT_EQ(s.room.opened, (std::vector<RequestId>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(s.finished.size(), 6U);
  EXPECT_EQ(s.scheduler.preemptions(), 0);
}

TEST(Scheduler, ALargeRequestIsNotOvertakenBySmallOnes) {
  Simulation s({.batch_tokens = 32, .sequences = 4}, 8);
  s.add(1, 8, 12);  // 2 to 5 pages
  s.add(2, 28, 2);  // 8 pages: does not fit beside it
  s.add(3, 1, 1);   // would fit
  while (!s.done()) s.step();
  EXPECT_EQ(s.room.opened, (std::vector<RequestId>{1, 2, 3}));
  EXPECT_GE(s.first_step[3], s.first_step[2]);
}

TEST(Scheduler, PreemptsTheYoungestWhenPagesRunOut) {
  Simulation s({.batch_tokens = 32, .sequences = 3}, 6);
  s.add(1, 4, 17);  // grows to 5 pages
  s.add(2, 4, 9);
  s.add(3, 4, 9);
  std::int64_t first_preemption = -1;
  while (!s.done()) {
    s.step();
    EXPECT_NE(s.part_of(1), nullptr) << "the oldest proceeds in every step";
    if (s.scheduler.preemptions() > 0 && first_preemption < 0) {
      first_preemption = s.steps;
      EXPECT_EQ(s.room.cached.count(3), 0U);
      EXPECT_EQ(s.room.cached.count(2), 1U);
    }
    if (s.finished.count(1) > 0) break;
  }
  while (!s.done()) s.step();
  EXPECT_GT(s.scheduler.preemptions(), 0);
  EXPECT_EQ(s.finished[1], 17) << "nobody delays the oldest";
  EXPECT_LE(s.finished[2], s.finished[3]);
}

TEST(Scheduler, MakeRoomPreemptsTheYoungestUntilOneIsLeft) {
  Simulation s({.batch_tokens = 32, .sequences = 3}, 20);
  for (RequestId id = 1; id <= 3; ++id) s.add(id, 4, 5);
  s.step();
  static_cast<void>(s.scheduler.plan());
  EXPECT_TRUE(s.scheduler.make_room());
  EXPECT_EQ(s.room.cached.count(3), 0U);
  EXPECT_EQ(s.scheduler.plan().size(), 2U) << "nobody is admitted in a step that was short of room";
  EXPECT_TRUE(s.scheduler.make_room());
  EXPECT_FALSE(s.scheduler.make_room());
  EXPECT_EQ(s.scheduler.first(), 1);
}

TEST(Scheduler, TurnsBoundTheWait) {
  constexpr std::int64_t kTurn = 5;
  Simulation s({.batch_tokens = 8, .sequences = 2, .longest_turn = kTurn}, 100);
  s.add(1, 2, 1000000);  // endless
  s.add(2, 2, 1000000);
  s.step();
  for (RequestId id = 3; id <= 6; ++id) s.add(id, 2, 12);
  for (int i = 0; i < 400; ++i) s.step();
  for (RequestId id = 3; id <= 6; ++id) {
    // k others before it: k + 1 turns, each with a prefill of a text that is at most 14 tokens here, or long for 1 and 2.
    const std::int64_t k = id - 3;
    ASSERT_EQ(s.first_step.count(id), 1U) << id;
    EXPECT_LE(s.first_step[id] - s.arrived[id], (k + 1) * (kTurn + 6)) << id;
    EXPECT_EQ(s.finished.count(id), 1U) << id;
  }
  EXPECT_GT(s.text[1], 100);
  EXPECT_GT(s.text[2], 100);
  EXPECT_LT(std::abs(s.text[1] - s.text[2]), 300);

  Simulation unbounded({.batch_tokens = 8, .sequences = 1}, 100);
  unbounded.add(1, 2, 300);
  unbounded.add(2, 2, 1);
  for (int i = 0; i < 100; ++i) unbounded.step();
  EXPECT_EQ(unbounded.first_step.count(2), 0U) << "without turns it waits until the first has ended";
}

TEST(Scheduler, ManyEndlessRequestsShareTheTimeEvenly) {
  constexpr std::int64_t kTurn = 8;
  Simulation s({.batch_tokens = 64, .sequences = 2, .longest_turn = kTurn}, 2000);
  for (RequestId id = 1; id <= 5; ++id) s.add(id, 4, 1000000);
  for (int i = 0; i < 600; ++i) s.step();
  std::int64_t least = 1 << 30, most = 0;
  for (const auto& [id, tokens] : s.text) {
    least = std::min(least, tokens);
    most = std::max(most, tokens);
  }
  EXPECT_GT(least, 120) << "600 steps of two sequences are 240 tokens each";
  EXPECT_LE(most - least, 4 * kTurn);
}

TEST(Scheduler, SharesWhatIsThereAndWaitsForWhatComes) {
  Simulation s({.batch_tokens = 8, .sequences = 4}, 100);
  s.add(1, 40, 3);
  s.step();
  s.add(2, 40, 3);
  s.room.sharer = 2;
  s.room.share = {.now = 8, .soon = 36};
  s.step();
  EXPECT_EQ(s.part_of(2), nullptr) << "the first still computes what the second can share";
  for (int i = 0; i < 3; ++i) s.step();
  s.room.share = {.now = 36, .soon = 36};
  s.step();
  ASSERT_NE(s.part_of(2), nullptr);
  EXPECT_EQ(s.part_of(2)->first, 36);
  EXPECT_EQ(s.part_of(2)->count, 4);
  while (!s.done()) s.step();
}

TEST(Scheduler, TakesBackKeptPagesBeforePreempting) {
  Simulation s({.batch_tokens = 32, .sequences = 2}, 8);
  s.room.keep(5);
  s.add(1, 8, 9);
  s.add(2, 8, 3);
  while (!s.done()) s.step();
  EXPECT_EQ(s.scheduler.preemptions(), 0);
}

TEST(Scheduler, RemovesRunningAndWaitingRequests) {
  Simulation s({.batch_tokens = 8, .sequences = 1}, 100);
  s.add(1, 4, 100);
  s.add(2, 4, 100);
  s.add(3, 4, 2);
  s.step();
  s.scheduler.remove(2);
  s.scheduler.remove(1);
  EXPECT_TRUE(s.room.cached.empty());
  s.step();
  EXPECT_NE(s.part_of(3), nullptr);
  s.scheduler.remove(3);
  EXPECT_TRUE(s.done());
  EXPECT_TRUE(s.scheduler.plan().empty());
  EXPECT_EQ(s.scheduler.first(), std::nullopt);
}

TEST(Scheduler, RandomLoadsFinishWithinTheLimits) {
  std::mt19937 random(11);
  for (int round = 0; round < 60; ++round) {
    const std::int64_t sequences = 1 + random() % 6;
    const SchedulerLimits limits{.batch_tokens = sequences + static_cast<std::int64_t>(random() % 12),
                                 .sequences = sequences,
                                 .prefill_tokens = static_cast<std::int64_t>(random() % 5),
                                 .longest_turn = static_cast<std::int64_t>(random() % 3) * 4};
    constexpr std::int64_t kPages = 12;  // the longest text has 40 + 8 tokens
    Simulation s(limits, kPages);
    RequestId next = 1;
    for (int i = 0; i < 3000 && (next <= 15 || !s.done()); ++i) {
      if (next <= 15 && random() % 4 == 0) s.add(next++, 1 + random() % 40, 1 + random() % 8);
      s.step();
    }
    EXPECT_EQ(s.finished.size(), 15U) << round;
    EXPECT_TRUE(s.room.cached.empty());
  }
}

}  // namespace
}  // namespace quern
