#include "math/perf_counters.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <mutex>
#include <set>

#if defined(__linux__)
#include <linux/perf_event.h>

namespace quern {
namespace {

/// A kernel whose counters say what the test wants. Descriptors are 100 and up.
struct FakeKernel {
  std::mutex mutex;
  std::map<int, perf_event_attr> open;
  int next = 100;
  int refuse_hardware = 0, refuse_caches = 0;  // errno
  std::uint64_t value = 1000, enabled = 800, running = 400;
  std::set<int> started;
  std::optional<std::int64_t> paranoid_level;

  PerfSystem system() {
    return {.open =
                [this](const perf_event_attr& attributes) {
                  const std::lock_guard lock(mutex);
                  if (attributes.type == PERF_TYPE_HARDWARE && refuse_hardware != 0) return -refuse_hardware;
                  if (attributes.type == PERF_TYPE_HW_CACHE && refuse_caches != 0) return -refuse_caches;
                  open[next] = attributes;
                  return next++;
                },
            .control =
                [this](int descriptor, bool on) {
                  if (on) started.insert(descriptor);
                  return open.count(descriptor) > 0 ? 0 : -EBADF;
                },
            .read =
                [this](int descriptor, std::uint64_t(&values)[3]) {
                  const bool on = started.count(descriptor) > 0;
                  values[0] = on ? value : 0;
                  values[1] = on ? enabled : 0;
                  values[2] = on ? running : 0;
                  return 0;
                },
            .close = [this](int descriptor) { open.erase(descriptor); },
            .paranoid = [this] { return paranoid_level; }};
  }
};

const CounterReading* find(const std::vector<CounterReading>& readings, Counter counter) {
  const auto at = std::find_if(readings.begin(), readings.end(), [&](const auto& r) { return r.counter == counter; });
  return at == readings.end() ? nullptr : &*at;
}

TEST(PerfCounters, SumsThreadsAndScalesByTheTimeThatTheyRan) {
  FakeKernel kernel;
  ThreadTeam team(2);
  {
    PerfCounters counters = PerfCounters::open(team, kernel.system());
    EXPECT_EQ(counters.obstacle(), "");
    EXPECT_TRUE(counters.has(Counter::cycles));
    EXPECT_EQ(kernel.open.size(), 2U * kCounters);
    for (const auto& [descriptor, attributes] : kernel.open) {
      EXPECT_EQ(attributes.exclude_kernel, attributes.type != PERF_TYPE_SOFTWARE);  // what everybody may count
      EXPECT_EQ(attributes.disabled, 1U);
    }
    counters.start();
    const auto readings = counters.stop();
    ASSERT_EQ(readings.size(), static_cast<std::size_t>(kCounters));
    const CounterReading* const cycles = find(readings, Counter::cycles);
    ASSERT_NE(cycles, nullptr);
    EXPECT_DOUBLE_EQ(cycles->count, 2 * 1000.0 * 800 / 400);
    EXPECT_DOUBLE_EQ(cycles->running, 0.5);
    const PerfCounters moved = std::move(counters);
    EXPECT_TRUE(moved.has(Counter::cycles));
  }
  EXPECT_TRUE(kernel.open.empty()) << "descriptors are closed once";
}

TEST(PerfCounters, ACounterThatNeverRanGivesNoReading) {
  FakeKernel kernel;
  kernel.running = 0;
  ThreadTeam team(1);
  PerfCounters counters = PerfCounters::open(team, kernel.system());
  counters.start();
  EXPECT_TRUE(counters.stop().empty());
}

TEST(PerfCounters, SaysWhyThereAreNone) {
  struct Case {
    int error;
    std::optional<std::int64_t> paranoid;
    const char* words;
  };
  for (const Case& c : {Case{ENOENT, 2, "most virtual machines have none"}, Case{EACCES, 4, "perf_event_paranoid is 4"},
                        Case{EPERM, 1, "a container's rules"}, Case{ENOSYS, {}, "no perf_event"},
                        Case{EMFILE, {}, "too many files"}, Case{EINVAL, {}, "cannot be opened"}}) {
    FakeKernel kernel;
    kernel.refuse_hardware = c.error;
    kernel.refuse_caches = c.error;
    kernel.paranoid_level = c.paranoid;
    ThreadTeam team(2);
    PerfCounters counters = PerfCounters::open(team, kernel.system());
    EXPECT_NE(counters.obstacle().find(c.words), std::string::npos) << counters.obstacle();
    EXPECT_FALSE(counters.has(Counter::cycles));
    EXPECT_TRUE(counters.has(Counter::page_faults));
    counters.start();
    const auto readings = counters.stop();
    EXPECT_EQ(readings.size(), 3U);  // the kernel's own
    EXPECT_EQ(find(readings, Counter::cycles), nullptr);
  }
}

TEST(PerfCounters, MissingCacheEventsAreNoObstacle) {
  FakeKernel kernel;
  kernel.refuse_caches = ENOENT;
  ThreadTeam team(1);
  const PerfCounters counters = PerfCounters::open(team, kernel.system());
  EXPECT_EQ(counters.obstacle(), "");
  EXPECT_FALSE(counters.has(Counter::dtlb_misses));
}

/// Whatever this machine gives: either a reason or readings that make sense.
TEST(PerfCounters, ThisMachine) {
  ThreadTeam team(2);
  PerfCounters counters = PerfCounters::open(team);
  EXPECT_NE(counters.obstacle().empty(), !counters.has(Counter::instructions) || !counters.has(Counter::cycles));
  counters.start();
  volatile double sum = 0.0;
  team.run([&](TeamMember& member) {
    if (member.index() == 0) {
      for (int i = 0; i < 100000; ++i) sum = sum + 1.0;
    }
  });
  for (const CounterReading& reading : counters.stop()) {
    EXPECT_GE(reading.count, 0.0);
    if (reading.counter == Counter::instructions) {
      EXPECT_GT(reading.count, 100000.0);
    }
  }
}

TEST(PerfCounters, EveryCounterHasAName) {
  for (int i = 0; i < kCounters; ++i) EXPECT_NE(to_word(static_cast<Counter>(i)), "unknown");
}

}  // namespace
}  // namespace quern
#endif
