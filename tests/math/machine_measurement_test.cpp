#include "math/machine_measurement.hpp"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace quern {
namespace {

/// A report of a small machine, so that blocks are small and the test is quick.
HardwareReport small_machine() {
  HardwareReport report;
  report.topology =
      read_topology({.synthetic = "l2:2(size=131072) l1d:1(size=16384) core:1 pu:1", .xml = {}}).value_or(MachineTopology{});
  report.features = cpu_features();
  report.memory.usable_bytes = std::uint64_t{16} << 20;  // blocks of 2 MiB
  report.default_threads = 2;
  return report;
}

TEST(MachineMeasurement, ThreadCounts) {
  EXPECT_EQ(default_thread_counts(1), (std::vector<int>{1}));
  EXPECT_EQ(default_thread_counts(2), (std::vector<int>{1, 2}));
  EXPECT_EQ(default_thread_counts(12), (std::vector<int>{1, 2, 4, 8, 12}));
  EXPECT_EQ(default_thread_counts(0), (std::vector<int>{1}));
}

TEST(MachineMeasurement, MeasuresEveryPart) {
  const KernelTable& kernels = *supported_kernels().front();
  std::set<std::string> stages;
  const auto measurement = measure_machine(small_machine(), kernels, {.thread_counts = {}, .warmup = 0, .measured = 1},
                                           {.progress =
                                                [&](std::string_view stage, std::int64_t done, std::int64_t total) {
                                                  stages.insert(std::string(stage));
                                                  EXPECT_LE(done, total);
                                                },
                                            .stop = {}});
  ASSERT_TRUE(measurement) << measurement.error().message;
  EXPECT_EQ(stages, (std::set<std::string>{"peaks", "bandwidth", "pages", "latency", "barriers", "clocks"}));
  EXPECT_FALSE(measurement->stopped);
  EXPECT_FALSE(measurement->peaks.empty());
  for (const PeakFigure& figure : measurement->peaks) EXPECT_EQ(figure.ops_per_second.count, 1);
  std::set<int> levels;
  for (const StreamFigure& figure : measurement->streams) {
    levels.insert(figure.level);
    EXPECT_GT(figure.bytes_per_second.median, 0.0);
  }
  EXPECT_EQ(levels, (std::set<int>{0, 1, 2}));
  EXPECT_EQ(measurement->streams.back().level, 0);  // memory last
  EXPECT_EQ(measurement->pages.size(), 2U);
  EXPECT_EQ(measurement->latencies.size(), 3U);
  EXPECT_EQ(measurement->barriers.size(), 1U);
  EXPECT_FALSE(measurement->clock_method.empty());
  EXPECT_GT(measurement->peak(PeakType::f32).median, 0.0);
  EXPECT_GT(measurement->bandwidth(0, StreamAccess::read).median, 0.0);
  EXPECT_EQ(measurement->bandwidth(7, StreamAccess::read).median, 0.0);
}

TEST(MachineMeasurement, BrieflyOnlyWhatAnEstimateNeeds) {
  const auto measurement = measure_machine(small_machine(), *supported_kernels().front(),
                                           {.thread_counts = {}, .warmup = 0, .measured = 2, .brief = true});
  ASSERT_TRUE(measurement);
  ASSERT_EQ(measurement->streams.size(), 1U);
  EXPECT_EQ(measurement->streams[0].threads, 2);
  EXPECT_EQ(measurement->streams[0].access, StreamAccess::read);
  EXPECT_TRUE(measurement->pages.empty());
  EXPECT_TRUE(measurement->clocks.empty());
}

TEST(MachineMeasurement, TheMostThreadsAnswer) {
  MachineMeasurement measurement;
  measurement.peaks.resize(2);
  measurement.peaks[0].threads = 4;
  measurement.peaks[0].ops_per_second.median = 40.0;
  measurement.peaks[1].threads = 1;
  measurement.peaks[1].ops_per_second.median = 10.0;
  EXPECT_EQ(measurement.peak(PeakType::f32).median, 40.0);
  EXPECT_EQ(measurement.peak(PeakType::int8).median, 0.0);
}

TEST(MachineMeasurement, StopsBetweenFigures) {
  int asked = 0;
  const auto measurement =
      measure_machine(small_machine(), *supported_kernels().back(), {.thread_counts = {1}, .measured = 2},
                      {.progress = {}, .stop = [&] { return ++asked > 12; }});
  ASSERT_TRUE(measurement);
  EXPECT_TRUE(measurement->stopped);
  EXPECT_TRUE(measurement->clocks.empty());
}

TEST(MachineMeasurement, OptionsOutOfRange) {
  const KernelTable& kernels = *supported_kernels().front();
  for (const MeasurementOptions& options :
       {MeasurementOptions{.thread_counts = {0}}, MeasurementOptions{.thread_counts = {1 << 20}},
        MeasurementOptions{.measured = 0}, MeasurementOptions{.warmup = -1}}) {
    const auto measurement = measure_machine(small_machine(), kernels, options);
    ASSERT_FALSE(measurement);
    EXPECT_EQ(measurement.error().code, ErrorCode::bad_input);
  }
}

}  // namespace
}  // namespace quern
