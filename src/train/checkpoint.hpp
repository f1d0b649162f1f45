// Checkpoints: one self-describing HDF5 file behind a user block that is checked before the library opens it.
//
// File: bytes 0..511 user block: magic "QUERNCKP", u32 format version, u64 length of the rest, u64 XXH3 of the rest (little
// endian), zeros; then the HDF5 file. Groups: /weights, /optimizer/m, /optimizer/v with one f32 dataset per parameter by
// name; attributes on /: model (JSON), run (YAML), tokenizer (JSON), step, micro_batch, seed, best_val_loss, quern_version.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string>

#include "math/result.hpp"
#include "model/model_config.hpp"

namespace quern {

/// Everything about a training state that is not a tensor.
struct CheckpointInfo {
  ModelConfig model;
  std::string run_yaml;        ///< resolved run
  std::string tokenizer_json;  ///< Tokenizer::to_json
  std::int64_t step = 0;         ///< optimizer steps done
  std::int64_t micro_batch = 0;  ///< micro-batches consumed: position in the data and in the random streams
  std::uint64_t seed = 0;
  double val_loss = std::numeric_limits<double>::quiet_NaN();       ///< last validation, NaN where none
  double best_val_loss = std::numeric_limits<double>::infinity();
  double train_seconds = 0.0;    ///< so far, over all sessions of the run
  std::string quern_version;
  bool has_optimizer = false;
};

/// f32 blocks in ParameterLayout's order and offsets. m and v may be empty (weights only).
struct CheckpointTensors {
  std::span<const float> weights, m, v;
};
struct MutableCheckpointTensors {
  std::span<float> weights, m, v;
};

/// Writes beside, syncs, renames, then verifies the user block of what was written. Nothing is left of a failed write.
[[nodiscard]] Result<void> save_checkpoint(const std::string& path, const CheckpointInfo& info, const ParameterLayout& layout,
                                           const CheckpointTensors& tensors);

/// Reads and checks magic, length and hash, then the metadata. Error where anything is not what it must be.
[[nodiscard]] Result<CheckpointInfo> read_checkpoint_info(const std::string& path);

/// Reads tensors by name into blocks of layout's shapes; missing, misshapen or mistyped tensors are named. Empty m and v
/// are not read; asking for m and v of a file without them is an error.
[[nodiscard]] Result<void> read_checkpoint_tensors(const std::string& path, const ParameterLayout& layout,
                                                   const MutableCheckpointTensors& tensors);

/// A run folder -> its best (or, where there is none, last) checkpoint; a file -> itself. `last` prefers the newest (resume).
[[nodiscard]] Result<std::string> find_checkpoint(const std::string& run_or_file, bool last);

}  // namespace quern
