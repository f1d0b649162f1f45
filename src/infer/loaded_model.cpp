#include "infer/loaded_model.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "model/file_kind.hpp"
#include "model/gguf_architectures.hpp"
#include "model/gguf_model.hpp"
#include "model/gguf_values.hpp"

namespace quern {

ComputeType preferred_compute(const Backend& backend) {
  return backend.kernels->isa == Isa::amx && !backend.eigen ? ComputeType::bf16 : ComputeType::f32;
}

namespace {

/// A context for running: what is asked for, else the model's, which for published models is bounded because the cache
/// grows with it. Learned positions end where their table does.
Result<std::int64_t> usable_context(const std::string& path, const ModelConfig& config, std::int64_t asked,
                                    std::int64_t bound) {
  if (config.position == PositionKind::learned && asked > config.context) {
    return bad_input(
        fmt::format("{}: a context of {} tokens, but the model has learned positions for {}", path, asked, config.context));
  }
  return asked > 0 ? asked : std::min(config.context, bound);
}

}  // namespace

Result<std::unique_ptr<LoadedModel>> LoadedModel::load(const std::string& path, const Backend& backend, ThreadTeam& team,
                                                       const LoadOptions& options) {
  const auto start = read_file_start(path);
  if (!start) return tl::make_unexpected(start.error());
  if (start->kind == FileKind::gguf) return load_gguf(path, options);
  if (start->kind == FileKind::checkpoint || start->kind == FileKind::folder) {
    return load_checkpoint(path, backend, team, options);
  }
  return bad_input(fmt::format("{}: expected a GGUF file, a checkpoint or a run folder, found a file that begins with '{}'",
                               path, internal::shown(start->bytes)));
}

Result<std::unique_ptr<LoadedModel>> LoadedModel::load_gguf(const std::string& path, const LoadOptions& options) {
  if (options.precision == Precision::bf16) {
    return bad_input(fmt::format("{}: precision bf16 is for checkpoints; GGUF files take auto or f32", path));
  }
  auto model = std::make_unique<LoadedModel>();
  model->path_ = path;
  auto file = GgufFile::open(path);
  if (!file) return tl::make_unexpected(file.error());
  model->file_ = std::move(*file);
  auto config = model_config_from_gguf(*model->file_);
  if (!config) return tl::make_unexpected(config.error());
  auto tokenizer = Tokenizer::from_gguf(*model->file_);
  if (!tokenizer) return tl::make_unexpected(tokenizer.error());
  model->tokenizer_ = std::move(*tokenizer);
  if (model->tokenizer_->vocab_size() != config->vocab) {
    return bad_input(fmt::format("{}: tokenizer.ggml.tokens has {} tokens, tensor token_embd.weight has {} rows", path,
                                 model->tokenizer_->vocab_size(), config->vocab));
  }
  if (auto bound = model->bind_file(*config, options); !bound) return tl::make_unexpected(bound.error());
  model->architecture_ = *model->file_->require_string("general.architecture");
  auto chat_template = model->file_->string_or("tokenizer.chat_template", "");
  if (!chat_template) return tl::make_unexpected(chat_template.error());
  model->chat_template_ = *chat_template;
  return model;
}

Result<void> LoadedModel::bind_file(const ModelConfig& config, const LoadOptions& options) {
  auto context = usable_context(path_, config, options.context_tokens, kDefaultContext);
  if (!context) return tl::make_unexpected(context.error());
  context_tokens_ = *context;
  const auto precision = options.precision == Precision::f32 ? WeightPrecision::f32 : WeightPrecision::fast;
  auto bound = bind_gguf_weights(*file_, config, precision, *context);
  if (!bound) return tl::make_unexpected(bound.error());
  weights_ = std::move(bound->weights);
  owned_ = std::move(bound->owned);
  weight_bytes_ = bound->bytes;
  bytes_per_token_ = bound->bytes_per_token;
  return {};
}

Result<std::unique_ptr<LoadedModel>> LoadedModel::random(const PublishedShape& shape, const RandomWeightOptions& random,
                                                         const Backend& backend, ThreadTeam& team,
                                                         const LoadOptions& options) {
  if (options.precision == Precision::bf16) {
    return bad_input(fmt::format("{}: precision bf16 is for checkpoints; published shapes take auto or f32", shape.name));
  }
  auto model = std::make_unique<LoadedModel>();
  model->path_ = shape.name;
  model->architecture_ = shape.architecture;
  auto weights = RandomWeights::make(shape, *backend.kernels, team, random);
  if (!weights) return tl::make_unexpected(weights.error());
  model->random_ = std::move(*weights);
  const std::span<const GgufTensor> tensors = model->random_->tensors();
  model->file_ = GgufFile::of_tensors({tensors.begin(), tensors.end()}, model->path_);
  ModelConfig config = shape.config;
  if (const ArchitectureRow* row = find_gguf_architecture(shape.architecture)) config.rope_pairing = row->pairing;
  if (auto bound = model->bind_file(config, options); !bound) return tl::make_unexpected(bound.error());
  return model;
}

Result<std::unique_ptr<LoadedModel>> LoadedModel::load_checkpoint(const std::string& run_or_checkpoint,
                                                                  const Backend& backend, ThreadTeam& team,
                                                                  const LoadOptions& options) {
  auto path = find_checkpoint(run_or_checkpoint, false);
  if (!path) return tl::make_unexpected(path.error());
  auto info = read_checkpoint_info(*path);
  if (!info) return tl::make_unexpected(info.error());
  auto tokenizer = Tokenizer::from_json(info->tokenizer_json, *path);
  if (!tokenizer) return tl::make_unexpected(tokenizer.error());
  // Published models pad their embeddings: rows beyond the tokenizer's tokens stand for nothing.
  if (tokenizer->vocab_size() > info->model.vocab) {
    return bad_input(fmt::format("{}: the tokenizer has {} tokens, the model's vocabulary is only {}", *path,
                                 tokenizer->vocab_size(), info->model.vocab));
  }

  auto model = std::make_unique<LoadedModel>();
  model->path_ = *path;
  model->architecture_ = "checkpoint";
  model->tokenizer_ = std::move(*tokenizer);
  const ModelConfig& config = info->model;
  auto context = usable_context(*path, config, options.context_tokens, config.context);
  if (!context) return tl::make_unexpected(context.error());
  model->context_tokens_ = *context;
  model->layout_ = parameter_layout(config);
  const auto elements = static_cast<std::size_t>(model->layout_.elements);
  const BufferId parameters = model->plan_.add("parameters", elements * sizeof(float), MemoryCategory::weights);
  ComputeType compute = preferred_compute(backend);
  if (options.precision != Precision::automatic) {
    compute = options.precision == Precision::bf16 ? ComputeType::bf16 : ComputeType::f32;
  }
  WeightPacks packs(backend, compute, config, model->layout_, false, model->plan_);
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
    packs.pack(exec);
  });
  model->weight_bytes_ = static_cast<std::size_t>(model->layout_.parameter_count()) * sizeof(float);
  const std::size_t operand_bytes = compute == ComputeType::bf16 ? 2 : 4;
  model->bytes_per_token_ = static_cast<std::size_t>(model->layout_.matmul_parameter_count()) * operand_bytes +
                            static_cast<std::size_t>(config.width) * sizeof(float);
  return model;
}

}  // namespace quern
