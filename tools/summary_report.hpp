// Summaries of samples as text and JSON: every benchmark's figures look alike.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>

#include "math/result.hpp"
#include "math/sample_statistics.hpp"

namespace quern::tools {

/// "48.2 [47.9-48.6]": median and 95 % interval, in units of `unit`, with about three significant digits. Fewer than six
/// samples have no such interval: "48.2 [47.9-48.6, 3 samples]".
[[nodiscard]] std::string summary_text(const Summary& summary, double unit = 1.0);

/// The number with about three significant digits and never an exponent.
[[nodiscard]] std::string number_text(double value);

/// "1.2 %": the middle half of the samples over the median.
[[nodiscard]] std::string spread_text(const Summary& summary);

/// "1.23 GB", "45.60 MB", "789 bytes" (powers of ten).
[[nodiscard]] std::string bytes_text(std::size_t bytes);

/// {"count", "median", "low", "high", "coverage", "min", "max", "quartile_low", "quartile_high"}.
[[nodiscard]] nlohmann::ordered_json summary_json(const Summary& summary);

/// The way back. Error bad_input, beginning with `where`, for a missing or misshapen field.
[[nodiscard]] Result<Summary> summary_from_json(const nlohmann::ordered_json& json, const std::string& where);

}  // namespace quern::tools
