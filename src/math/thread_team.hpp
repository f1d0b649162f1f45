// Threads that run one function together: one OpenMP parallel region per step, with a barrier of our own inside.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

namespace quern {

class OperationRecorder;

namespace internal {
struct TeamShared;  // barrier and loop counters of one team

/// Waits until every member of the team has arrived. Spins for a short while, then sleeps on a futex, because the cores
/// may be shared with other processes. `recorder` (nullable) is told of the wait.
void team_barrier(TeamShared& shared, std::uint32_t member_count, OperationRecorder* recorder);

/// Claims the next unclaimed task of the team's `loop`-th for_each. Returns values >= task count when none is left.
std::int64_t team_claim(TeamShared& shared, std::uint64_t loop);
}  // namespace internal

/// One thread's part in a team, handed to the function that ThreadTeam::run executes on every thread. All members must
/// make the same sequence of barrier() and for_each() calls. A default-constructed member is a team of one, with which
/// the same functions run serially (inside a task of another team's loop, say).
class TeamMember {
 public:
  TeamMember() = default;

  /// This thread's number in 0 .. count()-1.
  [[nodiscard]] int index() const { return index_; }
  [[nodiscard]] int count() const { return count_; }

  /// Who is told what this thread does; null: nobody. The recorder must outlive this member and be this thread's own.
  [[nodiscard]] OperationRecorder* recorder() const { return recorder_; }
  void record_to(OperationRecorder* recorder) { recorder_ = recorder; }

  /// A team of one on this member's thread, with its recorder: to run serially inside a task.
  [[nodiscard]] TeamMember alone() const {
    TeamMember member;
    member.recorder_ = recorder_;
    return member;
  }

  /// Waits for all members; a team of one returns at once.
  void barrier() {
    if (count_ > 1) internal::team_barrier(*shared_, static_cast<std::uint32_t>(count_), recorder_);
  }

  /// Calls `task(i)` exactly once for each i in 0 .. tasks-1, on whichever member is free, then waits for all members.
  /// Which thread runs a task is not determined; results must not depend on it. Allocates nothing.
  template <class Task>
  void for_each(std::int64_t tasks, Task&& task) {
    if (count_ == 1) {
      for (std::int64_t i = 0; i < tasks; ++i) task(i);
      return;
    }
    const std::uint64_t loop = loop_++;
    for (std::int64_t i = internal::team_claim(*shared_, loop); i < tasks; i = internal::team_claim(*shared_, loop)) task(i);
    barrier();
  }

  /// for_each for tasks that follow each other in memory: a member takes runs of them, of 3/4 of what is left divided among
  /// the members, down to single tasks, so that hardware prefetchers see few streams and all end together. `task(i, next)`:
  /// `next` is the task that this member takes after i, already claimed, or `tasks`.
  template <class Task>
  void for_each_ahead(std::int64_t tasks, Task&& task) {
    if (count_ == 1) {
      for (std::int64_t i = 0; i < tasks; ++i) task(i, i + 1);
      return;
    }
    const std::uint64_t loop = loop_++;
    std::int64_t run = 0, begin = 0, end = 0;  // of the members' run number `run`; the first is empty
    const auto claim = [&] {
      for (const std::int64_t claimed = internal::team_claim(*shared_, loop) + 1; run < claimed && begin < tasks; ++run) {
        begin = end;
        const std::int64_t share = (tasks - begin) * 3 / (4 * count_);
        end = share > 1 ? begin + share : begin + 1;
      }
    };
    for (claim(); begin < tasks;) {
      const std::int64_t last = end - 1;
      for (std::int64_t i = begin; i < last; ++i) task(i, i + 1);
      claim();
      task(last, begin < tasks ? begin : tasks);
    }
    barrier();
  }

 private:
  friend class ThreadTeam;
  internal::TeamShared* shared_ = nullptr;
  int index_ = 0;
  int count_ = 1;
  std::uint64_t loop_ = 0;
  OperationRecorder* recorder_ = nullptr;
};

/// Owns the threads' shared state. Not itself thread-safe: one run() at a time.
class ThreadTeam {
 public:
  /// `threads` >= 1. Threads are OpenMP's and are created at the first run(). `processors`: where each thread runs, by the
  /// system's numbers (thread_placement.hpp); empty: where the system likes. The calling thread is bound for the length of
  /// a run() only; the others stay where they are put until a team without processors runs on them. A processor that the
  /// system refuses leaves its thread where it was.
  explicit ThreadTeam(int threads, std::vector<int> processors = {});
  ~ThreadTeam();
  ThreadTeam(ThreadTeam&&) noexcept;
  ThreadTeam& operator=(ThreadTeam&&) noexcept;

  [[nodiscard]] int size() const { return size_; }
  /// Of each thread; empty: threads are not bound.
  [[nodiscard]] const std::vector<int>& processors() const { return processors_; }

  /// Runs `body(TeamMember&)` on every thread of the team and returns when all are done. `body` must not throw.
  template <class Body>
  void run(Body&& body) {
    run_erased([](void* context, TeamMember& member) { (*static_cast<std::remove_reference_t<Body>*>(context))(member); },
               const_cast<void*>(static_cast<const void*>(std::addressof(body))));
  }

 private:
  void run_erased(void (*body)(void* context, TeamMember& member), void* context);
  std::unique_ptr<internal::TeamShared> shared_;
  int size_ = 1;
  std::vector<int> processors_;
};

/// Logical processors that the calling thread may run on, ascending; empty where the system does not say.
[[nodiscard]] std::vector<int> allowed_processors();

/// Threads to use when nothing is said: the processors in this process's affinity mask, cut by the container's CPU quota
/// (cgroup v1 and v2), at least 1.
[[nodiscard]] int default_thread_count();
/// The same rule for any machine: `processors` in the mask (at least 1), and a quota in processors, if there is one.
[[nodiscard]] int thread_count_for(int processors, std::optional<double> quota);

}  // namespace quern
