#include "report/series.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <set>

namespace quern::tools {

namespace {

/// Everything but the setting, as a key.
std::string rest_of(const Measurement& one, std::string_view setting) {
  std::string key = one.what;
  for (const auto& [name, value] : one.settings) {
    if (name == setting) continue;
    key += '\x1f' + name + '\x1f' + value;
  }
  return key;
}

/// "8 sequences", "depth 512", "q8_0", "2 threads": a setting in words.
std::string in_words(const std::string& name, const std::string& value) {
  if (name == "threads" || name == "sequences") return value + " " + (value == "1" ? name.substr(0, name.size() - 1) : name);
  if (name == "model" || name == "type" || name == "instruction set" || name == "precision") return value;
  if (name == "KV type") return value + " cache";
  return name + " " + value;
}

}  // namespace

std::vector<bool> plotted(const std::vector<SettingSeries>& all) {
  std::vector<std::size_t> order(all.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return all[a].points.size() > all[b].points.size(); });
  std::vector<bool> chosen(all.size());
  for (std::size_t i = 0; i < std::min(kMostPlotted, order.size()); ++i) chosen[order[i]] = true;
  return chosen;
}

std::string plotted_text(std::size_t count) {
  return count > kMostPlotted ? fmt::format(" ({} of {} series; the table has all)", kMostPlotted, count) : "";
}

std::optional<double> number_in(const std::string& text) {
  double value = 0.0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) return std::nullopt;
  return value;
}

std::vector<SettingSeries> series_along(const ReportData& data, std::string_view setting, bool numeric) {
  std::map<std::string, std::size_t> places;
  std::vector<SettingSeries> all;
  for (const Measurement& one : data.measurements) {
    SeriesPoint point{.value = one.setting(setting), .at = &one};
    if (point.value.empty() || one.rate.count == 0 || !(one.rate.median > 0.0)) continue;
    if (numeric) {
      const auto number = number_in(point.value);
      if (!number || *number < 0.0 || (*number == 0.0 && setting != "depth")) continue;
      point.x = *number;
    }
    const auto [place, is_new] = places.emplace(rest_of(one, setting), all.size());
    if (is_new) all.push_back({.name = {}, .what = one.what, .points = {}});
    std::vector<SeriesPoint>& points = all[place->second].points;
    const auto same =
        std::find_if(points.begin(), points.end(), [&](const SeriesPoint& p) { return p.value == point.value; });
    if (same != points.end()) {
      *same = point;
    } else {
      points.push_back(point);
    }
  }
  std::erase_if(all, [](const SettingSeries& series) { return series.points.size() < 2; });
  // Which settings are not the same in all of them.
  std::map<std::string, std::set<std::string>> values;
  std::vector<std::string> order;
  for (const SettingSeries& series : all) {
    for (const auto& [name, value] : series.points.front().at->settings) {
      if (name == setting) continue;
      if (!values.contains(name)) order.push_back(name);
      values[name].insert(value);
    }
  }
  for (const std::string& name : order) {
    for (const SettingSeries& series : all) values[name].insert(series.points.front().at->setting(name));
  }
  for (SettingSeries& series : all) {
    series.name = series.what;
    for (const std::string& name : order) {
      const std::string value = series.points.front().at->setting(name);
      if (values[name].size() > 1 && !value.empty()) series.name += ", " + in_words(name, value);
    }
    if (numeric) {
      std::sort(series.points.begin(), series.points.end(),
                [](const SeriesPoint& a, const SeriesPoint& b) { return a.x < b.x; });
    }
  }
  return all;
}

}  // namespace quern::tools
