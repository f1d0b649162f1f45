// What training steps spent their time on, as a table, as JSON and as a trace.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "math/operation_profile.hpp"
#include "math/result.hpp"

namespace quern::tools {

/// Time by phase and operation: the mean over threads, so that it and "outside" (one thread fetches batches while the others
/// rest) add up to the steps' wall time. Rates are those of all threads together. `peak_gflops`: what shares of a peak
/// refer to, 0: unknown.
[[nodiscard]] std::string step_profile_text(const OperationProfile& profile, double peak_gflops);
[[nodiscard]] nlohmann::ordered_json step_profile_json(const OperationProfile& profile, double peak_gflops);

/// Writes what a traced profile kept, one track per thread, for Perfetto.
[[nodiscard]] Result<void> write_step_trace(const OperationProfile& profile, const std::string& path);

}  // namespace quern::tools
