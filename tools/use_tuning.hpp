// Commands that run or train a model take up what `quern tune` found for it on this machine.
#pragma once

#include <string>

#include "math/result.hpp"
#include "random_model.hpp"
#include "run_model.hpp"
#include "train/run_config.hpp"
#include "tuning_file.hpp"

namespace quern::tools {

/// The key of a GGUF file, a checkpoint or a run folder on this machine; of a published shape where `shape` names one. Only
/// headers are read. Errors: those of opening it, an unknown shape or type.
[[nodiscard]] Result<TuningKey> tuning_key_of(const std::string& model, const ShapeOptions& shape);
/// The same of a run to train.
[[nodiscard]] Result<TuningKey> tuning_key_of(const RunConfig& run);

/// Fills what `options` leaves open (zeros and "auto") with what was found, and says so in a line on stderr. A file that
/// cannot be used is a warning there. Nothing happens unless options.tuned; it is false after.
void use_tuning(ModelOptions& options, const ShapeOptions& shape = {});
/// The same for keys of a run that neither its file nor the command line gave.
void use_tuning(RunConfig& run);

}  // namespace quern::tools
