// Published shapes with random weights in the place of a model's file: options, whether one fits, and making it.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>
#include <string>

#include "infer/decoder.hpp"
#include "infer/random_weights.hpp"
#include "math/result.hpp"
#include "run_model.hpp"

namespace quern::tools {

/// Which shape, and how its weights are made.
struct ShapeOptions {
  std::string shape;  ///< empty: none, MODEL is a file
  std::string type;
  bool huge_pages = false;
};

/// --shape, --type and --huge-pages.
void add_shape_options(CLI::App& command, ShapeOptions& options);

/// Error where not exactly one of MODEL and --shape is given, or --type and --huge-pages without --shape.
[[nodiscard]] Result<void> check_shape_options(const ModelOptions& model, const ShapeOptions& shape);

/// Bytes that such a model takes with `limits`, those of the decoder without its kv_type. Errors: an unknown shape or type,
/// with those that there are.
[[nodiscard]] Result<ModelNeeds> random_model_needs(const ModelOptions& model, const ShapeOptions& shape,
                                                    const Decoder::Limits& limits);

/// A model of the shape, made in memory, with progress on stderr. No file is written. `limits`: of the decoder that will run
/// it, without its kv_type. Errors, before anything is made: an unknown shape or type, with those that there are; weights,
/// cache and working memory that this process may not take.
[[nodiscard]] Result<std::unique_ptr<RunningModel>> make_random_model(const ModelOptions& model, const ShapeOptions& shape,
                                                                      std::uint64_t seed, const Decoder::Limits& limits);

}  // namespace quern::tools
