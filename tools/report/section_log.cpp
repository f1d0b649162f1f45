#include <fmt/format.h>

#include "report/html.hpp"
#include "report/optimization_log.hpp"
#include "report/sections.hpp"
#include "report/svg_plot.hpp"
#include "summary_report.hpp"

namespace quern::tools {

namespace {

/// Figures that are shown step by step; the others have their ends in the first table.
constexpr std::size_t kMostDetailed = 4;

std::string ratio_text(const Comparison& beside) {
  return fmt::format("{:.2f} [{:.2f}-{:.2f}]", beside.ratio, beside.ratio_low, beside.ratio_high);
}

std::string verdict(Difference difference) {
  return difference == Difference::higher ? "faster" : difference == Difference::lower ? "slower" : "not told apart";
}

}  // namespace

std::string section_log(const ReportData& data) {
  const std::vector<LogFigure> figures = log_figures(data);
  if (figures.empty()) return "";
  BarPlot ends{
      .title = fmt::format("{} against {}", data.sources[data.log.back()].label, data.sources[data.log.front()].label),
      .description = "Tokens a second of the last result over those of the first, a bar for each figure.",
      .axis = "times as fast",
      .bars = {},
      .reference = 1.0};
  HtmlTable table{
      .caption = ends.title, .columns = {"figure", "first, tokens/s", "last, tokens/s", "times as fast", ""}, .rows = {}};
  std::string steps;
  std::size_t detailed = 0;
  for (const LogFigure& figure : figures) {
    const LogStep &first = figure.steps.front(), &last = figure.steps.back();
    ends.bars.push_back({.label = figure.name,
                         .value = last.total.ratio,
                         .low = last.total.ratio_low,
                         .high = last.total.ratio_high,
                         .text = fmt::format("{:.2f}", last.total.ratio)});
    table.rows.push_back({figure.name, summary_text(first.rate), summary_text(last.rate), ratio_text(last.total),
                          verdict(last.total.difference)});
    if (figure.steps.size() < 3 || detailed++ == kMostDetailed) continue;
    BarPlot plot{.title = "Step by step: " + figure.name,
                 .description = "Tokens a second over those of the first step, a bar for each step, from first to last.",
                 .axis = "times the first step",
                 .bars = {},
                 .reference = 1.0};
    HtmlTable log{.caption = "Optimization log: " + figure.name,
                  .columns = {"step", "tokens/s", "gain of the step", "", "running total"},
                  .rows = {}};
    for (const LogStep& step : figure.steps) {
      const bool base = &step == &first;
      Bar bar{.label = step.label, .value = step.total.ratio, .text = fmt::format("{:.2f}", step.total.ratio)};
      if (!base) {
        bar.low = step.total.ratio_low;
        bar.high = step.total.ratio_high;
      }
      plot.bars.push_back(std::move(bar));
      log.rows.push_back({step.label, summary_text(step.rate), base ? "" : ratio_text(step.gain),
                          base ? "" : verdict(step.gain.difference), base ? "1" : ratio_text(step.total)});
    }
    steps += tools::figure(bar_plot(plot), log);
  }
  return tools::figure(bar_plot(ends), table) + steps;
}

}  // namespace quern::tools
