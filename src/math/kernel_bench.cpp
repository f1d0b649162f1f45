#include "math/kernel_bench.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "math/aligned_buffer.hpp"
#include "math/kernel_calibration_internal.hpp"
#include "math/page_block.hpp"

namespace quern {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kWindowAlignment = 4096;
constexpr std::size_t kLeastMemoryBytes = std::size_t{256} << 20;

/// Values of every format: bytes 0x2c to 0x2f make no subnormal scale or number anywhere. What the numbers are does not
/// matter for the time. All threads together, so that each NUMA node holds a part.
void fill(ThreadTeam& team, const BenchMemory& memory) {
  constexpr std::size_t kPiece = std::size_t{1} << 20;
  const std::size_t pieces = (memory.bytes.size() + kPiece - 1) / kPiece;
  team.run([&](TeamMember& member) {
    for (std::size_t i = static_cast<std::size_t>(member.index()); i < pieces;
         i += static_cast<std::size_t>(member.count())) {
      std::byte* const piece = memory.bytes.data() + i * kPiece;
      const std::size_t count = std::min(kPiece, memory.bytes.size() - i * kPiece);
      std::uint64_t state = i + 1;
      for (std::size_t at = 0; at + 8 <= count; at += 8) {
        state = state * 6364136223846793005ULL + 1442695040888963407ULL;
        const std::uint64_t word = 0x2c2c2c2c2c2c2c2cULL | ((state >> 3) & 0x0303030303030303ULL);
        std::memcpy(piece + at, &word, sizeof word);
      }
    }
  });
}

std::size_t memory_bytes_for(const HardwareReport& report) {
  std::size_t largest = 0;
  for (const CacheReport& cache : report.topology.caches) largest = std::max(largest, static_cast<std::size_t>(cache.bytes));
  const std::uint64_t usable = report.memory.usable_bytes;
  const std::size_t most = usable == 0 ? kLeastMemoryBytes : std::max<std::size_t>(usable / 8, std::size_t{64} << 20);
  return std::min(std::max(2 * largest, kLeastMemoryBytes), most);
}

/// One case's repeats.
class CaseBench {
 public:
  CaseBench(ThreadTeam& team, const Backend& backend, PreparedKernel& kernel, const std::vector<AlignedBuffer>& scratch)
      : team_(team), backend_(backend), kernel_(kernel), scratch_(scratch) {}

  /// Seconds of `calls` calls by all threads.
  double run(std::int64_t calls) {
    double seconds = 0.0;
    const std::int64_t first = next_;
    next_ += calls;
    team_.run([&](TeamMember& member) {
      const AlignedBuffer& own = scratch_[static_cast<std::size_t>(member.index())];
      Exec exec{member, backend_, {const_cast<std::byte*>(own.data()), own.bytes()}};
      member.barrier();
      const Clock::time_point start = Clock::now();
      for (std::int64_t call = first; call < first + calls; ++call) kernel_.run(exec, call);
      member.barrier();
      if (member.index() == 0) seconds = std::chrono::duration<double>(Clock::now() - start).count();
    });
    return std::max(seconds, 1e-9);
  }

 private:
  ThreadTeam& team_;
  const Backend& backend_;
  PreparedKernel& kernel_;
  const std::vector<AlignedBuffer>& scratch_;
  std::int64_t next_ = 0;
};

class Bench {
 public:
  Bench(ThreadTeam& team, const Backend& backend, const KernelBenchOptions& options, const KernelBenchWatcher& watcher,
        const BenchMemory& memory, KernelCalibration calibration)
      : team_(team),
        backend_(backend),
        options_(options),
        watcher_(watcher),
        memory_(memory),
        calibration_(std::move(calibration)),
        counters_(PerfCounters::open(team)) {}

  Result<KernelBench> run(const std::vector<const KernelCase*>& cases) {
    KernelBench bench;
    bench.counters_obstacle = counters_.obstacle();
    for (std::size_t i = 0; i < cases.size(); ++i) {
      if (watcher_.progress) watcher_.progress(cases[i]->name, static_cast<std::int64_t>(i), std::ssize(cases));
      auto row = measure(*cases[i]);
      if (!row) return tl::make_unexpected(row.error());
      if (stopped()) {
        bench.stopped = true;
        break;
      }
      if (watcher_.row) watcher_.row(*row);
      bench.rows.push_back(std::move(*row));
    }
    if (watcher_.progress && !bench.stopped) watcher_.progress("kernels", std::ssize(cases), std::ssize(cases));
    return bench;
  }

 private:
  [[nodiscard]] bool stopped() const { return watcher_.stop && watcher_.stop(); }

