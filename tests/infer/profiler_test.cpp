// Totals by kind and phase, and the trace file.
#include "infer/profiler.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

namespace quern {
namespace {

using std::chrono::milliseconds;

Profiler profiled() {
  Profiler profiler;
  profiler.begin(WorkPhase::prefill, 7, 1);
  std::this_thread::sleep_for(milliseconds(4));
  profiler.mark(WorkKind::embedding, -1);
  for (int layer = 0; layer < 2; ++layer) {
    std::this_thread::sleep_for(milliseconds(2));
    profiler.mark(WorkKind::attention, layer);
  }
  profiler.end();
  for (int pass = 0; pass < 3; ++pass) {
    profiler.begin(WorkPhase::decode, 1, 1);
    profiler.mark(WorkKind::attention, 0);
    profiler.mark(WorkKind::head, -1);
    profiler.end();
  }
  return profiler;
}

TEST(Profiler, CountsTimeTokensAndPasses) {
  const Profiler profiler = profiled();
  EXPECT_EQ(profiler.tokens(WorkPhase::prefill), 7);
  EXPECT_EQ(profiler.tokens(WorkPhase::decode), 3);
  EXPECT_EQ(profiler.passes(WorkPhase::prefill).count, 1);
  EXPECT_EQ(profiler.passes(WorkPhase::decode).count, 3);
  EXPECT_EQ(profiler.total(WorkPhase::prefill, WorkKind::attention).count, 2);
  EXPECT_EQ(profiler.total(WorkPhase::decode, WorkKind::attention).count, 3);
  EXPECT_EQ(profiler.total(WorkPhase::decode, WorkKind::feed_forward).count, 0);
  const double embedding = profiler.total(WorkPhase::prefill, WorkKind::embedding).seconds;
  const double attention = profiler.total(WorkPhase::prefill, WorkKind::attention).seconds;
  EXPECT_GE(embedding, 0.004);
  EXPECT_GE(attention, 0.004);
  EXPECT_GE(profiler.passes(WorkPhase::prefill).seconds, embedding + attention - 1e-9);
}

TEST(Profiler, TraceIsTraceEventFormat) {
  const std::string path = testing::TempDir() + "trace" + std::to_string(getpid()) + ".json";
  const auto written = profiled().write_trace(path);
  ASSERT_TRUE(written) << written.error().message;
  std::ifstream file(path);
  const auto json = nlohmann::json::parse(file, nullptr, false);
  ASSERT_TRUE(json.is_object());
  int events = 0;
  double last_end[2] = {0.0, 0.0};
  for (const auto& event : json["traceEvents"]) {
    if (event["ph"] != "X") continue;
    ++events;
    const auto track = event["tid"].get<std::size_t>();
    EXPECT_EQ(event["cat"], track == 0 ? "prefill" : "decode");
    EXPECT_GE(event["ts"].get<double>() + 0.002, last_end[track]) << "events of a track follow each other";
    EXPECT_GE(event["dur"].get<double>(), 0.0);
    last_end[track] = event["ts"].get<double>() + event["dur"].get<double>();
    EXPECT_EQ(event.contains("args"), event["name"] == "attention") << "only work of a layer names one";
    if (event.contains("args")) {
      EXPECT_TRUE(event["args"]["layer"].is_number_integer());
    }
  }
  EXPECT_EQ(events, 3 + 6);
  EXPECT_EQ(json["otherData"]["events_left_out"], 0);
  std::remove(path.c_str());
}

TEST(Profiler, UnwritableTraceIsAnError) { EXPECT_FALSE(profiled().write_trace("/nowhere/at/all/trace.json")); }

}  // namespace
}  // namespace quern
