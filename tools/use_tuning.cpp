#include "use_tuning.hpp"

#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include "command.hpp"
#include "infer/shape_types.hpp"
#include "model/checkpoint.hpp"
#include "model/file_kind.hpp"
#include "model/gguf_file.hpp"
#include "model/gguf_model.hpp"
#include "model/published_shapes.hpp"

namespace quern::tools {

namespace {

Result<void> add_file(TuningKey& key, const std::string& path) {
  const auto start = read_file_start(path);
  if (!start) return tl::make_unexpected(start.error());
  if (start->kind == FileKind::gguf) {
    const auto file = GgufFile::open(path);
    if (!file) return tl::make_unexpected(file.error());
    const auto config = model_config_from_gguf(*file);
    if (!config) return tl::make_unexpected(config.error());
    const auto architecture = file->require_string("general.architecture");
    if (!architecture) return tl::make_unexpected(architecture.error());
    add_model(key, std::string(*architecture), *config, file->tensors());
    return {};
  }
  const auto checkpoint = find_checkpoint(path, false);
  if (!checkpoint) return tl::make_unexpected(checkpoint.error());
  const auto info = read_checkpoint_info(*checkpoint);
  if (!info) return tl::make_unexpected(info.error());
  add_model(key, "checkpoint", info->model, {});
  return {};
}

Result<void> add_shape(TuningKey& key, const ShapeOptions& shape) {
  const PublishedShape* const published = find_published_shape(shape.shape);
  if (published == nullptr) return bad_input(fmt::format("--shape: there is no `{}`", shape.shape));
  const auto mix = mix_for(*published, shape.type);
  if (!mix) return bad_input("--type: " + mix.error().message);
  const auto types = shape_types(*published, *mix);
  if (!types) return tl::make_unexpected(types.error());
  add_model(key, std::string(published->architecture), published->config, types->tensors);
  return {};
}

/// Whether there is anything to look for. Headers are not read for nothing.
bool anything_tuned() {
  std::error_code none;
  const std::filesystem::path folder = tuning_folder();
  return !folder.empty() && std::filesystem::is_directory(folder, none) && !std::filesystem::is_empty(folder, none);
}

/// What was found for `key`, after a warning where its file is of no use.
std::optional<TunedSettings> find_settings(const Result<TuningKey>& key) {
  if (!key) return std::nullopt;  // who opens the model says what is wrong with it
  const auto tuning = load_tuning(tuning_folder(), *key);
  if (!tuning) {
    fmt::print(stderr, "quern: not tuned: {}; `quern tune` writes it anew\n", message_line(tuning.error()));
    return std::nullopt;
  }
  if (!*tuning) return std::nullopt;
  return (*tuning)->settings;
}

void say(const TunedSettings& taken) {
  fmt::print(stderr, "quern: as tuned for this model and machine: {} (--no-tuned: without)\n", settings_text(taken));
}

}  // namespace

Result<TuningKey> tuning_key_of(const std::string& model, const ShapeOptions& shape) {
  auto key = machine_key();
  if (!key) return key;
  const auto added = shape.shape.empty() ? add_file(*key, model) : add_shape(*key, shape);
  if (!added) return tl::make_unexpected(added.error());
  return key;
}

Result<TuningKey> tuning_key_of(const RunConfig& run) {
  auto key = machine_key();
  if (key) add_run(*key, run);
  return key;
}

void use_tuning(ModelOptions& options, const ShapeOptions& shape) {
  if (!std::exchange(options.tuned, false) || !anything_tuned()) return;
  const auto found = find_settings(tuning_key_of(options.model, shape));
  if (!found) return;
  TunedSettings taken;
  const auto take = [](auto& option, const auto& open, const auto& tuned, const auto& plain, auto& said) {
    if (option != open || tuned == plain) return;
    option = tuned;
    said = tuned;
  };
  const TunedSettings plain;
  take(options.threads, std::int64_t{0}, found->threads, plain.threads, taken.threads);
  if (options.affinity == "auto" && found->affinity != plain.affinity) {
    options.affinity = std::string(affinity_name(found->affinity));
    taken.affinity = found->affinity;
  }
  if (options.numa == "auto" && found->numa != plain.numa) {
    options.numa = std::string(numa_policy_name(found->numa));
    taken.numa = found->numa;
  }
  take(options.weights, std::string("auto"), found->weights, plain.weights, taken.weights);
  take(options.batch, std::int64_t{0}, found->batch, plain.batch, taken.batch);
  take(options.block_rows, std::int64_t{0}, found->block_rows, plain.block_rows, taken.block_rows);
  take(options.task_bytes, std::int64_t{0}, found->task_bytes, plain.task_bytes, taken.task_bytes);
  take(options.kv_type, std::string("auto"), found->kv_type, plain.kv_type, taken.kv_type);
  say(taken);
}

void use_tuning(RunConfig& run) {
  if (!anything_tuned()) return;
  const auto found = find_settings(tuning_key_of(run));
  if (!found) return;
  TunedSettings taken;
  SystemConfig& system = run.system;
  if (system.threads == 0) system.threads = taken.threads = found->threads;
  if (system.affinity == AffinityKind::automatic && found->affinity != Affinity::none) {
    system.affinity = found->affinity == Affinity::compact ? AffinityKind::compact : AffinityKind::spread;
    taken.affinity = found->affinity;
  }
  if (!run.origins.contains("system.numa")) system.numa = taken.numa = found->numa;
  if (system.block_rows == 0) system.block_rows = taken.block_rows = found->block_rows;
  say(taken);
}

}  // namespace quern::tools
