// What `quern hardware` says about published models: what each weighs, whether it fits and how fast it would run.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "infer/run_estimate.hpp"
#include "math/hardware.hpp"
#include "math/machine_measurement.hpp"
#include "math/result.hpp"

namespace quern::tools {

/// Which models and types, and at which context.
struct EstimateChoice {
  std::vector<std::string> models;  ///< names; empty: all
  std::vector<std::string> types;   ///< mixes; empty: those in which a model is usually published
  EstimateOptions options;
};

struct ModelEstimate {
  const PublishedShape* shape = nullptr;
  std::string mix;
  ModelCost cost;
  RunEstimate run;
};

/// Walls from a measurement and a report: of each figure the best repeat, for whatever else runs only slows it. Tiles count
/// where the measurement's instruction set has them.
[[nodiscard]] MachineWalls walls_of(const HardwareReport& report, const MachineMeasurement& measurement);

/// One for each model and type. Error bad_input: a model or type that there is not.
[[nodiscard]] Result<std::vector<ModelEstimate>> estimate_models(const EstimateChoice& choice, const MachineWalls& walls);

/// Sentences and a table (Markdown).
[[nodiscard]] std::string estimates_text(const std::vector<ModelEstimate>& estimates, const EstimateChoice& choice,
                                         const MachineWalls& walls);
[[nodiscard]] nlohmann::ordered_json estimates_json(const std::vector<ModelEstimate>& estimates,
                                                    const EstimateChoice& choice, const MachineWalls& walls);

}  // namespace quern::tools
