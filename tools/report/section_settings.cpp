// Settings that have no number: instruction set, affinity, type of the KV cache, what is switched off.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "report/html.hpp"
#include "report/sections.hpp"
#include "report/series.hpp"
#include "report/svg_plot.hpp"
#include "summary_report.hpp"

namespace quern::tools {

namespace {

/// Settings that have a section of their own, or name what is measured.
constexpr std::array<std::string_view, 8> kElsewhere{"threads", "depth",     "prompt", "context",
                                                     "batch",   "sequences", "model",  "parameters"};

std::vector<std::string> setting_names(const ReportData& data) {
  std::vector<std::string> names;
  for (const Measurement& one : data.measurements) {
    for (const auto& [name, value] : one.settings) {
      if (std::find(kElsewhere.begin(), kElsewhere.end(), name) == kElsewhere.end() &&
          std::find(names.begin(), names.end(), name) == names.end()) {
        names.push_back(name);
      }
    }
  }
  return names;
}

}  // namespace

std::string section_settings(const ReportData& data) {
  std::string html;
  for (const std::string& name : setting_names(data)) {
    const std::vector<SettingSeries> all = series_along(data, name, false);
    if (all.empty()) continue;
    BarPlot plot{.title = "Speed by " + name,
                 .description = fmt::format("Tokens a second by {}, over the slowest of each group.", name),
                 .axis = "times the slowest",
                 .bars = {},
                 .reference = 1.0};
    HtmlTable table{.caption = plot.title, .columns = {"series", name, "tokens/s", "times the slowest"}, .rows = {}};
    plot.title += plotted_text(all.size());
    const std::vector<bool> shown = plotted(all);
    for (const SettingSeries& series : all) {
      const auto slowest = std::min_element(series.points.begin(), series.points.end(), [](const auto& a, const auto& b) {
        return a.at->rate.median < b.at->rate.median;
      });
      for (const SeriesPoint& point : series.points) {
        const Comparison beside = compare(slowest->at->rate, point.at->rate);
        const bool base = &point == &*slowest;
        Bar bar{
            .label = series.name + ": " + point.value, .value = beside.ratio, .text = fmt::format("{:.2f}", beside.ratio)};
        if (!base) {
          bar.low = beside.ratio_low;
          bar.high = beside.ratio_high;
        }
        if (shown[static_cast<std::size_t>(&series - all.data())]) plot.bars.push_back(std::move(bar));
        table.rows.push_back(
            {series.name, point.value, summary_text(point.at->rate),
             base ? "1" : fmt::format("{:.2f} [{:.2f}-{:.2f}]", beside.ratio, beside.ratio_low, beside.ratio_high)});
      }
    }
    html += figure(bar_plot(plot), table);
  }
  return html;
}

}  // namespace quern::tools
