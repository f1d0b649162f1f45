#include "math/thread_team.hpp"

#include <linux/futex.h>
#include <omp.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <climits>
#include <cmath>
#include <thread>
#include <utility>

#include "math/container_limits.hpp"
#include "math/operation_profile.hpp"

namespace quern {
namespace internal {

/// A cache line: what several threads write at different times is kept on lines of its own.
constexpr std::size_t kCacheLine = 64;

struct TeamShared {
  // Barrier: members count themselves in `arrived`; the last one resets it and advances `generation`, on which the others
  // spin and then sleep.
  alignas(kCacheLine) std::atomic<std::uint32_t> arrived{0};
  alignas(kCacheLine) std::atomic<std::uint32_t> generation{0};
  std::atomic<std::uint32_t> sleepers{0};
  // Loop counter: the loop's number (16 bits) above the next task (48 bits). The first claim of a loop finds the number of
  // the loop before, because every member stops claiming before the barrier between the two, and starts the count again.
  alignas(kCacheLine) std::atomic<std::uint64_t> claims{0};
  alignas(kCacheLine) bool may_spin = true;  // constant while a team runs
};

namespace {

constexpr int kTaskBits = 48;
constexpr std::uint64_t kTaskMask = (std::uint64_t{1} << kTaskBits) - 1;
constexpr std::uint64_t kLoopMask = 0xFFFF;

// On idle cores a futex round trip costs some 5 to 50 us, so a waiting member first spins about as long as sleeping and
// waking would take: the classic bound of twice the best (Karlin et al. 1991, "Empirical studies of competitive spinning").
// bench/math/thread_team_bench.cpp measures barriers.
constexpr std::chrono::microseconds kSpin{30};
constexpr int kPausesPerClockRead = 16;

// On cores that others use too, the member that is waited for may need the very core that the waiting one spins on: there
// sleeping at once is some ten times faster. So after each spin in vain a thread sleeps at once at its next barriers: 1,
// then 2, 4, at most 64 of them: what it then still loses is 1/64 of a spin at each.
constexpr int kMostSleepsInARow = 64;
struct SpinHistory {
  int sleeps_in_a_row = 0;  // doubled by each spin in vain, zero after one that was not
  int sleeps_left = 0;
};
thread_local constinit SpinHistory spin_history;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static_assert(sizeof(std::atomic<std::uint32_t>) == sizeof(std::uint32_t) && std::atomic<std::uint32_t>::is_always_lock_free,
              "a futex is a plain 32-bit word");

void futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t expected) {
  // Returns at once when the word has changed, and may return early; the caller looks again.
  syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}

void futex_wake_all(std::atomic<std::uint32_t>& word) {
  syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

/// True when the barrier of `generation` opened within the time allowed for spinning.
bool spin(const TeamShared& shared, std::uint32_t generation) {
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < kPausesPerClockRead; ++i) {
      if (shared.generation.load(std::memory_order_acquire) != generation) return true;
      pause();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return false;
}

bool spin_if_worthwhile(const TeamShared& shared, std::uint32_t generation) {
  SpinHistory& history = spin_history;
  if (history.sleeps_left > 0) {
    --history.sleeps_left;
    return false;
  }
  if (spin(shared, generation)) {
    history.sleeps_in_a_row = 0;
    return true;
  }
  history.sleeps_in_a_row = std::clamp(2 * history.sleeps_in_a_row, 1, kMostSleepsInARow);
  history.sleeps_left = history.sleeps_in_a_row;
  return false;
}

}  // namespace

static void wait_for_all(TeamShared& shared, std::uint32_t member_count) {
  const std::uint32_t generation = shared.generation.load(std::memory_order_acquire);
  if (shared.arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == member_count) {
    shared.arrived.store(0, std::memory_order_relaxed);  // published by the line below; nobody arrives again before it
    shared.generation.fetch_add(1, std::memory_order_seq_cst);
    // Either this load sees a sleeper, or the sleeper's futex_wait sees the new generation: both sides write, then read,
    // sequentially consistent.
    if (shared.sleepers.load(std::memory_order_seq_cst) != 0) futex_wake_all(shared.generation);
    return;
  }
  if (shared.may_spin && spin_if_worthwhile(shared, generation)) return;
  shared.sleepers.fetch_add(1, std::memory_order_seq_cst);
  while (shared.generation.load(std::memory_order_acquire) == generation) futex_wait(shared.generation, generation);
  shared.sleepers.fetch_sub(1, std::memory_order_relaxed);
}

void team_barrier(TeamShared& shared, std::uint32_t member_count, OperationRecorder* recorder) {
  if (recorder != nullptr) recorder->wait_begin();
  wait_for_all(shared, member_count);
  if (recorder != nullptr) recorder->wait_end();
}

std::int64_t team_claim(TeamShared& shared, std::uint64_t loop) {
  const std::uint64_t tag = (loop & kLoopMask) << kTaskBits;
  std::uint64_t seen = shared.claims.load(std::memory_order_relaxed);
  if ((seen & ~kTaskMask) != tag) {
    if (shared.claims.compare_exchange_strong(seen, tag | 1, std::memory_order_relaxed)) return 0;
    // Another member has started this loop's count; nobody can start the next one while this member still claims.
  }
  return static_cast<std::int64_t>(shared.claims.fetch_add(1, std::memory_order_relaxed) & kTaskMask);
}

}  // namespace internal

namespace {

/// An affinity mask of the system, wide enough for 8192 processors: what Linux is built for at most.
struct ProcessorMask {
  std::array<cpu_set_t, 8> sets{};

