#include "math/stream_rates.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "math/page_block.hpp"

namespace quern {
namespace {

constexpr std::size_t kBlockStep = 2 * kStreamStep;  // so that halves, for copies, are whole steps
constexpr std::size_t kLeastMemoryBytes = std::size_t{256} << 20;

std::size_t whole_steps(std::size_t bytes) { return std::max(bytes / kBlockStep, std::size_t{1}) * kBlockStep; }

/// A thread's share of one cache of this level when the first `threads` processors work.
std::size_t share_of(const MachineTopology& topology, int level, int threads) {
  std::size_t share = 0;
  for (const CacheReport& cache : topology.caches) {
    if (cache.level != level || cache.kind == "instruction" || cache.instances == 0) continue;
    const std::int64_t sharing = std::max<std::int64_t>(1, std::min<std::int64_t>(cache.processors_sharing, threads));
    const std::size_t found = static_cast<std::size_t>(cache.bytes) / static_cast<std::size_t>(sharing);
    share = share == 0 ? found : std::min(share, found);  // of unlike cores, what the smallest has
  }
  return share;
}

}  // namespace

std::string_view to_word(StreamAccess access) {
  switch (access) {
    case StreamAccess::read:
      return "read";
    case StreamAccess::write:
      return "write";
    case StreamAccess::copy:
      return "copy";
    case StreamAccess::write_past:
      return "non-temporal write";
  }
  return "unknown";
}

const StreamKernels& stream_kernels(const CpuFeatures& features, Isa highest) {
#if defined(__x86_64__)
  if (highest >= Isa::avx512 && supports(features, Isa::avx512)) return *stream_kernels_avx512();
  if (highest >= Isa::avx2 && supports(features, Isa::avx2)) return *stream_kernels_avx2();
#else
  static_cast<void>(features);
  static_cast<void>(highest);
#endif
  return *stream_kernels_portable();
}

std::vector<WorkingSet> working_sets(const MachineTopology& topology, int threads, std::size_t most_bytes) {
  std::vector<WorkingSet> sets;
  const auto team = static_cast<std::size_t>(std::max(threads, 1));
  std::size_t below = 0;  // a thread's share of the level below, whole
  for (const int level : {1, 2}) {
    const std::size_t share = share_of(topology, level, threads);
    if (share / 2 < kBlockStep || share <= below) continue;
    sets.push_back({level, whole_steps(share / 2)});
    below = share;
  }
  for (const int level : {3, 4}) {
    const std::size_t share = share_of(topology, level, threads);
    const std::size_t bytes = std::min(share / 2, 4 * below);
    if (below == 0 || bytes < 2 * below) continue;
    sets.push_back({level, whole_steps(bytes)});
    below = share;
  }
  std::size_t largest = 0;
  for (const CacheReport& cache : topology.caches) largest = std::max(largest, static_cast<std::size_t>(cache.bytes));
  const std::size_t memory = std::min(std::max(2 * largest, kLeastMemoryBytes), most_bytes);
  sets.push_back({0, whole_steps(memory / team)});
  return sets;
}

Result<std::vector<double>> stream_rates(ThreadTeam& team, const StreamKernels& kernels, StreamAccess access,
                                         std::size_t bytes_per_thread, const Repeats& repeats, bool huge_pages) {
  if (access == StreamAccess::write_past && kernels.write_past == nullptr) return std::vector<double>{};
  const std::size_t bytes = whole_steps(bytes_per_thread);
  std::vector<PageBlock> blocks(static_cast<std::size_t>(team.size()));
  bool refused = false;
  for (PageBlock& block : blocks) {
    block = PageBlock(bytes, huge_pages);
    refused = refused || block.data() == nullptr;
  }
  if (refused)
    return no_memory(fmt::format("no memory for {} blocks of {} bytes to measure bandwidth with", team.size(), bytes));
  team.run([&](TeamMember& member) { std::memset(blocks[static_cast<std::size_t>(member.index())].data(), 1, bytes); });

  return repeated_rates(team, repeats, [&](TeamMember& member, std::int64_t passes) {
    std::byte* const block = blocks[static_cast<std::size_t>(member.index())].data();
    switch (access) {
      case StreamAccess::read:
        kernels.read(block, bytes, passes);
        break;
      case StreamAccess::write:
        kernels.write(block, bytes, passes);
        break;
      case StreamAccess::copy:
        kernels.copy(block, block + bytes / 2, bytes / 2, passes);
        break;
      case StreamAccess::write_past:
        kernels.write_past(block, bytes, passes);
        break;
    }
    return static_cast<double>(bytes) * static_cast<double>(passes);
  });
}

}  // namespace quern
