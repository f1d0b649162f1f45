// Speed by a number: length of the context, sequences decoded together, micro-batch.
#include <fmt/format.h>

#include "report/html.hpp"
#include "report/sections.hpp"
#include "report/series.hpp"
#include "report/svg_plot.hpp"
#include "summary_report.hpp"

namespace quern::tools {

namespace {

struct Curve {
  const char* setting;
  const char* what;  ///< only series of these
  std::string title;
  const char* axis;
  Scale scale = Scale::powers_of_two;
};

/// Series along a setting that are of one kind of measurement.
std::vector<SettingSeries> series_of(const ReportData& data, const Curve& curve) {
  std::vector<SettingSeries> all = series_along(data, curve.setting, true);
  std::erase_if(all, [&](const SettingSeries& series) { return series.what != curve.what; });
  return all;
}

std::string speed_curve(const ReportData& data, const Curve& curve) {
  const std::vector<SettingSeries> all = series_of(data, curve);
  if (all.empty()) return "";
  const std::vector<bool> shown = plotted(all);
  Plot plot{.title = curve.title + plotted_text(all.size()),
            .description = fmt::format("Tokens a second by {}, with intervals.", curve.axis),
            .x = {.title = curve.axis, .scale = curve.scale},
            .y = {.title = "tokens/s"},
            .series = {}};
  HtmlTable table{.caption = curve.title, .columns = {"series", curve.axis, "tokens/s", "of the first"}, .rows = {}};
  for (const SettingSeries& series : all) {
    PlotSeries line{.name = series.name, .points = {}};
    for (const SeriesPoint& point : series.points) {
      const Summary& rate = point.at->rate;
      line.points.push_back({.x = point.x, .y = rate.median, .low = rate.low, .high = rate.high});
      table.rows.push_back({series.name, point.value, summary_text(rate),
                            fmt::format("{:.2f}", rate.median / series.points.front().at->rate.median)});
    }
    if (shown[static_cast<std::size_t>(&series - all.data())]) plot.series.push_back(std::move(line));
  }
  return figure(svg_plot(plot), table);
}

/// What a step of decode reads: of weights always as much, of keys and values more with every token.
std::string memory_curve(const ReportData& data) {
  const Curve curve{.setting = "depth", .what = "decode", .title = {}, .axis = "tokens in the cache"};
  Plot plot{.title = "Bytes that a step of decode reads, by tokens in the cache",
            .description = "Megabytes of weights, keys and values that one step reads, by tokens in the cache.",
            .x = {.title = curve.axis},
            .y = {.title = "MB a step", .from = 0.0},
            .series = {}};
  HtmlTable table{.caption = plot.title,
                  .columns = {"series", curve.axis, "all", "keys and values", "of the memory's speed"},
                  .rows = {}};
  const std::vector<SettingSeries> all = series_of(data, curve);
  plot.title += plotted_text(all.size());
  const std::vector<bool> shown = plotted(all);
  for (const SettingSeries& series : all) {
    PlotSeries line{.name = series.name, .points = {}};
    for (const SeriesPoint& point : series.points) {
      const Measurement& at = *point.at;
      if (!at.step_bytes || !at.kv_bytes || *at.step_bytes <= 0.0) continue;
      line.points.push_back({.x = point.x, .y = *at.step_bytes * 1e-6});
      table.rows.push_back({series.name, point.value, bytes_of(*at.step_bytes), bytes_of(*at.kv_bytes),
                            at.memory_share ? fmt::format("{:.0f} %", 100.0 * *at.memory_share) : ""});
    }
    const bool drawn = shown[static_cast<std::size_t>(&series - all.data())] && !line.points.empty();
    if (drawn) plot.series.push_back(std::move(line));
  }
  return table.rows.empty() ? "" : figure(svg_plot(plot), table);
}

}  // namespace

std::string section_context(const ReportData& data) {
  return speed_curve(data, {"depth", "decode", "Decode by the length of the text", "tokens in the cache", Scale::linear}) +
         memory_curve(data) +
         speed_curve(data, {"prompt", "prefill", "Prefill by the length of the prompt", "tokens of the prompt"}) +
         speed_curve(data, {"context", "train", "Training by the length of sequences", "tokens of a sequence"});
}

std::string section_batch(const ReportData& data) {
  return speed_curve(data, {"sequences", "decode", "Decode of several sequences together", "sequences"}) +
         speed_curve(data, {"batch", "train", "Training by sequences of a micro-batch", "sequences"});
}

}  // namespace quern::tools
