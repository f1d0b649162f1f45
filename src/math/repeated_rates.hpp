// Repeats a piece of work on all threads of a team and keeps the rate of every repeat.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <vector>

#include "math/thread_team.hpp"

namespace quern {

/// How often, and for how long, something is measured.
struct Repeats {
  int warmup = 2;                   ///< repeats that do not count, before the others
  int measured = 10;                ///< at least 6, or there is no interval of 95 %
  double seconds = 0.005;           ///< least length of a repeat: work is doubled until one takes this long
  std::function<bool()> stop = {};  ///< asked between repeats; true ends the measurement
};

/// Rates, in amount per second of all threads together, one for each measured repeat. `work(member, iterations)` is called
/// on every thread of `team` with the same number of iterations and returns the amount that this thread has done; the clock
/// runs from a barrier of the team to the next. Fewer rates than asked for, down to none, where `repeats.stop` says so. Not
/// deterministic.
template <class Work>
std::vector<double> repeated_rates(ThreadTeam& team, const Repeats& repeats, const Work& work) {
  using Clock = std::chrono::steady_clock;
  constexpr std::int64_t kMostIterations = std::int64_t{1} << 40;
  std::vector<double> rates;
  rates.reserve(static_cast<std::size_t>(repeats.measured));
  // Written by thread 0 before a barrier, read by all after it.
  std::int64_t iterations = 1;
  int warmed = 0;
  bool long_enough = false, done = repeats.measured <= 0;
  team.run([&](TeamMember& member) {
    while (!done) {
      member.barrier();
      const Clock::time_point start = Clock::now();
      const double amount = work(member, iterations);
      member.barrier();
      if (member.index() == 0) {
        const double elapsed = std::chrono::duration<double>(Clock::now() - start).count();
        if (!long_enough) {
          long_enough = elapsed >= repeats.seconds || iterations >= kMostIterations;
          if (!long_enough) iterations *= elapsed < repeats.seconds / 16 ? 8 : 2;
        } else if (warmed < repeats.warmup) {
          ++warmed;
        } else if (elapsed > 0.0) {
          rates.push_back(amount * member.count() / elapsed);
        }
        done = static_cast<int>(rates.size()) >= repeats.measured || (repeats.stop && repeats.stop());
      }
      member.barrier();
    }
  });
  return rates;
}

}  // namespace quern
