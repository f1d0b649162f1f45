// Counts heap allocations on every thread of a test program, to prove that a steady-state step makes none.
//
// Programs that link the test support take their malloc family from malloc_counter.cpp, which counts and hands on to the C
// library; operator new comes through malloc. Under sanitizers, which bring a malloc of their own, nothing is replaced and
// malloc_counting_available() is false. To find who allocates, break on quern_allocated_inside in a debugger.
#pragma once

#include <cstdint>
#include <string_view>

namespace quern {

/// Calls of malloc, calloc, realloc, aligned_alloc, posix_memalign, memalign (and so operator new), by where they ran.
struct MallocCounts {
  std::uint64_t inside = 0;   ///< on threads that take part in what is measured
  std::uint64_t outside = 0;  ///< on threads or in scopes marked as outside of it
};

/// Whether this build counts at all; tests skip where it does not.
[[nodiscard]] bool malloc_counting_available();

/// Sets both counts to zero and counts until stop. One measurement at a time.
void start_malloc_counting();
MallocCounts stop_malloc_counting();

/// The counts so far, while counting.
[[nodiscard]] MallocCounts malloc_counts();

/// Threads whose name (pthread_setname_np) starts with `prefix` count as outside: for threads that a library makes, such as
/// one that writes logs. At most 15 characters; empty (the default) matches none.
void count_thread_outside(std::string_view prefix);

/// While it lives, this thread's allocations count as outside.
class OutsideStep {
 public:
  OutsideStep();
  ~OutsideStep();
  OutsideStep(const OutsideStep&) = delete;
  OutsideStep& operator=(const OutsideStep&) = delete;
};

}  // namespace quern
