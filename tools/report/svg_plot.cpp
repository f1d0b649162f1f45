#include "report/svg_plot.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "report/html.hpp"

namespace quern::tools {

namespace {

// Of the drawing, in units of its view box. A letter of the font is about 0.55 of its size wide.
constexpr double kWidth = 640.0, kHeight = 400.0;
constexpr double kLeft = 72.0, kRight = 24.0, kTop = 12.0, kBottom = 52.0;
constexpr double kFont = 13.0, kLetter = 0.56 * kFont, kLine = 19.0;
constexpr std::size_t kStyles = 8;  ///< colours, markers and dashes before they repeat
constexpr std::size_t kMaxTicks = 12;

double text_width(const std::string& text) {
  // Bytes that continue a UTF-8 sequence are not letters.
  const auto letters = std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
  return kLetter * static_cast<double>(letters);
}

bool drawable(const Axis& axis, double value) {
  return std::isfinite(value) && (axis.scale == Scale::linear || value > 0.0);
}

/// A number as a tick's label or a tooltip: no exponents, thousands as k, M, G.
std::string short_number(double value) {
  const double size = std::abs(value);
  for (const auto& [unit, letter] : {std::pair{1e9, "G"}, std::pair{1e6, "M"}, std::pair{1e4, "k"}}) {
    if (size < unit) continue;
    return fmt::format("{:.4g}{}", value / (letter[0] == 'k' ? 1e3 : unit), letter);
  }
  return size >= 100.0 ? fmt::format("{:.0f}", value) : fmt::format("{:.3g}", value);
}

/// Where values stand along an axis.
class AxisMap {
 public:
  AxisMap(const Axis& axis, double low, double high, double start, double end)
      : axis_(axis), low_(axis.from.value_or(low)), high_(axis.to.value_or(high)), start_(start), end_(end) {
    if (axis.scale == Scale::linear) {
      if (!axis.from && low_ > 0.0 && high_ > 0.0) low_ = 0.0;
      if (high_ <= low_) high_ = low_ + std::max(1.0, std::abs(low_));
      if (!axis.to) high_ += 0.06 * (high_ - low_);
    } else {
      const double room = axis.scale == Scale::powers_of_two ? std::sqrt(2.0) : std::pow(10.0, 0.12);
      if (!axis.from) low_ /= room;
      if (!axis.to) high_ *= room;
      if (high_ <= low_) high_ = 2.0 * low_;
    }
  }

  [[nodiscard]] double at(double value) const {
    const double share =
        axis_.scale == Scale::linear ? (value - low_) / (high_ - low_) : std::log(value / low_) / std::log(high_ / low_);
    return start_ + share * (end_ - start_);
  }
  [[nodiscard]] double low() const { return low_; }
  [[nodiscard]] double high() const { return high_; }

  [[nodiscard]] std::vector<double> ticks() const {
    std::vector<double> all;
    if (axis_.scale == Scale::linear) {
      const double raw = (high_ - low_) / 5.0;
      const double power = std::pow(10.0, std::floor(std::log10(raw)));
      const double step = raw / power > 5.0   ? 10.0 * power
                          : raw / power > 2.0 ? 5.0 * power
                          : raw / power > 1.0 ? 2.0 * power
                                              : power;
      for (double tick = std::ceil(low_ / step - 1e-9) * step; tick <= high_ * (1.0 + 1e-9) && all.size() < 2 * kMaxTicks;
           tick += step)
        all.push_back(std::abs(tick) < 1e-9 * step ? 0.0 : tick);
      return all;
    }
    const double base = axis_.scale == Scale::powers_of_two ? 2.0 : 10.0;
    const auto first = static_cast<int>(std::ceil(std::log(low_) / std::log(base) - 1e-9));
    const auto last = static_cast<int>(std::floor(std::log(high_) / std::log(base) + 1e-9));
    const int step = std::max(1, (last - first) / static_cast<int>(kMaxTicks) + 1);
    const bool finer = base > 2.0 && last - first < 3;
    for (int power = first - 1; power <= last; power += step) {
      const double tick = std::pow(base, power);
      for (const double factor : {1.0, 2.0, 5.0}) {
        if (factor > 1.0 && !finer) break;
        if (tick * factor >= low_ * (1.0 - 1e-9) && tick * factor <= high_ * (1.0 + 1e-9)) all.push_back(tick * factor);
      }
    }
    return all;
  }

