#include "math/thread_team.hpp"

#include <gtest/gtest.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <numeric>
#include <thread>
#include <vector>

#include "support/malloc_counter.hpp"

namespace quern {
namespace {

const std::vector<int> kSizes = {1, 2, 3, 4, 9};

TEST(ThreadTeam, EveryMemberRunsOnceWithItsOwnNumber) {
  for (const int size : kSizes) {
    ThreadTeam team(size);
    EXPECT_EQ(team.size(), size);
    for (int round = 0; round < 3; ++round) {
      std::vector<int> seen(static_cast<std::size_t>(size), 0);
      team.run([&](TeamMember& member) {
        EXPECT_EQ(member.count(), size);
        ++seen[static_cast<std::size_t>(member.index())];
      });
      EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), size);
    }
  }
}

/// Each member writes its cell and, behind the barrier, reads everyone's: plain memory, so that the thread sanitizer sees
/// whether the barrier orders it.
TEST(ThreadTeam, BarrierMakesAllWorkVisible) {
  for (const int size : kSizes) {
    ThreadTeam team(size);
    std::vector<std::int64_t> cells(static_cast<std::size_t>(size), 0);
    std::atomic<int> wrong{0};
    constexpr std::int64_t kRounds = 500;
    team.run([&](TeamMember& member) {
      for (std::int64_t round = 1; round <= kRounds; ++round) {
        cells[static_cast<std::size_t>(member.index())] = round;
        member.barrier();
        if (std::accumulate(cells.begin(), cells.end(), std::int64_t{0}) != round * size) ++wrong;
        member.barrier();
      }
    });
    EXPECT_EQ(wrong.load(), 0) << size << " threads";
  }
}

TEST(ThreadTeam, ForEachRunsEveryTaskOnceAndWaits) {
  for (const int size : kSizes) {
    ThreadTeam team(size);
    for (const std::int64_t tasks : {0, 1, size - 1, size, size + 1, 1000}) {
      std::vector<int> runs(static_cast<std::size_t>(tasks), 0);
      std::atomic<std::int64_t> incomplete{0};
      team.run([&](TeamMember& member) {
        member.for_each(tasks, [&](std::int64_t i) { ++runs[static_cast<std::size_t>(i)]; });
        if (std::count(runs.begin(), runs.end(), 1) != tasks) ++incomplete;
      });
      EXPECT_EQ(incomplete.load(), 0) << size << " threads, " << tasks << " tasks";
    }
  }
}

/// Short loops right after one another, more of them than the loop number's 16 bits: a fast member starts the next loop
/// while slow ones still leave the last one's barrier. A lost or doubled claim changes a sum.
TEST(ThreadTeam, ForEachAheadRunsEveryTaskOnceAndKnowsTheNext) {
  for (const int threads : {1, 2, 5}) {
    ThreadTeam team(threads);
    for (const std::int64_t tasks : {0, 1, 2, 7, 100}) {
      std::vector<std::atomic<int>> runs(static_cast<std::size_t>(tasks));
      std::atomic<int> surprises{0};
      team.run([&](TeamMember& member) {
        std::int64_t expected = -1;
        member.for_each_ahead(tasks, [&](std::int64_t i, std::int64_t next) {
          ++runs[static_cast<std::size_t>(i)];
          if (expected >= 0 && i != expected) ++surprises;
          if (next <= i || next > tasks) ++surprises;
          expected = next;
        });
        if (expected >= 0 && expected != tasks) ++surprises;
      });
      for (const std::atomic<int>& count : runs) ASSERT_EQ(count, 1) << threads << " threads, " << tasks << " tasks";
      ASSERT_EQ(surprises, 0) << threads << " threads, " << tasks << " tasks";
    }
  }
}

TEST(ThreadTeam, LoopsInARowNeverShareClaims) {
  ThreadTeam team(2);
  constexpr std::int64_t kLoops = 70000;
  constexpr std::int64_t kTasks = 3;
  std::vector<std::int64_t> sums(kTasks, 0);
  std::atomic<bool> wrong{false};
  team.run([&](TeamMember& member) {
    for (std::int64_t loop = 0; loop < kLoops; ++loop) {
      member.for_each(kTasks, [&](std::int64_t i) {
        if (sums[static_cast<std::size_t>(i)] != loop) wrong = true;
        ++sums[static_cast<std::size_t>(i)];
      });
    }
  });
  EXPECT_FALSE(wrong);
  EXPECT_EQ(sums, std::vector<std::int64_t>(kTasks, kLoops));
}

TEST(ThreadTeam, LoopsOfUnevenTasksOnCrowdedCores) {
  ThreadTeam team(7);  // more than most machines that test this have processors
  constexpr std::int64_t kLoops = 400;
  std::vector<std::int64_t> runs(64, 0);
  for (int round = 0; round < 3; ++round) {
    team.run([&](TeamMember& member) {
      for (std::int64_t loop = 0; loop < kLoops; ++loop) {
        const std::int64_t tasks = loop % 64;
        member.for_each(tasks, [&](std::int64_t i) { ++runs[static_cast<std::size_t>(i)]; });
        if (loop % 5 == 0) member.barrier();
      }
    });
  }
  for (std::int64_t i = 0; i < 64; ++i) {
    std::int64_t expected = 0;
    for (std::int64_t loop = 0; loop < kLoops; ++loop) expected += loop % 64 > i ? 3 : 0;
    EXPECT_EQ(runs[static_cast<std::size_t>(i)], expected) << "task " << i;
  }
}

