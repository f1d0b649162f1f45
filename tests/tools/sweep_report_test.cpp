// What a sweep says of rows: verdicts from intervals, and columns for what differs.
#include "sweep_report.hpp"

#include <gtest/gtest.h>

namespace quern::tools {
namespace {

/// Ten rounds around a rate, evenly up to `spread` on either side.
std::vector<double> rounds(double rate, double spread) {
  std::vector<double> rates;
  for (int i = 0; i < 10; ++i) rates.push_back(rate + spread * (static_cast<double>(i) - 4.5) / 4.5);
  return rates;
}

SweepRow row(const std::string& work, const std::string& threads, std::vector<double> rates) {
  return {.kind = "decode", .work = work, .settings = {{"threads", threads}, {"type", "a,b"}}, .rates = std::move(rates)};
}

std::vector<std::string> verdicts(const std::vector<SweepRow>& rows) {
  std::vector<std::string> words;
  for (const SweepFigure& figure : sweep_figures(rows)) words.emplace_back(to_word(figure.verdict));
  return words;
}

TEST(SweepReport, OverlappingIntervalsAreNeverCalledDifferent) {
  const std::vector<SweepRow> rows = {row("x", "1", rounds(100, 2)), row("x", "2", rounds(101, 2)),
                                      row("x", "3", rounds(90, 2))};
  EXPECT_EQ(verdicts(rows), (std::vector<std::string>{"among the fastest", "among the fastest", "slower"}));
}

TEST(SweepReport, FastestIsApartFromAllOthers) {
  const std::vector<SweepRow> rows = {row("x", "1", rounds(100, 2)), row("x", "2", rounds(110, 2)),
                                      row("x", "3", rounds(90, 2))};
  EXPECT_EQ(verdicts(rows), (std::vector<std::string>{"slower", "fastest", "slower"}));
}

TEST(SweepReport, AWideIntervalKeepsAHighMedianFromBeingFastest) {
  // The second lies below the first, the third is so spread that it may be as fast as either.
  const std::vector<SweepRow> rows = {row("x", "1", rounds(110, 1)), row("x", "2", rounds(100, 1)),
                                      row("x", "3", rounds(104, 40))};
  EXPECT_EQ(verdicts(rows), (std::vector<std::string>{"among the fastest", "slower", "among the fastest"}));
}

TEST(SweepReport, OnlyTheSameWorkIsCompared) {
  const std::vector<SweepRow> rows = {row("x", "1", rounds(100, 2)), row("y", "1", rounds(10, 1)),
                                      row("y", "2", rounds(20, 1))};
  EXPECT_EQ(verdicts(rows), (std::vector<std::string>{"alone", "slower", "fastest"}));
}

TEST(SweepReport, FewRoundsGetNoVerdict) {
  const std::vector<SweepRow> rows = {row("x", "1", {100, 100, 100, 100, 100}), row("x", "2", {1, 1, 1, 1, 1}),
                                      row("x", "3", {})};
  EXPECT_EQ(verdicts(rows), (std::vector<std::string>{"too few rounds", "too few rounds", "alone"}));
}

TEST(SweepReport, SharedSettingsStandAboveTheTable) {
  const std::vector<SweepRow> rows = {row("x", "1", rounds(100, 2)), row("x", "2", rounds(110, 2))};
  const std::string table = sweep_table(rows);
  EXPECT_EQ(
      table.rfind("Everywhere: type a,b\n\n| | threads | tokens/s | spread | of the highest | verdict | memory |\n", 0), 0U)
      << table;
  EXPECT_NE(table.find("\n| decode | 2 | 110 [108-112] | 1.8 % | 1 | fastest | - |\n"), std::string::npos) << table;
}

TEST(SweepReport, CsvQuotesWhatHasCommas) {
  std::vector<SweepRow> rows = {row("x", "1", rounds(100, 2))};
  rows[0].settings[1].second = "a,\"b\"";
  EXPECT_NE(sweep_csv(rows).find("\ndecode,1,\"a,\"\"b\"\"\",10,100,"), std::string::npos) << sweep_csv(rows);
}

}  // namespace
}  // namespace quern::tools