 private:
  Axis axis_;
  double low_, high_, start_, end_;
};

/// The least and the largest of what was added.
struct Range {
  double low = std::numeric_limits<double>::infinity(), high = -std::numeric_limits<double>::infinity();
  void add(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  [[nodiscard]] bool empty() const { return low > high; }
};

struct Box {
  double left, top, right, bottom;
  [[nodiscard]] bool meets(const Box& other) const {
    return left < other.right && other.left < right && top < other.bottom && other.top < bottom;
  }
};

std::string marker(std::size_t style, double x, double y) {
  switch (style % 4) {
    case 0:
      return fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4.5\"/>", x, y);
    case 1:
      return fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"8.4\" height=\"8.4\"/>", x - 4.2, y - 4.2);
    case 2:
      return fmt::format("<path d=\"M{:.1f} {:.1f}l5.4 9.4h-10.8z\"/>", x, y - 6.0);
    default:
      return fmt::format("<path d=\"M{:.1f} {:.1f}l5.6 5.6l-5.6 5.6l-5.6 -5.6z\"/>", x, y - 5.6);
  }
}

std::string start_svg(const std::string& title, const std::string& description, double height) {
  return fmt::format(
      "<figure><figcaption>{0}</figcaption>\n<svg viewBox=\"0 0 {1:.0f} {2:.0f}\" role=\"img\" aria-label=\"{0}: {3}\">"
      "<title>{0}</title><desc>{3}</desc>\n",
      escape(title), kWidth, height, escape(description, 1000));
}

std::string text_at(double x, double y, const char* anchor, const std::string& text, const char* kind = "") {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\"{}>{}</text>\n", x, y, anchor, kind,
                     escape(text, 120));
}

/// Draws one plot.
class Drawing {
 public:
  explicit Drawing(const Plot& plot) : plot_(plot) {
    Range x, y;
    for (const PlotSeries& series : plot.series) {
      for (const PlotPoint& point : series.points) {
        if (!visible(point)) continue;
        if (!series.reference) any_ = true;
        x.add(point.x);
        y.add(point.y);
        for (const std::optional<double>& end : {point.low, point.high}) {
          if (end && drawable(plot.y, *end)) y.add(*end);
        }
      }
    }
    if (!any_) return;
    legend_rows_ = lay_out_legend();
    top_ = kTop + kLine * static_cast<double>(legend_rows_) + 6.0;
    x_.emplace(plot.x, x.low, x.high, kLeft, kWidth - kRight);
    y_.emplace(plot.y, y.low, y.high, top_ + kHeight - kTop - kBottom, top_);
  }

  [[nodiscard]] std::string html() {
    if (!any_) return "";
    const double bottom = top_ + kHeight - kTop - kBottom;
    std::string out = start_svg(plot_.title, plot_.description, bottom + kBottom);
    out += legend_ + axes(bottom);
    for (const PlotSeries& series : plot_.series) {
      if (series.reference) out += reference(series);
    }
    // Markers first take their places, so that labels keep off them.
    for (const PlotSeries& series : plot_.series) {
      for (const PlotPoint& point : series.points) {
        if (!series.reference && visible(point)) taken_.push_back(around(x_->at(point.x), y_->at(point.y)));
      }
    }
    std::size_t style = 0;
    for (const PlotSeries& series : plot_.series) {
      if (!series.reference) out += drawn(series, style++);
    }
    return out + "</svg></figure>\n";
  }

 private:
  [[nodiscard]] bool visible(const PlotPoint& point) const {
    return drawable(plot_.x, point.x) && drawable(plot_.y, point.y);
  }
  static Box around(double x, double y) { return {x - 6.0, y - 6.0, x + 6.0, y + 6.0}; }

  /// Fills legend_ and returns its lines. A single series needs none.
  std::size_t lay_out_legend() {
    const auto named =
        std::count_if(plot_.series.begin(), plot_.series.end(), [](const PlotSeries& s) { return !s.reference; });
    if (named < 2) return 0;
    double x = kLeft;
    std::size_t row = 0, style = 0;
    for (const PlotSeries& series : plot_.series) {
      if (series.reference) continue;
      const double width = 34.0 + text_width(series.name) + 14.0;
      if (x > kLeft && x + width > kWidth) {
        x = kLeft;
        ++row;
      }
      const double y = kTop + kLine * static_cast<double>(row) + 6.0;
      const std::string line =
          series.line ? fmt::format("<path class=\"line\" d=\"M{:.1f} {:.1f}h26\"/>", x, y) : std::string();
      legend_ += fmt::format("<g class=\"s{}\">{}{}</g>", style % kStyles, line, marker(style, x + 13.0, y));
      legend_ += text_at(x + 32.0, y + 4.5, "start", series.name);
      x += width;
      ++style;
    }
    return row + 1;
  }

