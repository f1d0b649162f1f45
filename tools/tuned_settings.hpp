// Settings that change how fast a model runs here and not what it computes: what `quern tune` finds and commands take up.
#pragma once

#include <cstdint>
#include <string>

#include "math/exec.hpp"
#include "math/numa_policy.hpp"
#include "math/thread_placement.hpp"

namespace quern::tools {

/// Defaults are what commands do without having been told. Settings that a kind of work does not have keep them.
struct TunedSettings {
  std::int64_t threads = 0;  ///< 0: default_thread_count()
  Affinity affinity = Affinity::none;
  NumaPolicy numa = NumaPolicy::local;
  std::string weights = "auto";  ///< as --weights says
  std::int64_t batch = 512;      ///< tokens of a prompt that are computed together
  std::int64_t block_rows = 0;   ///< BlockSizes::block_rows
  std::int64_t task_bytes = 0;   ///< BlockSizes::task_bytes; 0: the default
  std::string kv_type = "auto";  ///< changes results: only where it was asked for

  bool operator==(const TunedSettings&) const = default;
};

/// What differs from the defaults: "2 threads, batch 256"; "the defaults" where nothing does. `training` leaves out what
/// training does not have.
[[nodiscard]] std::string settings_text(const TunedSettings& settings);

}  // namespace quern::tools
