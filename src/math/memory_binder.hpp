// Who asks the system where a thread's memory shall lie: hwloc, or a test in its place.
#pragma once

#include <cstdint>
#include <span>

#include "math/numa_policy.hpp"

namespace quern {

class MemoryBinder {
 public:
  virtual ~MemoryBinder() = default;
  /// Makes `policy` over `nodes`, by the system's numbers, that of the calling thread, for pages that it touches first from
  /// now on. 0, or errno. Called by several threads at once.
  [[nodiscard]] virtual int bind_thread(std::span<const std::int64_t> nodes, NumaPolicy policy) = 0;
};

/// apply_numa() through `binder`.
[[nodiscard]] Result<void> apply_numa(ThreadTeam& team, const NumaPlan& plan, MemoryBinder& binder);

}  // namespace quern
