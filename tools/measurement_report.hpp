// What `quern hardware --measure` prints, and reading it again.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "math/machine_measurement.hpp"
#include "math/result.hpp"

namespace quern::tools {

/// Sentences and tables (Markdown).
[[nodiscard]] std::string measurement_text(const MachineMeasurement& measurement);

[[nodiscard]] nlohmann::ordered_json measurement_json(const MachineMeasurement& measurement);

/// Peaks, streams and where they were measured, from what measurement_json() made; other figures are not read. Errors
/// bad_input name the place in the file.
[[nodiscard]] Result<MachineMeasurement> measurement_from_json(const nlohmann::ordered_json& json);

/// Reads a file that `quern hardware --measure --json` wrote. Errors: io, and bad_input naming the file and the place in it.
[[nodiscard]] Result<MachineMeasurement> read_measurement(const std::string& path);

}  // namespace quern::tools
