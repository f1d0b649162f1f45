#include "report/report_data.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "json_place.hpp"
#include "measurement_report.hpp"
#include "model/atomic_file.hpp"

namespace quern::tools {

namespace {

using Json = nlohmann::ordered_json;

/// Results are small: even a sweep of thousands of rows stays far below.
constexpr std::size_t kMaxFileBytes = std::size_t{64} << 20;

std::string whole(double value) { return fmt::format("{:.0f}", value); }
std::string on_or_off(const JsonPlace& place, const char* key) { return place.boolean(key).value_or(true) ? "on" : "off"; }

/// The last part of a path, which is how models and files are called.
std::string last_part(const std::string& path) {
  const std::string name = std::filesystem::path(path).filename().string();
  return name.empty() ? path : name;
}

std::optional<double> share_of(const JsonPlace& row, const char* key) {
  const auto value = row.number(key);
  return value && *value > 0.0 ? std::optional<double>(*value) : std::nullopt;
}

/// Tokens a second of the rounds of a row of `quern bench infer`.
Result<Summary> rate_of_rounds(const JsonPlace& row) {
  const auto rounds = row.list("rounds");
  if (!rounds) return tl::make_unexpected(rounds.error());
  std::vector<double> rates;
  for (const JsonPlace& round : *rounds) {
    const auto rate = round.number("tokens_per_second");
    if (!rate) return tl::make_unexpected(rate.error());
    rates.push_back(*rate);
  }
  return summarize(rates);
}

Result<void> add_infer(ReportData& data, const JsonPlace& whole_place, ReportSource& source) {
  const std::size_t index = data.sources.size();
  std::vector<std::pair<std::string, std::string>> common;
  ModelFacts facts{.source = index, .model = {}, .type = {}};
  for (const auto& [key, name] :
       {std::pair{"model", "model"}, std::pair{"isa", "instruction set"}, std::pair{"kv_type", "KV type"}}) {
    const auto value = whole_place.text(key);
    if (!value) return tl::make_unexpected(value.error());
    common.emplace_back(name, std::string_view(key) == "model" ? last_part(*value) : *value);
    if (std::string_view(key) == "model") facts.model = *value;
  }
  const auto threads = whole_place.number("threads");
  if (!threads) return tl::make_unexpected(threads.error());
  common.emplace_back("threads", whole(*threads));
  if (const auto random = whole_place.object("random_weights")) {
    facts.type = random->text("type").value_or("");
    if (!facts.type.empty()) common.emplace_back("type", facts.type);
  }
  common.emplace_back("activations", whole_place.text("compute").value_or("f32"));
  common.emplace_back("prompt chunk", whole(whole_place.number("batch").value_or(0.0)));
  for (const auto& [key, name] :
       {std::pair{"fused", "fused"}, std::pair{"arena", "arena"}, std::pair{"kv_cache", "KV cache"}}) {
    common.emplace_back(name, on_or_off(whole_place, key));
  }
  // What `quern tune` and placement options add, where they are there.
  for (const char* key : {"affinity", "numa"}) {
    if (const auto value = whole_place.text(key)) common.emplace_back(key, *value);
  }
  facts.weight_bytes = whole_place.number("weight_bytes").value_or(0.0);
  facts.peak_memory_bytes = whole_place.number("peak_memory_bytes").value_or(0.0);
  data.models.push_back(facts);
  source.about = fmt::format("{}{}{}, {}, {} thread{}", common[0].second, facts.type.empty() ? "" : " in ", facts.type,
                             common[1].second, whole(*threads), *threads == 1.0 ? "" : "s");
  const auto rows = whole_place.list("rows");
  if (!rows) return tl::make_unexpected(rows.error());
  for (const JsonPlace& row : *rows) {
    const auto kind = row.text("kind");
    if (!kind) return tl::make_unexpected(kind.error());
    if (*kind != "decode" && *kind != "prefill") return row.wrong("kind", "`decode` or `prefill`");
    Measurement one{.source = index, .what = *kind, .settings = common};
    for (const char* key : {"depth", "sequences", "tokens"}) {
      if ((*kind == "decode") == (std::string_view(key) == "tokens")) continue;
      const auto value = row.number(key);
      if (!value) return tl::make_unexpected(value.error());
      one.settings.emplace_back(*kind == "prefill" ? "prompt" : key, whole(*value));
    }
    auto rate = rate_of_rounds(row);
    if (!rate) return tl::make_unexpected(rate.error());
    one.rate = *rate;
    if (*kind == "decode") {
      one.kv_bytes = row.number("kv_bytes_per_step").value_or(0.0);
      one.step_bytes = *one.kv_bytes + row.number("weight_bytes_per_step").value_or(0.0);
      one.memory_share = share_of(row, "memory_share");
    } else {
      one.compute_share = share_of(row, "bf16_tile_share");
      if (!one.compute_share) one.compute_share = share_of(row, "f32_share");
    }
    data.measurements.push_back(std::move(one));
  }
  return {};
}

Result<void> add_train(ReportData& data, const std::vector<JsonPlace>& rows, ReportSource& source) {
  for (const JsonPlace& row : rows) {
    Measurement one{.source = data.sources.size(), .what = "train", .settings = {}};
    // A sweep's keys stand behind the run's name, and among the settings below.
    const auto run = row.text("run");
    if (!run) return tl::make_unexpected(run.error());
    one.settings.emplace_back("model", run->substr(0, run->find(' ')));
    for (const auto& [key, name] : {std::pair{"isa", "instruction set"}, std::pair{"precision", "precision"}}) {
      const auto value = row.text(key);
      if (!value) return tl::make_unexpected(value.error());
      one.settings.emplace_back(name, *value);
    }
    for (const char* key : {"threads", "batch", "context"}) {
      const auto value = row.number(key);
      if (!value) return tl::make_unexpected(value.error());
      one.settings.emplace_back(key, whole(*value));
    }
    one.settings.emplace_back("parameters", whole(row.number("parameters").value_or(0.0)));
    one.settings.emplace_back("fused", on_or_off(row, "fused"));
    one.settings.emplace_back("arena", on_or_off(row, "arena"));
    const auto rates = row.numbers("tokens_per_second_of_rounds");
    if (!rates) return tl::make_unexpected(rates.error());
    one.rate = summarize(*rates);
    one.compute_share = share_of(row, "register_peak_fraction");
    if (source.about.empty()) {
      source.about =
          fmt::format("{}, {}, {} threads", one.settings[0].second, one.settings[1].second, one.setting("threads"));
    }
    data.measurements.push_back(std::move(one));
  }
  return {};
}

Result<void> add_sweep(ReportData& data, const JsonPlace& place, ReportSource& source) {
  const auto name = place.text("name");
  if (!name) return tl::make_unexpected(name.error());
  source.about = last_part(*name);
  const auto rows = place.list("rows");
  if (!rows) return tl::make_unexpected(rows.error());
  for (const JsonPlace& row : *rows) {
    const auto kind = row.text("kind");
    if (!kind) return tl::make_unexpected(kind.error());
    const auto settings = row.object("settings");
    if (!settings) return tl::make_unexpected(settings.error());
    auto rate = row.summary("tokens_per_second");
    if (!rate) return tl::make_unexpected(rate.error());
    Measurement one{.source = data.sources.size(), .what = *kind, .settings = {{"model", source.about}}, .rate = *rate};
    for (const std::string& key : settings->keys()) {
      const auto value = settings->text(key.c_str());
      if (!value) return tl::make_unexpected(value.error());
      // As results of `quern bench infer` call them; a batch of training is something else.
      const bool chunk = key == "batch" && *kind != "train";
      if (!value->empty()) one.settings.emplace_back(chunk ? "prompt chunk" : key == "NUMA" ? "numa" : key, *value);
    }
    data.measurements.push_back(std::move(one));
  }
  return {};
}

/// Candidates of a setting that was chosen, named as what they were judged by.
Result<void> add_candidates(ReportData& data, const std::string& model, const std::string& setting, const std::string& by,
                            const std::vector<JsonPlace>& candidates) {
  for (const JsonPlace& candidate : candidates) {
    const auto value = candidate.text("value");
    if (!value) return tl::make_unexpected(value.error());
    const auto rate = candidate.summary("tokens_per_second");
    if (!rate) return tl::make_unexpected(rate.error());
    data.measurements.push_back({.source = data.sources.size(),
                                 .what = by.starts_with("a ") ? by.substr(2) : by,
                                 .settings = {{"model", model}, {setting, *value}},
                                 .rate = *rate});
  }
  return {};
}

Result<void> add_tune(ReportData& data, const JsonPlace& place, ReportSource& source) {
  const auto model = place.text("model");
  if (!model) return tl::make_unexpected(model.error());
  source.about = *model;
  const auto choices = place.list("choices");
  if (!choices) return tl::make_unexpected(choices.error());
  std::string by = "request";  // what the first stage, and both ends, were judged by
  for (const JsonPlace& choice : *choices) {
    const auto setting = choice.text("setting");
    if (!setting) return tl::make_unexpected(setting.error());
    const auto metric = choice.text("by");
    if (!metric) return tl::make_unexpected(metric.error());
    if (&choice == &choices->front()) by = *metric;
    const auto candidates = choice.list("candidates");
    if (!candidates) return tl::make_unexpected(candidates.error());
    if (auto added = add_candidates(data, *model, *setting, *metric, *candidates); !added) return added;
  }
  const auto ends = place.list("defaults_and_tuned");
  if (!ends) return tl::make_unexpected(ends.error());
  return add_candidates(data, *model, "settings", by, *ends);
}

Result<void> add_kernels(ReportData& data, const JsonPlace& place, ReportSource& source) {
  const auto isa = place.text("instruction_set");
  if (!isa) return tl::make_unexpected(isa.error());
  source.about = fmt::format("{}, {} threads", *isa, whole(place.number("threads").value_or(0.0)));
  if (data.processor.empty()) data.processor = place.text("processor").value_or("");
  const auto rows = place.list("rows");
  if (!rows) return tl::make_unexpected(rows.error());
  for (const JsonPlace& row : *rows) {
    KernelFigure figure{.source = data.sources.size(), .name = {}, .roof = {}, .share = {}};
    const auto name = row.text("name");
    if (!name) return tl::make_unexpected(name.error());
    const auto roof = row.text("roof");
    if (!roof) return tl::make_unexpected(roof.error());
    figure.name = *name;
    figure.roof = *roof;
    for (const auto& [key, member] : {std::pair{"flops_per_byte", &KernelFigure::flops_per_byte},
                                      std::pair{"flops_per_second", &KernelFigure::flops_per_second},
                                      std::pair{"bytes_per_second", &KernelFigure::bytes_per_second}}) {
      const auto value = row.number(key);
      if (!value) return tl::make_unexpected(value.error());
      figure.*member = *value;
    }
    const auto rate = row.summary("roof_rate");
    if (!rate) return tl::make_unexpected(rate.error());
    figure.roof_rate = rate->median;
    auto share = row.summary("share");
    if (!share) return tl::make_unexpected(share.error());
    figure.share = *share;
    data.kernels.push_back(std::move(figure));
  }
  return {};
}

Result<void> add_perplexity(ReportData& data, const JsonPlace& place, ReportSource& source) {
  const auto model = place.text("model");
  if (!model) return tl::make_unexpected(model.error());
  const auto value = place.number("perplexity");
  if (!value) return tl::make_unexpected(value.error());
  if (!std::isfinite(*value) || *value < 1.0) return place.wrong("perplexity", "a number from 1 on");
  source.about = last_part(*model);
  data.perplexities.push_back({data.sources.size(), *model, *value, place.number("error").value_or(0.0)});
  return {};
}

Result<void> add_hardware(ReportData& data, const Json& json, ReportSource& source) {
  const JsonPlace place(json, "hardware");
  const auto processor = place.text("processor");
  if (!processor) return tl::make_unexpected(processor.error());
  source.about = *processor;
  data.processor = *processor;
  if (!json.contains("measurement")) return {};
  auto machine = measurement_from_json(json["measurement"]);
  if (!machine) return tl::make_unexpected(machine.error());
  data.machine = std::move(*machine);
  return {};
}

/// Adds the rows and fills `source`.
Result<void> add_by_kind(ReportData& data, const Json& json, ReportSource& source) {
  if (json.is_array()) {
    source.bench = "train";
    const Json rows = {{"rows", json}};
    const auto list = JsonPlace(rows, "train").list("rows");
    return list ? add_train(data, *list, source) : Result<void>(tl::make_unexpected(list.error()));
  }
  const JsonPlace place(json, "result");
  const std::string bench = place.text("bench").value_or("");
  if (bench == "kernels" && place.has("rows")) {
    source.bench = "kernels";
    return add_kernels(data, place, source);
  }
  if (place.has("tune") && place.has("choices")) {
    source.bench = "tune";
    return add_tune(data, place, source);
  }
  if (bench == "sweep" && place.has("rows")) {
    source.bench = "sweep";
    return add_sweep(data, place, source);
  }
  if (place.has("kv_type") && place.has("rows")) {
    source.bench = "infer";
    return add_infer(data, place, source);
  }
  if (place.has("perplexity")) {
    source.bench = "perplexity";
    return add_perplexity(data, place, source);
  }
  if (place.has("processor") && place.has("caches")) {
    source.bench = "hardware";
    return add_hardware(data, json, source);
  }
  return bad_input(
      "expected what `quern bench kernels`, `infer`, `train` or `sweep`, `quern perplexity` or `quern hardware` writes with "
      "--json");
}

}  // namespace

std::string Measurement::setting(std::string_view name) const {
  const auto found = std::find_if(settings.begin(), settings.end(), [&](const auto& one) { return one.first == name; });
  return found == settings.end() ? "" : found->second;
}

bool KernelFigure::bound_by_memory() const {
  return roof == "memory" || (roof.size() == 2 && roof[0] == 'L' && roof[1] >= '1' && roof[1] <= '9');
}

Result<void> add_result(ReportData& data, const Json& json, const std::string& name) {
  ReportSource source{.name = name, .label = last_part(name), .bench = {}, .about = {}};
  if (source.label.size() > 5 && source.label.ends_with(".json")) source.label.resize(source.label.size() - 5);
  // What a refused file would have added is of no source: the report is not made then.
  if (auto added = add_by_kind(data, json, source); !added) return added;
  data.sources.push_back(std::move(source));
  return {};
}

Result<void> add_file(ReportData& data, const std::string& path) {
  auto text = read_whole_file(path, kMaxFileBytes);
  if (!text) return bad_input(text.error().message);
  const Json json = Json::parse(*text, nullptr, false);
  if (json.is_discarded()) return bad_input(fmt::format("{}: expected JSON", path));
  if (auto added = add_result(data, json, path); !added) {
    return bad_input(fmt::format("{}: {}", path, added.error().message));
  }
  return {};
}

}  // namespace quern::tools
