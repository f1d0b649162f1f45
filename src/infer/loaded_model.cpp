#include "infer/loaded_model.hpp"

#include <fmt/format.h>

namespace quern {

ComputeType preferred_compute(const Backend& backend) {
  return backend.kernels->isa == Isa::amx && !backend.eigen ? ComputeType::bf16 : ComputeType::f32;
}

Result<std::unique_ptr<LoadedModel>> LoadedModel::load(const std::string& run_or_checkpoint, const Backend& backend,
                                                       ThreadTeam& team, const LoadOptions& options) {
  auto path = find_checkpoint(run_or_checkpoint, false);
  if (!path) return tl::make_unexpected(path.error());
  auto info = read_checkpoint_info(*path);
  if (!info) return tl::make_unexpected(info.error());
  auto tokenizer = Tokenizer::from_json(info->tokenizer_json, *path);
  if (!tokenizer) return tl::make_unexpected(tokenizer.error());
  if (tokenizer->vocab_size() != info->model.vocab) {
    return bad_input(fmt::format("{}: the tokenizer has {} tokens, the model's vocabulary is {}", *path,
                                 tokenizer->vocab_size(), info->model.vocab));
  }

  auto model = std::make_unique<LoadedModel>();
  model->path_ = *path;
  model->architecture_ = "checkpoint";
  model->tokenizer_ = std::move(*tokenizer);
  const ModelConfig& config = info->model;
  model->context_tokens_ = options.context_tokens > 0 ? options.context_tokens : config.context;
  if (config.position == PositionKind::learned && model->context_tokens_ > config.context) {
    return bad_input(fmt::format("{}: a context of {} tokens, but the model has learned positions for {}", *path,
                                 model->context_tokens_, config.context));
  }
  model->layout_ = parameter_layout(config);
  const auto elements = static_cast<std::size_t>(model->layout_.elements);
  const BufferId parameters = model->plan_.add("parameters", elements * sizeof(float), MemoryCategory::weights);
  ComputeType compute = preferred_compute(backend);
  if (options.precision != Precision::automatic) {
    compute = options.precision == Precision::bf16 ? ComputeType::bf16 : ComputeType::f32;
  }
  const WeightPacks packs(backend, compute, config, model->layout_, false, model->plan_);
  if (auto placed = model->plan_.place(); !placed) return tl::make_unexpected(placed.error());
  auto arena = Arena::allocate(model->plan_);
  if (!arena) return tl::make_unexpected(arena.error());
  model->arena_ = std::move(*arena);

  float* block = model->arena_.get<float>(model->plan_, parameters);
  if (auto read = read_checkpoint_tensors(*path, model->layout_, {{block, elements}, {}, {}}); !read) {
    return tl::make_unexpected(read.error());
  }
  model->weights_ = packs.view(block, model->plan_, model->arena_, model->context_tokens_);
  team.run([&](TeamMember& member) {
    Exec exec{member, backend, {}};
    packs.pack(exec, block, model->weights_);
  });
  return model;
}

}  // namespace quern
