#include "math/bandwidth.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <vector>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

#include "math/aligned_buffer.hpp"

namespace quern {
namespace {

using Clock = std::chrono::steady_clock;

// Long enough to time (10 ms at 12 GB/s), short enough that a report costs little time and memory.
constexpr std::int64_t kBufferBytes = std::int64_t{128} << 20;
// Pieces that threads claim: small beside a thread's share, large beside the cost of claiming.
constexpr std::int64_t kPieceBytes = std::int64_t{1} << 20;
constexpr std::int64_t kPieces = kBufferBytes / kPieceBytes;
constexpr std::int64_t kPieceWords = kPieceBytes / 8;

/// Writes a piece so that its lines end up in memory and in no cache; a last-level cache may be larger than the buffer.
void write_past_caches(std::uint64_t* words) {
#if defined(__x86_64__)
  const __m128i ones = _mm_set1_epi32(1);
  for (std::int64_t i = 0; i < kPieceWords; i += 2) _mm_stream_si128(reinterpret_cast<__m128i*>(words + i), ones);
  _mm_sfence();
#else
  std::fill(words, words + kPieceWords, std::uint64_t{1});
#endif
}

std::uint64_t read(const std::uint64_t* words) {
  std::uint64_t sums[8] = {};
  for (std::int64_t i = 0; i < kPieceWords; i += 8) {
    for (int lane = 0; lane < 8; ++lane) sums[lane] += words[i + lane];
  }
  std::uint64_t sum = 0;
  for (const std::uint64_t lane : sums) sum += lane;
  return sum;
}

}  // namespace

double memory_read_bandwidth(ThreadTeam& team, double seconds) {
  auto buffer = AlignedBuffer::allocate(static_cast<std::size_t>(kBufferBytes));
  if (!buffer) return 0.0;
  auto* const words = buffer->as<std::uint64_t>();
  double best = 0.0;
  bool done = false;                  // written by thread 0 before a barrier, read by all after it
  std::atomic<std::uint64_t> sum{0};  // keeps the reads
  // When each member left the barrier. The pass began with the first of them: one that slept there is late, and pieces that
  // others read before it wakes would count as read in no time.
  std::vector<Clock::time_point> starts(static_cast<std::size_t>(team.size()));
  const Clock::time_point begin = Clock::now();
  team.run([&](TeamMember& member) {
    while (!done) {
      member.for_each(kPieces, [&](std::int64_t piece) { write_past_caches(words + piece * kPieceWords); });
      member.barrier();
      starts[static_cast<std::size_t>(member.index())] = Clock::now();
      std::uint64_t own = 0;
      member.for_each(kPieces, [&](std::int64_t piece) { own += read(words + piece * kPieceWords); });
      if (member.index() == 0) {
        const Clock::time_point now = Clock::now();
        const Clock::time_point start = *std::min_element(starts.begin(), starts.begin() + member.count());
        best = std::max(best, static_cast<double>(kBufferBytes) / std::chrono::duration<double>(now - start).count());
        done = std::chrono::duration<double>(now - begin).count() >= seconds;
      }
      sum.fetch_add(own, std::memory_order_relaxed);
      member.barrier();
    }
  });
  // Every word is 0x1'0000'0001; the comparison is never true and cannot be left out.
  return sum.load() == 0 ? 0.0 : best;
}

}  // namespace quern
