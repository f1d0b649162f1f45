#include "random_model.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <chrono>
#include <cstdio>
#include <string_view>
#include <vector>

#include "infer/run_estimate.hpp"
#include "math/available_memory.hpp"
#include "model/kv_cache.hpp"
#include "model/model_memory.hpp"
#include "model/published_shapes.hpp"
#include "progress.hpp"

namespace quern::tools {

namespace {

Result<const PublishedShape*> shape_named(const std::string& name) {
  if (const PublishedShape* shape = find_published_shape(name); shape != nullptr) return shape;
  std::vector<std::string_view> names;
  for (const PublishedShape& known : published_shapes()) names.push_back(known.name);
  return bad_input(fmt::format("--shape: there is no `{}`; there are {}", name, fmt::join(names, ", ")));
}

/// --type as quantize_mix.hpp names it.
Result<std::string> mix_of(const PublishedShape& published, const ShapeOptions& shape) {
  if (shape.type.empty()) {
    return bad_input(fmt::format("--shape {}: expected a --type too, usual are {}", published.name,
                                 fmt::join(usual_mixes(published), ", ")));
  }
  auto mix = mix_for(published, shape.type);
  if (!mix) return bad_input("--type: " + mix.error().message);
  return mix;
}

Result<ModelNeeds> needs_of(const PublishedShape& shape, const std::string& mix, ElementType kv_type,
                            const Decoder::Limits& limits) {
  const auto types = shape_types(shape, mix);
  if (!types) return tl::make_unexpected(types.error());
  ModelNeeds needs;
  for (const GgufTensor& tensor : types->tensors) needs.weight_bytes += tensor.bytes;
  needs.cache_bytes =
      KvCache::bytes_needed(shape.config, kv_type, limits.cache_tokens, limits.sequences, limits.batch_tokens);
  const RunMemory memory = run_memory(shape.config, needs.weight_bytes, limits.context_tokens, limits.batch_tokens);
  const std::size_t row_bytes = static_cast<std::size_t>(shape.config.vocab) * sizeof(float);
  needs.working_bytes = memory.working_bytes + static_cast<std::size_t>(limits.sequences) * row_bytes;  // logits
  return needs;
}

}  // namespace

void add_shape_options(CLI::App& command, ShapeOptions& options) {
  command.add_option("--shape", options.shape, "In the place of MODEL: a published shape, with random weights in memory");
  command.add_option("--type", options.type, "With --shape: of its weights, as `quern quantize` names types");
  command.add_flag("--huge-pages", options.huge_pages, "With --shape: ask for huge pages; a file's pages are small");
}

Result<void> check_shape_options(const ModelOptions& model, const ShapeOptions& shape) {
  if (shape.shape.empty()) {
    if (model.model.empty()) return bad_input("expected a MODEL or a --shape, found neither");
    if (!shape.type.empty()) return bad_input("--type is for --shape: the file of a MODEL has its types");
    if (shape.huge_pages) return bad_input("--huge-pages is for --shape: the pages of a MODEL are its file's");
    return {};
  }
  if (!model.model.empty()) {
    return bad_input(fmt::format("expected a MODEL or a --shape, found both: `{}` and `{}`", model.model, shape.shape));
  }
  return {};
}

Result<ModelNeeds> random_model_needs(const ModelOptions& model, const ShapeOptions& shape, const Decoder::Limits& limits) {
  const auto published = shape_named(shape.shape);
  if (!published) return tl::make_unexpected(published.error());
  const auto mix = mix_of(**published, shape);
  if (!mix) return tl::make_unexpected(mix.error());
  const auto kv_type = kv_type_of(model.kv_type);
  if (!kv_type) return tl::make_unexpected(kv_type.error());
  return needs_of(**published, *mix, kv_type->value_or(ElementType::f32), limits);
}

Result<std::unique_ptr<RunningModel>> make_random_model(const ModelOptions& model, const ShapeOptions& shape,
                                                        std::uint64_t seed, const Decoder::Limits& limits) {
  const auto published = shape_named(shape.shape);
  if (!published) return tl::make_unexpected(published.error());
  const PublishedShape& found = **published;
  const auto mix = mix_of(found, shape);
  if (!mix) return tl::make_unexpected(mix.error());
  auto running = prepare_run(model);
  if (!running) return running;
  RunningModel& run = **running;
  // Models from GGUF files, and so these, compute in f32, which is also their cache's type unless another is asked for.
  const auto needs = needs_of(found, *mix, run.kv_type.value_or(ElementType::f32), limits);
  if (!needs) return tl::make_unexpected(needs.error());
  const std::uint64_t usable = read_available_memory(read_container_limits()).usable_bytes;
  if (auto fits = check_model_fits(fmt::format("{} in {}", found.name, *mix), *needs, usable); !fits) {
    return tl::make_unexpected(fits.error());
  }
  Progress progress(stderr);
  const auto start = std::chrono::steady_clock::now();
  auto made = LoadedModel::random(found,
                                  {.mix = *mix,
                                   .seed = seed,
                                   .huge_pages = shape.huge_pages,
                                   .progress =
                                       [&](std::size_t done, std::size_t total) {
                                         progress.update("random weights", static_cast<std::int64_t>(done),
                                                         static_cast<std::int64_t>(total), "B");
                                       }},
                                  run.backend, run.team, load_options(model, limits.context_tokens));
  progress.finish();
  if (!made) return tl::make_unexpected(made.error());
  run.model = std::move(*made);
  run.load_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return running;
}

}  // namespace quern::tools
