// The folder of a run, from the side of the run that fills it. model/checkpoint_folder.hpp says what lies where.
#pragma once

#include <cstdint>
#include <string>

#include "math/result.hpp"
#include "model/checkpoint.hpp"
#include "model/checkpoint_folder.hpp"

namespace quern {

/// What to do when the run folder holds a run already.
enum class RunStart : std::uint8_t {
  fresh,   ///< refuse
  resume,  ///< continue it; refuse when it has no checkpoint
  replace  ///< remove its run.yaml, metrics.jsonl and checkpoints (nothing else), and begin anew
};

/// A run folder that this process trains in. Holds an advisory lock on the folder, so that two runs never share one; the
/// lock ends with the object or the process, however that ends. Move-only.
class RunFolder {
 public:
  /// Creates or takes over `path` (and its parents). Error bad_input when `start` forbids what is there (the message says
  /// which of --resume and --force would help) or another process trains there; io when the system refuses. Removes
  /// unfinished writes that a killed run left.
  [[nodiscard]] static Result<RunFolder> open(const std::string& path, RunStart start);

  RunFolder(RunFolder&& other) noexcept;
  RunFolder& operator=(RunFolder&& other) noexcept;
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;
  ~RunFolder();

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::string config_path() const { return path_ + "/run.yaml"; }
  [[nodiscard]] std::string metrics_path() const { return path_ + "/metrics.jsonl"; }

  /// Saves the numbered checkpoint of info.step, makes it last.h5 and, where `best`, best.h5, and prunes to the `keep`
  /// newest numbered ones (at least 0). Every file is whole at every moment; after an error the older ones are as they were.
  [[nodiscard]] Result<void> save(const CheckpointInfo& info, const ParameterLayout& layout,
                                  const CheckpointTensors& tensors, bool best, std::int64_t keep);

 private:
  RunFolder() = default;
  std::string path_;
  int lock_ = -1;  // descriptor of the folder
};

/// Makes `alias` (last.h5 or best.h5) another name of `checkpoint`, replacing it in one step.
[[nodiscard]] Result<void> link_checkpoint(const std::string& checkpoint, const std::string& alias);

/// Removes numbered checkpoints but the `keep` newest. What last.h5 and best.h5 hold stays.
[[nodiscard]] Result<void> prune_checkpoints(const std::string& run, std::int64_t keep);

}  // namespace quern
