// Types of weights beside each other: what each takes, how fast it decodes, what it costs.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "report/report_data.hpp"

namespace quern::tools {

struct TypeFigure {
  std::string name;  ///< the type, or the model's file without its ending
  double weight_bytes = 0.0;
  std::optional<Summary> rate{};                          ///< tokens a second of decode: one sequence, the least depth
  std::optional<std::pair<double, double>> perplexity{};  ///< and its standard error
};

/// One for each model and type, by size; of several results of one the last counts. Models of unknown size are left out.
[[nodiscard]] std::vector<TypeFigure> type_figures(const ReportData& data);

}  // namespace quern::tools
