#include "math/stream_rates.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "math/aligned_buffer.hpp"
#include "math/page_block.hpp"

namespace quern {
namespace {

std::vector<const StreamKernels*> all_kernels() {
  std::vector<const StreamKernels*> all{&stream_kernels({}, Isa::amx)};  // without features: portable
  for (const Isa isa : {Isa::avx2, Isa::avx512}) {
    const StreamKernels* const kernels = &stream_kernels(cpu_features(), isa);
    if (std::find(all.begin(), all.end(), kernels) == all.end()) all.push_back(kernels);
  }
  return all;
}

/// Guard bytes on both sides stay; every byte between is written or copied.
TEST(StreamKernels, WriteAndCopyTouchJustTheirBlock) {
  for (const StreamKernels* kernels : all_kernels()) {
    for (const std::size_t bytes : {std::size_t{0}, kStreamStep, 3 * kStreamStep, 64 * kStreamStep}) {
      auto memory = AlignedBuffer::allocate(2 * bytes + 192);
      ASSERT_TRUE(memory);
      std::byte* const to = memory->data() + 64;
      std::byte* const from = to + bytes + 64;
      // Written words are ones: of 4 bytes, or of 8 where registers have that many.
      const auto check = [&](bool copied) {
        std::uint64_t sum = 0;
        for (std::size_t i = 0; i < bytes; ++i) {
          sum += std::to_integer<std::uint64_t>(to[i]);
          ASSERT_TRUE(copied ? to[i] == std::byte{0x33} : to[i] <= std::byte{1})
              << kernels->name << ' ' << bytes << ' ' << i;
        }
        if (!copied) {
          EXPECT_TRUE(sum == bytes / 4 || sum == bytes / 8 || sum == bytes) << kernels->name;
        }
        for (std::size_t i = 0; i < 64; ++i) {
          ASSERT_EQ(memory->data()[i], std::byte{0x55}) << kernels->name;
          ASSERT_EQ(to[bytes + i], std::byte{0x55}) << kernels->name;
          ASSERT_EQ(from[bytes + i], std::byte{0x55}) << kernels->name;
        }
      };
      const auto fill = [&] {
        std::memset(memory->data(), 0x55, memory->bytes());
        std::memset(from, 0x33, bytes);
      };
      fill();
      kernels->copy(to, from, bytes, 2);
      check(true);
      fill();
      kernels->write(to, bytes, 3);
      check(false);
      if (kernels->write_past != nullptr) {
        fill();
        kernels->write_past(to, bytes, 1);
        check(false);
      }
      fill();
      kernels->read(from, bytes, 2);
      if (bytes > 0) {
        EXPECT_EQ(from[bytes - 1], std::byte{0x33});
      }
    }
  }
}

TEST(StreamKernels, NoWiderThanAllowed) {
  EXPECT_STREQ(stream_kernels(cpu_features(), Isa::portable).name, stream_kernels({}, Isa::amx).name);
  if (supports(cpu_features(), Isa::avx2)) {
    EXPECT_STREQ(stream_kernels(cpu_features(), Isa::avx2).name, "32-byte registers");
  }
  if (supports(cpu_features(), Isa::avx512)) {
    EXPECT_STREQ(stream_kernels(cpu_features(), Isa::amx).name, "64-byte registers");
  }
}

constexpr std::size_t kKiB = 1024, kMiB = 1024 * 1024;

MachineTopology synthetic(const char* words) { return read_topology({.synthetic = words, .xml = {}}).value(); }

TEST(WorkingSets, OneForEachLevelThatThereIs) {
  const MachineTopology machine = synthetic("pack:2 l3:1(size=33554432) l2:8(size=1048576) l1d:1(size=32768) core:1 pu:2");
  std::vector<WorkingSet> sets = working_sets(machine, 1, std::size_t{1} << 40);
  ASSERT_EQ(sets.size(), 4U);
  EXPECT_EQ(sets[0].level, 1);
  EXPECT_EQ(sets[0].bytes_per_thread, 16 * kKiB);
  EXPECT_EQ(sets[1].bytes_per_thread, 512 * kKiB);
  EXPECT_EQ(sets[2].level, 3);
  EXPECT_EQ(sets[2].bytes_per_thread, 4 * kMiB);
  EXPECT_EQ(sets[3].level, 0);
  EXPECT_EQ(sets[3].bytes_per_thread, 256 * kMiB);
  // Sixteen threads may land on one socket: 2 MiB of L3 and, with SMT, 512 KiB of L2 for each.
  sets = working_sets(machine, 16, 64 * kMiB);
  ASSERT_EQ(sets.size(), 4U);
  EXPECT_EQ(sets[0].bytes_per_thread, 8 * kKiB);
  EXPECT_EQ(sets[1].bytes_per_thread, 256 * kKiB);
  EXPECT_EQ(sets[2].bytes_per_thread, 1 * kMiB);
  EXPECT_EQ(sets[3].bytes_per_thread, 4 * kMiB);
}

TEST(WorkingSets, WithoutAThirdLevelOrWithASmallOne) {
  std::vector<WorkingSet> sets = working_sets(synthetic("l2:2(size=524288) l1d:2(size=32768) core:1 pu:1"), 4, 512 * kMiB);
  ASSERT_EQ(sets.size(), 3U);
  EXPECT_EQ(sets[1].level, 2);
  EXPECT_EQ(sets[1].bytes_per_thread, 128 * kKiB);
  EXPECT_EQ(sets[2].level, 0);
  // A third level of the second's size holds nothing more that could be told from it.
  sets = working_sets(synthetic("l3:1(size=2097152) l2:1(size=1048576) l1d:1(size=32768) core:1 pu:1"), 1, 512 * kMiB);
  ASSERT_EQ(sets.size(), 3U);
  EXPECT_EQ(sets[2].level, 0);
  // A last-level cache larger than the usual block: memory is what it cannot hold.
  sets = working_sets(synthetic("l3:1(size=503316480) l2:2(size=2097152) l1d:1(size=49152) core:1 pu:1"), 2,
                      std::size_t{4} << 30);
  EXPECT_EQ(sets.back().bytes_per_thread, 480 * kMiB);
  EXPECT_EQ(sets[2].bytes_per_thread, 8 * kMiB);
  // Nothing known about caches.
  sets = working_sets(synthetic("pu:1"), 1, 512 * kMiB);
  ASSERT_EQ(sets.size(), 1U);
  EXPECT_EQ(sets[0].level, 0);
}

TEST(StreamRates, AFigureForEachRepeat) {
  ThreadTeam team(2);
  const Repeats repeats{.warmup = 1, .measured = 4, .seconds = 1e-4, .stop = {}};
  for (const StreamKernels* kernels : all_kernels()) {
    for (const StreamAccess access : kStreamAccesses) {
      const auto rates = stream_rates(team, *kernels, access, 16 * kKiB, repeats);
      ASSERT_TRUE(rates);
      EXPECT_EQ(rates->size(), kernels->write_past == nullptr && access == StreamAccess::write_past ? 0U : 4U);
      for (const double rate : *rates) {
        EXPECT_GT(rate, 1e6);
        EXPECT_LT(rate, 1e14);
      }
    }
  }
  const auto refused = stream_rates(team, *all_kernels()[0], StreamAccess::read, std::size_t{1} << 50, repeats);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::no_memory);
}

TEST(StreamRates, StopsWhenAsked) {
  ThreadTeam team(2);
  int asked = 0;
  const Repeats repeats{.warmup = 0, .measured = 1000, .seconds = 1e-5, .stop = [&] { return ++asked >= 30; }};
  const auto rates = stream_rates(team, *all_kernels()[0], StreamAccess::read, 4 * kKiB, repeats);
  ASSERT_TRUE(rates);
  EXPECT_LT(rates->size(), 30U);
}

TEST(PageBlock, IsZeroedAlignedAndWritable) {
  for (const bool huge : {false, true}) {
    PageBlock block(8 * kMiB, huge);
    ASSERT_NE(block.data(), nullptr);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(block.data()) % (2 * kMiB), 0U);
    EXPECT_EQ(block.data()[8 * kMiB - 1], std::byte{0});
    std::memset(block.data(), 1, block.bytes());
    EXPECT_LE(block.huge_bytes(), 16 * kMiB);
    if (!huge) {
      EXPECT_EQ(block.huge_bytes(), 0U);
    }
    PageBlock other = std::move(block);
    EXPECT_EQ(other.data()[5], std::byte{1});
  }
  EXPECT_EQ(PageBlock(0, true).data(), nullptr);
  EXPECT_EQ(PageBlock(std::size_t{1} << 60, true).data(), nullptr);
}

}  // namespace
}  // namespace quern
