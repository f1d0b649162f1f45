// How fast this machine reads memory: what the bytes that a decoded token reads are compared with.
#pragma once

#include "math/thread_team.hpp"

namespace quern {

/// Bytes a second that all threads of `team` together read from memory, not from caches: a buffer of 128 MiB is written past
/// the caches (x86) and read once in order, several times, for about `seconds` in all (0.1 is enough); the best pass counts,
/// because cores may be shared. 0 where there is no memory for the buffer. Not deterministic.
[[nodiscard]] double memory_read_bandwidth(ThreadTeam& team, double seconds = 0.1);

}  // namespace quern
