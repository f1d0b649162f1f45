// Reading a run: YAML and overrides -> values by the schema -> defaults that follow from other keys -> combinations.
#include "train/run_config.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>

#include "train/run_config_schema.hpp"
#include "train/run_config_yaml.hpp"

namespace quern {

namespace {

using internal::RunKey;
using internal::TextPosition;
using internal::YamlEntry;
using internal::YamlNode;

/// A run being read: values so far, and where each was given.
class RunReader {
 public:
  explicit RunReader(std::string_view name) : name_(name) {}

  Result<void> read_document(const YamlNode& root) {
    if (root.kind == YamlNode::Kind::null)
      return bad_input(fmt::format("{}: empty; a run needs at least run.dir and data.corpus", name_));
    if (root.kind != YamlNode::Kind::mapping) {
      return bad_input(fmt::format("{}: must be a mapping of sections (run, model, data, ...), found {}",
                                   place(root.position), internal::describe(root)));
    }
    return read_mapping(root, "");
  }

  Result<void> read_override(std::string_view text) {
    const std::size_t equals = text.find('=');
    if (equals == std::string_view::npos || equals == 0) {
      return bad_input(fmt::format("command line: `{}` is not KEY=VALUE, as in train.steps=100", text));
    }
    const std::string_view name = text.substr(0, equals), value = text.substr(equals + 1);
    const RunKey* key = internal::find_run_key(name);
    if (key == nullptr) return unknown("command line", name, false);
    auto node = override_value(*key, value);
    if (!node) return tl::make_unexpected(node.error());
    return store(*key, *node, "command line");
  }

  [[nodiscard]] bool given(std::string_view key) const { return config_.origins.find(key) != config_.origins.end(); }
  RunConfig& config() { return config_; }
  [[nodiscard]] const std::string& name() const { return name_; }

 private:
  [[nodiscard]] std::string place(TextPosition at) const { return fmt::format("{}:{}:{}", name_, at.line, at.column); }

  static bool is_section(std::string_view path) {
    return std::any_of(internal::run_schema().begin(), internal::run_schema().end(), [&](const RunKey& key) {
      return key.name.size() > path.size() && key.name.substr(0, path.size()) == path && key.name[path.size()] == '.';
    });
  }

  static tl::unexpected<Error> unknown(const std::string& where, std::string_view name, bool section) {
    const std::string_view nearest = internal::nearest_run_key(name);
    if (section) {
      return bad_input(
          fmt::format("{}: section `{}`: unknown; sections are run, model, data, optimizer, train, sample, system", where,
                      name.substr(0, 100)));
    }
    return bad_input(fmt::format("{}: key `{}`: unknown; nearest known key: `{}`", where, name.substr(0, 100), nearest));
  }

  Result<void> read_mapping(const YamlNode& mapping, const std::string& prefix) {
    for (const YamlEntry& entry : mapping.entries) {
      const std::string path = prefix + entry.key;
      if (is_section(path)) {
        if (auto ok = read_section(entry, path); !ok) return ok;
        continue;
      }
      const RunKey* key = internal::find_run_key(path);
      if (key == nullptr) {
        return unknown(place(entry.position), path, prefix.empty() && entry.value.kind == YamlNode::Kind::mapping);
      }
      if (const auto first = config_.origins.find(path); first != config_.origins.end()) {
        return bad_input(fmt::format("{}: key `{}`: given twice, first at {}", place(entry.position), path, first->second));
      }
      if (auto ok = store(*key, entry.value, place(entry.value.position)); !ok) return ok;
    }
    return {};
  }

  Result<void> read_section(const YamlEntry& entry, const std::string& path) {
    const auto [first, is_new] = sections_.emplace(path, place(entry.position));
    if (!is_new) {
      return bad_input(
          fmt::format("{}: section `{}`: given twice, first at {}", place(entry.position), path, first->second));
    }
    if (entry.value.kind == YamlNode::Kind::null) return {};
    if (entry.value.kind != YamlNode::Kind::mapping) {
      return bad_input(fmt::format("{}: section `{}`: must be a mapping of keys, found {}", place(entry.value.position),
                                   path, internal::describe(entry.value)));
    }
    return read_mapping(entry.value, path + ".");
  }

  /// A value of the command line. Text keys take it as it stands unless it is quoted; others take a plain YAML scalar.
  static Result<YamlNode> override_value(const RunKey& key, std::string_view value) {
    const std::string where = fmt::format("command line: key `{}`", key.name);
    const bool quoted = !value.empty() && (value.front() == '"' || value.front() == '\'');
    auto node = internal::parse_yaml(value, where);
    const bool is_text = internal::run_key_type(key) == "text";
    if (is_text && !quoted) {
      if (!node && !internal::parse_yaml(internal::quote_yaml(value), where)) return node;  // not text at all
      YamlNode text;
      text.kind = YamlNode::Kind::scalar;
      text.text = value;
      return text;
    }
    return node;
  }

