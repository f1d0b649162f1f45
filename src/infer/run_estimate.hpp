// What a published model would need here and how fast it would run, from its shape and what the machine was measured to do,
// before anything is downloaded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "math/element_type.hpp"
#include "math/result.hpp"
#include "model/published_shapes.hpp"

namespace quern {

/// What the machine does and leaves. 0: not known.
struct MachineWalls {
  double read_bytes_per_second = 0.0;  ///< from memory, all threads
  double f32_flops = 0.0;              ///< multiply-adds on registers, all threads
  double bf16_tile_flops = 0.0;        ///< matrix tiles on registers; 0: there are none
  double int8_vector_flops = 0.0;      ///< products of int8 vectors on registers; 0: there are none
  std::uint64_t usable_bytes = 0;      ///< memory that this process may take
};

/// Shares of the walls that Quern reached when it was measured, and so is expected to reach: docs/hardware.md has the
/// measurements and the commands that make them.
struct ReachedShares {
  double decode_dense = 0.0;    ///< of the memory's read
  double decode_experts = 0.0;  ///< the same where a token takes some experts of many
  double prefill_tiles = 0.0;   ///< of bf16 tiles
  double prefill_tiles_experts = 0.0;
  double prefill_int8 = 0.0;  ///< of products of int8 vectors, where there are no tiles
  double prefill_int8_experts = 0.0;
  double prefill_vectors = 0.0;  ///< of f32 multiply-adds, where there is neither
};
[[nodiscard]] const ReachedShares& reached_shares();

/// What bounds a prompt, and how much of it is expected.
struct PrefillRoof {
  double flops = 0.0;
  double share = 0.0;
  std::string_view what;  ///< "bf16 tiles", "int8 vectors" or "f32 vectors"
};
[[nodiscard]] PrefillRoof prefill_roof(const MachineWalls& walls, const ReachedShares& shares, bool experts);

/// Bytes and operations of one model in one mix.
struct ModelCost {
  std::size_t weight_bytes = 0;            ///< of all tensors, which is the file but for its metadata
  std::size_t weight_bytes_per_token = 0;  ///< that a decoded token reads: of the embedding one row, of experts those in use
  std::size_t kv_bytes = 0;                ///< that the cache reserves for the context
  double kv_bytes_per_token = 0.0;         ///< that a token reads at the end of the context (windowed layers: their window)
  std::size_t working_bytes = 0;           ///< activations and logits
  double prefill_flops_per_token = 0.0;    ///< of a prompt as long as EstimateOptions says
  [[nodiscard]] std::size_t total_bytes() const { return weight_bytes + kv_bytes + working_bytes; }
};

struct EstimateOptions {
  std::int64_t context_tokens = 4096;  ///< of the cache, and the depth at which decode is estimated
  std::int64_t prompt_tokens = 512;
  ElementType kv_type = ElementType::f16;
};

/// `mix` as quantize_mix.hpp names it. Errors: unknown mix, a cache type that the heads do not fit, numbers out of range.
[[nodiscard]] Result<ModelCost> model_cost(const PublishedShape& shape, std::string_view mix,
                                           const EstimateOptions& options = {});

/// Rates in tokens per second; the wall is what the machine would give if nothing else took time. 0: not known.
struct RunEstimate {
  bool fits = false;  ///< false also where the memory is not known
  double decode_wall = 0.0, decode = 0.0;
  double prefill_wall = 0.0, prefill = 0.0;
};
[[nodiscard]] RunEstimate estimate_run(const PublishedShape& shape, const ModelCost& cost, const MachineWalls& walls,
                                       const ReachedShares& shares = reached_shares());

/// The types in which a model is commonly published: Q4_0 to BF16, or MXFP4 for GPT-OSS.
[[nodiscard]] std::vector<std::string_view> usual_mixes(const PublishedShape& shape);

}  // namespace quern
