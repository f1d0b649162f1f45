// Bandwidth of the caches and of memory, repeat by repeat.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "math/cpu_features.hpp"
#include "math/machine_topology.hpp"
#include "math/repeated_rates.hpp"
#include "math/result.hpp"
#include "math/stream_kernels.hpp"
#include "math/thread_team.hpp"

namespace quern {

/// What a stream does with a block. A copy counts the bytes that it reads and those that it writes.
enum class StreamAccess : std::uint8_t { read, write, copy, write_past };
inline constexpr StreamAccess kStreamAccesses[] = {StreamAccess::read, StreamAccess::write, StreamAccess::copy,
                                                   StreamAccess::write_past};
[[nodiscard]] std::string_view to_word(StreamAccess access);  ///< "read", "write", "copy", "non-temporal write"

/// The loops with the widest registers that `features` has and that instruction set `highest` may use.
[[nodiscard]] const StreamKernels& stream_kernels(const CpuFeatures& features, Isa highest);

/// A working set that lives in one level of the memory. Level 0: memory itself.
struct WorkingSet {
  int level = 0;
  std::size_t bytes_per_thread = 0;  ///< a multiple of 2 kStreamStep
};

/// Working sets of the levels that a machine has, for `threads` threads: half of a thread's share of the first and second
/// level, so that what else is in use does not drive them out; of the third four times the second-level caches of all
/// threads, but at most half of itself (none where that would leave less than twice the level below); memory: twice the
/// largest cache, at least 256 MiB, at most `most_bytes`. A cache that several cores share is divided among the threads.
[[nodiscard]] std::vector<WorkingSet> working_sets(const MachineTopology& topology, int threads, std::size_t most_bytes);

/// Bytes per second of all threads of `team`, each over a block of its own that it touched first (so that it lies in the
/// thread's own NUMA node where the system places it so), one figure per repeat. `huge_pages`: whether blocks ask for them.
/// None where the loops lack the access. Error no_memory.
[[nodiscard]] Result<std::vector<double>> stream_rates(ThreadTeam& team, const StreamKernels& kernels, StreamAccess access,
                                                       std::size_t bytes_per_thread, const Repeats& repeats,
                                                       bool huge_pages = true);

}  // namespace quern