  bool read() { return sched_getaffinity(0, sizeof sets, sets.data()) == 0; }
  bool apply() const { return sched_setaffinity(0, sizeof sets, sets.data()) == 0; }
  void add(int processor) { CPU_SET_S(static_cast<std::size_t>(processor), sizeof sets, sets.data()); }
  [[nodiscard]] bool has(int processor) const {
    return CPU_ISSET_S(static_cast<std::size_t>(processor), sizeof sets, sets.data()) != 0;
  }
  static constexpr int kProcessors = 8 * CPU_SETSIZE;
};

/// What a thread is bound to. The mask is what it had before, and gets back.
struct Binding {
  int processor = -1;  // -1: not bound by a team
  ProcessorMask before;
};
thread_local constinit Binding binding;

/// Binds the calling thread to a processor; -1 gives it its own mask back.
void bind_to(int processor) {
  if (processor == binding.processor) return;
  if (processor < 0) {
    binding.before.apply();
    binding.processor = -1;
    return;
  }
  if (processor >= ProcessorMask::kProcessors) return;
  if (binding.processor < 0 && !binding.before.read()) return;
  ProcessorMask one;
  one.add(processor);
  if (one.apply()) binding.processor = processor;
}

int affinity_count() {
  const std::vector<int> processors = allowed_processors();
  return processors.empty() ? std::max(1, static_cast<int>(std::thread::hardware_concurrency()))
                            : static_cast<int>(processors.size());
}

}  // namespace

std::vector<int> allowed_processors() {
  std::vector<int> processors;
  ProcessorMask mask;
  if (!mask.read()) return processors;
  for (int i = 0; i < ProcessorMask::kProcessors; ++i) {
    if (mask.has(i)) processors.push_back(i);
  }
  return processors;
}

ThreadTeam::ThreadTeam(int threads, std::vector<int> processors)
    : shared_(std::make_unique<internal::TeamShared>()), size_(std::max(1, threads)), processors_(std::move(processors)) {
  // With more members than processors a spinning member would hold the core that the last one to arrive needs.
  shared_->may_spin = size_ <= default_thread_count();
  processors_.resize(processors_.empty() ? 0 : static_cast<std::size_t>(size_), -1);
}

ThreadTeam::~ThreadTeam() = default;
ThreadTeam::ThreadTeam(ThreadTeam&&) noexcept = default;
ThreadTeam& ThreadTeam::operator=(ThreadTeam&&) noexcept = default;

void ThreadTeam::run_erased(void (*body)(void* context, TeamMember& member), void* context) {
  const int* const processors = processors_.empty() ? nullptr : processors_.data();
  if (size_ == 1) {
    TeamMember alone;
    if (processors == nullptr) return body(context, alone);  // perhaps inside another team's task: nothing is changed
    bind_to(processors[0]);
    body(context, alone);
    bind_to(-1);
    return;
  }
  internal::TeamShared* const shared = shared_.get();
  // Not the tag of loop 0, with which every run begins.
  shared->claims.store(internal::kLoopMask << internal::kTaskBits, std::memory_order_relaxed);
#pragma omp parallel num_threads(size_) default(none) firstprivate(body, context, shared, processors)
  {
    TeamMember member;
    member.shared_ = shared;
    member.index_ = omp_get_thread_num();
    // OpenMP may give fewer threads than asked for (OMP_THREAD_LIMIT, or a run inside another parallel region).
    member.count_ = omp_get_num_threads();
    bind_to(processors == nullptr ? -1 : processors[member.index_]);
    body(context, member);
    // Wait here rather than in OpenMP's barrier at the end of the region, which spins for milliseconds.
    member.barrier();
    if (member.index_ == 0) bind_to(-1);  // the caller goes on as it came
  }
}

int thread_count_for(int processors, std::optional<double> quota) {
  if (!quota || *quota >= processors) return std::max(1, processors);
  return std::max(1, static_cast<int>(std::ceil(*quota)));
}

int default_thread_count() { return thread_count_for(affinity_count(), read_container_limits().processors); }

}  // namespace quern
