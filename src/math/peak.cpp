#include "math/peak.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "math/aligned_buffer.hpp"

namespace quern {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kBurstSeconds = 0.002;
constexpr std::size_t kL1Bytes = 16 * 1024;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// Best rate over bursts of `loop(iterations)` on all threads. Iterations grow until a burst is long enough to time.
template <class Loop>
double best_rate(ThreadTeam& team, const MatmulKernels& kernels, double seconds, const Loop& loop) {
  double best = 0.0;
  std::int64_t iterations = 256;
  bool done = false;  // written by thread 0 before a barrier, read by all after it
  const Clock::time_point begin = Clock::now();
  team.run([&](TeamMember& member) {
    kernels.begin();
    while (!done) {
      member.barrier();
      const Clock::time_point start = Clock::now();
      const double flops = loop(iterations);
      member.barrier();
      if (member.index() == 0) {
        const double elapsed = seconds_since(start);
        best = std::max(best, flops * member.count() / elapsed);
        if (elapsed < kBurstSeconds) iterations *= 2;
        done = seconds_since(begin) >= seconds;
      }
      member.barrier();
    }
    kernels.end();
  });
  return best;
}

}  // namespace

double register_peak_flops(ThreadTeam& team, const Backend& backend, ComputeType compute, double seconds) {
  const MatmulKernels& kernels = *backend.kernels->matmul;
  const ProductKernels& products = compute == ComputeType::bf16 ? kernels.b16 : kernels.f32;
  return best_rate(team, kernels, seconds, products.register_loop);
}

namespace {

using L1Loop = double (*)(std::int64_t iterations, void* l1);

double l1_rate(ThreadTeam& team, const MatmulKernels& kernels, L1Loop loop, double seconds) {
  if (loop == nullptr) return 0.0;
  return best_rate(team, kernels, seconds, [&](std::int64_t iterations) {
    alignas(kBufferAlignment) std::byte block[kL1Bytes] = {};
    return loop(iterations, block);
  });
}

}  // namespace

double l1_tile_flops(ThreadTeam& team, const Backend& backend, double seconds) {
  const MatmulKernels& kernels = *backend.kernels->matmul;
  return l1_rate(team, kernels, kernels.b16.l1_loop, seconds);
}

double l1_int8_tile_ops(ThreadTeam& team, const Backend& backend, double seconds) {
  const MatmulKernels& kernels = *backend.kernels->matmul;
  return l1_rate(team, kernels, kernels.int8_l1_loop, seconds);
}

}  // namespace quern