  Result<void> store(const RunKey& key, const YamlNode& value, const std::string& where) {
    if (auto set = internal::set_run_key(key, value, config_); !set) {
      return bad_input(fmt::format("{}: key `{}`: {}", where, key.name, set.error()));
    }
    config_.origins.insert_or_assign(std::string(key.name), where);
    return {};
  }

  std::string name_;
  RunConfig config_;
  std::map<std::string, std::string, std::less<>> sections_;
};

/// Values of absent `model` keys that follow from others. A model that comes from a checkpoint has all of its own.
Result<void> fill_model_defaults(RunReader& reader) {
  RunConfig& run = reader.config();
  ModelConfig& model = run.model;
  if (!reader.given("model.kv_heads")) model.kv_heads = model.heads;
  if (!reader.given("model.head_dim")) {
    if (model.width % model.heads != 0) {
      const std::string_view key = reader.given("model.heads") ? "model.heads" : "model.width";
      return bad_input(
          run.at_key(key, fmt::format("model.heads ({}) must divide model.width ({}) where model.head_dim is not "
                                      "given",
                                      model.heads, model.width)));
    }
    model.head_dim = model.width / model.heads;
  }
  if (!reader.given("model.mlp_width")) {
    // Shazeer 2020 gives gated kinds two thirds of the width, so that three matrices cost what two did.
    model.mlp_width = model.gated() ? (8 * model.width + 95) / 96 * 32 : 4 * model.width;
  }
  return {};
}

/// Values of other absent keys that follow from given ones.
void fill_defaults(RunReader& reader) {
  RunConfig& run = reader.config();
  if (!reader.given("optimizer.min_learning_rate")) {
    // Divides the decimal that was written, not its nearest float: 0.001 gives 0.0001 exactly as one would write it.
    const double written = std::strtod(fmt::format("{}", run.optimizer.learning_rate).c_str(), nullptr);
    run.optimizer.min_learning_rate = static_cast<float>(written / 10.0);
  }
  if (!reader.given("optimizer.warmup_steps"))
    run.optimizer.warmup_steps = std::min<std::int64_t>(100, run.train.steps / 10);
  if (!reader.given("optimizer.cooldown_steps") && run.optimizer.schedule == ScheduleKind::wsd) {
    run.optimizer.cooldown_steps = (run.optimizer.decay_steps > 0 ? run.optimizer.decay_steps : run.train.steps) / 5;
  }
}

/// An error of a combination: of the first key in `blame` (most likely at fault first) that was given.
tl::unexpected<Error> refuse(const RunConfig& run, std::string_view name, std::initializer_list<std::string_view> blame,
                             std::string_view message) {
  const auto given = std::find_if(blame.begin(), blame.end(),
                                  [&](std::string_view key) { return run.origins.find(key) != run.origins.end(); });
  if (given == blame.end()) return bad_input(fmt::format("{}: {}", name, message));
  return bad_input(run.at_key(*given, message));
}

/// Combinations of `model` keys that no single key's range can refuse.
Result<void> check_model(const RunConfig& run, std::string_view name) {
  const ModelConfig& model = run.model;
  if (model.heads % model.kv_heads != 0) {
    return refuse(run, name, {"model.kv_heads", "model.heads"},
                  fmt::format("must divide model.heads ({}), found kv_heads {}", model.heads, model.kv_heads));
  }
  if (model.norm_bias && model.norm == NormKind::rms_norm) {
    return refuse(run, name, {"model.norm_bias"}, "true needs model.norm layer_norm: rms_norm has no bias");
  }
  if (model.position == PositionKind::rope && model.rotated() % 2 != 0) {
    return refuse(run, name, {"model.rope_dims", "model.head_dim", "model.heads", "model.width"},
                  fmt::format("position rope needs an even number of rotated elements per head, found {}", model.rotated()));
  }
  if (model.position == PositionKind::rope && model.rotated() > model.head_dim) {
    return refuse(run, name, {"model.rope_dims"},
                  fmt::format("must be at most model.head_dim ({}), found {}", model.head_dim, model.rope_dims));
  }
  ModelConfig with_vocab = model;
  if (model.vocab == 0) with_vocab.vocab = 1;  // it comes from the corpus and is checked with it
  if (auto valid = validate(with_vocab); !valid) {
    return bad_input(fmt::format("{}: section `model`: {}", name, valid.error().message));
  }
  return {};
}

/// Keys of one optimizer or schedule, given to another. Their defaults may stand anywhere, as they do in a resolved run.
Result<void> check_optimizer_keys(const RunConfig& run, std::string_view name) {
  const OptimizerConfig& optimizer = run.optimizer;
  const OptimizerConfig defaults;
  const auto needs = [&](std::string_view key, bool differs, std::string_view word) -> Result<void> {
    if (!differs) return {};
    return refuse(run, name, {key}, fmt::format("needs {}", word));
  };
  if (optimizer.kind != OptimizerKind::muon) {
    constexpr std::string_view kMuon = "optimizer.kind: muon";
    const bool rate = optimizer.muon_learning_rate != defaults.muon_learning_rate;
    if (auto ok = needs("optimizer.muon_learning_rate", rate, kMuon); !ok) return ok;
    const bool momentum = optimizer.muon_momentum != defaults.muon_momentum;
    if (auto ok = needs("optimizer.muon_momentum", momentum, kMuon); !ok) return ok;
    const bool steps = optimizer.newton_schulz_steps != defaults.newton_schulz_steps;
    if (auto ok = needs("optimizer.newton_schulz_steps", steps, kMuon); !ok) return ok;
  }
  if (optimizer.schedule != ScheduleKind::wsd) {
    constexpr std::string_view kWsd = "optimizer.schedule: wsd";
    if (auto ok = needs("optimizer.cooldown_steps", optimizer.cooldown_steps != 0, kWsd); !ok) return ok;
    if (auto ok = needs("optimizer.cooldown", optimizer.cooldown != defaults.cooldown, kWsd); !ok) return ok;
  }
  return {};
}

/// Combinations of other keys.
Result<void> check_combinations(const RunConfig& run, std::string_view name) {
  const OptimizerConfig& optimizer = run.optimizer;
  const TrainConfig& train = run.train;
  if (optimizer.min_learning_rate > optimizer.learning_rate) {
    return refuse(run, name, {"optimizer.min_learning_rate", "optimizer.learning_rate"},
                  fmt::format("optimizer.min_learning_rate ({}) must not be above optimizer.learning_rate ({})",
                              optimizer.min_learning_rate, optimizer.learning_rate));
  }
  if (optimizer.warmup_steps > train.steps) {
    return refuse(
        run, name, {"optimizer.warmup_steps", "train.steps"},
        fmt::format("optimizer.warmup_steps ({}) must not be above train.steps ({})", optimizer.warmup_steps, train.steps));
  }
  if (optimizer.decay_steps > 0 && optimizer.decay_steps < optimizer.warmup_steps) {
    return refuse(run, name, {"optimizer.decay_steps"},
                  fmt::format("must be 0 or at least optimizer.warmup_steps ({}), found {}", optimizer.warmup_steps,
                              optimizer.decay_steps));
  }
  if (auto ok = check_optimizer_keys(run, name); !ok) return ok;
  const std::int64_t decay_end = optimizer.decay_steps > 0 ? optimizer.decay_steps : train.steps;
  if (optimizer.cooldown_steps > decay_end - optimizer.warmup_steps) {
    return refuse(run, name, {"optimizer.cooldown_steps", "optimizer.warmup_steps", "optimizer.decay_steps", "train.steps"},
                  fmt::format("optimizer.cooldown_steps ({}) and optimizer.warmup_steps ({}) must fit into the {} steps "
                              "until the decay ends",
                              optimizer.cooldown_steps, optimizer.warmup_steps, decay_end));
  }
  if (train.target_loss > 0.0F && train.eval_every == 0) {
    return refuse(run, name, {"train.target_loss", "train.eval_every"},
                  "train.target_loss needs validations: train.eval_every must be above 0");
  }
  if (train.grown_accumulation > 0 && train.growth_step == 0) {
    return refuse(run, name, {"train.grown_accumulation"}, "needs train.growth_step, the step from which it counts");
  }
  if (train.micro_batches(train.steps) > UINT32_MAX) {  // they number the dropout streams in 32 bits
    return refuse(run, name, {"train.grown_accumulation", "train.accumulation", "train.steps"},
                  fmt::format("train.steps and train.accumulation make {} micro-batches, more than {}",
                              train.micro_batches(train.steps), UINT32_MAX));
  }
  return {};
}

Result<void> check_required(const RunReader& reader) {
  for (const RunKey& key : internal::run_schema()) {
    if (key.required && !reader.given(key.name)) {
      return bad_input(fmt::format("{}: key `{}`: missing; it is the {}", reader.name(), key.name, key.description));
    }
  }
  return {};
}

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

Result<std::string> read_text(const std::string& path) {
  const auto fail = [&](std::string_view what, int code) {
    return bad_input(fmt::format("{}: {}: {}", path, what, std::strerror(code)));
  };
  const std::unique_ptr<std::FILE, CloseFile> file(std::fopen(path.c_str(), "rb"));
  if (!file) return fail("cannot be opened", errno);
  std::string text(internal::kMaxYamlBytes + 1, '\0');  // one byte more, so that parse_yaml sees what is too long
  text.resize(std::fread(text.data(), 1, text.size(), file.get()));
  if (std::ferror(file.get()) != 0) return fail("cannot be read", errno);
  return text;
}

}  // namespace

std::string RunConfig::at_key(std::string_view key, std::string_view message) const {
  const auto origin = origins.find(key);
  if (origin == origins.end()) return fmt::format("key `{}` (default): {}", key, message);
  return fmt::format("{}: key `{}`: {}", origin->second, key, message);
}

Result<void> check_run_files(const RunConfig& config) {
  std::error_code code;
  const auto status = std::filesystem::status(config.data.corpus, code);
  if (!std::filesystem::exists(status)) {
    return bad_input(
        config.at_key("data.corpus", fmt::format("no such file: {}; `quern data prepare SOURCE --out {}` makes one",
                                                 config.data.corpus, config.data.corpus)));
  }
  if (std::filesystem::is_directory(status)) {
    return bad_input(config.at_key("data.corpus", fmt::format("{} is a folder, not a prepared corpus", config.data.corpus)));
  }
  return {};
}

Result<void> check_context(const RunConfig& run, std::string_view name) {
  const ModelConfig& model = run.model;
  if (model.position == PositionKind::learned && run.context() > model.context) {
    return refuse(run, name, {"train.context", "model.context"},
                  fmt::format("learned positions allow sequences of at most model.context ({}) tokens, found {}",
                              model.context, run.context()));
  }
  if (run.train.batch * run.context() > INT32_MAX) {
    return refuse(run, name, {"train.batch", "train.context", "model.context"},
                  fmt::format("train.batch * context must be at most {} tokens, found {}", INT32_MAX,
                              run.train.batch * run.context()));
  }
  return {};
}

Result<RunConfig> parse_run_config(std::string_view yaml, std::string_view name, const std::vector<std::string>& overrides) {
  const auto root = internal::parse_yaml(yaml, name);
  if (!root) return tl::make_unexpected(root.error());
  RunReader reader(name);
  if (auto ok = reader.read_document(*root); !ok) return tl::make_unexpected(ok.error());
  for (const std::string& text : overrides) {
    if (auto ok = reader.read_override(text); !ok) return tl::make_unexpected(ok.error());
  }
  if (auto ok = check_required(reader); !ok) return tl::make_unexpected(ok.error());
  const RunConfig& run = reader.config();
  fill_defaults(reader);
  if (run.train.from.empty()) {
    if (auto ok = fill_model_defaults(reader); !ok) return tl::make_unexpected(ok.error());
    if (auto ok = check_model(run, name); !ok) return tl::make_unexpected(ok.error());
    if (auto ok = check_context(run, name); !ok) return tl::make_unexpected(ok.error());
  }
  if (auto ok = check_combinations(run, name); !ok) return tl::make_unexpected(ok.error());
  return std::move(reader.config());
}

Result<RunConfig> load_run_config(const std::string& path, const std::vector<std::string>& overrides) {
  const auto text = read_text(path);
  if (!text) return tl::make_unexpected(text.error());
  return parse_run_config(*text, path, overrides);
}

std::string to_yaml(const RunConfig& config) {
  std::string out, section;
  for (const RunKey& key : internal::run_schema()) {
    const std::string_view this_section = key.name.substr(0, key.name.find('.'));
    if (this_section != section) {
      section = this_section;
      out += fmt::format("{}:\n", section);
    }
    out += fmt::format("  {}: {}\n", key.name.substr(section.size() + 1), internal::run_key_text(key, config));
  }
  return out;
}

std::vector<KeyDoc> run_config_keys() {
  const RunConfig defaults;
  std::vector<KeyDoc> docs;
  for (const RunKey& key : internal::run_schema()) {
    KeyDoc doc;
    doc.key = key.name;
    doc.type = internal::run_key_type(key);
    doc.default_value = key.required                   ? "required"
                        : key.computed_default.empty() ? internal::run_key_text(key, defaults)
                                                       : std::string(key.computed_default);
    doc.allowed = internal::run_key_allowed(key);
    doc.description = key.description;
    docs.push_back(std::move(doc));
  }
  return docs;
}

}  // namespace quern