  [[nodiscard]] std::string axes(double bottom) const {
    std::string out;
    for (const double tick : y_->ticks()) {
      const double y = y_->at(tick);
      out += fmt::format("<path class=\"grid\" d=\"M{:.1f} {:.1f}H{:.1f}\"/>", kLeft, y, kWidth - kRight);
      out += text_at(kLeft - 8.0, y + 4.5, "end", short_number(tick));
    }
    double past = -1.0;
    for (const double tick : x_->ticks()) {
      const double x = x_->at(tick);
      const std::string label = short_number(tick);
      out += fmt::format("<path class=\"grid\" d=\"M{:.1f} {:.1f}V{:.1f}\"/>", x, top_, bottom);
      if (x - 0.5 * text_width(label) < past) continue;
      out += text_at(x, bottom + 18.0, "middle", label);
      past = x + 0.5 * text_width(label) + 6.0;
    }
    out += fmt::format("<path class=\"axis\" d=\"M{:.1f} {:.1f}V{:.1f}H{:.1f}\"/>\n", kLeft, top_, bottom, kWidth - kRight);
    out += text_at(0.5 * (kLeft + kWidth - kRight), bottom + 40.0, "middle", plot_.x.title);
    const double middle = 0.5 * (top_ + bottom);
    out += fmt::format("<text transform=\"translate(16 {:.1f}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n", middle,
                       escape(plot_.y.title, 120));
    return out;
  }

  /// Lines end at the frame: the clip path of an SVG would need a name that no other plot has.
  [[nodiscard]] std::string reference(const PlotSeries& series) {
    std::string out, path;
    const PlotPoint* last = nullptr;
    for (const PlotPoint& point : series.points) {
      if (!visible(point)) continue;
      path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", x_->at(point.x), y_->at(point.y));
      last = &point;
    }
    if (last == nullptr) return "";
    out = fmt::format("<path class=\"reference\" d=\"{}\"/>", path);
    const double width = text_width(series.name);
    const double x = std::min(x_->at(last->x), kWidth - kRight - 4.0);
    const double y = std::max(y_->at(last->y) - 6.0, top_ + 12.0);
    taken_.push_back({x - width, y - 12.0, x, y + 4.0});
    return out + text_at(x, y, "end", series.name, " class=\"muted\"");
  }

  [[nodiscard]] std::string drawn(const PlotSeries& series, std::size_t style) {
    std::string path, marks, labels;
    for (const PlotPoint& point : series.points) {
      if (!visible(point)) continue;
      const double x = x_->at(point.x), y = y_->at(point.y);
      path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", x, y);
      if (point.low && point.high && drawable(plot_.y, *point.low) && drawable(plot_.y, *point.high) &&
          *point.high > *point.low) {
        marks += fmt::format("<path class=\"whisker\" d=\"M{0:.1f} {1:.1f}V{2:.1f}M{3:.1f} {1:.1f}h8M{3:.1f} {2:.1f}h8\"/>",
                             x, y_->at(*point.low), y_->at(*point.high), x - 4.0);
      }
      const std::string tip = fmt::format("{}{}{}: {}", series.name, series.name.empty() ? "" : ", ",
                                          point.label.empty() ? short_number(point.x) : point.label, short_number(point.y));
      marks += fmt::format("<g class=\"mark\"><title>{}</title>{}</g>", escape(tip), marker(style, x, y));
      labels += label(point.label, x, y);
    }
    if (path.empty()) return "";
    const std::string line = series.line ? fmt::format("<path class=\"line\" d=\"{}\"/>", path) : std::string();
    return fmt::format("<g class=\"s{}\">{}{}</g>\n{}", style % kStyles, line, marks, labels);
  }

