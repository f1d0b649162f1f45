// Where the matrices of a GGUF file lie while a model runs, and how they got there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>

#include "math/result.hpp"
#include "math/thread_team.hpp"

namespace quern {

enum class WeightPlacement : std::uint8_t {
  mapped,       ///< in the file, mapped into memory, as it lies there
  interleaved,  ///< rows interleaved for the instruction set (math/block_interleave.hpp), in memory
  cached,       ///< the same in a file beside the model's, mapped; the first run makes it
  automatic     ///< cached where that file is there, else interleaved where memory suffices, else mapped
};

[[nodiscard]] std::string_view placement_name(WeightPlacement placement);

struct PlacementOptions {
  WeightPlacement placement = WeightPlacement::mapped;
  bool huge_pages = true;   ///< ask for huge pages for weights in memory
  bool lock = false;        ///< lock weights in memory (mlock)
  bool read_ahead = false;  ///< read mapped weights from the disk before load() returns
  /// How much of `stage` is done, in bytes; called by the thread that loads.
  std::function<void(std::string_view stage, std::size_t done, std::size_t total)> progress = {};
  /// Asked now and then: whether to give up.
  std::function<bool()> stop = {};
};

/// Touches every page of `bytes`, which a file is mapped to, after asking for it; `done` of `total` bytes are behind.
void read_ahead(ThreadTeam& team, std::span<const std::byte> bytes, const PlacementOptions& options, std::size_t done,
                std::size_t total);

/// Keeps `bytes` in memory (mlock). Error io, which names the limit, where the system refuses.
[[nodiscard]] Result<void> lock_in_memory(std::span<const std::byte> bytes);

}  // namespace quern
