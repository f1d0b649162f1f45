// The hardware report as JSON.
#pragma once

#include <nlohmann/json.hpp>

#include "math/hardware.hpp"

namespace quern::tools {

/// One object: the report's fields by name; null where the machine does not say.
[[nodiscard]] nlohmann::ordered_json hardware_json(const HardwareReport& report);

}  // namespace quern::tools
