// The optimization log: the same figures in several results, in the order of the steps that were taken.
#pragma once

#include <string>
#include <vector>

#include "report/report_data.hpp"

namespace quern::tools {

struct LogStep {
  std::string label;  ///< of the result
  Summary rate;
  Comparison gain;   ///< with the step before; of the first step: with itself
  Comparison total;  ///< with the first step
};

/// A figure that all results of the log have.
struct LogFigure {
  std::string name;  ///< "decode, depth 0, 1 sequence"
  std::vector<LogStep> steps;
};

/// Figures in the order of the first result; empty where the log has fewer than two results. What was measured says which
/// figures are the same: kind, lengths and sequences; of training the run's name and the length of sequences.
[[nodiscard]] std::vector<LogFigure> log_figures(const ReportData& data);

}  // namespace quern::tools
