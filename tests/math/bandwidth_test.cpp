// Measured figures of this machine: only what must hold on any.
#include "math/bandwidth.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <fstream>

#include "math/aligned_buffer.hpp"
#include "math/process_memory.hpp"

namespace quern {
namespace {

TEST(MemoryReadBandwidth, IsPlausibleAndQuick) {
  for (const int threads : {1, 2}) {
    ThreadTeam team(threads);
    const auto start = std::chrono::steady_clock::now();
    const double bandwidth = memory_read_bandwidth(team, 0.01);
    EXPECT_GT(bandwidth, 5e7);   // a crowded machine, with sanitizers
    EXPECT_LT(bandwidth, 1e13);  // no cache is that fast
    EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(), 20.0);
  }
}

TEST(PeakResidentBytes, CountsWhatIsTouchedAndNeverFalls) {
  const std::size_t before = peak_resident_bytes();
  ASSERT_GT(before, 0U);
  constexpr std::size_t kBytes = std::size_t{64} << 20;
  {
    auto buffer = AlignedBuffer::allocate(before + kBytes);
    ASSERT_TRUE(buffer);
    std::memset(buffer->data(), 1, buffer->bytes());
    EXPECT_GE(peak_resident_bytes(), before + kBytes / 2);
  }
  const std::size_t peak = peak_resident_bytes();
  EXPECT_GE(peak, before + kBytes / 2);
  forget_peak_resident();
  EXPECT_LE(peak_resident_bytes(), peak);  // and where the system allows it, well below: the buffer is gone
  if (std::ofstream("/proc/self/clear_refs")) {
    EXPECT_LT(peak_resident_bytes(), peak - kBytes / 4);
  }
}

}  // namespace
}  // namespace quern
