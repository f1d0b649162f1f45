// What `run` and `chat` share of speculative decoding: its options, and the draft model.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>
#include <string>

#include "infer/decoder.hpp"
#include "infer/loaded_model.hpp"
#include "infer/speculation.hpp"
#include "math/result.hpp"
#include "run_model.hpp"

namespace quern::tools {

struct SpeculationFlags {
  std::string source = "auto";
  std::string draft;  ///< the draft model's file
  std::int64_t tokens = SpeculationOptions{}.tokens;
};

/// --speculate, --draft and --draft-tokens.
void add_speculation_options(CLI::App& command, SpeculationFlags& flags);

/// The engine's options with the draft model that they refer to.
struct RunningSpeculation {
  std::unique_ptr<LoadedModel> model;
  std::unique_ptr<Decoder> decoder;
  SpeculationOptions options;

  /// Rows of logits that the decoder of one text needs.
  [[nodiscard]] std::int64_t logit_rows() const { return options.source == DraftSource::none ? 1 : options.tokens + 1; }
  /// "none", "ngram" or "draft".
  [[nodiscard]] std::string_view word() const;
};

/// Checks the options, and loads the draft model where one is asked for. `batch`: tokens of the prompt that it computes
/// together. Error bad_input names the draft model's file where its vocabulary is another.
[[nodiscard]] Result<RunningSpeculation> open_speculation(RunningModel& running, const ModelOptions& model,
                                                          const SpeculationFlags& flags, std::int64_t batch);

}  // namespace quern::tools
