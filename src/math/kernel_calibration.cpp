#include "math/kernel_calibration_internal.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>

namespace quern {
namespace {

using Clock = std::chrono::steady_clock;

/// Of one pass over memory by all threads: 4 ms at 30 GB/s.
constexpr std::size_t kMemoryPassBytes = std::size_t{128} << 20;

/// Threads per second that did `work`, from barrier to barrier. OpenMP may give fewer threads than the team has.
template <class Work>
double threads_per_second(ThreadTeam& team, const Work& work) {
  double seconds = 0.0;
  int threads = 1;
  team.run([&](TeamMember& member) {
    member.barrier();
    const Clock::time_point start = Clock::now();
    work(member);
    member.barrier();
    if (member.index() != 0) return;
    seconds = std::chrono::duration<double>(Clock::now() - start).count();
    threads = member.count();
  });
  return threads / std::max(seconds, 1e-9);
}

}  // namespace

KernelCalibration::KernelCalibration(ThreadTeam& team, const Backend& backend, const HardwareReport& report,
                                     const BenchMemory& memory, double seconds)
    : team_(&team),
      backend_(&backend),
      memory_(&memory),
      seconds_(seconds),
      streams_(&stream_kernels(report.features, backend.kernels->isa)),
      sets_(working_sets(report.topology, team.size(), memory.bytes.size())) {}

Result<KernelCalibration> KernelCalibration::make(ThreadTeam& team, const Backend& backend, const HardwareReport& report,
                                                  const BenchMemory& memory, double seconds) {
  KernelCalibration calibration(team, backend, report, memory, seconds);
  for (const WorkingSet& set : calibration.sets_) {
    if (set.level == 0) continue;
    std::vector<PageBlock>& blocks = calibration.blocks_[set.level];
    for (int i = 0; i < team.size(); ++i) {
      blocks.emplace_back(set.bytes_per_thread, true);
      if (blocks.back().data() == nullptr) return no_memory("no memory to measure the bandwidth of caches with");
    }
    team.run([&](TeamMember& member) {
      std::memset(blocks[static_cast<std::size_t>(member.index())].data(), 1, set.bytes_per_thread);
    });
  }
  return calibration;
}

int KernelCalibration::level_of(const KernelCase& one) const {
  if (one.from_memory) return 0;
  // Blocks of the working sets are half a cache: what fits twice stays there. First-level caches are a thread's own and
  // operands are shared, so the second level is the nearest that counts.
  for (const WorkingSet& set : sets_) {
    const double held = 2.0 * static_cast<double>(set.bytes_per_thread) * team_->size();
    if (set.level >= 2 && one.bytes <= held) return set.level;
  }
  // Larger than the block that the last level is measured with, and yet its: what is called again and again stays there.
  return blocks_.empty() || blocks_.rbegin()->first < 2 ? 0 : blocks_.rbegin()->first;
}

double KernelCalibration::memory_pass(bool update) {
  const std::size_t all = std::min(kMemoryPassBytes, memory_->bytes.size());
  const std::size_t bytes = all / static_cast<std::size_t>(team_->size()) / kStreamStep * kStreamStep;
  std::byte* const block = memory_->window(passes_++, all);
  const double rate = threads_per_second(*team_, [&](TeamMember& member) {
    std::byte* const own = block + static_cast<std::size_t>(member.index()) * bytes;
    if (update) {
      streams_->copy(own, own, bytes, 1);  // each line to where it came from
    } else {
      streams_->read(own, bytes, 1);
    }
  });
  return static_cast<double>(bytes) * (update ? 2.0 : 1.0) * rate;
}

double KernelCalibration::measure(const Roof& roof) {
  if (roof.arithmetic) {
    const std::vector<double> rates =
        peak_rates(*team_, *backend_->kernels, roof.type, {.warmup = 0, .measured = 1, .seconds = seconds_, .stop = {}});
    return rates.empty() ? 0.0 : rates.front();
  }
  if (roof.level == 0) {
    const double read = memory_pass(false);
    if (roof.updated_share <= 0.0) return read;
    return 1.0 / ((1.0 - roof.updated_share) / read + roof.updated_share / memory_pass(true));
  }
  const std::vector<PageBlock>& blocks = blocks_.at(roof.level);
  const std::size_t bytes = blocks.front().bytes();
  std::int64_t passes = 1;
  while (true) {
    const Clock::time_point start = Clock::now();
    const double rate = threads_per_second(*team_, [&](TeamMember& member) {
      streams_->read(blocks[static_cast<std::size_t>(member.index())].data(), bytes, passes);
    });
    if (std::chrono::duration<double>(Clock::now() - start).count() >= seconds_) {
      return static_cast<double>(bytes) * static_cast<double>(passes) * rate;
    }
    passes *= 2;
  }
}

double KernelCalibration::first(const Roof& roof) {
  const std::string name = fmt::format("{} {}", roof.name(), roof.updated_share);
  const auto known = known_.find(name);
  if (known != known_.end()) return known->second;
  // The best of some: another process may have had the machine in one of them.
  double best = 0.0;
  for (int i = 0; i < 5; ++i) best = std::max(best, measure(roof));
  return known_[name] = best;
}

Roof KernelCalibration::roof_of(const KernelCase& one) {
  Roof memory{.arithmetic = false, .type = one.arithmetic, .level = level_of(one), .updated_share = 0.0};
  if (memory.level == 0 && one.bytes > 0.0) memory.updated_share = one.updated_bytes / one.bytes;
  if (one.flops <= 0.0 || peak_method(*backend_->kernels, one.arithmetic).empty()) return memory;
  const Roof arithmetic{.arithmetic = true, .type = one.arithmetic, .level = memory.level, .updated_share = 0.0};
  if (one.bytes <= 0.0) return arithmetic;
  return first(arithmetic) < first(memory) * one.flops / one.bytes ? arithmetic : memory;
}

}  // namespace quern
