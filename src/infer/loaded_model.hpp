// A model loaded from a file for inference: parameters, packs and tokenizer in one owner.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "math/exec.hpp"
#include "math/memory_plan.hpp"
#include "math/result.hpp"
#include "math/thread_team.hpp"
#include "model/checkpoint.hpp"
#include "model/tokenizer.hpp"
#include "model/weights.hpp"

namespace quern {

/// bf16 where the instruction set multiplies bf16 tiles (AMX), else f32: elsewhere bf16 products are slower than f32.
[[nodiscard]] ComputeType preferred_compute(const Backend& backend);

struct LoadOptions {
  std::optional<ComputeType> compute;  ///< none: preferred_compute
  std::int64_t context_tokens = 0;     ///< longest sequence; 0: the model's. Learned positions cannot go past the model's
};

/// Owns what ModelWeights views. Not movable once loaded (the view points inside), hence the pointer.
class LoadedModel {
 public:
  /// Loads a checkpoint, or the best one of a run folder. `team` packs the weights. Errors: find_checkpoint's and the
  /// reader's.
  [[nodiscard]] static Result<std::unique_ptr<LoadedModel>> load(const std::string& run_or_checkpoint,
                                                                 const Backend& backend, ThreadTeam& team,
                                                                 const LoadOptions& options = {});

  [[nodiscard]] const ModelWeights& weights() const { return weights_; }
  [[nodiscard]] const Tokenizer& tokenizer() const { return *tokenizer_; }
  [[nodiscard]] const CheckpointInfo& info() const { return info_; }
  [[nodiscard]] std::int64_t context_tokens() const { return context_tokens_; }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
  CheckpointInfo info_;
  std::optional<Tokenizer> tokenizer_;
  ParameterLayout layout_;
  std::int64_t context_tokens_ = 0;
  MemoryPlan plan_;
  Arena arena_;
  ModelWeights weights_;
};

}  // namespace quern
