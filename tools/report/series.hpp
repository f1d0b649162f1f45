// Measurements that differ in one setting, lined up by it.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "report/report_data.hpp"

namespace quern::tools {

struct SeriesPoint {
  std::string value;  ///< of the setting
  double x = 0.0;     ///< the same as a number, where all are
  const Measurement* at = nullptr;
};

/// Measurements whose other settings are the same; at least two values of the setting.
struct SettingSeries {
  std::string name;                 ///< what sets it apart from the others of its kind: "decode at 512, q8_0"; never empty
  std::string what;                 ///< "decode", "prefill", "train"
  std::vector<SeriesPoint> points;  ///< by x where the values are numbers, else in the order of the data
};

/// All series along `setting`. Of measurements with equal settings the last counts. Where `numeric`, values that are no
/// finite number above 0 are left out (0 is kept for "depth").
[[nodiscard]] std::vector<SettingSeries> series_along(const ReportData& data, std::string_view setting, bool numeric);

/// A plot shows at most so many series; its table has all.
inline constexpr std::size_t kMostPlotted = 6;
/// Which series are plotted: those with the most points, the first of equals.
[[nodiscard]] std::vector<bool> plotted(const std::vector<SettingSeries>& all);
/// " (6 of 26 series; the table has all)" where some are left out.
[[nodiscard]] std::string plotted_text(std::size_t count);

/// A number that the whole text spells, finite; else nothing.
[[nodiscard]] std::optional<double> number_in(const std::string& text);

}  // namespace quern::tools
