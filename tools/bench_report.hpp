// What `quern bench` prints: rows of a table and JSON.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "train/step_bench.hpp"

namespace quern::tools {

/// A sentence on the machine and the table's head (Markdown).
[[nodiscard]] std::string step_bench_header(const StepBench& bench, std::int64_t rounds);
/// One line: medians, and the interval of the rounds' medians.
[[nodiscard]] std::string step_bench_row(const std::string& name, const StepBench& bench);
/// Where the time went; empty unless it was recorded.
[[nodiscard]] std::string step_bench_profile(const std::string& name, const StepBench& bench);
/// The same as comma-separated values (RFC 4180).
[[nodiscard]] std::string step_bench_csv_head();
[[nodiscard]] std::string step_bench_csv(const std::string& name, const StepBench& bench);
[[nodiscard]] nlohmann::ordered_json step_bench_json(const std::string& name, const StepBench& bench);

}  // namespace quern::tools