  Result<KernelRow> measure(const KernelCase& one) {
    KernelRow row{.name = one.name,
                  .flops = one.flops,
                  .bytes = one.bytes,
                  .roof = calibration_.roof_of(one),
                  .seconds = {},
                  .roof_rate = {},
                  .share = {},
                  .counters = {}};
    if (one.from_memory) fill(team_, memory_);  // kernels before have written there
    auto kernel = one.prepare(backend_, memory_);
    if (!kernel) return tl::make_unexpected(kernel.error());
    std::vector<AlignedBuffer> scratch;
    for (int i = 0; i < team_.size(); ++i) {
      auto own = AlignedBuffer::allocate((*kernel)->scratch_bytes());
      if (!own) return tl::make_unexpected(own.error());
      scratch.push_back(std::move(*own));
    }
    CaseBench bench(team_, backend_, **kernel, scratch);
    std::int64_t calls = 1;
    while (bench.run(calls) < options_.seconds && calls < (std::int64_t{1} << 40) && !stopped()) calls *= 2;
    for (int i = 0; i < options_.warmup && !stopped(); ++i) (void)bench.run(calls);

    const double work = row.roof.arithmetic ? one.flops : one.bytes;
    std::vector<double> seconds, roofs, shares;
    double before = calibration_.measure(row.roof);
    for (int i = 0; i < options_.measured && !stopped(); ++i) {
      counters_.start();
      seconds.push_back(bench.run(calls) / static_cast<double>(calls));
      add(row.counters, counters_.stop(), 1.0 / static_cast<double>(calls * options_.measured));
      const double after = calibration_.measure(row.roof);
      roofs.push_back((before + after) / 2.0);
      if (roofs.back() > 0.0) shares.push_back(work / seconds.back() / roofs.back());
      before = after;
    }
    row.seconds = summarize(seconds);
    row.roof_rate = summarize(roofs);
    row.share = summarize(shares);
    return row;
  }

  /// Adds counts of a repeat, times `factor`, to the sums. A counter that is missing in one repeat is left out.
  static void add(std::vector<CounterReading>& sums, const std::vector<CounterReading>& readings, double factor) {
    for (const CounterReading& reading : readings) {
      const auto same =
          std::find_if(sums.begin(), sums.end(), [&](const CounterReading& sum) { return sum.counter == reading.counter; });
      if (same == sums.end()) {
        sums.push_back({reading.counter, reading.count * factor, reading.running});
      } else {
        same->count += reading.count * factor;
        same->running = std::min(same->running, reading.running);
      }
    }
  }

  ThreadTeam& team_;
  const Backend& backend_;
  const KernelBenchOptions& options_;
  const KernelBenchWatcher& watcher_;
  const BenchMemory& memory_;
  KernelCalibration calibration_;
  PerfCounters counters_;
};

}  // namespace

std::byte* BenchMemory::window(std::int64_t call, std::size_t count) const {
  const std::size_t step = (count + kWindowAlignment - 1) / kWindowAlignment * kWindowAlignment;
  const std::size_t windows = std::max<std::size_t>(step == 0 ? 1 : bytes.size() / step, 1);
  return bytes.data() + static_cast<std::size_t>(call) % windows * step;
}

std::string Roof::name() const {
  if (arithmetic) return std::string(to_word(type));
  return level == 0 ? "memory" : fmt::format("L{}", level);
}

Result<KernelBench> bench_kernels(ThreadTeam& team, const Backend& backend, const HardwareReport& report,
                                  const std::vector<KernelCase>& cases, const KernelBenchOptions& options,
                                  const KernelBenchWatcher& watcher) {
  if (options.warmup < 0 || options.measured < 1 || !(options.seconds >= 0.0)) {
    return bad_input(fmt::format("repeats: expected at least 1 measured and 0 to warm up, found {} and {}", options.measured,
                                 options.warmup));
  }
  std::vector<const KernelCase*> chosen;
  for (const KernelCase& one : cases) {
    if (one.name.find(options.filter) != std::string::npos) chosen.push_back(&one);
  }
  if (chosen.empty()) return bad_input(fmt::format("--filter: no kernel's name contains `{}`", options.filter));

  const std::size_t bytes = options.memory_bytes == 0 ? memory_bytes_for(report) : options.memory_bytes;
  const PageBlock block(bytes, true);
  if (block.data() == nullptr) return no_memory(fmt::format("no memory for {} bytes of operands", bytes));
  const BenchMemory memory{{block.data(), bytes}};
  fill(team, memory);
  auto calibration = KernelCalibration::make(team, backend, report, memory, options.roof_seconds);
  if (!calibration) return tl::make_unexpected(calibration.error());
  return Bench(team, backend, options, watcher, memory, std::move(*calibration)).run(chosen);
}

}  // namespace quern
