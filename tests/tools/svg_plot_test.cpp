// Plots and HTML of the report: where points land, what is left out, and that text from files stays text.
#include "report/svg_plot.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <regex>
#include <string>
#include <vector>

#include "report/html.hpp"

namespace quern::tools {
namespace {

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

/// Centres of the circles, which are the markers of the first series.
std::vector<std::pair<double, double>> circles(const std::string& html) {
  std::vector<std::pair<double, double>> all;
  const std::regex pattern("<circle cx=\"([0-9.]+)\" cy=\"([0-9.]+)\"");
  for (std::sregex_iterator at(html.begin(), html.end(), pattern), end; at != end; ++at) {
    all.emplace_back(std::stod((*at)[1]), std::stod((*at)[2]));
  }
  return all;
}

/// Every element that begins ends, in order: the page is read by parsers of XML too.
void expect_balanced(const std::string& html) {
  std::vector<std::string> open;
  const std::regex tag("<(/?)([a-z0-9]+)([^<>]*)>");
  std::size_t matched = 0;
  for (std::sregex_iterator at(html.begin(), html.end(), tag), end; at != end; ++at) {
    ++matched;
    const std::string name = (*at)[2], rest = (*at)[3];
    if ((*at)[1].length() > 0) {
      ASSERT_FALSE(open.empty()) << name;
      ASSERT_EQ(open.back(), name);
      open.pop_back();
    } else if (rest.empty() || rest.back() != '/') {
      open.push_back(name);
    }
  }
  EXPECT_TRUE(open.empty());
  EXPECT_EQ(matched, count(html, "<")) << "a < that begins no element";
}

Plot line_of(std::vector<PlotPoint> points) {
  return {.title = "Title",
          .description = "What it shows.",
          .x = {.title = "x"},
          .y = {.title = "y"},
          .series = {{.name = "one", .points = std::move(points)}}};
}

TEST(SvgPlot, PointsLieWhereTheirNumbersSay) {
  const std::string html = svg_plot(line_of({{.x = 0.0, .y = 10.0}, {.x = 50.0, .y = 20.0}, {.x = 100.0, .y = 40.0}}));
  expect_balanced(html);
  const auto at = circles(html);
  ASSERT_EQ(at.size(), 3U);
  EXPECT_NEAR(at[1].first, 0.5 * (at[0].first + at[2].first), 0.11) << "halfway";
  EXPECT_LT(at[2].second, at[1].second) << "more is higher";
  EXPECT_NEAR((at[0].second - at[2].second) / (at[0].second - at[1].second), 3.0, 0.02);
  for (const char* part : {"<title>Title</title>", "<desc>What it shows.</desc>", "role=\"img\"", ">x</text>", ">y</text>",
                           "<title>one, 50: 20</title>"}) {
    EXPECT_EQ(count(html, part), 1U) << part << html;
  }
}

TEST(SvgPlot, PowersAreEvenlySpaced) {
  Plot plot = line_of({{.x = 1.0, .y = 1.0}, {.x = 2.0, .y = 10.0}, {.x = 4.0, .y = 100.0}});
  plot.x.scale = Scale::powers_of_two;
  plot.y.scale = Scale::powers_of_ten;
  const auto at = circles(svg_plot(plot));
  ASSERT_EQ(at.size(), 3U);
  EXPECT_NEAR(at[1].first - at[0].first, at[2].first - at[1].first, 0.21);
  EXPECT_NEAR(at[0].second - at[1].second, at[1].second - at[2].second, 0.21);
}

TEST(SvgPlot, NothingAndOnePointAreNoTrouble) {
  EXPECT_EQ(svg_plot({}), "");
  EXPECT_EQ(svg_plot(line_of({})), "");
  EXPECT_EQ(svg_plot(line_of({{.x = NAN, .y = 1.0}, {.x = 1.0, .y = INFINITY}})), "");
  Plot logarithmic = line_of({{.x = 1.0, .y = 0.0}});
  logarithmic.y.scale = Scale::powers_of_ten;
  EXPECT_EQ(svg_plot(logarithmic), "") << "0 has no logarithm";
  Plot reference = line_of({});
  reference.series.push_back({.name = "ideal", .points = {{.x = 1.0, .y = 1.0}}, .reference = true});
  EXPECT_EQ(svg_plot(reference), "") << "a line to hold nothing against";
  for (const Scale scale : {Scale::linear, Scale::powers_of_two, Scale::powers_of_ten}) {
    for (const double value : {5.0, 1e-12, 1e15}) {
      Plot one = line_of({{.x = value, .y = value}});
      one.x.scale = one.y.scale = scale;
      const std::string html = svg_plot(one);
      expect_balanced(html);
      const auto at = circles(html);
      ASSERT_EQ(at.size(), 1U);
      EXPECT_TRUE(at[0].first >= 0.0 && at[0].first <= 640.0 && at[0].second >= 0.0 && at[0].second <= 400.0) << html;
      EXPECT_EQ(count(html, "nan") + count(html, "inf"), 0U) << html;
    }
  }
  const auto zero = circles(svg_plot(line_of({{.x = 0.0, .y = 0.0}})));
  EXPECT_EQ(zero.size(), 1U);
}

TEST(SvgPlot, SeriesDifferWithoutColoursAndHaveALegend) {
  Plot plot = line_of({{.x = 1.0, .y = 1.0, .low = 0.5, .high = 1.5}, {.x = 2.0, .y = 2.0}});
  EXPECT_EQ(count(svg_plot(plot), ">one</text>"), 0U) << "a single series needs no legend";
  plot.series.push_back({.name = "two", .points = {{.x = 1.0, .y = 3.0}, {.x = 2.0, .y = 4.0}}});
  plot.series.push_back({.name = "ideal", .points = {{.x = 1.0, .y = 1.0}, {.x = 2.0, .y = 2.0}}, .reference = true});
  const std::string html = svg_plot(plot);
  expect_balanced(html);
  EXPECT_EQ(count(html, ">one</text>"), 1U);
  EXPECT_EQ(count(html, ">two</text>"), 1U);
  EXPECT_EQ(count(html, "class=\"reference\""), 1U);
  EXPECT_EQ(count(html, "class=\"whisker\""), 1U);
  EXPECT_EQ(count(html, "<circle"), 3U) << "two points and the legend";
  EXPECT_EQ(count(html, "<rect"), 3U) << "the second series has squares";
}

TEST(SvgPlot, LabelsThatWouldOverlapAreLeftOut) {
  std::vector<PlotPoint> crowd;
  for (int i = 0; i < 30; ++i) crowd.push_back({.x = 1.0, .y = 1.0, .label = "a long label"});
  crowd.push_back({.x = 2.0, .y = 2.0, .label = "alone"});
  const std::string html = svg_plot(line_of(crowd));
  EXPECT_EQ(count(html, ">alone</text>"), 1U);
  EXPECT_LE(count(html, ">a long label</text>"), 4U);
  EXPECT_GE(count(html, ">a long label</text>"), 1U);
}

TEST(BarPlot, BarsAreAsLongAsTheirValues) {
  const BarPlot plot{.title = "Bars",
                     .description = "d",
                     .axis = "times",
                     .bars = {{.label = "a", .value = 1.0, .text = "1.00"},
                              {.label = "b", .value = 2.5, .low = 2.0, .high = 3.0, .text = "2.50"},
                              {.label = "gone", .value = NAN, .text = "?"}},
                     .reference = 1.0};
  const std::string html = bar_plot(plot);
  expect_balanced(html);
  const std::regex pattern("class=\"bar\" x=\"[0-9.]+\" y=\"[0-9.]+\" width=\"([0-9.]+)\"");
  std::vector<double> widths;
  for (std::sregex_iterator at(html.begin(), html.end(), pattern), end; at != end; ++at)
    widths.push_back(std::stod((*at)[1]));
  ASSERT_EQ(widths.size(), 2U);
  EXPECT_NEAR(widths[1] / widths[0], 2.5, 0.01);
  EXPECT_EQ(count(html, ">2.50</text>"), 1U);
  EXPECT_EQ(count(html, "gone"), 0U);
  EXPECT_EQ(count(html, "class=\"whisker\""), 1U);
  BarPlot edge;
  edge.bars = {{.label = "x", .value = -1.0, .text = ""}};
  EXPECT_EQ(bar_plot(edge), "");
  edge.bars[0].value = 0.0;
  EXPECT_NE(bar_plot(edge), "");
}

TEST(Html, TextStaysText) {
  EXPECT_EQ(escape("<b a=\"1\" c='2'>&"), "&lt;b a=&quot;1&quot; c=&#39;2&#39;&gt;&amp;");
  EXPECT_EQ(escape("a\nb\tc"), "a b c");
  EXPECT_EQ(escape(std::string("a\x00\x1b\x7f", 4)), "a\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(escape("\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80"), "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80");
  // Cut short, overlong, a surrogate, above U+10FFFF, a continuation alone: each byte is replaced.
  for (const char* bad : {"\xC3", "\xE2\x82", "\xC0\xAF", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\x80"}) {
    const std::string html = escape(bad);
    EXPECT_EQ(html.find_first_not_of("\xEF\xBF\xBD"), std::string::npos) << html;
    EXPECT_GE(html.size(), 3U);
  }
  EXPECT_EQ(escape("abcdef", 3), "abc\xE2\x80\xA6");
  Plot plot = line_of({{.x = 1.0, .y = 1.0, .label = "</svg><script>alert(1)</script>"}});
  plot.title = plot.description = plot.x.title = plot.y.title = plot.series[0].name = "\"><script>";
  const std::string html = svg_plot(plot) + html_table({.caption = "<i>", .columns = {"<i>"}, .rows = {{"<i>"}}});
  expect_balanced(html);
  EXPECT_EQ(count(html, "<script"), 0U);
  EXPECT_EQ(count(html, "<i>"), 0U);
}

TEST(Html, NumbersAreSetToTheRightAndHeadersHaveScopes) {
  const std::string html = html_table({.caption = "c", .columns = {"name", "value"}, .rows = {{"a", "1.5"}, {"b", "none"}}});
  expect_balanced(html);
  EXPECT_EQ(count(html, "<th scope=\"col\">"), 2U);
  EXPECT_EQ(count(html, "<th scope=\"row\">"), 2U);
  EXPECT_EQ(count(html, "<td class=\"number\">1.5</td>"), 1U);
  EXPECT_EQ(count(html, "<td>none</td>"), 1U);
  EXPECT_EQ(bytes_of(1.5e9), "1.50 GB");
  EXPECT_EQ(bytes_of(2e6), "2.00 MB");
  EXPECT_EQ(bytes_of(12.0), "12 bytes");
  for (const double bad : {-1.0, static_cast<double>(NAN), static_cast<double>(INFINITY)})
    EXPECT_EQ(bytes_of(bad), "0 bytes");
}

}  // namespace
}  // namespace quern::tools
