#include "math/latency_rates.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "math/page_block.hpp"

namespace quern {
namespace {
constexpr std::size_t kLine = 64;
constexpr std::size_t kLeastBytes = 4096;
}  // namespace

namespace internal {

void write_chain(std::byte* block, std::size_t lines) {
  // The state runs through 0 .. lines - 1; its low bits have short periods, so reversed words would be no better: the high
  // bits, which choose the page, are those that jump.
  constexpr std::size_t kFactor = 2862933555777941757U, kIncrement = 3037000493U;
  std::size_t at = 0;
  for (std::size_t i = 0; i < lines; ++i) {
    const std::size_t next = (at * kFactor + kIncrement) & (lines - 1);
    std::byte* const to = block + next * kLine;
    std::memcpy(block + at * kLine, &to, sizeof to);
    at = next;
  }
}

}  // namespace internal

Result<std::vector<double>> load_latencies(std::size_t bytes, bool huge_pages, const Repeats& repeats,
                                           std::uint64_t* huge_bytes) {
  bytes = std::bit_floor(std::max(bytes, kLeastBytes));
  const PageBlock block(bytes, huge_pages);
  if (block.data() == nullptr)
    return no_memory(fmt::format("no memory for a block of {} bytes to measure latency with", bytes));
  std::memset(block.data(), 0, bytes);  // in order: a kernel that makes huge pages on faults does so here
  internal::write_chain(block.data(), bytes / kLine);
  if (huge_bytes != nullptr) *huge_bytes = block.huge_bytes();

  constexpr std::int64_t kLoads = 1024;
  std::byte* at = block.data();
  ThreadTeam alone(1);
  std::vector<double> rates = repeated_rates(alone, repeats, [&](TeamMember&, std::int64_t iterations) {
    std::byte* place = at;
    for (std::int64_t i = 0; i < iterations * kLoads; ++i)
      std::memcpy(&place, static_cast<const void*>(place), sizeof place);
    at = place;  // the next repeat goes on from here, and the loads cannot be left out
    __asm__ volatile("" : : "r"(place) : "memory");
    return static_cast<double>(iterations) * kLoads;
  });
  for (double& rate : rates) rate = 1.0 / rate;
  return rates;
}

std::vector<double> barrier_costs(ThreadTeam& team, const Repeats& repeats) {
  constexpr std::int64_t kBarriers = 16;
  std::vector<double> rates = repeated_rates(team, repeats, [&](TeamMember& member, std::int64_t iterations) {
    for (std::int64_t i = 0; i < iterations * kBarriers; ++i) member.barrier();
    // All members meet the same barriers: each has its part of their number.
    return static_cast<double>(iterations * kBarriers) / member.count();
  });
  for (double& rate : rates) rate = 1.0 / rate;
  return rates;
}

}  // namespace quern
