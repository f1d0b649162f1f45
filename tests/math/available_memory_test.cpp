#include "math/available_memory.hpp"

#include <gtest/gtest.h>

#include "support/tests_paths.hpp"

namespace quern {
namespace {

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

TemporaryFolder& machine(TemporaryFolder& root) {
  (void)root.write(
      "proc/meminfo",
      "MemTotal:       16777216 kB\nMemFree:         1048576 kB\nMemAvailable:    8388608 kB\nSwapFree:        0 kB\n");
  return root;
}

TEST(AvailableMemory, WhatTheMachineHas) {
  TemporaryFolder root;
  const AvailableMemory memory = read_available_memory({}, machine(root).path());
  EXPECT_EQ(memory.machine_bytes, 16 * kGiB);
  EXPECT_EQ(memory.available_bytes, 8 * kGiB);
  EXPECT_EQ(memory.usable_bytes, 8 * kGiB);
  EXPECT_EQ(memory.usable_because, "what the machine has available");
}

TEST(AvailableMemory, WhatTheContainerLeaves) {
  TemporaryFolder root;
  (void)machine(root);
  ContainerLimits limits{.processors = {}, .memory_bytes = 6 * kGiB, .memory_used_bytes = 2 * kGiB};
  AvailableMemory memory = read_available_memory(limits, root.path());
  EXPECT_EQ(memory.usable_bytes, 4 * kGiB);
  EXPECT_EQ(memory.usable_because, "what the container's limit leaves");
  limits.memory_used_bytes = 7 * kGiB;  // above its limit for a moment
  EXPECT_EQ(read_available_memory(limits, root.path()).usable_bytes, 0U);
  limits = {.processors = {}, .memory_bytes = 32 * kGiB, .memory_used_bytes = kGiB};
  memory = read_available_memory(limits, root.path());
  EXPECT_EQ(memory.usable_bytes, 8 * kGiB);
  EXPECT_EQ(memory.usable_because, "what the machine has available");
}

TEST(AvailableMemory, GapsInWhatTheSystemSays) {
  const TemporaryFolder root;
  EXPECT_EQ(read_available_memory({}, root.path()).usable_bytes, 0U);
  const ContainerLimits limits{.processors = {}, .memory_bytes = kGiB};
  EXPECT_EQ(read_available_memory(limits, root.path()).usable_bytes, kGiB);
  (void)root.write("proc/meminfo", "MemTotal:  4194304 kB\n");  // kernels before 3.14
  EXPECT_EQ(read_available_memory({}, root.path()).usable_bytes, 4 * kGiB);
}

}  // namespace
}  // namespace quern
