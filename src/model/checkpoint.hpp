// Checkpoints: one self-describing HDF5 file behind a user block that is checked before the library opens it.
//
// File: a user block of 512 bytes (magic "QUERNCKP", u32 format version, u64 length of the rest, u64 XXH3 of the rest;
// hdf5_user_block.hpp has the offsets), then the HDF5 file, which any HDF5 tool opens:
//   /weights/NAME           f32, one dataset per parameter: [rows, cols], norms and biases [size]
//   /optimizer/{m,v}/NAME   f32, first moments (AdamW's, or Muon's momentum) and AdamW's second ones, of the tensors that
//                           have them; absent in files of weights only
//   /model, /run, /tokenizer   text as u8: ModelConfig (JSON), the resolved run (YAML), the tokenizer (JSON)
//   attributes of /: step, micro_batch, seed (its 64 bits as i64), val_loss, best_val_loss, train_seconds, quern_version
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
  std::string run_yaml;          ///< resolved run
  std::string tokenizer_json;    ///< Tokenizer::to_json
  std::int64_t step = 0;         ///< optimizer steps done
  std::int64_t micro_batch = 0;  ///< micro-batches consumed: position in the data and in the random streams
  std::uint64_t seed = 0;
  double val_loss = std::numeric_limits<double>::quiet_NaN();  ///< last validation, NaN where none
  double best_val_loss = std::numeric_limits<double>::infinity();
  double train_seconds = 0.0;  ///< so far, over all sessions of the run
  std::string quern_version;
  bool has_optimizer = false;
};

/// f32 blocks in ParameterLayout's order and offsets. m and v may be empty (weights only).
struct CheckpointTensors {
  std::span<const float> weights, m, v;
  const ParameterLayout* v_layout = nullptr;  ///< of v where not all tensors have a second moment; null: as the others
};
struct MutableCheckpointTensors {
  std::span<float> weights, m, v;
  const ParameterLayout* v_layout = nullptr;
};

/// Writes beside, verifies what was written by reading it back, syncs, renames. Nothing is left of a failed write, and a
/// file that was at `path` before is still whole.
[[nodiscard]] Result<void> save_checkpoint(const std::string& path, const CheckpointInfo& info,
                                           const ParameterLayout& layout, const CheckpointTensors& tensors);

/// Reads and checks magic, length and hash, then the metadata. Error where anything is not what it must be.
[[nodiscard]] Result<CheckpointInfo> read_checkpoint_info(const std::string& path);

/// Reads tensors by name into blocks of layout's shapes; missing, misshapen, mistyped and unknown tensors are named. Padding
/// between tensors is left as it is, and the blocks' contents are unspecified after an error. Empty blocks are not read;
/// asking for m and v of a file without them is an error.
[[nodiscard]] Result<void> read_checkpoint_tensors(const std::string& path, const ParameterLayout& layout,
                                                   const MutableCheckpointTensors& tensors);

/// A run folder (checkpoint_folder.hpp) -> its best checkpoint, or the newest where none is marked best; with `last` always
/// the newest, to resume from. A file -> itself. Error bad_input where there is none.
[[nodiscard]] Result<std::string> find_checkpoint(const std::string& run_or_file, bool last);

}  // namespace quern
