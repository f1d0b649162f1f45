// What a team's barrier and loops cost. Compare 1 and 2 threads with more threads than processors, where members sleep, and
// with another busy process beside the benchmark.
//
//     cmake --preset bench && cmake --build --preset bench --target thread_team_bench
//     build/bench/bench/thread_team_bench
#include <benchmark/benchmark.h>

#include <cstdint>

#include "math/thread_team.hpp"

namespace quern {
namespace {

constexpr std::int64_t kRepeats = 1000;

/// Seconds per barrier.
void barrier(benchmark::State& state) {
  ThreadTeam team(static_cast<int>(state.range(0)));
  for (auto _ : state) {
    team.run([](TeamMember& member) {
      for (std::int64_t i = 0; i < kRepeats; ++i) member.barrier();
    });
  }
  state.SetItemsProcessed(state.iterations() * kRepeats);
}
BENCHMARK(barrier)->Arg(1)->Arg(2)->Arg(4)->UseRealTime();

/// Seconds per loop of four empty tasks for each member: claims and the barrier behind them.
void for_each(benchmark::State& state) {
  ThreadTeam team(static_cast<int>(state.range(0)));
  for (auto _ : state) {
    team.run([](TeamMember& member) {
      for (std::int64_t i = 0; i < kRepeats; ++i) {
        member.for_each(4 * member.count(), [](std::int64_t task) { benchmark::DoNotOptimize(task); });
      }
    });
  }
  state.SetItemsProcessed(state.iterations() * kRepeats);
}
BENCHMARK(for_each)->Arg(1)->Arg(2)->Arg(4)->UseRealTime();

/// Seconds to start the team and to wait for its end.
void run(benchmark::State& state) {
  ThreadTeam team(static_cast<int>(state.range(0)));
  for (auto _ : state) team.run([](TeamMember& member) { benchmark::DoNotOptimize(member.index()); });
}
BENCHMARK(run)->Arg(1)->Arg(2)->Arg(4)->UseRealTime();

}  // namespace
}  // namespace quern
