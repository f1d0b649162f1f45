// The report: one HTML page that needs nothing else, readable on screens light and dark, in print, and without colours.
#pragma once

#include <string>
#include <vector>

#include "math/result.hpp"
#include "report/report_data.hpp"

namespace quern::tools {

/// The whole page. Sections that have no data are left out.
[[nodiscard]] std::string report_page(const ReportData& data);

/// Refuses, before long work, a file that cannot be written. An empty path is none.
[[nodiscard]] Result<void> check_report(const std::string& path);

/// Writes the page beside `path` and renames it; says where it is. Errors: io.
[[nodiscard]] Result<void> write_report(const ReportData& data, const std::string& path);

/// A page of one result as the command that measured it has it. An empty path: nothing.
[[nodiscard]] Result<void> write_report_of(const nlohmann::ordered_json& json, const std::string& path);

}  // namespace quern::tools
