#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/html.hpp"
#include "report/sections.hpp"
#include "report/svg_plot.hpp"
#include "report/type_figures.hpp"
#include "summary_report.hpp"

namespace quern::tools {

std::string section_types(const ReportData& data) {
  const std::vector<TypeFigure> types = type_figures(data);
  if (types.size() < 2) return "";
  Plot speed{.title = "Speed by size",
             .description = "Tokens a second of decode by the size of the weights, a point for each type.",
             .x = {.title = "weights, MB", .from = 0.0},
             .y = {.title = "decode, tokens/s", .from = 0.0},
             .series = {{.name = "", .points = {}, .line = false}}};
  Plot quality;
  quality.title = "Perplexity by size";
  quality.description = "Perplexity, lower is better, by the size of the weights, a point for each type.";
  quality.x = speed.x;
  quality.y.title = "perplexity";
  quality.series = {{.name = "", .points = {}, .line = false}};
  HtmlTable table{.caption = "Types", .columns = {"model", "weights", "decode, tokens/s"}, .rows = {}};
  HtmlTable costs{.caption = "Perplexity by size", .columns = {"model", "weights", "perplexity"}, .rows = {}};
  double least = INFINITY, most = 0.0;
  for (const TypeFigure& type : types) {
    const double megabytes = type.weight_bytes * 1e-6;
    if (type.rate) {
      speed.series[0].points.push_back(
          {.x = megabytes, .y = type.rate->median, .low = type.rate->low, .high = type.rate->high, .label = type.name});
    }
    if (type.perplexity) {
      const auto [value, error] = *type.perplexity;
      quality.series[0].points.push_back(
          {.x = megabytes, .y = value, .low = value - error, .high = value + error, .label = type.name});
      least = std::min(least, value - error);
      most = std::max(most, value + error);
    }
    table.rows.push_back({type.name, bytes_of(type.weight_bytes), type.rate ? summary_text(*type.rate) : ""});
    if (type.perplexity) {
      costs.rows.push_back({type.name, bytes_of(type.weight_bytes),
                            fmt::format("{:.3f} +- {:.3f}", type.perplexity->first, type.perplexity->second)});
    }
  }
  // Perplexities lie close together, far from 0.
  if (most > least) quality.y.from = std::max(0.0, least - 0.1 * (most - least));
  return figure(svg_plot(speed), table) + (costs.rows.empty() ? "" : figure(svg_plot(quality), costs));
}

}  // namespace quern::tools
