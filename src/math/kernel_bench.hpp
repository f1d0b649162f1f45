// Times single kernels on all threads of a team, each beside the roof that this machine puts over it: what it multiplies or
// what it moves, measured in turns with the kernel (Williams et al. 2009, "Roofline").
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "math/exec.hpp"
#include "math/hardware.hpp"
#include "math/peak_rates.hpp"
#include "math/perf_counters.hpp"
#include "math/result.hpp"
#include "math/sample_statistics.hpp"

namespace quern {

/// What cases share: bytes that no cache holds as a whole, of values that stand for numbers and blocks of any format.
struct BenchMemory {
  std::span<std::byte> bytes;

  /// `count` bytes for call number `call`: calls go through the memory in order, so that what one reads was not read lately.
  [[nodiscard]] std::byte* window(std::int64_t call, std::size_t count) const;
};

/// A kernel with its operands, ready to be called.
class PreparedKernel {
 public:
  virtual ~PreparedKernel() = default;
  /// Scratch that each thread's Exec needs.
  [[nodiscard]] virtual std::size_t scratch_bytes() const { return 0; }
  /// Does the work once. SPMD: every member of the team calls it with the same number, which counts up from 0.
  virtual void run(Exec& exec, std::int64_t call) = 0;
};

struct KernelCase {
  std::string name;                     ///< "matmul/bf16/forward/512x2048x2048"
  PeakType arithmetic = PeakType::f32;  ///< what it multiplies
  double flops = 0.0;                   ///< operations of a call; a multiply-add is two
  /// Of a call: each operand read and each result written once. In memory an ordinary store first reads its line, so results
  /// that are not operands too count twice there.
  double bytes = 0.0;
  double updated_bytes = 0.0;  ///< of these, those of lines that are read and then written; with from_memory only
  bool from_memory = false;    ///< its operands are windows of BenchMemory; else they stay, and a cache may hold them
  std::function<Result<std::unique_ptr<PreparedKernel>>(const Backend& backend, const BenchMemory& memory)> prepare;
};

/// Products of matrices, dot products with blocks, attention, norms and other rows, the optimizer: all that there are.
[[nodiscard]] std::vector<KernelCase> kernel_cases(const Backend& backend);

/// Where the lower of two roofs is: arithmetic, or a level of the memory.
struct Roof {
  bool arithmetic = false;
  PeakType type = PeakType::f32;
  int level = 0;  ///< of the cache that holds the operands; 0: memory
  /// Of the bytes, those of lines that are read and then written: memory does both at once.
  double updated_share = 0.0;
  [[nodiscard]] std::string name() const;  ///< "bf16", "L2", "memory"
};

struct KernelBenchOptions {
  int warmup = 5;
  int measured = 10;
  double seconds = 0.003;  ///< least length of a repeat: calls are doubled until it takes this long
  /// Of a measurement of the roof: long beside the time in which a core takes up the clock of vectors and tiles.
  double roof_seconds = 0.003;
  std::size_t memory_bytes = 0;  ///< of BenchMemory; 0: twice the largest cache, at least 256 MiB, at most an eighth of what
                                 ///< the process may take
  std::string filter;            ///< cases whose name contains it; empty: all
};

/// One case's figures.
struct KernelRow {
  std::string name;
  double flops = 0.0, bytes = 0.0;  ///< of a call
  Roof roof;
  Summary seconds;                       ///< of a call
  Summary roof_rate;                     ///< of the roof, in operations or bytes per second, around the repeats
  Summary share;                         ///< of the roof: each repeat's rate over the mean of the roof's before and after it
  std::vector<CounterReading> counters;  ///< of a call, mean over the measured repeats; empty where there are none

  [[nodiscard]] double flops_per_byte() const { return bytes > 0.0 ? flops / bytes : 0.0; }
  [[nodiscard]] double flops_per_second() const { return seconds.median > 0.0 ? flops / seconds.median : 0.0; }
  [[nodiscard]] double bytes_per_second() const { return seconds.median > 0.0 ? bytes / seconds.median : 0.0; }
};

struct KernelBench {
  std::vector<KernelRow> rows;
  std::string counters_obstacle;  ///< why there are no hardware counters; empty where there are
  bool stopped = false;           ///< before all rows were complete
};

struct KernelBenchWatcher {
  std::function<void(std::string_view name, std::int64_t done, std::int64_t total)> progress{};
  std::function<bool()> stop{};
  std::function<void(const KernelRow& row)> row{};
};

/// Measures every case whose name passes the filter. Errors: bad_input for options out of range or a filter that passes
/// none, no_memory.
[[nodiscard]] Result<KernelBench> bench_kernels(ThreadTeam& team, const Backend& backend, const HardwareReport& report,
                                                const std::vector<KernelCase>& cases, const KernelBenchOptions& options,
                                                const KernelBenchWatcher& watcher = {});

}  // namespace quern
