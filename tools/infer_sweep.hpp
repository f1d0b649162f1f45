// Measures a model's inference under many settings in turns: what `quern bench sweep infer` and `quern tune` stand on.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "infer/infer_bench.hpp"
#include "math/matmul_kernels.hpp"
#include "math/numa_policy.hpp"
#include "math/thread_placement.hpp"
#include "progress.hpp"
#include "run_model.hpp"
#include "sweep_report.hpp"

namespace quern::tools {

/// One combination of settings.
struct InferSetting {
  std::string type;         ///< with a shape: of its weights
  bool huge_pages = false;  ///< with a shape
  NumaPolicy numa = NumaPolicy::local;
  const KernelTable* kernels = nullptr;
  std::int64_t threads = 1;
  Affinity affinity = Affinity::none;
  std::string kv_type = "auto";
  std::int64_t batch_tokens = 512;  ///< of a prompt that are computed together
  std::string weights = "auto";     ///< where they lie, as --weights says; with a shape auto is mapped
  BlockSizes blocks = {};

  bool operator==(const InferSetting&) const = default;
};

/// What is measured.
struct SweepSubject {
  ModelOptions model;  ///< its path, precision and backend; empty path: a shape
  std::string shape;
  std::uint64_t seed = 1337;
};

/// Owns the models that it has loaded, and keeps them for the next measure(). Settings that take the same weights share
/// them (interleaved ones only with the same instruction set); where all weights, caches and working memory fit what this
/// process may take, all settings take turns, else those of one set of weights after those of another.
class InferSweep {
 public:
  /// `work`: prompts, depths, sequences and tokens to decode; its warm-up and rounds are not used.
  InferSweep(SweepSubject subject, InferBenchOptions work);
  ~InferSweep();

  /// A row for each setting and piece of work, in this order, with the rates of `rounds` rounds after `warmup` that do not
  /// count. Every other round takes the settings in reverse. An interrupt leaves rows with fewer rates, down to none.
  /// Errors: those of loading, of memory, and of the decoder.
  [[nodiscard]] Result<std::vector<SweepRow>> measure(const std::vector<InferSetting>& settings, std::int64_t warmup,
                                                      std::int64_t rounds);

  /// Other work for the next measure(), no longer than the work at first.
  void set_work(InferBenchOptions work);
  /// What progress says.
  void set_label(std::string label) { label_ = std::move(label); }

  /// Sentences on how the last measure() was done, each ending in a newline; empty where there is nothing to say.
  [[nodiscard]] const std::string& remarks() const { return remarks_; }

 private:
  struct Weights;
  struct Player;
  [[nodiscard]] Decoder::Limits limits(const InferSetting& setting) const;
  [[nodiscard]] bool same_weights(const InferSetting& a, const InferSetting& b) const;
  [[nodiscard]] Result<bool> all_fit(const std::vector<InferSetting>& settings) const;
  Result<std::shared_ptr<Weights>> load(const InferSetting& setting, std::int64_t decoders);
  Result<void> add_player(const InferSetting& setting, std::int64_t decoders, std::size_t first_row);
  void add_rows(const InferSetting& setting);
  Result<void> play(std::int64_t warmup, std::int64_t rounds);

  SweepSubject subject_;
  InferBenchOptions work_;
  std::int64_t context_ = 0;  ///< that models are loaded for
  std::vector<std::shared_ptr<Weights>> weights_;
  std::vector<std::unique_ptr<Player>> players_;
  std::vector<SweepRow> rows_;
  std::string remarks_, label_ = "sweep";
  Progress progress_{stderr};
};

}  // namespace quern::tools
