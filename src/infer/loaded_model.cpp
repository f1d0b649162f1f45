#include "infer/loaded_model.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <span>
#include <system_error>

#include "math/available_memory.hpp"
#include "math/container_limits.hpp"
#include "math/cpu_features.hpp"
#include "model/file_kind.hpp"
#include "model/gguf_architectures.hpp"
#include "model/gguf_model.hpp"
#include "model/gguf_values.hpp"

namespace quern {

ComputeType preferred_compute(const Backend& backend) {
  const bool fast = !backend.eigen && has_fast_bf16(cpu_features(), backend.kernels->isa);
  return fast ? ComputeType::bf16 : ComputeType::f32;
}

namespace {

/// Memory that stays free where nobody asked for interleaved weights: for caches, and the file's own pages.
constexpr std::uint64_t kMemoryLeft = std::uint64_t{2} << 30;

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
  if (start->kind == FileKind::gguf) return load_gguf(path, backend, team, options);
  if (start->kind == FileKind::checkpoint || start->kind == FileKind::folder) {
    return load_checkpoint(path, backend, team, options);
  }
  return bad_input(fmt::format("{}: expected a GGUF file, a checkpoint or a run folder, found a file that begins with '{}'",
                               path, internal::shown(start->bytes)));
}

Result<std::unique_ptr<LoadedModel>> LoadedModel::load_gguf(const std::string& path, const Backend& backend,
                                                            ThreadTeam& team, const LoadOptions& options) {
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
  if (auto placed = model->place_weights(backend, team, options.placement); !placed) {
    return tl::make_unexpected(placed.error());
  }
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
  // These are nobody else's, and can be written.
  const std::vector<InterleavedPiece> pieces = interleaved_pieces(backend, model->weights_);
  if (options.placement.placement == WeightPlacement::interleaved && !pieces.empty()) {
    InterleavedWeights::in_place(backend, team, pieces);
    model->placement_ = WeightPlacement::interleaved;
  }
  return model;
}

Result<void> LoadedModel::use_interleaved_file(const Backend& backend, ThreadTeam& team,
                                               const std::vector<InterleavedPiece>& pieces, const PlacementOptions& options,
                                               bool make) {
  std::error_code unknown;
  const auto time = std::filesystem::last_write_time(path_, unknown).time_since_epoch().count();
  const std::uint64_t key = interleaved_key(backend, pieces, file_->file_bytes(), static_cast<std::int64_t>(time));
  const std::string path = interleaved_path(path_, backend);
  auto opened = InterleavedWeights::from_file(path, key, pieces);
  if (!opened && make) {
    const auto release = [&](const Weight& source) { release_source(source); };
    if (auto wrote = InterleavedWeights::write_file(path, key, backend, team, pieces, options, release); !wrote)
      return wrote;
    opened = InterleavedWeights::from_file(path, key, pieces);
  }
  if (!opened) return tl::make_unexpected(opened.error());
  interleaved_ = std::move(*opened);
  placement_ = WeightPlacement::cached;
  return {};
}

void LoadedModel::release_source(const Weight& source) const {
  const std::span<const GgufTensor> tensors = file_->tensors();
  const auto tensor =
      std::find_if(tensors.begin(), tensors.end(), [&](const GgufTensor& t) { return t.data == source.forward; });
  if (tensor != tensors.end()) file_->release(*tensor);
}

Result<void> LoadedModel::place_weights(const Backend& backend, ThreadTeam& team, const PlacementOptions& options) {
  const std::vector<InterleavedPiece> pieces = interleaved_pieces(backend, weights_);
  std::vector<const void*> sources;
  for (const InterleavedPiece& piece : pieces) sources.push_back(piece.weight->forward);
  WeightPlacement placement = pieces.empty() ? WeightPlacement::mapped : options.placement;
  if (placement == WeightPlacement::automatic) {
    if (use_interleaved_file(backend, team, pieces, options, false)) {
      placement = WeightPlacement::mapped;  // done
    } else {
      const std::uint64_t usable = read_available_memory(read_container_limits()).usable_bytes;
      const bool fits = usable == 0 || interleaved_bytes(pieces) + kMemoryLeft < usable;
      placement = fits ? WeightPlacement::interleaved : WeightPlacement::mapped;
    }
  }
  if (placement == WeightPlacement::cached) {
    if (auto used = use_interleaved_file(backend, team, pieces, options, true); !used) return used;
  } else if (placement == WeightPlacement::interleaved) {
    auto made =
        InterleavedWeights::in_memory(backend, team, pieces, options, [&](const Weight& source) { release_source(source); });
    if (!made) return tl::make_unexpected(Error{made.error().code, path_ + ": " + made.error().message});
    interleaved_ = std::move(*made);
    placement_ = placement;
  }
  // What is read while running: interleaved weights and the tensors that are not among them.
  std::vector<std::span<const std::byte>> parts;
  if (!interleaved_.bytes().empty()) parts.push_back(interleaved_.bytes());
  std::size_t total = placement_ == WeightPlacement::cached ? interleaved_.bytes().size() : 0;
  const std::size_t interleaved_parts = parts.size();
  for (const GgufTensor& tensor : file_->tensors()) {
    const bool copied = std::find(sources.begin(), sources.end(), tensor.data) != sources.end();
    if (placement_ != WeightPlacement::mapped && copied) continue;
    parts.emplace_back(tensor.data, tensor.bytes);
    total += tensor.bytes;
    // The others, above all the embedding, were not read with the file; a token whose row lies on a cold disk waits 3 ms.
    if (placement_ != WeightPlacement::mapped) file_->will_need(tensor);
  }
  if (options.read_ahead) {
    std::size_t done = 0;
    for (std::size_t i = placement_ == WeightPlacement::interleaved ? interleaved_parts : 0; i < parts.size(); ++i) {
      read_ahead(team, parts[i], options, done, total);
      done += parts[i].size();
    }
  }
  for (const std::span<const std::byte> part : parts) {
    if (!options.lock) break;
    if (auto locked = lock_in_memory(part); !locked) {
      return tl::make_unexpected(Error{locked.error().code, path_ + ": " + locked.error().message});
    }
  }
  return {};
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
