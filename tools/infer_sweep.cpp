#include "infer_sweep.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include "infer/random_weights.hpp"
#include "math/available_memory.hpp"
#include "math/dispatch.hpp"
#include "math/kv_rows.hpp"
#include "model/kv_cache.hpp"
#include "model/model_memory.hpp"
#include "random_model.hpp"

namespace quern::tools {

/// A loaded model, with the settings that it was loaded for.
struct InferSweep::Weights {
  InferSetting setting;
  std::unique_ptr<RunningModel> running;
};

/// One setting at work.
struct InferSweep::Player {
  std::shared_ptr<Weights> weights;
  std::unique_ptr<RunningModel> run;  // threads and instruction set; has no model of its own
  std::unique_ptr<Decoder> decoder;
  InferBenchRoom room;
  std::size_t first_row = 0;
};

namespace {

/// The options by which a setting runs; its instruction set is set afterwards.
ModelOptions options_of(const ModelOptions& model, const InferSetting& setting) {
  ModelOptions options = model;
  options.threads = setting.threads;
  options.kv_type = setting.kv_type;
  options.affinity = std::string(affinity_name(setting.affinity));
  options.numa = std::string(numa_policy_name(setting.numa));
  options.weights = setting.weights;
  options.task_bytes = setting.blocks.task_bytes;
  options.block_rows = setting.blocks.block_rows;
  return options;
}

}  // namespace

InferSweep::InferSweep(SweepSubject subject, InferBenchOptions work) : subject_(std::move(subject)) {
  set_work(std::move(work));
  context_ = work_.context_tokens();
}

void InferSweep::set_work(InferBenchOptions work) {
  work_ = std::move(work);
  work_.warmup = 0;
  work_.rounds = 1;
}

InferSweep::~InferSweep() = default;

Decoder::Limits InferSweep::limits(const InferSetting& setting) const {
  return {.batch_tokens = std::max(std::min(setting.batch_tokens, work_.context_tokens()), work_.most_sequences()),
          .context_tokens = work_.context_tokens(),
          .sequences = work_.kept_sequences(),
          .cache_tokens = work_.kept_cache_tokens()};
}

/// A file's weights may be packed or interleaved for their instruction set; random ones that are not are the same for all.
bool InferSweep::same_weights(const InferSetting& a, const InferSetting& b) const {
  return a.type == b.type && a.huge_pages == b.huge_pages && a.numa == b.numa && a.weights == b.weights &&
         ((!subject_.shape.empty() && a.weights != "interleaved") || a.kernels == b.kernels);
}

Result<bool> InferSweep::all_fit(const std::vector<InferSetting>& settings) const {
  std::size_t bytes = 0, copies = 0;
  for (std::size_t i = 0; i < settings.size(); ++i) {
    if (subject_.shape.empty()) {  // a file's weights take memory where they are interleaved, and for auto should be
      const auto before = settings.begin() + static_cast<std::ptrdiff_t>(i);
      const bool shared =
          std::any_of(settings.begin(), before, [&](const InferSetting& s) { return same_weights(s, settings[i]); });
      if (shared || settings[i].weights == "mapped" || settings[i].weights == "cached") continue;
      std::error_code unknown;
      const std::uintmax_t size = std::filesystem::file_size(subject_.model.model, unknown);
      if (!unknown) bytes += static_cast<std::size_t>(size);
      ++copies;
      continue;
    }
    const auto needs = random_model_needs(options_of(subject_.model, settings[i]),
                                          {.shape = subject_.shape, .type = settings[i].type}, limits(settings[i]));
    if (!needs) return tl::make_unexpected(needs.error());
    bytes += needs->cache_bytes + needs->working_bytes;
    const auto before = settings.begin() + static_cast<std::ptrdiff_t>(i);
    const bool shared =
        std::any_of(settings.begin(), before, [&](const InferSetting& s) { return same_weights(s, settings[i]); });
    if (!shared) bytes += needs->weight_bytes;
  }
  const std::uint64_t usable = read_available_memory(read_container_limits()).usable_bytes;
  if (subject_.shape.empty() && copies < 2) return true;  // one copy is loading's to refuse
  return usable == 0 || bytes <= usable;
}

Result<std::shared_ptr<InferSweep::Weights>> InferSweep::load(const InferSetting& setting, std::int64_t decoders) {
  for (const std::shared_ptr<Weights>& loaded : weights_) {
    if (same_weights(loaded->setting, setting)) return loaded;
  }
  auto weights = std::make_shared<Weights>();
  weights->setting = setting;
  const ModelOptions options = options_of(subject_.model, setting);
  if (!subject_.shape.empty()) {
    Decoder::Limits all = limits(setting);  // every decoder has a cache of its own
    all.cache_tokens *= decoders;
    all.sequences *= decoders;
    auto made = make_random_model(options, {.shape = subject_.shape, .type = setting.type, .huge_pages = setting.huge_pages},
                                  subject_.seed, all);
    if (!made) return tl::make_unexpected(made.error());
    weights->running = std::move(*made);
  } else {
    auto run = prepare_run(options);
    if (!run) return tl::make_unexpected(run.error());
    (*run)->backend.kernels = setting.kernels;
    auto model = LoadedModel::load(options.model, (*run)->backend, (*run)->team, load_options(options, context_));
    if (!model) return tl::make_unexpected(model.error());
    (*run)->model = std::move(*model);
    weights->running = std::move(*run);
  }
  weights_.push_back(weights);
  return weights;
}

Result<void> InferSweep::add_player(const InferSetting& setting, std::int64_t decoders, std::size_t first_row) {
  auto weights = load(setting, decoders);
  if (!weights) return tl::make_unexpected(weights.error());
  auto run = prepare_run(options_of(subject_.model, setting));
  if (!run) return tl::make_unexpected(run.error());
  auto player = std::make_unique<Player>();
  player->weights = std::move(*weights);
  player->run = std::move(*run);
  player->run->backend.kernels = setting.kernels;
  const ModelWeights& model = player->weights->running->model->weights();
  Decoder::Limits own = limits(setting);
  own.kv_type = player->run->kv_type;
  auto decoder = Decoder::create(player->run->backend, model, player->run->team, own);
  if (!decoder) return tl::make_unexpected(decoder.error());
  player->decoder = std::move(*decoder);
  player->first_row = first_row;
  // What is known only now: names of types, and bytes.
  const LoadedModel& loaded = *player->weights->running->model;
  const ElementType kv_type = player->decoder->cache().type();
  const std::size_t count = work_.prompts.size() + (work_.decodes() ? work_.depths.size() * work_.sequences.size() : 0);
  for (std::size_t i = 0; i < count; ++i) {
    SweepRow& row = rows_[first_row + i];
    for (auto& [name, value] : row.settings) {
      if (name == "KV type") value = kv_type_name(kv_type);
      if (name == "weights") value = loaded.architecture() == "checkpoint" ? "" : placement_name(loaded.placement());
      if (name == "type" && loaded.random_weights() != nullptr) value = loaded.random_weights()->mix();
    }
    const bool prefill = i < work_.prompts.size();
    const std::size_t at = prefill ? 0 : i - work_.prompts.size();
    const std::int64_t tokens = prefill ? work_.prompts[i] : work_.depths[at / work_.sequences.size()] + work_.decode_tokens;
    const std::int64_t sequences = prefill ? 1 : work_.sequences[at % work_.sequences.size()];
    const std::int64_t batch = std::max(std::min(own.batch_tokens, tokens), sequences);
    row.cache_bytes = KvCache::bytes_needed(
        model.config, kv_type, sequences * ((tokens + kPageTokens - 1) / kPageTokens * kPageTokens), sequences, batch);
    const RunMemory memory = run_memory(model.config, loaded.weight_bytes(), tokens, batch);
    row.memory_bytes = memory.weight_bytes + row.cache_bytes + memory.working_bytes;
  }
  players_.push_back(std::move(player));
  return {};
}

void InferSweep::add_rows(const InferSetting& setting) {
  const auto add = [&](const char* kind, std::int64_t prompt, std::int64_t depth, std::int64_t sequences) {
    const bool prefill = prompt > 0;
    SweepRow row{.kind = kind, .work = {}};
    row.work = prefill ? fmt::format("prompt of {}", prompt) : fmt::format("{} at depth {}", sequences, depth);
    row.settings = {{"type", setting.type},
                    {"instruction set", std::string(isa_name(setting.kernels->isa))},
                    {"threads", std::to_string(setting.threads)},
                    {"affinity", std::string(affinity_name(setting.affinity))},
                    {"NUMA", std::string(numa_policy_name(setting.numa))},
                    {"huge pages", subject_.shape.empty() ? ""
                                   : setting.huge_pages   ? "on"
                                                          : "off"},
                    {"weights", setting.weights},
                    {"task bytes", std::to_string(setting.blocks.task_bytes)},
                    {"block rows", std::to_string(setting.blocks.block_rows)},
                    {"KV type", setting.kv_type},
                    {"batch", std::to_string(setting.batch_tokens)},
                    {"prompt", prefill ? std::to_string(prompt) : ""},
                    {"depth", prefill ? "" : std::to_string(depth)},
                    {"sequences", prefill ? "" : std::to_string(sequences)}};
    rows_.push_back(std::move(row));
  };
  for (const std::int64_t prompt : work_.prompts) add("prefill", prompt, 0, 1);
  if (!work_.decodes()) return;
  for (const std::int64_t depth : work_.depths) {
    for (const std::int64_t sequences : work_.sequences) add("decode", 0, depth, sequences);
  }
}

Result<std::vector<SweepRow>> InferSweep::measure(const std::vector<InferSetting>& settings, std::int64_t warmup,
                                                  std::int64_t rounds) {
  rows_.clear();
  remarks_.clear();
  players_.clear();
  std::vector<std::size_t> first_rows;
  for (const InferSetting& setting : settings) {
    first_rows.push_back(rows_.size());
    add_rows(setting);
  }
  if (settings.size() == 1) {  // nothing to choose among: the pieces of work are what is compared
    for (SweepRow& row : rows_) row.work.clear();
  }
  const auto fit = all_fit(settings);
  if (!fit) return tl::make_unexpected(fit.error());
  // Those of one turn, in groups of the same weights unless all take turns.
  std::vector<std::vector<std::size_t>> groups;
  for (std::size_t i = 0; i < settings.size(); ++i) {
    const auto group = std::find_if(groups.begin(), groups.end(), [&](const std::vector<std::size_t>& g) {
      return *fit || same_weights(settings[g.front()], settings[i]);
    });
    group == groups.end() ? groups.push_back({i}) : group->push_back(i);
  }
  if (groups.size() > 1) {
    remarks_ =
        "The weights do not fit into memory together: they were measured one set after another, so that a machine that "
        "drifts may set them apart.\n";
  }
  for (const std::vector<std::size_t>& group : groups) {
    if (interrupted()) break;
    players_.clear();
    if (groups.size() > 1) weights_.clear();
    for (const std::size_t i : group) {
      if (auto added = add_player(settings[i], std::ssize(group), first_rows[i]); !added) {
        return tl::make_unexpected(added.error());
      }
    }
    if (auto played = play(warmup, rounds); !played) return tl::make_unexpected(played.error());
  }
  progress_.finish();
  players_.clear();
  return std::move(rows_);
}

Result<void> InferSweep::play(std::int64_t warmup, std::int64_t rounds) {
  const std::int64_t all = warmup + rounds, count = std::ssize(players_);
  for (std::int64_t round = 0; round < all; ++round) {
    for (std::int64_t turn = 0; turn < count; ++turn) {
      if (interrupted()) return {};
      Player& player = *players_[static_cast<std::size_t>(round % 2 == 0 ? turn : count - 1 - turn)];
      progress_.update(label_, round * count + turn, all * count, "rounds");
      player.run->team.run([](TeamMember&) {});  // threads are created or moved before the clock runs
      const auto bench = bench_inference(
          *player.decoder, player.run->backend, player.run->team, player.weights->running->model->bytes_per_token(), work_,
          {.stop = interrupted, .machine = [](bool) { return MachineRates{}; }}, &player.room);
      if (!bench) return tl::make_unexpected(bench.error());
      if (round < warmup) continue;
      for (std::size_t i = 0; i < bench->rows.size(); ++i) {
        if (!bench->rows[i].rounds.empty()) rows_[player.first_row + i].rates.push_back(bench->rows[i].tokens_per_second());
      }
    }
  }
  return {};
}

}  // namespace quern::tools
