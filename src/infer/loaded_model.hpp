// A model loaded from a file for inference: parameters, packs and tokenizer in one owner.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "infer/interleaved_weights.hpp"
#include "infer/random_weights.hpp"
#include "infer/weight_placement.hpp"
#include "math/exec.hpp"
#include "math/memory_plan.hpp"
#include "math/result.hpp"
#include "math/thread_team.hpp"
#include "model/checkpoint.hpp"
#include "model/gguf_file.hpp"
#include "model/tokenizer.hpp"
#include "model/weights.hpp"

namespace quern {

/// bf16 where this processor multiplies it faster than f32 (has_fast_bf16), else f32.
[[nodiscard]] ComputeType preferred_compute(const Backend& backend);

/// The longest context that a published model is given without being asked for.
inline constexpr std::int64_t kDefaultContext = 4096;

struct LoadOptions {
  /// automatic: preferred_compute for checkpoints, WeightPrecision::fast for GGUF. f32: GGUF's weights are decoded exactly.
  /// bf16: checkpoints only.
  Precision precision = Precision::automatic;
  /// Longest sequence. 0: the model's, for GGUF at most kDefaultContext. Learned positions cannot go past the model's.
  std::int64_t context_tokens = 0;
  /// Of the matrices of GGUF files; random weights know mapped and interleaved, and checkpoints have packs of their own.
  PlacementOptions placement = {};
};

/// A model from a file: a GGUF file (weights mapped, used in place), a checkpoint, or the best checkpoint of a run folder;
/// or one of a published shape with random weights.
/// Owns what ModelWeights views. Not movable once loaded (the view points inside), hence the pointer.
class LoadedModel {
 public:
  /// `path`: a GGUF file (told by its first bytes; any part of a split one), a checkpoint or a run folder. `team` packs
  /// the weights of a checkpoint, and places those of a GGUF file. Errors: those of the readers; an unknown architecture, a
  /// missing or misshapen tensor and an unusable hyper-parameter are named; what placing can meet.
  [[nodiscard]] static Result<std::unique_ptr<LoadedModel>> load(const std::string& path, const Backend& backend,
                                                                 ThreadTeam& team, const LoadOptions& options = {});

  /// A model of a published shape with random weights, which `team` makes (random_weights.hpp): runs as a GGUF file of that
  /// shape does, but has no tokenizer. Errors: those of RandomWeights::make(), and load()'s of precision and context.
  [[nodiscard]] static Result<std::unique_ptr<LoadedModel>> random(const PublishedShape& shape,
                                                                   const RandomWeightOptions& random, const Backend& backend,
                                                                   ThreadTeam& team, const LoadOptions& options = {});

  [[nodiscard]] const ModelWeights& weights() const { return weights_; }
  /// Models of random() have none.
  [[nodiscard]] const Tokenizer& tokenizer() const { return *tokenizer_; }
  /// Null where the model is from a file.
  [[nodiscard]] const RandomWeights* random_weights() const { return random_ ? &*random_ : nullptr; }
  [[nodiscard]] std::int64_t context_tokens() const { return context_tokens_; }
  [[nodiscard]] const std::string& path() const { return path_; }                  ///< a shape's name where there is no file
  [[nodiscard]] const std::string& architecture() const { return architecture_; }  ///< GGUF's word; "checkpoint" of ours
  /// The Jinja text of the file's chat template; empty where it has none.
  [[nodiscard]] const std::string& chat_template() const { return chat_template_; }
  /// Bytes of all tensors, and of those that one decoded token reads (one embedding row, the experts in use).
  [[nodiscard]] std::size_t weight_bytes() const { return weight_bytes_; }
  [[nodiscard]] std::size_t bytes_per_token() const { return bytes_per_token_; }
  /// Where matrices lie; never automatic.
  [[nodiscard]] WeightPlacement placement() const { return placement_; }
  /// The memory or file of interleaved weights; empty where they are mapped, or interleaved where random ones were made.
  [[nodiscard]] const InterleavedWeights& interleaved() const { return interleaved_; }

 private:
  static Result<std::unique_ptr<LoadedModel>> load_gguf(const std::string& path, const Backend& backend, ThreadTeam& team,
                                                        const LoadOptions& options);
  /// Puts the matrices where `options` says.
  Result<void> place_weights(const Backend& backend, ThreadTeam& team, const PlacementOptions& options);
  /// Tells the system that a matrix's tensor in the file is no longer read.
  void release_source(const Weight& source) const;
  Result<void> use_interleaved_file(const Backend& backend, ThreadTeam& team, const std::vector<InterleavedPiece>& pieces,
                                    const PlacementOptions& options, bool make);
  /// Weights over file_'s tensors for a context of options.context_tokens, or as long as models are given without asking.
  Result<void> bind_file(const ModelConfig& config, const LoadOptions& options);
  static Result<std::unique_ptr<LoadedModel>> load_checkpoint(const std::string& run_or_checkpoint, const Backend& backend,
                                                              ThreadTeam& team, const LoadOptions& options);

  std::string path_;
  std::string architecture_;
  std::string chat_template_;
  std::optional<RandomWeights> random_;    // what file_ views where there is no file
  std::optional<GgufFile> file_;           // GGUF and random weights
  std::vector<std::vector<float>> owned_;  // with file_: see GgufWeights
  std::optional<Tokenizer> tokenizer_;
  std::int64_t context_tokens_ = 0;
  std::size_t weight_bytes_ = 0;
  std::size_t bytes_per_token_ = 0;
  ParameterLayout layout_;  // checkpoints only
  MemoryPlan plan_;
  Arena arena_;
  ModelWeights weights_;
  WeightPlacement placement_ = WeightPlacement::mapped;
  InterleavedWeights interleaved_;
};

}  // namespace quern
