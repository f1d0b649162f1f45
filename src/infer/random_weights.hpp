// Weights of a published shape from random numbers, in memory: for measuring a model of which there is no file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "infer/shape_types.hpp"
#include "math/dispatch.hpp"
#include "math/page_block.hpp"
#include "math/result.hpp"
#include "math/thread_team.hpp"

namespace quern {

struct RandomWeightOptions {
  std::string mix = {};  ///< as mix_for() gives it
  std::uint64_t seed = 1337;
  bool huge_pages = false;  ///< whether to ask the system for them; a mapped file has small ones
  /// Bytes made of all, from the calling thread.
  std::function<void(std::size_t done, std::size_t total)> progress = {};
};

/// Owns the tensors' memory; move-only. Views stay valid when it is moved.
///
/// Matrices: normally distributed with standard deviation 1 / sqrt(inputs), so that activations keep their size, quantized
/// as `quern quantize` would: up to 4,096 pieces of 256 elements are made for each type and number of inputs, and each piece
/// of a matrix is one of them, drawn by a counter-based generator. Norms and RoPE's factors are 1, biases and sinks normal
/// with standard deviation 0.02: routers choose experts by the token. The same bytes for the same shape, mix and seed,
/// whatever the threads and the instruction set.
class RandomWeights {
 public:
  /// Errors: unknown mix; no_memory where the system refuses.
  [[nodiscard]] static Result<RandomWeights> make(const PublishedShape& shape, const KernelTable& kernels, ThreadTeam& team,
                                                  const RandomWeightOptions& options);

  [[nodiscard]] std::span<const GgufTensor> tensors() const { return types_.tensors; }
  [[nodiscard]] const std::string& mix() const { return mix_; }
  [[nodiscard]] std::uint64_t seed() const { return seed_; }
  /// Bytes that lie in huge pages now.
  [[nodiscard]] std::uint64_t huge_page_bytes() const { return memory_.huge_bytes(); }

 private:
  std::string mix_;
  std::uint64_t seed_ = 0;
  ShapeTypes types_;
  PageBlock memory_;
};

/// What running a model takes beside what the process has taken already.
struct ModelNeeds {
  std::size_t weight_bytes = 0, cache_bytes = 0, working_bytes = 0;
};
/// Error bad_input, with the numbers, where a model called `name` needs more than `usable_bytes`; 0 bytes: not known, and
/// nothing is refused.
[[nodiscard]] Result<void> check_model_fits(std::string_view name, const ModelNeeds& needs, std::uint64_t usable_bytes);

}  // namespace quern
