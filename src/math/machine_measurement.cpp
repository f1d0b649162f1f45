#include "math/machine_measurement.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "math/clock_rates.hpp"
#include "math/latency_rates.hpp"
#include "math/perf_counters.hpp"

namespace quern {
namespace {

/// Blocks for huge pages against small ones: far more than TLBs reach with small pages (2048 entries: 8 MiB), and little
/// enough to fill quickly.
constexpr std::size_t kPageBlockBytes = std::size_t{256} << 20;
constexpr int kMostThreads = 4096;

/// Runs the parts in order and keeps the figures.
class Measurer {
 public:
  Measurer(const HardwareReport& report, const KernelTable& kernels, const MeasurementOptions& options,
           const MeasurementWatcher& watcher)
      : report_(report), kernels_(kernels), options_(options), watcher_(watcher), threads_(options.thread_counts) {
    if (threads_.empty()) threads_ = default_thread_counts(static_cast<int>(report.default_threads));
    if (options.brief) threads_ = {threads_.back()};
    streams_ = &stream_kernels(report.features, kernels.isa);
    measurement_.processor = report.processor;
    measurement_.instruction_set = isa_name(kernels.isa);
    measurement_.stream_registers = streams_->name;
  }

  Result<MachineMeasurement> run() {
    const auto start = std::chrono::steady_clock::now();
    peaks();
    if (auto done = streams(); !done) return tl::make_unexpected(done.error());
    if (!options_.brief) {
      if (auto done = pages(); !done) return tl::make_unexpected(done.error());
      if (auto done = latencies(); !done) return tl::make_unexpected(done.error());
      barriers();
      clocks();
    }
    measurement_.stopped = stopped();
    measurement_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return std::move(measurement_);
  }

 private:
  [[nodiscard]] bool stopped() const { return watcher_.stop && watcher_.stop(); }
  void progress(std::string_view stage, std::size_t done, std::size_t total) const {
    if (watcher_.progress && !stopped())
      watcher_.progress(stage, static_cast<std::int64_t>(done), static_cast<std::int64_t>(total));
  }
  [[nodiscard]] Repeats repeats(double seconds = 0.005) const {
    return {.warmup = options_.warmup, .measured = options_.measured, .seconds = seconds, .stop = watcher_.stop};
  }
  /// What blocks may take: an eighth of what this process may, for there is other work; a quarter of a GiB where that is not
  /// known.
  [[nodiscard]] std::size_t most_bytes() const {
    const std::uint64_t usable = report_.memory.usable_bytes;
    return usable == 0 ? std::size_t{256} << 20 : static_cast<std::size_t>(usable / 8);
  }

  void peaks() {
    const std::size_t total = std::size(kPeakTypes) * threads_.size();
    std::size_t done = 0;
    for (const PeakType type : kPeakTypes) {
      for (const int threads : threads_) {
        progress("peaks", done++, total);
        if (stopped()) return;
        ThreadTeam team(threads);
        const std::vector<double> rates = peak_rates(team, kernels_, type, repeats());
        if (rates.empty()) continue;
        measurement_.peaks.push_back({type, threads, peak_method(kernels_, type), summarize(rates)});
      }
    }
    progress("peaks", total, total);
  }

  Result<void> streams() {
    std::vector<StreamFigure> plan;
    for (const int threads : threads_) {
      for (const WorkingSet& set : working_sets(report_.topology, threads, most_bytes())) {
        if (options_.brief && set.level != 0) continue;
        for (const StreamAccess access : kStreamAccesses) {
          if (options_.brief && access != StreamAccess::read) continue;
          if (access == StreamAccess::write_past && streams_->write_past == nullptr) continue;
          plan.push_back({set.level, access, threads, set.bytes_per_thread * static_cast<std::size_t>(threads), {}});
        }
      }
    }
    std::stable_sort(plan.begin(), plan.end(), [](const StreamFigure& a, const StreamFigure& b) {
      const auto place = [](int level) { return level == 0 ? 99 : level; };  // memory last
      return std::pair(place(a.level), a.access) < std::pair(place(b.level), b.access);
    });
    std::size_t done = 0;
    for (StreamFigure& figure : plan) {
      progress("bandwidth", done++, plan.size());
      if (stopped()) return {};
      ThreadTeam team(figure.threads);
      const auto rates =
          stream_rates(team, *streams_, figure.access, figure.bytes / static_cast<std::size_t>(figure.threads), repeats());
      if (!rates) return tl::make_unexpected(rates.error());
      figure.bytes_per_second = summarize(*rates);
      if (!rates->empty()) measurement_.streams.push_back(std::move(figure));
    }
    progress("bandwidth", plan.size(), plan.size());
    return {};
  }

