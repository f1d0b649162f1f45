#include "report/optimization_log.hpp"

#include <algorithm>

namespace quern::tools {

namespace {

std::string figure_name(const Measurement& one) {
  std::string name = one.what;
  if (one.what == "train") return name + ", " + one.setting("model") + ", context " + one.setting("context");
  for (const char* key : {"prompt", "depth", "sequences"}) {
    const std::string value = one.setting(key);
    if (!value.empty()) name += std::string(", ") + key + " " + value;
  }
  return name;
}

/// The first measurement of a source with that name.
const Measurement* find(const ReportData& data, std::size_t source, const std::string& name) {
  const auto found = std::find_if(data.measurements.begin(), data.measurements.end(), [&](const Measurement& one) {
    return one.source == source && one.rate.count > 0 && one.rate.median > 0.0 && figure_name(one) == name;
  });
  return found == data.measurements.end() ? nullptr : &*found;
}

}  // namespace

std::vector<LogFigure> log_figures(const ReportData& data) {
  std::vector<LogFigure> figures;
  if (data.log.size() < 2) return figures;
  for (const Measurement& one : data.measurements) {
    if (one.source != data.log.front()) continue;
    LogFigure figure{.name = figure_name(one), .steps = {}};
    const auto same = [&](const LogFigure& other) { return other.name == figure.name; };
    if (std::any_of(figures.begin(), figures.end(), same)) continue;
    const Summary* first = nullptr;
    const Summary* before = nullptr;
    for (const std::size_t source : data.log) {
      const Measurement* const step = find(data, source, figure.name);
      if (step == nullptr) break;
      if (first == nullptr) first = before = &step->rate;
      figure.steps.push_back(
          {data.sources[source].label, step->rate, compare(*before, step->rate), compare(*first, step->rate)});
      before = &step->rate;
    }
    if (figure.steps.size() == data.log.size()) figures.push_back(std::move(figure));
  }
  return figures;
}

}  // namespace quern::tools
