// How long one load that depends on the one before takes, and what a barrier of a team costs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "math/repeated_rates.hpp"
#include "math/result.hpp"
#include "math/thread_team.hpp"

namespace quern {

/// Seconds per load of a chain of loads that goes through every cache line of a block in an order that no prefetcher
/// foresees, one figure per repeat, on the calling thread. `bytes` is cut to a power of two, of at least 4 KiB. Where most
/// loads of a large block go to pages that no TLB holds, this shows what page size costs. `huge_bytes` (nullable) receives
/// how much of the block lay in huge pages. Error no_memory.
[[nodiscard]] Result<std::vector<double>> load_latencies(std::size_t bytes, bool huge_pages, const Repeats& repeats,
                                                         std::uint64_t* huge_bytes = nullptr);

/// Seconds per barrier of a team of which no member has anything else to do, one figure per repeat.
[[nodiscard]] std::vector<double> barrier_costs(ThreadTeam& team, const Repeats& repeats);

namespace internal {

/// Writes a chain through `lines` (a power of two) cache lines: each begins with the address of the next, and all are met
/// once before the first comes again. The order is that of a linear congruential generator modulo `lines` (Hull and Dobell
/// 1962: full period with an odd increment and a factor of 1 modulo 4).
void write_chain(std::byte* block, std::size_t lines);

}  // namespace internal

}  // namespace quern
