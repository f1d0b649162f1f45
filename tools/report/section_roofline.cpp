#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "report/html.hpp"
#include "report/sections.hpp"
#include "report/svg_plot.hpp"
#include "summary_report.hpp"

namespace quern::tools {

namespace {

/// "matmul f32", "block_dot", "attention", "rows and others": what the plot tells apart.
std::string family_of(const std::string& name) {
  const std::size_t slash = name.find('/');
  const std::string first = name.substr(0, slash);
  if (first == "block_dot" || first == "attention") return first;
  if (first != "matmul" || slash == std::string::npos) return "rows and others";
  return first + " " + name.substr(slash + 1, name.find('/', slash + 1) - slash - 1);
}

double median_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// The roofs that kernels were held against, between these FLOP per byte.
std::vector<PlotSeries> roofs(const std::vector<const KernelFigure*>& kernels, double low, double high) {
  std::map<std::string, std::vector<double>> flops, bytes;
  for (const KernelFigure* kernel : kernels) {
    if (!std::isfinite(kernel->roof_rate) || !(kernel->roof_rate > 0.0)) continue;
    (kernel->bound_by_memory() ? bytes : flops)[kernel->roof].push_back(kernel->roof_rate);
  }
  double top = 0.0, fastest = 0.0;
  for (const auto& [name, rates] : flops) top = std::max(top, median_of(rates));
  for (const auto& [name, rates] : bytes) fastest = std::max(fastest, median_of(rates));
  std::vector<PlotSeries> lines;
  for (const auto& [name, rates] : flops) {
    const double rate = median_of(rates);
    const double from = fastest > 0.0 ? std::clamp(rate / fastest, low, high) : low;
    lines.push_back({.name = fmt::format("{}, {} GFLOP/s", name, number_text(rate * 1e-9)),
                     .points = {{.x = from, .y = rate * 1e-9}, {.x = high, .y = rate * 1e-9}},
                     .reference = true});
  }
  for (const auto& [name, rates] : bytes) {
    const double rate = median_of(rates);
    const double to = top > 0.0 ? std::clamp(top / rate, low, high) : high;
    lines.push_back({.name = fmt::format("{}, {} GB/s", name, number_text(rate * 1e-9)),
                     .points = {{.x = low, .y = low * rate * 1e-9}, {.x = to, .y = to * rate * 1e-9}},
                     .reference = true});
  }
  return lines;
}

std::string one_roofline(const ReportData& data, std::size_t source) {
  std::vector<const KernelFigure*> kernels;
  for (const KernelFigure& kernel : data.kernels) {
    const bool finite = std::isfinite(kernel.flops_per_byte) && std::isfinite(kernel.flops_per_second);
    if (kernel.source == source && finite && kernel.flops_per_byte > 0.0 && kernel.flops_per_second > 0.0)
      kernels.push_back(&kernel);
  }
  if (kernels.empty()) return "";
  double low = INFINITY, high = 0.0;
  for (const KernelFigure* kernel : kernels) {
    low = std::min(low, kernel->flops_per_byte / 2.0);
    high = std::max(high, kernel->flops_per_byte * 2.0);
  }
  const std::string& about = data.sources[source].about;
  Plot plot{.title = "Roofline: " + about,
            .description =
                "Floating-point operations a second of each kernel by its operations for each byte, under what the "
                "machine multiplies and moves.",
            .x = {.title = "FLOP per byte", .scale = Scale::powers_of_ten, .from = low, .to = high},
            .y = {.title = "GFLOP/s", .scale = Scale::powers_of_ten},
            .series = roofs(kernels, low, high)};
  HtmlTable table{.caption = "Kernels under their roofs, " + about,
                  .columns = {"kernel", "FLOP/byte", "GFLOP/s", "GB/s", "roof", "of the roof, %"},
                  .rows = {}};
  for (const KernelFigure* kernel : kernels) {
    const std::string family = family_of(kernel->name);
    auto series = std::find_if(plot.series.begin(), plot.series.end(),
                               [&](const PlotSeries& one) { return !one.reference && one.name == family; });
    if (series == plot.series.end()) {
      plot.series.push_back({.name = family, .points = {}, .line = false});
      series = plot.series.end() - 1;
    }
    series->points.push_back({.x = kernel->flops_per_byte, .y = kernel->flops_per_second * 1e-9});
    table.rows.push_back({kernel->name, number_text(kernel->flops_per_byte), number_text(kernel->flops_per_second * 1e-9),
                          number_text(kernel->bytes_per_second * 1e-9), kernel->roof, summary_text(kernel->share, 0.01)});
  }
  return figure(svg_plot(plot), table);
}

}  // namespace

std::string section_roofline(const ReportData& data) {
  std::string html;
  for (std::size_t source = 0; source < data.sources.size(); ++source) {
    if (data.sources[source].bench == "kernels") html += one_roofline(data, source);
  }
  if (html.empty()) return "";
  return paragraph(
             "A kernel can be no faster than the lower of two roofs: what the machine multiplies, and its operations for "
             "each "
             "byte times what memory or a cache moves (Williams, Waterman, Patterson 2009). The nearer a point is to the "
             "line "
             "above it, the less there is to gain in that kernel.") +
         html;
}

}  // namespace quern::tools
