// What `quern bench infer` prints: rows of two tables and JSON.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "infer/infer_bench.hpp"
#include "run_model.hpp"

namespace quern::tools {

/// Sentences on the model, the machine and how figures are made.
[[nodiscard]] std::string infer_bench_header(const RunningModel& running, const Decoder& decoder,
                                             const InferBenchOptions& options);
/// The head of the table of this kind of rows (Markdown).
[[nodiscard]] std::string infer_bench_table_head(InferBenchKind kind);
/// One line: medians, and the range of the rounds where there is more than one.
[[nodiscard]] std::string infer_bench_line(const InferBenchRow& row);

/// One object. `peak_bytes`: the most that was resident at once.
[[nodiscard]] nlohmann::ordered_json infer_bench_json(const RunningModel& running, const Decoder& decoder,
                                                      const InferBenchOptions& options, const InferBench& bench,
                                                      std::size_t peak_bytes);
/// RFC 4180, a line for each row.
[[nodiscard]] std::string infer_bench_csv(const InferBench& bench);

}  // namespace quern::tools
