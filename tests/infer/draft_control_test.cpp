// The length of drafts: on simulated costs and texts it finds what pays, and loses next to nothing where nothing does.
#include "infer/draft_control.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>

#include "infer/ngram_drafter.hpp"

namespace quern {
namespace {

using Cost = std::function<double(std::int64_t rows)>;

double dense(std::int64_t rows) { return 0.1 * (1.0 + 0.05 * static_cast<double>(rows - 1)); }
double steep(std::int64_t rows) { return 0.1 * (1.0 + 0.6 * static_cast<double>(rows - 1)); }
double stepped(std::int64_t rows) { return 0.1 * (1.0 + 0.3 * static_cast<double>((rows + 2) / 4)); }

struct Outcome {
  double seconds = 0.0, plain_seconds = 0.0;
  std::int64_t tokens = 0, drafted = 0;
  double speedup() const { return plain_seconds / seconds; }
};

/// Continues `text` from `prompt` tokens on, checking proposals of lookup, at simulated costs. `disturbance` multiplies each
/// step's time, also that of plain decoding.
Outcome simulate(
    const std::vector<std::int32_t>& text, std::size_t prompt, const Cost& cost,
    const std::function<double()>& disturbance = [] { return 1.0; }) {
  NgramDrafter drafter;
  DraftControl control(kExactRows);
  EXPECT_TRUE(drafter.begin(std::span(text).first(prompt)));
  Outcome outcome;
  for (std::size_t at = prompt; at < text.size();) {
    const std::span<const DraftToken> offer = drafter.draft({}, 31, 0, {}).value();
    std::int64_t taken = 0;
    control.choose(std::span(&offer, 1), std::span(&taken, 1));
    const std::vector<DraftToken> draft(offer.begin(), offer.begin() + taken);
    std::int64_t drawn = 0;
    for (bool right = true; right && at < text.size(); ++at) {
      right = drawn < taken && draft[static_cast<std::size_t>(drawn)].token == text[at];
      drafter.append(text[at]);
      ++drawn;
    }
    const double seconds = cost(1 + taken) * disturbance();
    control.observe(1, 1 + taken, taken, drawn, seconds, 1e-6);
    outcome.seconds += seconds;
    outcome.plain_seconds += static_cast<double>(drawn) * cost(1);
    outcome.tokens += drawn;
    outcome.drafted += taken;
  }
  return outcome;
}

std::vector<std::int32_t> noise(std::size_t count, std::uint32_t alphabet, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::int32_t> text(count);
  for (auto& token : text) token = static_cast<std::int32_t>(random() % alphabet);
  return text;
}

/// A text of 300 tokens, repeated with an edit of a few tokens now and then.
std::vector<std::int32_t> edited_copy() {
  std::vector<std::int32_t> text = noise(300, 5000, 1);
  for (std::size_t i = 0; i < 300; ++i) text.push_back(i % 60 == 30 ? 6000 : text[i]);
  return text;
}

TEST(DraftControl, GainsOnWhatRepeats) {
  EXPECT_GT(simulate(edited_copy(), 300, dense).speedup(), 4.0);
  EXPECT_GT(simulate(edited_copy(), 300, stepped).speedup(), 2.0);
  EXPECT_GT(simulate(edited_copy(), 300, steep).speedup(), 1.1);
}

TEST(DraftControl, LosesNothingWhereNothingRepeats) {
  // Random tokens of small alphabets repeat by chance: lookup always has something to say, and is right with 1 / alphabet.
  for (const std::uint32_t alphabet : {4U, 8U, 16U, 100U, 30000U}) {
    for (const Cost& cost : {Cost(dense), Cost(steep), Cost(stepped)}) {
      for (const std::size_t length : {200U, 1000U}) {
        const Outcome outcome = simulate(noise(100 + length, alphabet, alphabet), 100, cost);
        EXPECT_GE(outcome.speedup(), 0.97) << alphabet << " " << length;
      }
    }
  }
}

TEST(DraftControl, DisturbancesDoNotMislead) {
  // Steps take up to twice as long, in spells of 20 steps.
  std::mt19937 random(3);
  int step = 0;
  double factor = 1.0;
  const auto disturbance = [&] {
    if (step++ % 20 == 0) factor = 1.0 + static_cast<double>(random() % 100) / 100.0;
    return factor;
  };
  std::vector<std::int32_t> text(1500);
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<std::int32_t>(i);
  Outcome outcome = simulate(text, 100, dense, disturbance);
  EXPECT_EQ(outcome.drafted, 0) << "nothing occurs twice";
  text = edited_copy();
  outcome = simulate(text, 300, dense, disturbance);
  EXPECT_GT(outcome.speedup(), 2.0) << "beside a plain run without disturbance";
}

TEST(DraftControl, SharesTheRowsOfManyTexts) {
  DraftControl control(kExactRows);
  const std::vector<DraftToken> likely(10, {1, 0.95}), unlikely(10, {1, 0.05});
  std::vector<std::span<const DraftToken>> offers = {likely, unlikely, {}};
  std::vector<std::int64_t> taken(3, 9);
  control.choose(offers, taken);
  EXPECT_EQ(taken, std::vector<std::int64_t>(3, 0)) << "no step was seen: nothing is known of costs";
  for (int i = 0; i < 5; ++i) control.observe(3, 3, 0, 3, dense(3), 0.0);
  for (const std::int64_t rows : {6, 12, 24, 32}) control.observe(3, rows, rows - 3, rows, dense(rows), 0.0);
  control.choose(offers, taken);
  EXPECT_EQ(taken[0], 10);
  EXPECT_EQ(taken[1], 0);
  EXPECT_EQ(taken[2], 0);
  // As many texts as rows: nothing is left for proposals.
  offers.assign(32, likely);
  taken.assign(32, 1);
  control.choose(offers, taken);
  EXPECT_EQ(taken, std::vector<std::int64_t>(32, 0));
}

/// A drafter of given costs and luck.
class FakeDrafter final : public Drafter {
 public:
  FakeDrafter(double chance, double seconds) : chance_(chance), seconds_(seconds) {}
  Result<void> begin(std::span<const std::int32_t>) override { return {}; }
  void append(std::int32_t) override {}
  Result<std::span<const DraftToken>> draft(std::span<const std::int32_t>, std::int64_t, std::uint64_t,
                                            const GoOn&) override {
    return std::span<const DraftToken>();
  }
  double seconds_per_token() const override { return seconds_; }
  double usual_chance() const override { return chance_; }

