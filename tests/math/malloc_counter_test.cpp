#include "support/malloc_counter.hpp"

#include <gtest/gtest.h>
#include <pthread.h>
#include <stdlib.h>

#include <cstddef>
#include <memory>
#include <thread>

namespace quern {
namespace {

/// Keeps the compiler from removing an allocation whose memory is not used.
void* volatile kept = nullptr;

void release(void* memory) {
  kept = memory;
  free(memory);
}

/// One call of each function that counts.
constexpr std::uint64_t kCalls = 8;
void allocate_in_every_way() {
  release(malloc(10));
  release(calloc(3, 5));
  void* grown = malloc(1);
  kept = grown;
  release(realloc(grown, 5000));
  release(aligned_alloc(64, 128));
  void* placed = nullptr;
  if (posix_memalign(&placed, 64, 100) == 0) release(placed);
  auto* const number = new int(3);
  kept = number;
  delete number;
  struct alignas(128) Wide {
    std::byte bytes[128];
  };
  auto* const wide = new Wide;
  kept = wide;
  delete wide;
}

class MallocCounter : public testing::Test {
 protected:
  void SetUp() override {
    if (!malloc_counting_available()) GTEST_SKIP() << "this build does not count allocations";
  }
  void TearDown() override { count_thread_outside(""); }
};

TEST_F(MallocCounter, CountsEveryFunctionOnlyWhileStarted) {
  allocate_in_every_way();
  start_malloc_counting();
  allocate_in_every_way();
  const MallocCounts counts = stop_malloc_counting();
  allocate_in_every_way();
  EXPECT_EQ(counts.inside, kCalls);
  EXPECT_EQ(counts.outside, 0U);
  start_malloc_counting();
  EXPECT_EQ(stop_malloc_counting().inside, 0U);
}

TEST_F(MallocCounter, SeparatesMarkedScopes) {
  start_malloc_counting();
  {
    const OutsideStep outside;
    allocate_in_every_way();
    {
      const OutsideStep nested;
      release(malloc(1));
    }
    release(malloc(1));
  }
  release(malloc(1));
  const MallocCounts counts = stop_malloc_counting();
  EXPECT_EQ(counts.outside, kCalls + 2);
  EXPECT_EQ(counts.inside, 1U);
}

TEST_F(MallocCounter, CountsOtherThreadsAndTellsThemByName) {
  count_thread_outside("quern-io");
  MallocCounts counts;
  for (const char* name : {"quern-io", "quern-io-2", "worker"}) {
    std::thread([&] {
      pthread_setname_np(pthread_self(), name);
      release(malloc(1));  // what a thread's first allocation may set up is not counted
      start_malloc_counting();
      allocate_in_every_way();
      counts = stop_malloc_counting();
    }).join();
    const bool is_outside = std::string_view(name) != "worker";
    EXPECT_EQ(counts.outside, is_outside ? kCalls : 0U) << name;
    EXPECT_EQ(counts.inside, is_outside ? 0U : kCalls) << name;
  }
}

TEST_F(MallocCounter, HandsOutWorkingMemory) {
  start_malloc_counting();
  void* placed = nullptr;
  EXPECT_EQ(posix_memalign(&placed, 3, 100), EINVAL);
  EXPECT_EQ(posix_memalign(&placed, 256, 100), 0);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(placed) % 256, 0U);
  release(placed);
  stop_malloc_counting();
}

}  // namespace
}  // namespace quern
