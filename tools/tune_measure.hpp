// What `quern tune` measures with: inference of a model, training steps of a run.
#pragma once

#include <cstdint>
#include <functional>

#include "infer_sweep.hpp"
#include "random_model.hpp"
#include "train/run_config.hpp"
#include "tuner.hpp"

namespace quern::tools {

struct TuneRounds {
  std::int64_t warmup = 1, rounds = 10;
};

/// Measures by `sweep`, whose work has one prompt and one depth; by metric only what it needs is done. With a shape "auto"
/// weights are interleaved, as `quern bench infer` has them. The sweep must outlive the function.
[[nodiscard]] TuneMeasure inference_measure(InferSweep& sweep, InferBenchOptions work, const ShapeOptions& shape,
                                            TuneRounds rounds);

/// Measures training steps of a run whose model.vocab is known. A round builds its trainer, and warms it up by a step.
[[nodiscard]] TuneMeasure training_measure(RunConfig run, std::int64_t steps, TuneRounds rounds);

}  // namespace quern::tools
