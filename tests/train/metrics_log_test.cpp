#include "train/metrics_log.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "support/malloc_counter.hpp"
#include "support/tests_paths.hpp"

namespace quern {
namespace {

class MetricsLogTest : public testing::Test {
 protected:
  std::string text() const {
    std::ifstream file(path_, std::ios::binary);
    std::ostringstream all;
    all << file.rdbuf();
    return all.str();
  }
  std::vector<nlohmann::json> lines() const {
    std::vector<nlohmann::json> parsed;
    std::istringstream all(text());
    for (std::string line; std::getline(all, line);) parsed.push_back(nlohmann::json::parse(line));
    return parsed;
  }
  void write(const std::string& content) const { std::ofstream(path_, std::ios::binary) << content; }

  std::unique_ptr<MetricsLog> open(std::int64_t resumed_step = -1) const {
    auto log = MetricsLog::open(path_, resumed_step);
    EXPECT_TRUE(log.has_value()) << (log ? "" : log.error().message);
    return log ? std::move(*log) : nullptr;
  }

  TemporaryFolder folder_;
  const std::string path_ = (folder_ / "metrics.jsonl").string();
};

MetricsRecord record_of(std::int64_t step) {
  return {.step = step,
          .train_loss = 4.0 / static_cast<double>(step + 1),
          .evaluated = step % 4 == 0,
          .val_loss = 2.5,
          .val_bits_per_byte = 1.25,
          .learning_rate = 1e-3,
          .gradient_norm = 0.1,
          .tokens = step * 4096,
          .tokens_per_second = 5740.5,
          .gflops = 512.25,
          .peak_fraction = 0.75,
          .seconds = 0.5 * static_cast<double>(step)};
}

void push(MetricsLog& log, std::int64_t step) {
  const auto pushed = log.push(record_of(step));
  EXPECT_TRUE(pushed.has_value()) << pushed.error().message;
}

TEST_F(MetricsLogTest, WritesTheDocumentedKeysInOrder) {
  EXPECT_EQ(metrics_line(record_of(1)),
            R"({"step": 1, "train_loss": 2, "learning_rate": 0.001, "gradient_norm": 0.1, "tokens": 4096, )"
            R"("tokens_per_second": 5740.5, "gflops": 512.25, "peak_fraction": 0.75, "seconds": 0.5})");
  EXPECT_EQ(
      metrics_line(record_of(4)),
      R"({"step": 4, "train_loss": 0.8, "val_loss": 2.5, "val_bits_per_byte": 1.25, "learning_rate": 0.001, )"
      R"("gradient_norm": 0.1, "tokens": 16384, "tokens_per_second": 5740.5, "gflops": 512.25, "peak_fraction": 0.75, )"
      R"("seconds": 2})");
}

TEST_F(MetricsLogTest, NumbersRoundTripAndNonFiniteOnesAreNull) {
  MetricsRecord record = record_of(0);
  record.train_loss = std::numeric_limits<double>::quiet_NaN();
  record.gradient_norm = std::numeric_limits<double>::infinity();
  record.val_loss = -std::numeric_limits<double>::infinity();
  record.seconds = 0.1 + 0.2;
  record.gflops = 1e300;
  record.peak_fraction = 5e-324;
  const auto json = nlohmann::json::parse(metrics_line(record));
  EXPECT_TRUE(json["train_loss"].is_null());
  EXPECT_TRUE(json["gradient_norm"].is_null());
  EXPECT_TRUE(json["val_loss"].is_null());
  EXPECT_EQ(json["seconds"].get<double>(), 0.1 + 0.2);
  EXPECT_EQ(json["gflops"].get<double>(), 1e300);
  EXPECT_EQ(json["peak_fraction"].get<double>(), 5e-324);
}

TEST_F(MetricsLogTest, KeepsEveryRecordInOrderWhenThereAreMoreThanTheRingHolds) {
  const std::int64_t count = 5 * static_cast<std::int64_t>(MetricsLog::kRingRecords) + 3;
  auto log = open();
  for (std::int64_t step = 0; step < count; ++step) ASSERT_TRUE(log->push(record_of(step)).has_value());
  ASSERT_TRUE(log->close().has_value());
  const auto read = lines();
  ASSERT_EQ(read.size(), static_cast<std::size_t>(count));
  for (std::int64_t step = 0; step < count; ++step) ASSERT_EQ(read[static_cast<std::size_t>(step)]["step"], step);
}

TEST_F(MetricsLogTest, FlushMakesLinesVisibleAndTheDestructorWritesTheRest) {
  auto log = open();
  EXPECT_TRUE(log->flush().has_value());
  ASSERT_TRUE(log->push(record_of(1)).has_value());
  ASSERT_TRUE(log->flush().has_value());
  EXPECT_EQ(lines().size(), 1U);
  ASSERT_TRUE(log->push(record_of(2)).has_value());
  log.reset();
  EXPECT_EQ(lines().size(), 2U);
}

TEST_F(MetricsLogTest, PushAllocatesNothing) {
  if (!malloc_counting_available()) GTEST_SKIP() << "this build's malloc cannot be counted (sanitizers bring their own)";
  count_thread_outside("quern-metrics");
  auto log = open();
  const MetricsRecord record = record_of(4);
  bool all = true;
  start_malloc_counting();
  for (int i = 0; i < 3000; ++i) all = log->push(record).has_value() && all;
  const MallocCounts counts = stop_malloc_counting();
  EXPECT_TRUE(all);
  EXPECT_EQ(counts.inside, 0U);
  EXPECT_GT(counts.outside, 0U) << "the counter does not see the writer";
}

TEST_F(MetricsLogTest, ClosedLogRefusesRecords) {
  auto log = open();
  ASSERT_TRUE(log->close().has_value());
  EXPECT_TRUE(log->close().has_value());
  const auto pushed = log->push(record_of(1));
  ASSERT_FALSE(pushed.has_value());
  EXPECT_NE(pushed.error().message.find("closed"), std::string::npos);
}

TEST_F(MetricsLogTest, FreshRunEmptiesTheFile) {
  write("rubbish\n");
  push(*open(), 7);
  ASSERT_EQ(lines().size(), 1U);
  EXPECT_EQ(lines()[0]["step"], 7);
}

TEST_F(MetricsLogTest, ResumedFileEqualsTheOneOfARunThatNeverStopped) {
  {
    auto log = open();
    for (std::int64_t step = 0; step <= 10; ++step) push(*log, step);
  }
  const std::string never_stopped = text();
  {
    auto log = open();
    for (std::int64_t step = 0; step <= 7; ++step) push(*log, step);
  }
  {
    auto log = open(5);
    for (std::int64_t step = 6; step <= 10; ++step) push(*log, step);
  }
  EXPECT_EQ(text(), never_stopped);
}

TEST_F(MetricsLogTest, ResumeDropsATornLastLine) {
  const std::string whole = metrics_line(record_of(1)) + "\n";
  for (const std::string& torn : {metrics_line(record_of(2)), metrics_line(record_of(2)).substr(0, 9), std::string("{")}) {
    write(whole + torn);
    open(100).reset();
    EXPECT_EQ(text(), whole);
  }
}

TEST_F(MetricsLogTest, ResumeWithoutAFileStartsOne) {
  push(*open(5), 6);
  EXPECT_EQ(lines().size(), 1U);
}

TEST_F(MetricsLogTest, ResumeNamesALineThatIsNotOurs) {
  for (const std::string bad : {"hello", "[1]", "{\"step\": 1.5}", "{\"loss\": 1}", "", "{\"step\": 1} {}"}) {
    const std::string content = metrics_line(record_of(1)) + "\n" + bad + "\n" + metrics_line(record_of(3)) + "\n";
    write(content);
    const auto log = MetricsLog::open(path_, 10);
    ASSERT_FALSE(log.has_value()) << bad;
    EXPECT_EQ(log.error().code, ErrorCode::bad_input);
    EXPECT_NE(log.error().message.find(path_ + ":2: "), std::string::npos) << log.error().message;
    EXPECT_EQ(text(), content) << "a file that was refused was changed";
  }
}

TEST_F(MetricsLogTest, FolderThatDoesNotExistIsAnError) {
  const auto log = MetricsLog::open((folder_ / "absent/metrics.jsonl").string());
  ASSERT_FALSE(log.has_value());
  EXPECT_EQ(log.error().code, ErrorCode::io);
  EXPECT_NE(log.error().message.find("absent"), std::string::npos);
}

// A file-size limit stands for a full disk: the writes that cross it come back short, then fail.
TEST_F(MetricsLogTest, FailedWritesSurfaceAndLeaveWholeLines) {
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 1000;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  auto log = open();
  Result<void> result;
  std::int64_t pushed = 0;
  for (; pushed < 100 && result; ++pushed) {
    result = log->push(record_of(pushed));
    if (result) result = log->flush();
  }
  const auto after = log->push(record_of(pushed));
  const auto closed = log->close();
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);

  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().code, ErrorCode::io);
  EXPECT_NE(result.error().message.find(path_), std::string::npos);
  EXPECT_FALSE(after.has_value());
  EXPECT_FALSE(closed.has_value());
  EXPECT_EQ(text().back(), '\n');
  EXPECT_EQ(lines().size(), static_cast<std::size_t>(pushed - 1));
}

// The ring fills behind a writer that stopped on an error; a push must return, not wait for ever.
TEST_F(MetricsLogTest, PushReturnsWhenTheWriterHasFailed) {
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 10;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  auto log = open();
  bool failed = false;
  for (std::size_t i = 0; i < 3 * MetricsLog::kRingRecords && !failed; ++i) failed = !log->push(record_of(1)).has_value();
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_TRUE(failed);
  EXPECT_EQ(text(), "");
}

}  // namespace
}  // namespace quern
