#include "tuning_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cstdlib>
#include <map>
#include <span>
#include <string_view>
#include <system_error>

#include "math/block_formats.hpp"
#include "math/dispatch.hpp"
#include "math/kv_rows.hpp"
#include "math/thread_team.hpp"
#include "model/atomic_file.hpp"
#include "train/run_config_schema.hpp"
#include "train/run_config_yaml.hpp"

namespace quern::tools {

namespace {

using internal::describe;
using internal::YamlEntry;
using internal::YamlNode;

constexpr std::int64_t kVersion = 1;
constexpr std::size_t kMaxFileBytes = 64 * 1024;

std::string model_text(const std::string& architecture, const ModelConfig& config, bool with_vocab) {
  std::string text = fmt::format("{}, {} layers, width {}, {} heads, {} of keys, of {}, MLP {}", architecture, config.layers,
                                 config.width, config.heads, config.kv_heads, config.head_dim, config.mlp_width);
  if (config.experts > 0) text += fmt::format(", {} of {} experts", config.experts_used, config.experts);
  if (config.window > 0) text += fmt::format(", window {} of period {}", config.window, config.window_period);
  if (with_vocab) text += fmt::format(", vocabulary {}", config.vocab);
  return text;
}

/// FNV-1a, 64 bits.
std::uint64_t hash(std::string_view text) {
  std::uint64_t value = 0xcbf29ce484222325U;
  for (const char c : text) value = (value ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
  return value;
}

std::string where(std::string_view name, const internal::TextPosition& at) {
  return fmt::format("{}:{}:{}", name, at.line, at.column);
}

/// One mapping of the file while it is read: each key once, none that nobody asked for.
class Mapping {
 public:
  static Result<Mapping> of(const YamlNode& node, std::string_view name, std::string_view what) {
    if (node.kind != YamlNode::Kind::mapping) {
      return bad_input(
          fmt::format("{}: {}: expected a mapping, found {}", where(name, node.position), what, describe(node)));
    }
    for (std::size_t i = 0; i < node.entries.size(); ++i) {
      for (std::size_t j = 0; j < i; ++j) {
        if (node.entries[i].key != node.entries[j].key) continue;
        return bad_input(
            fmt::format("{}: key `{}` is there twice", where(name, node.entries[i].position), node.entries[i].key));
      }
    }
    return Mapping(node, name, what);
  }

  Result<const YamlNode*> take(std::string_view key) {
    for (std::size_t i = 0; i < node_->entries.size(); ++i) {
      if (node_->entries[i].key != key) continue;
      taken_[i] = true;
      return &node_->entries[i].value;
    }
    return bad_input(fmt::format("{}: {} has no key `{}`", where(name_, node_->position), what_, key));
  }

  Result<void> text(std::string_view key, std::string& value) {
    const auto node = take(key);
    if (!node) return tl::make_unexpected(node.error());
    if ((*node)->kind != YamlNode::Kind::scalar) return wrong(key, "text", **node);
    value = (*node)->text;
    return {};
  }

  Result<void> number(std::string_view key, std::int64_t least, std::int64_t most, std::int64_t& value) {
    const auto node = take(key);
    if (!node) return tl::make_unexpected(node.error());
    const std::string& digits = (*node)->text;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    const bool whole =
        (*node)->kind == YamlNode::Kind::scalar && error == std::errc() && end == digits.data() + digits.size();
    if (!whole || value < least || value > most) return wrong(key, fmt::format("{} to {}", least, most), **node);
    return {};
  }

  /// A word that `accepts` takes; `words` names those that there are.
  template <class Accepts>
  Result<void> word(std::string_view key, std::string_view words, const Accepts& accepts) {
    const auto node = take(key);
    if (!node) return tl::make_unexpected(node.error());
    if ((*node)->kind != YamlNode::Kind::scalar || !accepts((*node)->text)) return wrong(key, words, **node);
    return {};
  }

  Result<void> end() const {
    for (std::size_t i = 0; i < taken_.size(); ++i) {
      if (taken_[i]) continue;
      return bad_input(fmt::format("{}: {} has the unknown key `{}`", where(name_, node_->entries[i].position), what_,
                                   node_->entries[i].key));
    }
    return {};
  }

 private:
  Mapping(const YamlNode& node, std::string_view name, std::string_view what)
      : node_(&node), name_(name), what_(what), taken_(node.entries.size(), false) {}

  tl::unexpected<Error> wrong(std::string_view key, std::string_view expected, const YamlNode& found) const {
    return bad_input(fmt::format("{}: {}.{}: expected {}, found {}", where(name_, found.position), what_, key, expected,
                                 describe(found)));
  }

  const YamlNode* node_;
  std::string_view name_, what_;
  std::vector<bool> taken_;
};

Result<void> read_key(const YamlNode& machine_node, const YamlNode& for_node, std::string_view name, TuningKey& key) {
  auto machine = Mapping::of(machine_node, name, "machine");
  if (!machine) return tl::make_unexpected(machine.error());
  if (auto r = machine->text("processor", key.processor); !r) return r;
  if (auto r = machine->text("instruction_set", key.instruction_set); !r) return r;
  if (auto r = machine->text("processors", key.processors); !r) return r;
  if (auto r = machine->number("threads", 1, 1 << 20, key.threads); !r) return r;
  if (auto r = machine->number("numa_nodes", 0, 1 << 20, key.numa_nodes); !r) return r;
  if (auto r = machine->end(); !r) return r;
  auto subject = Mapping::of(for_node, name, "for");
  if (!subject) return tl::make_unexpected(subject.error());
  if (auto r = subject->text("work", key.work); !r) return r;
  if (auto r = subject->text("model", key.model); !r) return r;
  if (auto r = subject->text("types", key.types); !r) return r;
  return subject->end();
}

Result<void> read_settings(const YamlNode& node, std::string_view name, TunedSettings& settings) {
  auto mapping = Mapping::of(node, name, "settings");
  if (!mapping) return tl::make_unexpected(mapping.error());
  if (auto r = mapping->number("threads", 0, 1024, settings.threads); !r) return r;
  if (auto r = mapping->word("affinity", "none, compact or spread",
                             [&](const std::string& word) {
                               const auto affinity = affinity_named(word);
                               if (affinity) settings.affinity = *affinity;
                               return affinity.has_value();
                             });
      !r) {
    return r;
  }
  if (auto r = mapping->word("numa", "local or interleave",
                             [&](const std::string& word) {
                               const auto policy = numa_policy_named(word);
                               if (policy) settings.numa = *policy;
                               return policy.has_value();
                             });
      !r) {
    return r;
  }
  if (auto r = mapping->word("weights", "auto, mapped or interleaved",
                             [&](const std::string& word) {
                               settings.weights = word;
                               return word == "auto" || word == "mapped" || word == "interleaved";
                             });
      !r) {
    return r;
  }
  if (auto r = mapping->number("batch", 1, std::int64_t{1} << 24, settings.batch); !r) return r;
  if (auto r = mapping->number("block_rows", 0, BlockSizes::kMostBlockRows, settings.block_rows); !r) return r;
  if (auto r = mapping->number("task_bytes", 0, BlockSizes::kMostTaskBytes, settings.task_bytes); !r) return r;
  if (auto r = mapping->word("kv_type", "auto or a type of the KV cache",
                             [&](const std::string& word) {
                               settings.kv_type = word;
                               return word == "auto" || kv_type_named(word).has_value();
                             });
      !r) {
    return r;
  }
  return mapping->end();
}

}  // namespace

std::string settings_text(const TunedSettings& settings) {
  std::string text;
  const auto add = [&](const std::string& words) { text += (text.empty() ? "" : ", ") + words; };
  const TunedSettings plain;
  if (settings.threads > 0) add(fmt::format("{} thread{}", settings.threads, settings.threads == 1 ? "" : "s"));
  if (settings.affinity != plain.affinity) add(fmt::format("affinity {}", affinity_name(settings.affinity)));
  if (settings.numa != plain.numa) add(fmt::format("NUMA {}", numa_policy_name(settings.numa)));
  if (settings.weights != plain.weights) add("weights " + settings.weights);
  if (settings.batch != plain.batch) add(fmt::format("batch {}", settings.batch));
  if (settings.block_rows != plain.block_rows) add(fmt::format("block rows {}", settings.block_rows));
  if (settings.task_bytes != plain.task_bytes) add(fmt::format("task bytes {}", settings.task_bytes));
  if (settings.kv_type != plain.kv_type) add("KV cache " + settings.kv_type);
  return text.empty() ? "the defaults" : text;
}

Result<TuningKey> machine_key(const HardwareReport& hardware) {
  if (!hardware.chosen) return bad_input(hardware.chosen_because);
  return TuningKey{.processor = hardware.processor,
                   .instruction_set = std::string(isa_name(*hardware.chosen)),
                   .processors = hardware.affinity,
                   .threads = hardware.default_threads,
                   .numa_nodes = std::ssize(hardware.topology.numa_nodes)};
}

Result<TuningKey> machine_key() {
  const auto hardware = read_hardware();
  if (!hardware) return tl::make_unexpected(hardware.error());
  return machine_key(*hardware);
}

void add_model(TuningKey& key, const std::string& architecture, const ModelConfig& config,
               std::span<const GgufTensor> tensors) {
  key.work = "inference";
  key.model = model_text(architecture, config, true);
  std::map<std::string, std::int64_t> counts;
  for (const GgufTensor& tensor : tensors) ++counts[std::string(block_format(tensor.type).name)];
  key.types.clear();
  for (const auto& [name, count] : counts) key.types += fmt::format("{}{} {}", key.types.empty() ? "" : ", ", count, name);
  if (key.types.empty()) key.types = kPackedTypes;
}

void add_run(TuningKey& key, const RunConfig& run) {
  key.work = "training";
  key.model = model_text("run", run.model, false);
  key.types = fmt::format("{} x {} tokens, precision {}", run.train.batch, run.context(), to_word(run.train.precision));
}

std::filesystem::path tuning_folder() {
  const char* const config = std::getenv("XDG_CONFIG_HOME");
  if (config != nullptr && *config == '/') return std::filesystem::path(config) / "quern" / "tuning";
  const char* const home = std::getenv("HOME");
  if (home == nullptr || *home != '/') return {};
  return std::filesystem::path(home) / ".config" / "quern" / "tuning";
}

std::string tuning_file_name(const TuningKey& key) {
  std::string start;
  for (const char c : key.model.substr(0, key.model.find(','))) {
    const bool fine = std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
    if (start.size() < 32) start += fine ? c : '-';
  }
  const std::string all = fmt::format("{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}", key.processor, key.instruction_set, key.processors,
                                      key.threads, key.numa_nodes, key.work, key.model, key.types);
  return fmt::format("{}-{}-{:016x}.yaml", key.work, start, hash(all));
}

std::string tuning_yaml(const Tuning& tuning) {
  const auto quoted = [](const std::string& text) { return internal::quote_yaml(text); };
  const TuningKey& key = tuning.key;
  const TunedSettings& settings = tuning.settings;
  std::string text = fmt::format(
      "# Written by `quern tune`; read by commands that run or train this model on this machine, unless --no-tuned is "
      "given.\n"
      "# What a command line or a run's file says goes before. Remove the file to forget it.\n"
      "quern_tuning: {}\n"
      "date: {}\n"
      "machine:\n  processor: {}\n  instruction_set: {}\n  processors: {}\n  threads: {}\n  numa_nodes: {}\n"
      "for:\n  work: {}\n  model: {}\n  types: {}\n"
      "settings:\n  threads: {}\n  affinity: {}\n  numa: {}\n  weights: {}\n  batch: {}\n  block_rows: {}\n"
      "  task_bytes: {}\n  kv_type: {}\n",
      kVersion, quoted(tuning.date), quoted(key.processor), quoted(key.instruction_set), quoted(key.processors), key.threads,
      key.numa_nodes, quoted(key.work), quoted(key.model), quoted(key.types), settings.threads,
      affinity_name(settings.affinity), numa_policy_name(settings.numa), settings.weights, settings.batch,
      settings.block_rows, settings.task_bytes, settings.kv_type);
  text += tuning.reasons.empty() ? "reasons: {}\n" : "reasons:\n";
  for (const auto& [setting, reason] : tuning.reasons) text += fmt::format("  {}: {}\n", quoted(setting), quoted(reason));
  return text;
}

Result<Tuning> parse_tuning(std::string_view text, std::string_view name) {
  const auto root = internal::parse_yaml(text, name);
  if (!root) return tl::make_unexpected(root.error());
  auto file = Mapping::of(*root, name, "a tuning file");
  if (!file) return tl::make_unexpected(file.error());
  Tuning tuning;
  std::int64_t version = 0;
  if (auto r = file->number("quern_tuning", kVersion, kVersion, version); !r) return tl::make_unexpected(r.error());
  if (auto r = file->text("date", tuning.date); !r) return tl::make_unexpected(r.error());
  std::array<const YamlNode*, 4> parts{};
  const std::array<std::string_view, 4> names{"machine", "for", "settings", "reasons"};
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const auto node = file->take(names[i]);
    if (!node) return tl::make_unexpected(node.error());
    parts[i] = *node;
  }
  if (auto r = file->end(); !r) return tl::make_unexpected(r.error());
  if (auto r = read_key(*parts[0], *parts[1], name, tuning.key); !r) return tl::make_unexpected(r.error());
  if (auto r = read_settings(*parts[2], name, tuning.settings); !r) return tl::make_unexpected(r.error());
  auto reasons = Mapping::of(*parts[3], name, "reasons");
  if (!reasons) return tl::make_unexpected(reasons.error());
  for (const YamlEntry& entry : parts[3]->entries) {
    std::string sentence;
    if (auto r = reasons->text(entry.key, sentence); !r) return tl::make_unexpected(r.error());
    tuning.reasons.emplace_back(entry.key, std::move(sentence));
  }
  return tuning;
}

Result<std::string> save_tuning(const std::filesystem::path& folder, const Tuning& tuning) {
  if (folder.empty()) return io_error("neither XDG_CONFIG_HOME nor HOME says where settings are kept");
  std::error_code failed;
  std::filesystem::create_directories(folder, failed);
  if (failed) return io_error(fmt::format("{}: {}", folder.string(), failed.message()));
  const std::string path = (folder / tuning_file_name(tuning.key)).string();
  if (auto written = write_file_atomically(path, tuning_yaml(tuning)); !written) return tl::make_unexpected(written.error());
  return path;
}

Result<std::optional<Tuning>> load_tuning(const std::filesystem::path& folder, const TuningKey& key) {
  if (folder.empty()) return std::optional<Tuning>{};
  const std::string path = (folder / tuning_file_name(key)).string();
  std::error_code unknown;
  if (!std::filesystem::exists(path, unknown)) return std::optional<Tuning>{};
  const auto text = read_whole_file(path, kMaxFileBytes);
  if (!text) return tl::make_unexpected(text.error());
  auto tuning = parse_tuning(*text, path);
  if (!tuning) return tl::make_unexpected(tuning.error());
  if (tuning->key == key) return std::optional<Tuning>(std::move(*tuning));
  return bad_input(fmt::format("{}: written for {} on {}, processors {}, not for {} on {}, processors {}", path,
                               tuning->key.model, tuning->key.processor, tuning->key.processors, key.model, key.processor,
                               key.processors));
}

}  // namespace quern::tools