  /// Beside the point where nothing else is; nothing where there is no such place.
  [[nodiscard]] std::string label(const std::string& text, double x, double y) {
    if (text.empty()) return "";
    const double width = text_width(text);
    struct Place {
      double x, y;
      const char* anchor;
      double left;
    };
    for (const Place& place :
         {Place{x + 9.0, y + 4.5, "start", x + 9.0}, Place{x - 9.0, y + 4.5, "end", x - 9.0 - width},
          Place{x, y - 10.0, "middle", x - 0.5 * width}, Place{x, y + 20.0, "middle", x - 0.5 * width}}) {
      const Box box{place.left, place.y - 11.0, place.left + width, place.y + 3.0};
      const bool inside = box.left >= kLeft && box.right <= kWidth && box.top >= top_ - 10.0;
      if (!inside || std::any_of(taken_.begin(), taken_.end(), [&](const Box& other) { return other.meets(box); })) continue;
      taken_.push_back(box);
      return text_at(place.x, place.y, place.anchor, text, " class=\"label\"");
    }
    return "";
  }

  const Plot& plot_;
  bool any_ = false;
  std::size_t legend_rows_ = 0;
  double top_ = kTop;
  std::string legend_;
  std::optional<AxisMap> x_, y_;
  std::vector<Box> taken_;
};

}  // namespace

std::string svg_plot(const Plot& plot) { return Drawing(plot).html(); }

std::string bar_plot(const BarPlot& plot) {
  std::vector<Bar> bars;
  Range range;
  double label_width = 0.0, text_room = 0.0;
  for (const Bar& bar : plot.bars) {
    if (!std::isfinite(bar.value) || bar.value < 0.0) continue;
    bars.push_back(bar);
    range.add(bar.value);
    if (bar.high && std::isfinite(*bar.high)) range.add(*bar.high);
    label_width = std::max(label_width, text_width(bar.label));
    text_room = std::max(text_room, text_width(bar.text));
  }
  if (bars.empty()) return "";
  if (plot.reference) range.add(*plot.reference);
  // Long names go above their bars.
  const bool above = label_width > 0.3 * kWidth;
  const double left = above ? 12.0 : label_width + 16.0;
  const double row = above ? 44.0 : 28.0;
  const double bottom = kTop + row * static_cast<double>(bars.size());
  const double end = std::max(left + 120.0, kWidth - text_room - 16.0);
  const AxisMap x({.title = plot.axis, .from = 0.0, .to = range.high > 0.0 ? range.high : 1.0}, 0.0, 1.0, left, end);
  std::string out = start_svg(plot.title, plot.description, bottom + kBottom);
  double past = -1.0;
  for (const double tick : x.ticks()) {
    out += fmt::format("<path class=\"grid\" d=\"M{:.1f} {:.1f}V{:.1f}\"/>", x.at(tick), kTop, bottom);
    const std::string label = short_number(tick);
    if (x.at(tick) - 0.5 * text_width(label) < past) continue;
    out += text_at(x.at(tick), bottom + 18.0, "middle", label);
    past = x.at(tick) + 0.5 * text_width(label) + 6.0;
  }
  for (std::size_t i = 0; i < bars.size(); ++i) {
    const Bar& bar = bars[i];
    const double y = kTop + row * static_cast<double>(i) + (above ? 22.0 : 5.0);
    out += above ? text_at(left, y - 5.0, "start", bar.label) : text_at(left - 8.0, y + 13.5, "end", bar.label);
    out += fmt::format(
        "<g class=\"s0\"><rect class=\"bar\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" "
        "height=\"18\"><title>{}</title></rect>",
        left, y, std::max(0.5, x.at(bar.value) - left), escape(bar.label + ": " + bar.text));
    double mark = x.at(bar.value);
    if (bar.low && bar.high && std::isfinite(*bar.low) && std::isfinite(*bar.high) && *bar.high > *bar.low &&
        *bar.low >= 0.0) {
      out += fmt::format("<path class=\"whisker\" d=\"M{0:.1f} {2:.1f}H{1:.1f}M{0:.1f} {3:.1f}v8M{1:.1f} {3:.1f}v8\"/>",
                         x.at(*bar.low), x.at(*bar.high), y + 9.0, y + 5.0);
      mark = std::max(mark, x.at(*bar.high));
    }
    out += "</g>" + text_at(mark + 7.0, y + 13.5, "start", bar.text);
  }
  if (plot.reference) {
    out += fmt::format("<path class=\"reference\" d=\"M{:.1f} {:.1f}V{:.1f}\"/>", x.at(*plot.reference), kTop - 4.0,
                       bottom + 4.0);
  }
  out += fmt::format("<path class=\"axis\" d=\"M{:.1f} {:.1f}V{:.1f}H{:.1f}\"/>\n", left, kTop, bottom, end);
  out += text_at(0.5 * (left + end), bottom + 40.0, "middle", plot.axis);
  return out + "</svg></figure>\n";
}

}  // namespace quern::tools
