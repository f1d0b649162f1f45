// What `quern bench kernels` prints: a table, JSON and CSV.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "math/kernel_bench.hpp"

namespace quern::tools {

/// How and where was measured.
struct KernelBenchRun {
  std::string processor, instruction_set;
  int threads = 1;
  KernelBenchOptions options;
};

/// Sentences and the head of the table (Markdown).
[[nodiscard]] std::string kernel_bench_header(const KernelBenchRun& run);
/// One line of the table.
[[nodiscard]] std::string kernel_bench_line(const KernelRow& row);
/// After the table: counters of each kernel, or why there are none.
[[nodiscard]] std::string kernel_bench_counters(const KernelBench& bench);

/// One object; its rows are what `quern bench compare` reads.
[[nodiscard]] nlohmann::ordered_json kernel_bench_json(const KernelBenchRun& run, const KernelBench& bench);
/// A head and a line for each row, numbers in SI units.
[[nodiscard]] std::string kernel_bench_csv(const KernelBench& bench);

}  // namespace quern::tools
