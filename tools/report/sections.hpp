// The parts of a report. Each gives its HTML without heading, or nothing where the data for it is not there.
#pragma once

#include <string>
#include <vector>

#include "report/report_data.hpp"

namespace quern::tools {

[[nodiscard]] std::string section_sources(const ReportData& data);   ///< what was measured, on what
[[nodiscard]] std::string section_scaling(const ReportData& data);   ///< threads: speed-up and efficiency
[[nodiscard]] std::string section_context(const ReportData& data);   ///< length of the text: speed, and memory read
[[nodiscard]] std::string section_batch(const ReportData& data);     ///< sequences and batches
[[nodiscard]] std::string section_types(const ReportData& data);     ///< quantization: speed, size, perplexity
[[nodiscard]] std::string section_settings(const ReportData& data);  ///< everything that has no number
[[nodiscard]] std::string section_roofline(const ReportData& data);  ///< kernels under their roofs
[[nodiscard]] std::string section_log(const ReportData& data);       ///< the optimization log, baseline beside its end
[[nodiscard]] std::vector<std::string> recommendations(const ReportData& data);  ///< sentences, plain text

}  // namespace quern::tools
