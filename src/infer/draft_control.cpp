#include "infer/draft_control.hpp"

#include <algorithm>

namespace quern {

namespace {

// These were chosen by simulation: 16,000 tokens each of prose, C++ and technical English in pieces of 600 (the first half
// is the prompt), steps of n tokens costing 1 + s (n - 1) for s from 0.05 to 0.6, with and without disturbances (spells
// of up to twice the time, one step in twenty thrice). No piece then falls below 0.97 of plain decoding.
//
// What a step must promise above one without proposals.
constexpr double kMargin = 1.04;
// Of each step's time, for the account.
constexpr double kAllowance = 0.01;
// The account in steps of one token, at most.
constexpr double kMostSteps = 2.0;

}  // namespace

std::int64_t DraftControl::row_limit() const {
  return std::min(most_rows_, std::max<std::int64_t>(4, 2 * cost_.largest_seen()));
}

void DraftControl::choose(std::span<const std::span<const DraftToken>> offers, std::span<std::int64_t> taken) const {
  std::fill(taken.begin(), taken.end(), 0);
  const std::int64_t texts = std::ssize(offers);
  const std::int64_t limit = row_limit();
  if (texts == 0 || texts >= limit || account_ <= 0.0 || cost_.seconds(texts) <= 0.0) return;
  // The likeliest proposal first, over all texts: chances of one text's proposals only fall, so each is reached in order.
  struct Text {
    std::int64_t next = 0;
    double chance = 1.0;  // that all up to `next` are right
  };
  std::vector<Text> state(offers.size());
  std::vector<std::size_t> order;  // the text of each proposal
  for (std::size_t i = 0; i < offers.size(); ++i) {
    if (!offers[i].empty()) state[i].chance = offers[i][0].chance;
  }
  double expected = static_cast<double>(texts);
  double best_rate = kMargin * expected / cost_.seconds(texts);
  std::size_t best = 0;
  while (texts + std::ssize(order) < limit) {
    std::size_t likeliest = offers.size();
    for (std::size_t i = 0; i < offers.size(); ++i) {
      if (state[i].next == std::ssize(offers[i])) continue;
      if (likeliest == offers.size() || state[i].chance > state[likeliest].chance) likeliest = i;
    }
    if (likeliest == offers.size()) break;
    Text& text = state[likeliest];
    expected += text.chance;
    ++text.next;
    if (text.next < std::ssize(offers[likeliest]))
      text.chance *= offers[likeliest][static_cast<std::size_t>(text.next)].chance;
    order.push_back(likeliest);
    const double rate = expected / cost_.seconds(texts + std::ssize(order));
    if (rate <= best_rate) continue;
    best_rate = rate;
    best = order.size();
  }
  for (std::size_t i = 0; i < best; ++i) ++taken[order[i]];
}

std::int64_t DraftControl::plan(const Drafter& drafter, double seconds_behind, std::int64_t most) const {
  const double one = cost_.seconds(1);
  if (one <= 0.0 || account_ <= 0.0) return 0;
  most = std::min(most, row_limit() - 1);
  double expected = 1.0, chance = 1.0, best_rate = kMargin / one;
  std::int64_t best = 0;
  for (std::int64_t n = 1; n <= most; ++n) {
    chance *= drafter.usual_chance();
    expected += chance;
    const double rate = expected / (cost_.seconds(1 + n) + static_cast<double>(n) * drafter.seconds_per_token());
    if (rate <= best_rate) continue;
    best_rate = rate;
    best = n;
  }
  const bool affordable = account_ >= kMostSteps * one && account_ > seconds_behind;
  return best == 0 && affordable ? std::min<std::int64_t>(most, 2) : best;
}

bool DraftControl::go_on(const Drafter& drafter, std::span<const DraftToken> so_far, std::int64_t most) const {
  most = std::min(most, row_limit() - 1);
  double expected = 1.0, chance = 1.0;
  for (const DraftToken& token : so_far) expected += chance *= token.chance;
  const auto seconds = [&](std::int64_t n) {
    return cost_.seconds(1 + n) + static_cast<double>(n) * drafter.seconds_per_token();
  };
  const double rate = expected / seconds(std::ssize(so_far));
  for (std::int64_t n = std::ssize(so_far) + 1; n <= most; ++n) {
    expected += chance *= drafter.usual_chance();
    if (expected / seconds(n) > rate) return true;
  }
  return false;
}

void DraftControl::observe(std::int64_t sequences, std::int64_t rows, std::int64_t drafted, std::int64_t drawn,
                           double step_seconds, double draft_seconds) {
  if (drafted == 0) cost_.observe(rows, step_seconds, false);
  const double plain = cost_.seconds(sequences);
  if (drafted > 0) cost_.observe(rows, step_seconds, true);
  if (plain <= 0.0) return;
  const double one = cost_.seconds(1);
  if (!opened_) account_ = first_steps_ * one;
  opened_ = true;
  account_ += kAllowance * std::min(step_seconds, 2.0 * plain);
  account_ -= draft_seconds;
  if (drafted > 0) account_ += plain * static_cast<double>(drawn) / static_cast<double>(sequences) - cost_.seconds(rows);
  account_ = std::min(account_, kMostSteps * one);
}

}  // namespace quern
