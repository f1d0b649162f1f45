#include <fmt/format.h>

#include <algorithm>

#include "report/html.hpp"
#include "report/sections.hpp"
#include "report/series.hpp"
#include "report/svg_plot.hpp"
#include "summary_report.hpp"

namespace quern::tools {

std::string section_scaling(const ReportData& data) {
  std::vector<SettingSeries> all = series_along(data, "threads", true);
  if (all.empty()) return "";
  Plot speedup{.title = "Speed-up by threads",
               .description = "Tokens a second over those of the fewest threads, by threads, beside the ideal line.",
               .x = {.title = "threads", .scale = Scale::powers_of_two},
               .y = {.title = "speed-up", .scale = Scale::powers_of_two},
               .series = {}};
  Plot efficiency{.title = "Efficiency by threads",
                  .description = "Speed-up over the number of threads, by threads, beside the line of 50 percent.",
                  .x = {.title = "threads", .scale = Scale::powers_of_two},
                  .y = {.title = "efficiency, %", .from = 0.0},
                  .series = {}};
  HtmlTable speedups{.caption = "Speed by threads", .columns = {"series", "threads", "tokens/s", "speed-up"}, .rows = {}};
  HtmlTable efficiencies{.caption = "Efficiency by threads", .columns = {"series", "threads", "efficiency"}, .rows = {}};
  speedup.title += plotted_text(all.size());
  efficiency.title += plotted_text(all.size());
  const std::vector<bool> shown = plotted(all);
  double least = 1e9, most = 0.0;
  for (const SettingSeries& series : all) {
    const SeriesPoint& first = series.points.front();
    PlotSeries up{.name = series.name, .points = {}}, per_thread{.name = series.name, .points = {}};
    for (const SeriesPoint& point : series.points) {
      const Comparison beside = compare(first.at->rate, point.at->rate);
      const double threads = point.x / first.x;
      const bool base = &point == &first;
      up.points.push_back({.x = point.x, .y = beside.ratio});
      per_thread.points.push_back({.x = point.x, .y = 100.0 * beside.ratio / threads});
      if (!base) {
        up.points.back().low = beside.ratio_low;
        up.points.back().high = beside.ratio_high;
        per_thread.points.back().low = 100.0 * beside.ratio_low / threads;
        per_thread.points.back().high = 100.0 * beside.ratio_high / threads;
      }
      speedups.rows.push_back(
          {series.name, point.value, summary_text(point.at->rate),
           base ? "1" : fmt::format("{:.2f} [{:.2f}-{:.2f}]", beside.ratio, beside.ratio_low, beside.ratio_high)});
      efficiencies.rows.push_back({series.name, point.value, fmt::format("{:.0f} %", 100.0 * beside.ratio / threads)});
      least = std::min(least, point.x);
      most = std::max(most, point.x);
    }
    if (!shown[static_cast<std::size_t>(&series - all.data())]) continue;
    speedup.series.push_back(std::move(up));
    efficiency.series.push_back(std::move(per_thread));
  }
  speedup.series.push_back(
      {.name = "ideal", .points = {{.x = least, .y = 1.0}, {.x = most, .y = most / least}}, .reference = true});
  efficiency.series.push_back(
      {.name = "ideal", .points = {{.x = least, .y = 100.0}, {.x = most, .y = 100.0}}, .reference = true});
  efficiency.series.push_back(
      {.name = "50 %", .points = {{.x = least, .y = 50.0}, {.x = most, .y = 50.0}}, .reference = true});
  return figure(svg_plot(speedup), speedups) + figure(svg_plot(efficiency), efficiencies);
}

}  // namespace quern::tools
