#include "infer/weight_placement.hpp"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>

namespace quern {

std::string_view placement_name(WeightPlacement placement) {
  switch (placement) {
    case WeightPlacement::interleaved:
      return "interleaved";
    case WeightPlacement::cached:
      return "cached";
    case WeightPlacement::automatic:
      return "auto";
    default:
      return "mapped";
  }
}

void read_ahead(ThreadTeam& team, std::span<const std::byte> bytes, const PlacementOptions& options, std::size_t done,
                std::size_t total) {
  // Pieces of which the next is being read by the system while one is touched.
  constexpr std::size_t kPiece = std::size_t{8} << 20;
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const auto piece_at = [&](std::size_t at) { return bytes.subspan(at, std::min(kPiece, bytes.size() - at)); };
  const auto ask = [&](std::size_t at) {
    if (at >= bytes.size()) return;
    const std::span<const std::byte> piece = piece_at(at);
    const auto begin = reinterpret_cast<std::uintptr_t>(piece.data()) / page * page;
    const auto end = reinterpret_cast<std::uintptr_t>(piece.data()) + piece.size();
    // Advice: where it is refused, touching reads.
    (void)::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_WILLNEED);
  };
  ask(0);
  for (std::size_t at = 0; at < bytes.size(); at += kPiece) {
    if (options.stop && options.stop()) return;
    ask(at + kPiece);
    const std::span<const std::byte> piece = piece_at(at);
    const auto pages = static_cast<std::int64_t>((piece.size() + page - 1) / page);
    constexpr std::int64_t kPagesPerTask = 64;
    std::atomic<unsigned> sum{0};  // so that reads are not dropped
    team.run([&](TeamMember& member) {
      member.for_each((pages + kPagesPerTask - 1) / kPagesPerTask, [&](std::int64_t task) {
        unsigned own = 0;
        for (std::int64_t i = task * kPagesPerTask; i < std::min(pages, (task + 1) * kPagesPerTask); ++i) {
          own += static_cast<unsigned>(piece[static_cast<std::size_t>(i) * page]);
        }
        sum.fetch_add(own, std::memory_order_relaxed);
      });
    });
    if (options.progress) options.progress("reading weights", done + at + piece.size(), total);
  }
}

Result<void> lock_in_memory(std::span<const std::byte> bytes) {
  if (bytes.empty() || ::mlock(bytes.data(), bytes.size()) == 0) return {};
  const int refused = errno;
  rlimit limit{};
  std::string allowed = "not known";
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) == 0) {
    allowed = limit.rlim_cur == RLIM_INFINITY ? "none" : fmt::format("{} bytes", limit.rlim_cur);
  }
  return io_error(fmt::format("the system refuses to lock {} bytes of weights in memory: {}; the limit (ulimit -l) is {}",
                              bytes.size(), std::strerror(refused), allowed));
}

}  // namespace quern
