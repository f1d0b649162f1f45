// Weights that a run starts from (`train.from`): those of another run's checkpoint, or of an imported model's.
#pragma once

#include <string>

#include "math/result.hpp"
#include "model/checkpoint.hpp"
#include "model/tokenizer.hpp"
#include "train/corpus.hpp"
#include "train/run_config.hpp"

namespace quern {

/// A checkpoint whose model a run takes over.
struct StartWeights {
  std::string checkpoint;  ///< the file
  CheckpointInfo info;
  Tokenizer tokenizer;  ///< may have fewer tokens than info.model.vocab: published models pad their embeddings
};

/// Opens the checkpoint that `train.from` names, of a run folder its best; with `resume` the newest of run.dir, from which
/// the run itself goes on, so that the first one need not be there any more. Errors: bad_input where it is no checkpoint (a
/// GGUF file or Hugging Face folder is to be converted first), cannot be trained, or lies in run.dir.
[[nodiscard]] Result<StartWeights> open_start_weights(const RunConfig& run, bool resume);

/// Makes the checkpoint's model the run's. `model` keys that were given (run.origins) must agree with it, but for
/// model.context where positions are not learned: no tensor depends on it. Errors name the key, what the checkpoint has and
/// what was found.
[[nodiscard]] Result<void> adopt_model(const StartWeights& start, RunConfig& run);

/// Error bad_input where the corpus was made with another tokenizer than the checkpoint's; says how to prepare it again.
[[nodiscard]] Result<void> check_tokenizer(const StartWeights& start, const RunConfig& run, const Corpus& corpus);

}  // namespace quern
