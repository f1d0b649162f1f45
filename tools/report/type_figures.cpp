#include "report/type_figures.hpp"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "report/series.hpp"

namespace quern::tools {

std::vector<TypeFigure> type_figures(const ReportData& data) {
  std::vector<TypeFigure> figures;
  std::vector<std::string> keys;
  for (const ModelFacts& model : data.models) {
    if (!std::isfinite(model.weight_bytes) || !(model.weight_bytes > 0.0)) continue;
    const std::string file = std::filesystem::path(model.model).stem().string();
    TypeFigure one{.name = model.type.empty() ? file : model.type, .weight_bytes = model.weight_bytes};
    double depth = INFINITY;
    for (const Measurement& measured : data.measurements) {
      if (measured.source != model.source || measured.what != "decode" || measured.setting("sequences") != "1") continue;
      const double own = number_in(measured.setting("depth")).value_or(INFINITY);
      if (own >= depth) continue;
      depth = own;
      one.rate = measured.rate;
    }
    for (const PerplexityFigure& perplexity : data.perplexities) {
      if (perplexity.model == model.model) one.perplexity = {perplexity.value, perplexity.error};
    }
    const std::string key = model.model + '\x1f' + model.type;
    const auto same = std::find(keys.begin(), keys.end(), key);
    if (same != keys.end()) {
      figures[static_cast<std::size_t>(same - keys.begin())] = one;
    } else {
      keys.push_back(key);
      figures.push_back(std::move(one));
    }
  }
  std::stable_sort(figures.begin(), figures.end(),
                   [](const TypeFigure& a, const TypeFigure& b) { return a.weight_bytes < b.weight_bytes; });
  return figures;
}

}  // namespace quern::tools