  Result<void> pages() {
    const std::size_t bytes = std::min(kPageBlockBytes, most_bytes());
    for (const bool huge : {false, true}) {
      progress("pages", huge ? 1 : 0, 2);
      if (stopped()) return {};
      ThreadTeam team(threads_.back());
      PageFigure figure;
      figure.huge_pages = huge;
      figure.bytes = bytes;
      const auto latencies = load_latencies(bytes, huge, repeats(0.02), &figure.huge_bytes);
      if (!latencies) return tl::make_unexpected(latencies.error());
      const auto rates =
          stream_rates(team, *streams_, StreamAccess::read, bytes / static_cast<std::size_t>(team.size()), repeats(), huge);
      if (!rates) return tl::make_unexpected(rates.error());
      figure.load_seconds = summarize(*latencies);
      figure.read_bytes_per_second = summarize(*rates);
      measurement_.pages.push_back(figure);
    }
    progress("pages", 2, 2);
    return {};
  }

  Result<void> latencies() {
    const std::vector<WorkingSet> sets = working_sets(report_.topology, 1, most_bytes());
    std::size_t done = 0;
    for (const WorkingSet& set : sets) {
      progress("latency", done++, sets.size());
      if (stopped()) return {};
      const std::size_t bytes = set.level == 0 ? std::min(set.bytes_per_thread, 2 * kPageBlockBytes) : set.bytes_per_thread;
      const auto seconds = load_latencies(bytes, true, repeats());
      if (!seconds) return tl::make_unexpected(seconds.error());
      measurement_.latencies.push_back({set.level, bytes, summarize(*seconds)});
    }
    progress("latency", sets.size(), sets.size());
    return {};
  }

  void barriers() {
    std::size_t done = 0;
    for (const int threads : threads_) {
      progress("barriers", done++, threads_.size());
      if (threads == 1) continue;
      if (stopped()) return;
      ThreadTeam team(threads);
      measurement_.barriers.push_back({threads, summarize(barrier_costs(team, repeats()))});
    }
    progress("barriers", threads_.size(), threads_.size());
  }

  void clocks() {
    const std::vector<ClockLoad> loads = clock_loads(supported_kernels());
    ThreadTeam team(threads_.back());
    PerfCounters counters = PerfCounters::open(team);
    measurement_.counters_obstacle = counters.obstacle();
    const ClockMethod method = clock_method(counters);
    measurement_.clock_method = to_word(method);
    if (method == ClockMethod::add_chain) measurement_.multiply_over_add = multiply_over_add();
    std::size_t done = 0;
    for (const ClockLoad& load : loads) {
      progress("clocks", done++, loads.size());
      if (stopped()) return;
      const std::vector<double> rates = clock_rates(team, load, counters, repeats());
      if (!rates.empty()) measurement_.clocks.push_back({load.name, team.size(), summarize(rates)});
    }
    progress("clocks", loads.size(), loads.size());
  }

  const HardwareReport& report_;
  const KernelTable& kernels_;
  const MeasurementOptions& options_;
  const MeasurementWatcher& watcher_;
  std::vector<int> threads_;
  const StreamKernels* streams_ = nullptr;
  MachineMeasurement measurement_;
};

}  // namespace

Summary MachineMeasurement::peak(PeakType type) const {
  const PeakFigure* best = nullptr;
  for (const PeakFigure& figure : peaks) {
    if (figure.type == type && (best == nullptr || figure.threads >= best->threads)) best = &figure;
  }
  return best == nullptr ? Summary{} : best->ops_per_second;
}

Summary MachineMeasurement::bandwidth(int level, StreamAccess access) const {
  const StreamFigure* best = nullptr;
  for (const StreamFigure& figure : streams) {
    if (figure.level != level || figure.access != access) continue;
    if (best == nullptr || figure.threads >= best->threads) best = &figure;
  }
  return best == nullptr ? Summary{} : best->bytes_per_second;
}

std::vector<int> default_thread_counts(int most) {
  std::vector<int> counts;
  for (int threads = 1; threads < most; threads *= 2) counts.push_back(threads);
  counts.push_back(std::max(most, 1));
  return counts;
}

Result<MachineMeasurement> measure_machine(const HardwareReport& report, const KernelTable& kernels,
                                           const MeasurementOptions& options, const MeasurementWatcher& watcher) {
  for (const int threads : options.thread_counts) {
    if (threads < 1 || threads > kMostThreads) {
      return bad_input(fmt::format("threads to measure with: expected 1 to {}, found {}", kMostThreads, threads));
    }
  }
  if (options.measured < 1 || options.warmup < 0) {
    return bad_input(fmt::format("repeats: expected at least 1 measured and 0 to warm up, found {} and {}", options.measured,
                                 options.warmup));
  }
  return Measurer(report, kernels, options, watcher).run();
}

}  // namespace quern
