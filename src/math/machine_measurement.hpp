// What this machine was measured to do: peaks, bandwidths, latencies, barriers and clocks, each with its interval.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "math/hardware.hpp"
#include "math/peak_rates.hpp"
#include "math/sample_statistics.hpp"
#include "math/stream_rates.hpp"

namespace quern {

struct PeakFigure {
  PeakType type = PeakType::f32;
  int threads = 1;
  std::string method;      ///< peak_method()
  Summary ops_per_second;  ///< a multiply-add is two
};

struct StreamFigure {
  int level = 0;  ///< of the cache; 0: memory
  StreamAccess access = StreamAccess::read;
  int threads = 1;
  std::size_t bytes = 0;  ///< of all threads' blocks
  Summary bytes_per_second;
};

/// The same block in pages of one size.
struct PageFigure {
  bool huge_pages = false;  ///< asked for
  std::size_t bytes = 0;
  std::uint64_t huge_bytes = 0;   ///< of it in huge pages
  Summary read_bytes_per_second;  ///< in order, by all threads
  Summary load_seconds;           ///< one load after another in no order, by one thread
};

struct LatencyFigure {
  int level = 0;
  std::size_t bytes = 0;
  Summary load_seconds;
};

struct BarrierFigure {
  int threads = 1;
  Summary seconds;
};

struct ClockFigure {
  std::string load;
  int threads = 1;
  Summary hertz;
};

struct MachineMeasurement {
  std::string processor;
  std::string instruction_set;   ///< whose peaks these are
  std::string stream_registers;  ///< StreamKernels::name
  std::string clock_method;
  std::string counters_obstacle;      ///< why perf_event gave nothing; empty where it did
  double multiply_over_add = 0.0;     ///< see clock_rates.hpp; 0: not used
  std::vector<PeakFigure> peaks;      ///< by type, then by threads
  std::vector<StreamFigure> streams;  ///< by level, memory last, then access, then threads
  std::vector<PageFigure> pages;      ///< small, then huge
  std::vector<LatencyFigure> latencies;
  std::vector<BarrierFigure> barriers;
  std::vector<ClockFigure> clocks;
  double seconds = 0.0;  ///< that it took
  bool stopped = false;  ///< before everything was measured

  /// With the most threads measured; of no samples where there is none.
  [[nodiscard]] Summary peak(PeakType type) const;
  [[nodiscard]] Summary bandwidth(int level, StreamAccess access) const;
};

struct MeasurementOptions {
  std::vector<int> thread_counts{};  ///< empty: 1, 2, 4, ... and the report's default_threads
  int warmup = 2;
  int measured = 10;
  bool brief = false;  ///< only what an estimate needs: peaks and memory's read, with all threads
};

struct MeasurementWatcher {
  std::function<void(std::string_view stage, std::int64_t done, std::int64_t total)> progress{};
  std::function<bool()> stop{};  ///< asked between repeats; true ends the measurement
};

/// 1, 2, 4, ... below `most`, and `most`.
[[nodiscard]] std::vector<int> default_thread_counts(int most);

/// Measures this machine, whose report is given, with the kernels in use. Nothing else should run meanwhile. Some ten to
/// thirty seconds; less than one with options.brief. Errors: bad_input for options out of range, no_memory.
[[nodiscard]] Result<MachineMeasurement> measure_machine(const HardwareReport& report, const KernelTable& kernels,
                                                         const MeasurementOptions& options = {},
                                                         const MeasurementWatcher& watcher = {});

}  // namespace quern