TEST(ThreadTeam, ADefaultMemberRunsSerially) {
  TeamMember alone;
  std::vector<std::int64_t> order;
  alone.for_each(4, [&](std::int64_t i) { order.push_back(i); });
  alone.barrier();
  EXPECT_EQ(order, (std::vector<std::int64_t>{0, 1, 2, 3}));
  EXPECT_EQ(alone.count(), 1);
}

/// OpenMP gives a nested region one thread; the barrier must not wait for others.
TEST(ThreadTeam, RunsWithTheThreadsThatOpenMpGives) {
  std::atomic<int> total{0};
#pragma omp parallel num_threads(2)
  {
    ThreadTeam inner(2);
    inner.run([&](TeamMember& member) {
      member.barrier();
      member.for_each(5, [&](std::int64_t) { ++total; });
    });
  }
  EXPECT_EQ(total.load(), 2 * 5);
}

TEST(ThreadTeam, MovesAndTeamsOfDifferentSizesTakeTurns) {
  ThreadTeam two(2);
  ThreadTeam three(3);
  std::atomic<int> members{0};
  for (int round = 0; round < 20; ++round) {
    two.run([&](TeamMember& member) {
      member.barrier();
      ++members;
    });
    three.run([&](TeamMember& member) {
      member.barrier();
      ++members;
    });
  }
  EXPECT_EQ(members.load(), 100);
  ThreadTeam moved = std::move(two);
  moved.run([&](TeamMember&) { ++members; });
  EXPECT_EQ(members.load(), 102);
}

/// A member that waits long has given its core up: the others' processor time stays far below the wall time.
TEST(ThreadTeam, WaitingMembersSleep) {
  ThreadTeam team(2);
  team.run([](TeamMember&) {});
  std::atomic<std::int64_t> waited_cpu_us{0};
  team.run([&](TeamMember& member) {
    if (member.index() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(200));
    timespec before{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
    member.barrier();
    timespec after{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
    if (member.index() == 1) {
      waited_cpu_us = (after.tv_sec - before.tv_sec) * 1'000'000 + (after.tv_nsec - before.tv_nsec) / 1000;
    }
  });
  EXPECT_LT(waited_cpu_us.load(), 50'000);
}

/// Four threads on what may be two cores, with a stranger that never yields: 2,000 barriers take a moment, not minutes. A
/// spin without bound would need a scheduler's time slice (milliseconds) for each.
TEST(ThreadTeam, BarriersDoNotCollapseOnBusyCores) {
  std::atomic<bool> stop{false};
  std::thread stranger([&] {
    while (!stop.load(std::memory_order_relaxed)) {
    }
  });
  ThreadTeam team(4);
  const auto start = std::chrono::steady_clock::now();
  team.run([](TeamMember& member) {
    for (int i = 0; i < 2000; ++i) member.barrier();
  });
  const auto elapsed = std::chrono::steady_clock::now() - start;
  stop = true;
  stranger.join();
  EXPECT_LT(std::chrono::duration<double>(elapsed).count(), 20.0);
}

TEST(ThreadTeam, NothingIsAllocatedAfterTheFirstRun) {
  if (!malloc_counting_available()) GTEST_SKIP() << "this build does not count allocations";
  ThreadTeam team(3);
  std::atomic<std::int64_t> sum{0};
  const auto step = [&](TeamMember& member) {
    for (int loop = 0; loop < 10; ++loop) member.for_each(100, [&](std::int64_t i) { sum += i; });
  };
  team.run(step);
  start_malloc_counting();
  for (int i = 0; i < 20; ++i) team.run(step);
  const MallocCounts counts = stop_malloc_counting();
  EXPECT_EQ(counts.inside, 0U);
  EXPECT_EQ(sum.load(), 21 * 10 * 4950);
}

TEST(DefaultThreadCount, FollowsTheAffinityMask) {
  cpu_set_t original;
  ASSERT_EQ(sched_getaffinity(0, sizeof original, &original), 0);
  const int all = default_thread_count();
  EXPECT_GE(all, 1);
  EXPECT_LE(all, CPU_COUNT(&original));
  cpu_set_t one;
  CPU_ZERO(&one);
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (!CPU_ISSET(i, &original)) continue;
    CPU_SET(i, &one);
    break;
  }
  if (sched_setaffinity(0, sizeof one, &one) != 0) GTEST_SKIP() << "this system does not let a process set its affinity";
  const int few = default_thread_count();
  ASSERT_EQ(sched_setaffinity(0, sizeof original, &original), 0);
  EXPECT_EQ(few, 1);
}

}  // namespace
}  // namespace quern
