// The progress bar: its line at any width, and what a log gets.
#include "progress.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <string>

namespace quern::tools {
namespace {

TEST(ProgressLine, KnownTotals) {
  EXPECT_EQ(progress_line({"encoding", 2'500'000, 10'000'000, "B", 1.0}, 100, false),
            "encoding    [#######.......................]   25 %  2.5 MB  2.5 MB/s  0:03 left");
  EXPECT_EQ(progress_line({"merging", 4096, 4096, "tokens", 2.0}, 100, false),
            "merging     [##############################]  100 %  4.1k tokens  2.0k tokens/s");
  EXPECT_EQ(progress_line({"training", 1, 7201, "steps", 1.0}, 100, false),
            "training    [..............................]    0 %  1 steps  1 steps/s  2:00:00 left");
}

TEST(ProgressLine, UnknownTotalsHaveNoBar) {
  EXPECT_EQ(progress_line({"reading", 1500, 0, "B", 0.5}, 80, false), "reading     1.5 kB  3.0 kB/s");
  EXPECT_EQ(progress_line({"reading", 0, 0, "B", 0.0}, 80, false), "reading     0 B");
}

TEST(ProgressLine, NeverWiderThanTheTerminal) {
  for (std::size_t columns = 0; columns < 130; ++columns) {
    for (const std::int64_t total : {0, 10, 1000000}) {
      EXPECT_LE(progress_line({"a stage with a long name", 777, total, "tokens", 3.5}, columns, false).size(), columns);
    }
  }
}

TEST(ProgressLine, OddNumbersStayInside) {
  const std::string over = progress_line({"x", 20, 10, "B", 1.0}, 80, false);
  EXPECT_NE(over.find("100 %"), std::string::npos) << over;
  EXPECT_NE(progress_line({"x", -5, 10, "B", 1.0}, 80, false).find("0 %"), std::string::npos);
  EXPECT_NE(progress_line({"x", 1, INT64_MAX, "B", 1.0}, 80, false).find("99:59:59 left"), std::string::npos);
}

TEST(ProgressLine, ColourIsOnlyAroundTheBar) {
  const ProgressState state{"x", 5, 10, "B", 1.0};
  std::string coloured = progress_line(state, 80, true);
  EXPECT_NE(coloured.find("\x1b[32m#"), std::string::npos);
  for (const std::string code : {"\x1b[32m", "\x1b[0m"}) coloured.erase(coloured.find(code), code.size());
  EXPECT_EQ(coloured, progress_line(state, 80, false));
}

TEST(Progress, ALogGetsNoEscapesAndNoLinesOfShortStages) {
  std::FILE* file = std::tmpfile();
  ASSERT_NE(file, nullptr);
  {
    Progress progress(file);
    for (int i = 0; i < 1000; ++i) progress.update("one", i, 1000, "B");
    progress.update("two", 1, 2, "B");
  }
  EXPECT_EQ(std::ftell(file), 0);
  std::fclose(file);
}

TEST(Progress, TerminalsThatCannotRedrawAreNoTerminals) {
  std::FILE* file = std::tmpfile();
  ASSERT_NE(file, nullptr);
  EXPECT_FALSE(is_live_terminal(fileno(file)));
  EXPECT_EQ(terminal_columns(fileno(file)), 80U);
  std::fclose(file);
}

}  // namespace
}  // namespace quern::tools
