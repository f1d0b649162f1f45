#include "infer/size_budget.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "model/gguf_values.hpp"

namespace quern {

namespace {

/// Steps of the dynamic programme: a byte per step and item remembers the choice.
constexpr std::size_t kMostSteps = 65536;

/// An item's options that are worth looking at: sorted by size, each cheaper than all smaller ones.
struct Ladder {
  std::vector<std::size_t> option;  // index into the item
  std::vector<std::size_t> extra;   // bytes above the smallest
  std::vector<double> cost;
};

Ladder ladder_of(const std::vector<SizeOption>& options) {
  std::vector<std::size_t> order(options.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    if (options[a].bytes != options[b].bytes) return options[a].bytes < options[b].bytes;
    return options[a].cost < options[b].cost;
  });
  Ladder ladder;
  for (const std::size_t i : order) {
    if (!ladder.cost.empty() && !(options[i].cost < ladder.cost.back())) continue;
    ladder.option.push_back(i);
    ladder.extra.push_back(options[i].bytes - options[order.front()].bytes);
    ladder.cost.push_back(options[i].cost);
  }
  return ladder;
}

/// Steps on each ladder with the least sum of costs among those of at most `room` bytes, where bytes count in `unit`s,
/// rounded up.
std::vector<std::size_t> best_steps(const std::vector<Ladder>& ladders, std::size_t room, std::size_t unit) {
  const std::size_t most = room / unit;
  std::vector<double> best(most + 1, 0.0);
  std::vector<double> next(most + 1);
  std::vector<std::vector<std::uint8_t>> chosen;
  for (const Ladder& ladder : ladders) {
    auto& choice = chosen.emplace_back(most + 1, std::uint8_t{0});
    for (std::size_t used = 0; used <= most; ++used) next[used] = best[used] + ladder.cost[0];
    for (std::size_t step = 1; step < ladder.cost.size(); ++step) {
      const std::size_t weight = (ladder.extra[step] + unit - 1) / unit;
      for (std::size_t used = weight; used <= most; ++used) {
        const double cost = best[used - weight] + ladder.cost[step];
        if (cost < next[used]) {
          next[used] = cost;
          choice[used] = static_cast<std::uint8_t>(step);
        }
      }
    }
    std::swap(best, next);
  }
  std::vector<std::size_t> steps(ladders.size());
  std::size_t used = most;
  for (std::size_t i = ladders.size(); i-- > 0;) {
    steps[i] = chosen[i][used];
    used -= (ladders[i].extra[steps[i]] + unit - 1) / unit;
  }
  return steps;
}

/// Spends what rounding left over, each time on the step that gains most.
void spend_rest(const std::vector<Ladder>& ladders, std::size_t room, std::vector<std::size_t>& steps) {
  for (std::size_t i = 0; i < ladders.size(); ++i) room -= ladders[i].extra[steps[i]];
  while (true) {
    std::size_t best_item = ladders.size();
    std::size_t best_step = 0;
    double most_gain = 0.0;
    for (std::size_t i = 0; i < ladders.size(); ++i) {
      const Ladder& ladder = ladders[i];
      for (std::size_t step = steps[i] + 1; step < ladder.cost.size(); ++step) {
        const double gain = ladder.cost[steps[i]] - ladder.cost[step];
        if (ladder.extra[step] - ladder.extra[steps[i]] > room || !(gain > most_gain)) continue;
        most_gain = gain;
        best_item = i;
        best_step = step;
      }
    }
    if (best_item == ladders.size()) return;
    room -= ladders[best_item].extra[best_step] - ladders[best_item].extra[steps[best_item]];
    steps[best_item] = best_step;
  }
}

}  // namespace

Result<SizeBudget> SizeBudget::parse(std::string_view text) {
  constexpr std::pair<std::string_view, double> kUnits[] = {{"", 1.0},   {"b", 1.0},      {"kb", 1e3},     {"mb", 1e6},
                                                            {"gb", 1e9}, {"kib", 1024.0}, {"mib", 0x1p20}, {"gib", 0x1p30}};
  double number = 0.0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  std::string unit(end, text.data() + text.size());
  std::transform(unit.begin(), unit.end(), unit.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const auto wrong = [&] {
    return bad_input(fmt::format("a size such as 4.5GiB, 900MB or 4.2bpw was expected, found '{}'", internal::shown(text)));
  };
  if (error != std::errc() || !(number > 0.0) || number > 1e15) return wrong();
  if (unit == "bpw") return SizeBudget{.bytes = {}, .bits_per_weight = number};
  for (const auto& [name, factor] : kUnits) {
    if (unit == name && number * factor < 0x1p62) return SizeBudget{static_cast<std::size_t>(number * factor), {}};
  }
  return wrong();
}

std::optional<std::vector<std::size_t>> choose_within_budget(std::span<const std::vector<SizeOption>> items,
                                                             std::size_t budget) {
  std::vector<Ladder> ladders;
  std::size_t room = budget;
  std::size_t all_extra = 0;
  std::size_t divisor = 0;
  for (const std::vector<SizeOption>& item : items) {
    if (item.empty() || item.size() > std::numeric_limits<std::uint8_t>::max()) return std::nullopt;
    ladders.push_back(ladder_of(item));
    const Ladder& ladder = ladders.back();
    const std::size_t smallest = item[ladder.option.front()].bytes;
    if (smallest > room) return std::nullopt;
    room -= smallest;
    all_extra += ladder.extra.back();
    for (const std::size_t extra : ladder.extra) divisor = std::gcd(divisor, extra);
  }
  std::vector<std::size_t> steps(ladders.size());
  if (all_extra <= room) {
    for (std::size_t i = 0; i < ladders.size(); ++i) steps[i] = ladders[i].cost.size() - 1;
  } else {
    const std::size_t unit = room / divisor <= kMostSteps ? divisor : room / kMostSteps + 1;
    steps = best_steps(ladders, room, unit);
    spend_rest(ladders, room, steps);
  }
  std::vector<std::size_t> chosen(ladders.size());
  for (std::size_t i = 0; i < ladders.size(); ++i) chosen[i] = ladders[i].option[steps[i]];
  return chosen;
}

}  // namespace quern
