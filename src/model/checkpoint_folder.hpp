// Where a run keeps what it makes, and how to find a checkpoint in it.
//
//   DIR/run.yaml                        the resolved run
//   DIR/metrics.jsonl                   one line per logged step
//   DIR/checkpoints/step-00000250.h5    numbered checkpoints; the newest few are kept
//   DIR/checkpoints/last.h5             the newest checkpoint
//   DIR/checkpoints/best.h5             the one with the lowest validation loss
//
// last.h5 and best.h5 are hard links to a numbered file (copies where the file system has no links): they cost no space and
// keep their content when the numbered name is pruned. No checkpoint is ever changed in place, only replaced, so a link
// never sees another one's bytes. Names ending in ".tmp" are unfinished writes; they are never read.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "math/result.hpp"

namespace quern {

/// DIR/checkpoints/step-NNNNNNNN.h5, last.h5, best.h5.
[[nodiscard]] std::string checkpoint_path(const std::string& run, std::int64_t step);
[[nodiscard]] std::string last_checkpoint_path(const std::string& run);
[[nodiscard]] std::string best_checkpoint_path(const std::string& run);

/// Steps of the numbered checkpoints, ascending; other files are ignored. Empty where there is no such folder.
[[nodiscard]] Result<std::vector<std::int64_t>> checkpoint_steps(const std::string& run);

/// The step in the file name "step-00000250.h5"; nothing for any other name.
[[nodiscard]] std::optional<std::int64_t> step_of_checkpoint_name(std::string_view name);

/// Names of everything in DIR/checkpoints, in no order; empty where it does not exist.
[[nodiscard]] Result<std::vector<std::string>> checkpoint_folder_names(const std::string& run);

/// The checkpoint to resume from: last.h5, unless a numbered one is of a later step (its run was killed between saving and
/// linking). Error bad_input where there is none.
[[nodiscard]] Result<std::string> newest_checkpoint(const std::string& run);

/// best.h5, or the newest where no validation has chosen one.
[[nodiscard]] Result<std::string> best_checkpoint(const std::string& run);

}  // namespace quern
