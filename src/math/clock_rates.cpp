#include "math/clock_rates.hpp"

#include <algorithm>
#include <chrono>

namespace quern {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int64_t kChain = 4096;    // additions of one timing: clock_rates.hpp says why no more
constexpr int kBursts = 8;               // of a repeat: one chain is too short to be believed alone
constexpr double kBurstSeconds = 0.001;  // long beside the 20 us in which a core takes up the clock of a load
constexpr int kUnrolled = 16;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

#if defined(__x86_64__) || defined(__aarch64__)
constexpr bool kHasChain = true;

/// `count` (a multiple of kUnrolled) additions, each of which needs the result of the one before.
void add_chain(std::int64_t count) {
  std::uint64_t value = 1;
  const std::uint64_t step = 3;  // a register: some cores add constants ahead of time
  for (std::int64_t i = 0; i < count; i += kUnrolled) {
#pragma GCC unroll 16
    for (int j = 0; j < kUnrolled; ++j) {
#if defined(__x86_64__)
      __asm__ volatile("addq %1, %0" : "+r"(value) : "r"(step) : "cc");
#else
      __asm__ volatile("add %0, %0, %1" : "+r"(value) : "r"(step));
#endif
    }
  }
}

#if defined(__x86_64__)
void multiply_chain(std::int64_t count) {
  std::uint64_t value = 1;
  const std::uint64_t step = 3;
  for (std::int64_t i = 0; i < count; i += kUnrolled) {
#pragma GCC unroll 16
    for (int j = 0; j < kUnrolled; ++j) __asm__ volatile("imulq %1, %0" : "+r"(value) : "r"(step) : "cc");
  }
}
#endif
#else
constexpr bool kHasChain = false;
void add_chain(std::int64_t) {}
#endif

void run_load(const ClockLoad& load, std::int64_t iterations) {
  if (load.kernels == nullptr) {
    add_chain(iterations * 1024);
    return;
  }
  const MatmulKernels& matmul = *load.kernels->matmul;
  matmul.begin();
  static_cast<void>((load.tiles ? matmul.b16 : matmul.f32).register_loop(iterations));
  matmul.end();
}

/// Iterations of a load that take about kBurstSeconds, or what half that time takes at least.
std::int64_t burst_iterations(const ClockLoad& load) {
  std::int64_t iterations = 16;
  while (true) {
    const Clock::time_point start = Clock::now();
    run_load(load, iterations);
    if (seconds_since(start) >= kBurstSeconds / 2 || iterations >= (std::int64_t{1} << 40)) return iterations;
    iterations *= 2;
  }
}

double median(std::vector<double>& values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0.0 : values[values.size() / 2];
}

/// What reading the clock twice takes; some percent of a chain.
double clock_seconds() {
  std::vector<double> seconds(101);
  for (double& time : seconds) time = seconds_since(Clock::now());
  return median(seconds);
}

/// Least seconds of `chain` in some tries: what delays it is not the clock.
template <class Chain>
double least_seconds(const Chain& chain) {
  double least = 1.0;
  for (int i = 0; i < 100; ++i) {
    const Clock::time_point start = Clock::now();
    chain(kChain);
    least = std::min(least, seconds_since(start));
  }
  return least;
}

std::vector<double> rates_by_counters(ThreadTeam& team, const ClockLoad& load, PerfCounters& counters,
                                      const Repeats& repeats, std::int64_t iterations) {
  std::vector<double> rates;
  for (int i = -repeats.warmup; i < repeats.measured && !(repeats.stop && repeats.stop()); ++i) {
    std::vector<double> seconds(static_cast<std::size_t>(team.size()));
    counters.start();
    team.run([&](TeamMember& member) {
      const Clock::time_point start = Clock::now();
      for (double elapsed = 0.0; elapsed < repeats.seconds; elapsed = seconds_since(start)) run_load(load, iterations);
      seconds[static_cast<std::size_t>(member.index())] = seconds_since(start);
    });
    double total = 0.0;
    for (const double time : seconds) total += time;
    for (const CounterReading& reading : counters.stop()) {
      if (reading.counter == Counter::cycles && i >= 0) rates.push_back(reading.count / total);
    }
  }
  return rates;
}

std::vector<double> rates_by_chain(ThreadTeam& team, const ClockLoad& load, const Repeats& repeats,
                                   std::int64_t iterations) {
  const double reading = clock_seconds();
  std::vector<double> rates;
  for (int i = -repeats.warmup; i < repeats.measured && !(repeats.stop && repeats.stop()); ++i) {
    std::vector<double> hertz(static_cast<std::size_t>(team.size()));
    team.run([&](TeamMember& member) {
      std::vector<double> tries(kBursts);
      for (double& rate : tries) {
        member.barrier();
        run_load(load, iterations);
        run_load(load, iterations);
        const Clock::time_point start = Clock::now();
        add_chain(kChain);
        rate = static_cast<double>(kChain) / std::max(seconds_since(start) - reading, 1e-9);
      }
      hertz[static_cast<std::size_t>(member.index())] = median(tries);
    });
    double total = 0.0;
    for (const double rate : hertz) total += rate;
    if (i >= 0) rates.push_back(total / static_cast<double>(hertz.size()));
  }
  return rates;
}

}  // namespace

std::vector<ClockLoad> clock_loads(const std::vector<const KernelTable*>& kernels) {
  std::vector<ClockLoad> loads{{.name = "scalar", .kernels = nullptr, .tiles = false}};
  const auto add = [&](Isa isa, const char* name, bool tiles) {
    for (const KernelTable* table : kernels) {
      if (table->isa == isa) loads.push_back({name, table, tiles});
    }
  };
  add(Isa::avx2, "AVX2 f32", false);
  add(Isa::avx512, "AVX-512 f32", false);
  add(Isa::amx, "AMX bf16", true);
  return loads;
}

std::string_view to_word(ClockMethod method) {
  switch (method) {
    case ClockMethod::counters:
      return "cycles counted by perf_event";
    case ClockMethod::add_chain:
      return "a chain of additions, timed right after a burst of the load";
    case ClockMethod::none:
      return "no way to tell";
  }
  return "unknown";
}

ClockMethod clock_method(const PerfCounters& counters) {
  if (counters.has(Counter::cycles)) return ClockMethod::counters;
  return kHasChain ? ClockMethod::add_chain : ClockMethod::none;
}

std::vector<double> clock_rates(ThreadTeam& team, const ClockLoad& load, PerfCounters& counters, const Repeats& repeats) {
  const ClockMethod method = clock_method(counters);
  if (method == ClockMethod::none) return {};
  const std::int64_t iterations = burst_iterations(load);
  return method == ClockMethod::counters ? rates_by_counters(team, load, counters, repeats, iterations)
                                         : rates_by_chain(team, load, repeats, iterations);
}

double multiply_over_add() {
#if defined(__x86_64__)
  return least_seconds(multiply_chain) / least_seconds(add_chain);
#else
  return 0.0;
#endif
}

}  // namespace quern
