// Plots as inline SVG: lines and points over two axes, and bars. Colours, strokes and markers differ together, so that a
// plot can be read without colours; they come from the page's CSS classes, so that it follows dark mode and print.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace quern::tools {

enum class Scale : std::uint8_t { linear, powers_of_two, powers_of_ten };

struct Axis {
  std::string title;
  Scale scale = Scale::linear;
  std::optional<double> from{}, to{};  ///< none: what the points need; a linear axis of lengths begins at 0
};

struct PlotPoint {
  double x = 0.0, y = 0.0;
  std::optional<double> low{}, high{};  ///< ends of an interval of y
  std::string label{};                  ///< printed beside the point, where there is room, and in its tooltip
};

struct PlotSeries {
  std::string name;
  std::vector<PlotPoint> points;
  bool line = true;        ///< joins the points
  bool reference = false;  ///< a line to hold others against: thin, dashed, without markers, named where it ends
};

struct Plot {
  std::string title;
  std::string description;  ///< what a reader who does not see it is told
  Axis x, y;
  std::vector<PlotSeries> series;
};

/// The plot as HTML. Points that are not finite, and those not above 0 on a scale of powers, are left out. Empty where no
/// series but references has a point.
[[nodiscard]] std::string svg_plot(const Plot& plot);

struct Bar {
  std::string label;
  double value = 0.0;
  std::optional<double> low{}, high{};  ///< ends of an interval
  std::string text;                     ///< printed at its end
};

struct BarPlot {
  std::string title;
  std::string description;
  std::string axis;                   ///< of the values
  std::vector<Bar> bars;              ///< from top to bottom
  std::optional<double> reference{};  ///< a line across all bars, such as "1: no change"
};

/// Horizontal bars from 0 as HTML. Empty where no bar has a value that is finite and not below 0.
[[nodiscard]] std::string bar_plot(const BarPlot& plot);

}  // namespace quern::tools
