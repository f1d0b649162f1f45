#include "math/peak_rates.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <vector>

#include "math/clock_rates.hpp"
#include "math/latency_rates.hpp"

namespace quern {
namespace {

const Repeats kShort{.warmup = 1, .measured = 3, .seconds = 1e-4, .stop = {}};

TEST(PeakRates, EveryPathThatHasALoopGivesRates) {
  ThreadTeam team(2);
  for (const KernelTable* kernels : supported_kernels()) {
    for (const PeakType type : kPeakTypes) {
      const std::vector<double> rates = peak_rates(team, *kernels, type, kShort);
      EXPECT_EQ(rates.empty(), peak_method(*kernels, type).empty()) << isa_name(kernels->isa) << ' ' << to_word(type);
      for (const double rate : rates) {
        EXPECT_GT(rate, 1e6);
        EXPECT_LT(rate, 1e16);
      }
    }
    EXPECT_EQ(peak_method(*kernels, PeakType::int8).empty(), kernels->isa == Isa::portable);
  }
}

TEST(RepeatedRates, CountsWhatEachThreadDid) {
  ThreadTeam team(2);
  // Work of known length: amounts are seconds, so that two threads' rate is near 2, and above never.
  const auto rates =
      repeated_rates(team, {.warmup = 0, .measured = 5, .seconds = 1e-3, .stop = {}}, [](TeamMember&, std::int64_t n) {
        const auto start = std::chrono::steady_clock::now();
        double elapsed = 0.0;
        while (elapsed < 1e-4 * static_cast<double>(n)) {
          elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        }
        return 1e-4 * static_cast<double>(n);
      });
  ASSERT_EQ(rates.size(), 5U);
  for (const double rate : rates) EXPECT_LE(rate, 2.0);
}

TEST(RepeatedRates, NoneWhenNoneAreAskedForOrAtOnceStopped) {
  ThreadTeam team(1);
  int calls = 0;
  const auto work = [&](TeamMember&, std::int64_t) {
    ++calls;
    return 1.0;
  };
  EXPECT_TRUE(repeated_rates(team, {.warmup = 0, .measured = 0, .seconds = 0.0, .stop = {}}, work).empty());
  EXPECT_EQ(calls, 0);
  EXPECT_TRUE(repeated_rates(team, {.warmup = 3, .measured = 5, .seconds = 0.0, .stop = [] { return true; }}, work).empty());
  EXPECT_EQ(calls, 1);
}

TEST(LatencyRates, TheChainMeetsEveryLineOnce) {
  for (const std::size_t lines : {std::size_t{1}, std::size_t{2}, std::size_t{64}, std::size_t{4096}}) {
    std::vector<std::byte> block(lines * 64);
    internal::write_chain(block.data(), lines);
    std::vector<bool> met(lines);
    const std::byte* at = block.data();
    for (std::size_t i = 0; i < lines; ++i) {
      const auto line = static_cast<std::size_t>(at - block.data()) / 64;
      EXPECT_FALSE(met[line]) << lines;
      met[line] = true;
      std::memcpy(&at, static_cast<const void*>(at), sizeof at);
    }
    EXPECT_EQ(at, block.data()) << lines;
  }
}

TEST(LatencyRates, LoadsAndBarriersTakeTime) {
  std::uint64_t huge = 1;
  const auto loads = load_latencies(100000, false, kShort, &huge);  // cut to 64 KiB
  ASSERT_TRUE(loads);
  ASSERT_EQ(loads->size(), 3U);
  EXPECT_EQ(huge, 0U);
  for (const double seconds : *loads) {
    EXPECT_GT(seconds, 1e-11);
    EXPECT_LT(seconds, 1e-3);
  }
  ThreadTeam team(3);
  const auto barriers = barrier_costs(team, kShort);
  ASSERT_EQ(barriers.size(), 3U);
  for (const double seconds : barriers) {
    EXPECT_GT(seconds, 1e-9);
    EXPECT_LT(seconds, 1.0);
  }
}

TEST(ClockRates, LoadsAreThoseOfThePathsPresent) {
  const std::vector<ClockLoad> loads = clock_loads(supported_kernels());
  ASSERT_GE(loads.size(), 1U);
  EXPECT_EQ(loads[0].name, "scalar");
  EXPECT_EQ(loads[0].kernels, nullptr);
  EXPECT_EQ(clock_loads({}).size(), 1U);
  for (const ClockLoad& load : loads) {
    EXPECT_EQ(load.tiles, load.name == "AMX bf16");
  }
}

TEST(ClockRates, PlausibleByTheMethodAtHand) {
  ThreadTeam team(2);
  PerfCounters counters = PerfCounters::open(team);
  const bool possible = clock_method(counters) != ClockMethod::none;
  for (const ClockLoad& load : clock_loads(supported_kernels())) {
    const std::vector<double> rates =
        clock_rates(team, load, counters, {.warmup = 0, .measured = 2, .seconds = 1e-3, .stop = {}});
    EXPECT_EQ(rates.size(), possible ? 2U : 0U);
    for (const double rate : rates) {
      EXPECT_GT(rate, 1e6);
      EXPECT_LT(rate, 1e11);
    }
  }
  EXPECT_GE(multiply_over_add(), 0.0);
}

}  // namespace
}  // namespace quern
