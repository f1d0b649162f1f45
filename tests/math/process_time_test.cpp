#include "math/process_time.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

namespace quern {
namespace {

TEST(ProcessTime, GrowsWithTheClock) {
  const double before = process_age_seconds();
  ASSERT_GT(before, 0.0);
  EXPECT_LT(before, 3600.0) << "a test program is not that old";
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  EXPECT_GT(process_age_seconds(), before + 0.02);
}

}  // namespace
}  // namespace quern
