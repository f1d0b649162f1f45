#include "math/container_limits.hpp"

#include <gtest/gtest.h>

#include <string>

#include "support/tests_paths.hpp"

namespace quern {
namespace {

constexpr const char* kV2Mount = "31 23 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
constexpr const char* kV1Mounts =
    "32 23 0:28 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "33 23 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

TEST(ContainerLimits, NoneWithoutControlGroups) {
  const TemporaryFolder root;
  const ContainerLimits limits = read_container_limits(root.path());
  EXPECT_FALSE(limits.processors.has_value());
  EXPECT_FALSE(limits.memory_bytes.has_value());
}

TEST(ContainerLimits, Version2ReadsTheGroupOfTheProcess) {
  const TemporaryFolder root;
  root.write("proc/self/mountinfo", std::string("22 1 8:1 / / rw - ext4 /dev/sda rw\n") + kV2Mount);
  root.write("proc/self/cgroup", "0::/box\n");
  root.write("sys/fs/cgroup/box/cpu.max", "150000 100000\n");
  root.write("sys/fs/cgroup/box/memory.max", "1073741824\n");
  root.write("sys/fs/cgroup/other/cpu.max", "1000 100000\n");
  const ContainerLimits limits = read_container_limits(root.path());
  EXPECT_DOUBLE_EQ(limits.processors.value(), 1.5);
  EXPECT_EQ(limits.memory_bytes.value(), 1073741824U);
}

TEST(ContainerLimits, TheTightestAncestorCounts) {
  const TemporaryFolder root;
  root.write("proc/self/mountinfo", kV2Mount);
  root.write("proc/self/cgroup", "0::/a/b/c\n");
  root.write("sys/fs/cgroup/a/cpu.max", "200000 100000\n");
  root.write("sys/fs/cgroup/a/b/cpu.max", "50000 100000\n");
  root.write("sys/fs/cgroup/a/b/c/cpu.max", "max 100000\n");
  root.write("sys/fs/cgroup/a/memory.max", "4096\n");
  root.write("sys/fs/cgroup/a/b/c/memory.max", "8192\n");
  const ContainerLimits limits = read_container_limits(root.path());
  EXPECT_DOUBLE_EQ(limits.processors.value(), 0.5);
  EXPECT_EQ(limits.memory_bytes.value(), 4096U);
}

/// A container with a namespace of its own sees its group as the root.
TEST(ContainerLimits, Version2AtTheRootOfANamespace) {
  const TemporaryFolder root;
  root.write("proc/self/mountinfo", kV2Mount);
  root.write("proc/self/cgroup", "0::/\n");
  root.write("sys/fs/cgroup/cpu.max", "250000 100000\n");
  EXPECT_DOUBLE_EQ(read_container_limits(root.path()).processors.value(), 2.5);
}

/// Without one, the group's name is the host's, of which only the container's part is mounted.
TEST(ContainerLimits, GroupsOutsideOfTheMountFallBackToItsRoot) {
  const TemporaryFolder root;
  root.write("proc/self/mountinfo", "31 23 0:27 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
  root.write("sys/fs/cgroup/cpu.max", "300000 100000\n");
  root.write("sys/fs/cgroup/inner/cpu.max", "200000 100000\n");
  for (const char* group : {"/elsewhere", "/docker", "/", "/../x"}) {
    root.write("proc/self/cgroup", std::string("0::") + group + "\n");
    const ContainerLimits limits = read_container_limits(root.path());
    ASSERT_TRUE(limits.processors.has_value()) << group;
    EXPECT_DOUBLE_EQ(*limits.processors, 3.0) << group;
  }
  root.write("proc/self/cgroup", "0::/docker/abc/inner\n");
  EXPECT_DOUBLE_EQ(read_container_limits(root.path()).processors.value(), 2.0);
}

TEST(ContainerLimits, Version1) {
  const TemporaryFolder root;
  root.write("proc/self/mountinfo", kV1Mounts);
  root.write("proc/self/cgroup", "12:memory:/box\n4:cpu,cpuacct:/box\n1:name=systemd:/box\n");
  root.write("sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us", "350000\n");
  root.write("sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us", "100000\n");
  root.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
  root.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  root.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");  // no limit
  ContainerLimits limits = read_container_limits(root.path());
  EXPECT_DOUBLE_EQ(limits.processors.value(), 3.5);
  EXPECT_FALSE(limits.memory_bytes.has_value());
  root.write("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "65536\n");
  limits = read_container_limits(root.path());
  EXPECT_EQ(limits.memory_bytes.value(), 65536U);
}

TEST(ContainerLimits, WhatTheLimitedGroupHasTaken) {
  const TemporaryFolder root;
  root.write("proc/self/mountinfo", kV2Mount);
  root.write("proc/self/cgroup", "0::/a/b\n");
  root.write("sys/fs/cgroup/a/memory.max", "1000000\n");
  root.write("sys/fs/cgroup/a/memory.current", "700000\n");
  root.write("sys/fs/cgroup/a/memory.stat", "anon 300000\nfile 400000\ninactive_file 250000\n");
  root.write("sys/fs/cgroup/a/b/memory.max", "2000000\n");
  root.write("sys/fs/cgroup/a/b/memory.current", "1\n");
  root.write("sys/fs/cgroup/a/b/memory.high", "900000\n");
  ContainerLimits limits = read_container_limits(root.path());
  EXPECT_EQ(limits.memory_bytes.value(), 1000000U);
  EXPECT_EQ(limits.memory_used_bytes.value(), 450000U);
  EXPECT_EQ(limits.memory_high_bytes.value(), 900000U);
  root.write("sys/fs/cgroup/a/memory.stat", "inactive_file 99999999\n");  // more than there is
  EXPECT_EQ(read_container_limits(root.path()).memory_used_bytes.value(), 0U);

  const TemporaryFolder old;
  old.write("proc/self/mountinfo", kV1Mounts);
  old.write("proc/self/cgroup", "12:memory:/box\n");
  old.write("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "65536\n");
  EXPECT_FALSE(read_container_limits(old.path()).memory_used_bytes.has_value());
  old.write("sys/fs/cgroup/memory/box/memory.usage_in_bytes", "40960\n");
  old.write("sys/fs/cgroup/memory/box/memory.stat", "inactive_file 1\ntotal_inactive_file 8192\n");
  limits = read_container_limits(old.path());
  EXPECT_EQ(limits.memory_used_bytes.value(), 32768U);
  EXPECT_FALSE(limits.memory_high_bytes.has_value());
}

TEST(ContainerLimits, NonsenseCountsAsNoLimit) {
  for (const char* text : {"", "\n", "max", "100000", "-5 100000", "0 100000", "100000 0", "1e5 100000", "abc def",
                           "99999999999999999999999 100000", "100000 100000 100000"}) {
    const TemporaryFolder root;
    root.write("proc/self/mountinfo", kV2Mount);
    root.write("proc/self/cgroup", "0::/box\n");
    root.write("sys/fs/cgroup/box/cpu.max", text);
    root.write("sys/fs/cgroup/box/memory.max", text);
    EXPECT_FALSE(read_container_limits(root.path()).processors.has_value()) << '"' << text << '"';
  }
  for (const char* mounts : {"", "a b c\n", "- - - - - - - -\n", "31 23 0:27 / /sys - cgroup2\n"}) {
    const TemporaryFolder root;
    root.write("proc/self/mountinfo", mounts);
    root.write("proc/self/cgroup", "0::/box\nnonsense\n::\n:\n0:cpu\n");
    EXPECT_FALSE(read_container_limits(root.path()).processors.has_value()) << mounts;
  }
}

}  // namespace
}  // namespace quern