 private:
  double chance_, seconds_;
};

TEST(DraftControl, PlansForADraftModelByItsCostAndLuck) {
  DraftControl control(kExactRows);
  const FakeDrafter good(0.8, 0.01), bad(0.05, 0.05), dear(0.8, 0.2);
  EXPECT_EQ(control.plan(good, 0.0, 31), 0);
  control.observe(1, 1, 0, 1, dense(1), 0.0);
  const std::int64_t first = control.plan(good, 0.0, 31);
  EXPECT_GT(first, 0);
  EXPECT_LE(first, 3) << "costs of longer steps are not known yet";
  for (const std::int64_t rows : {4, 8, 16, 32}) control.observe(1, rows, rows - 1, rows, dense(rows), 0.01);
  EXPECT_GE(control.plan(good, 0.0, 31), 5);
  EXPECT_EQ(control.plan(good, 0.0, 2), 2);
  EXPECT_GE(control.plan(good, 1.0, 31), 5) << "catching up will pay";
  EXPECT_EQ(control.plan(bad, 1.0, 31), 0) << "to try it costs more than the account has";
  // What does not pay is tried when the account is full, and shortly.
  EXPECT_LE(control.plan(bad, 0.0, 31), 2);
  EXPECT_LE(control.plan(dear, 0.0, 31), 2);
  control.observe(1, 3, 2, 1, dense(3), 0.2);
  EXPECT_EQ(control.plan(bad, 0.0, 31), 0);
  EXPECT_EQ(control.plan(dear, 0.0, 31), 0);

  const std::vector<DraftToken> sure(3, {1, 0.9}), unsure(3, {1, 0.1});
  EXPECT_TRUE(control.go_on(good, sure, 31));
  EXPECT_FALSE(control.go_on(good, sure, 3));
  EXPECT_FALSE(control.go_on(good, unsure, 31));
}

TEST(StepCost, LearnsACurve) {
  StepCost cost;
  EXPECT_EQ(cost.seconds(1), 0.0);
  for (int i = 0; i < 40; ++i) {
    cost.observe(1, stepped(1), false);
    for (const std::int64_t rows : {2, 5, 9, 17, 32}) cost.observe(rows, stepped(rows), true);
  }
  for (const std::int64_t rows : {1, 2, 5, 9, 17, 32}) {
    EXPECT_NEAR(cost.seconds(rows) / stepped(rows), 1.0, 0.1) << rows;
  }
  EXPECT_EQ(cost.largest_seen(), 32);
  // The machine slows down: all estimates follow the steps without drafts.
  for (int i = 0; i < 30; ++i) cost.observe(1, 2.0 * stepped(1), false);
  EXPECT_NEAR(cost.seconds(9) / (2.0 * stepped(9)), 1.0, 0.15);
  cost.observe(0, 1.0, false);
  cost.observe(33, 1.0, true);
  cost.observe(3, -1.0, true);
  cost.observe(3, std::nan(""), true);
  EXPECT_NEAR(cost.seconds(9) / (2.0 * stepped(9)), 1.0, 0.15);
}

TEST(StepCost, DoubtsWhatItFoundDearLongAgo) {
  StepCost cost;
  for (int i = 0; i < 10; ++i) cost.observe(1, 0.1, false);
  cost.observe(4, 0.8, true);  // disturbed
  const double dear = cost.seconds(4);
  EXPECT_GT(dear, 0.2);
  for (int i = 0; i < 400; ++i) cost.observe(1, 0.1, false);
  EXPECT_LT(cost.seconds(4), 0.17);
}

}  // namespace
}  // namespace quern
