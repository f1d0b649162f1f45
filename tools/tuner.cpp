#include "tuner.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "summary_report.hpp"

namespace quern::tools {

namespace {

/// The metric's rate of each round.
std::vector<double> rates_of(const TuneSample& sample, TuneMetric metric, const TuneOptions& options) {
  switch (metric) {
    case TuneMetric::prefill:
      return sample.prefill;
    case TuneMetric::decode:
      return sample.decode;
    case TuneMetric::train:
      return sample.train;
    case TuneMetric::request:
      break;
  }
  std::vector<double> rates;
  const auto prompt = static_cast<double>(options.prompt_tokens), answer = static_cast<double>(options.answer_tokens);
  for (std::size_t i = 0; i < std::min(sample.prefill.size(), sample.decode.size()); ++i) {
    rates.push_back((prompt + answer) / (prompt / sample.prefill[i] + answer / sample.decode[i]));
  }
  return rates;
}

std::string rate_text(const Summary& rate) { return summary_text(rate) + " tokens/s"; }

/// Why the candidate `chosen` was taken.
std::string reason_of(const TuneChoice& choice, std::size_t chosen) {
  const std::vector<TuneFigure>& figures = choice.figures;
  if (!std::all_of(figures.begin(), figures.end(), [](const TuneFigure& f) { return f.rate.has_interval(); })) {
    return fmt::format("{}: kept, too few rounds to tell candidates apart", choice.value);
  }
  std::string text = fmt::format("{}: {} of {}", choice.value, rate_text(figures[chosen].rate), to_word(choice.metric));
  std::vector<const TuneFigure*> others;
  for (std::size_t i = 0; i < figures.size(); ++i) {
    if (i != chosen) others.push_back(&figures[i]);
  }
  for (const TuneFigure* other : others) {
    const Difference difference = compare(other->rate, figures[chosen].rate).difference;
    const char* const word = difference == Difference::higher  ? "slower"
                             : difference == Difference::lower ? "faster"
                                                               : "no difference";
    text += fmt::format("; {}: {}, {}", other->value, rate_text(other->rate), word);
  }
  return text;
}

std::vector<TuneCandidate> thread_candidates(const TuneSpace& space, const TunedSettings& now) {
  std::vector<TuneCandidate> candidates{{.value = fmt::format("{} (all)", space.default_threads), .settings = now}};
  const auto add = [&](std::int64_t threads) {
    TunedSettings settings = now;
    settings.threads = threads;
    candidates.push_back({.value = std::to_string(threads), .settings = std::move(settings)});
  };
  const bool siblings = space.cores < space.default_threads;  // then a thread for each core is a candidate
  if (siblings) add(space.cores);
  for (std::int64_t count = (siblings ? space.cores : space.default_threads) / 2; count > 0; count /= 2) add(count);
  return candidates;
}

std::vector<TuneCandidate> affinity_candidates(const TuneSpace& space, const TunedSettings& now, std::string& remark) {
  const int threads = static_cast<int>(now.threads > 0 ? now.threads : space.default_threads);
  std::vector<TuneCandidate> candidates{{.value = "none", .settings = now}};
  std::vector<std::vector<int>> places;
  for (const Affinity affinity : {Affinity::compact, Affinity::spread}) {
    auto placed = place_threads(space.topology, space.processors, threads, affinity);
    if (!placed) continue;
    if (std::find(places.begin(), places.end(), *placed) != places.end()) {
      remark = "compact and spread are the same here";
      continue;
    }
    places.push_back(std::move(*placed));
    TunedSettings settings = now;
    settings.affinity = affinity;
    candidates.push_back({.value = std::string(affinity_name(affinity)), .settings = std::move(settings)});
  }
  return candidates;
}

/// Candidates for one member of the settings: `values` after the default.
template <class T, class Member>
std::vector<TuneCandidate> value_candidates(const TunedSettings& now, Member member, const std::string& standard,
                                            const std::vector<T>& values) {
  std::vector<TuneCandidate> candidates{{.value = standard, .settings = now}};
  for (const T& value : values) {
    TunedSettings settings = now;
    settings.*member = value;
    candidates.push_back({.value = fmt::format("{}", value), .settings = std::move(settings)});
  }
  return candidates;
}

}  // namespace

std::int64_t cores_among(const MachineTopology& topology, std::span<const int> processors) {
  std::set<int> cores;
  for (const ProcessorPlace& place : topology.places) {
    if (std::find(processors.begin(), processors.end(), place.processor) != processors.end()) cores.insert(place.core);
  }
  return std::ssize(cores);
}

std::string_view to_word(TuneMetric metric) {
  switch (metric) {
    case TuneMetric::request:
      return "a request";
    case TuneMetric::prefill:
      return "prefill";
    case TuneMetric::decode:
      return "decode";
    case TuneMetric::train:
      return "training";
  }
  return "unknown";
}

std::vector<TuneStage> tune_stages(const TuneSpace& space) {
  using Candidates = std::vector<TuneCandidate>;
  const TuneMetric all = space.training ? TuneMetric::train : TuneMetric::request;
  std::vector<TuneStage> stages;
  stages.push_back({"threads", all, [space](const TunedSettings& now, std::string& remark) -> Candidates {
                      if (space.default_threads == 1) remark = "there is one processor";
                      return thread_candidates(space, now);
                    }});
  stages.push_back({"affinity", all, [space](const TunedSettings& now, std::string& remark) -> Candidates {
                      return affinity_candidates(space, now, remark);
                    }});
  stages.push_back({"numa", all, [space](const TunedSettings& now, std::string& remark) -> Candidates {
                      if (!space.numa) {
                        remark = "interleaving over NUMA nodes changes nothing here";
                        return {{.value = "local", .settings = now}};
                      }
                      TunedSettings interleaved = now;
                      interleaved.numa = NumaPolicy::interleave;
                      return {{.value = "local", .settings = now}, {.value = "interleave", .settings = interleaved}};
                    }});
  if (!space.training) {
    stages.push_back({"weights", all, [space](const TunedSettings& now, std::string& remark) -> Candidates {
                        if (!space.file) {
                          remark = "a checkpoint's weights are packed in memory";
                          return {{.value = "auto", .settings = now}};
                        }
                        return value_candidates<std::string>(now, &TunedSettings::weights, "auto", {"mapped"});
                      }});
    stages.push_back({"batch", TuneMetric::prefill, [space](const TunedSettings& now, std::string& remark) -> Candidates {
                        std::vector<std::int64_t> values;
                        for (const std::int64_t batch : {256, 128, 64, 1024, 2048}) {
                          if (batch < space.prompt_tokens && batch != now.batch) values.push_back(batch);
                        }
                        if (values.empty()) remark = "prompts as short as those measured are one piece";
                        return value_candidates(now, &TunedSettings::batch, std::to_string(now.batch), values);
                      }});
  }
  stages.push_back(
      {"block_rows", space.training ? TuneMetric::train : TuneMetric::prefill,
       [](const TunedSettings& now, std::string&) -> Candidates {
         return value_candidates<std::int64_t>(now, &TunedSettings::block_rows, "by the kernels", {128, 256, 512});
       }});
  if (space.training) return stages;
  stages.push_back({"task_bytes", TuneMetric::decode, [](const TunedSettings& now, std::string&) -> Candidates {
                      return value_candidates<std::int64_t>(now, &TunedSettings::task_bytes,
                                                            std::to_string(BlockSizes{}.task_bytes),
                                                            {32 * 1024, 128 * 1024, 256 * 1024});
                    }});
  stages.push_back({"kv_type", TuneMetric::decode, [space](const TunedSettings& now, std::string& remark) -> Candidates {
                      if (space.kv_types.empty()) remark = "changes results, so it is chosen only with --kv-type auto";
                      return value_candidates(now, &TunedSettings::kv_type, "auto", space.kv_types);
                    }});
  return stages;
}

std::size_t choose(std::span<const Summary> rates) {
  if (rates.empty()) return 0;
  if (!std::all_of(rates.begin(), rates.end(), [](const Summary& rate) { return rate.has_interval(); })) return 0;
  const auto best =
      std::max_element(rates.begin(), rates.end(), [](const Summary& a, const Summary& b) { return a.median < b.median; });
  for (std::size_t i = 0; i < rates.size(); ++i) {
    if (compare(*best, rates[i]).difference != Difference::lower) return i;
  }
  return 0;
}

Result<TuneOutcome> tune(std::span<const TuneStage> stages, const TunedSettings& defaults, const TuneMeasure& measure,
                         const TuneOptions& options) {
  TuneOutcome outcome{.settings = defaults, .choices = {}, .before_after = {}};
  const auto stop = [&] { return options.stop && options.stop(); };
  const auto figures_of = [&](const std::vector<TuneSample>& samples, TuneMetric metric,
                              const std::vector<TuneCandidate>& candidates) {
    std::vector<TuneFigure> figures;
    for (std::size_t i = 0; i < candidates.size(); ++i) {
      TuneFigure figure{
          .value = candidates[i].value, .rate = summarize(rates_of(samples[i], metric, options)), .beside = {}};
      if (!samples[i].weights.empty() && figure.value == "auto") figure.value += fmt::format(" ({})", samples[i].weights);
      figures.push_back(std::move(figure));
    }
    for (TuneFigure& figure : figures) figure.beside = compare(figures.front().rate, figure.rate);
    return figures;
  };
  for (std::size_t number = 0; number < stages.size(); ++number) {
    const TuneStage& stage = stages[number];
    if ((outcome.stopped = stop())) return outcome;
    if (options.begin) options.begin(stage, number, stages.size());
    std::string remark;
    std::vector<TuneCandidate> candidates = stage.candidates(outcome.settings, remark);
    TuneChoice choice{.setting = stage.setting, .metric = stage.metric, .value = {}, .figures = {}, .reason = {}};
    std::size_t chosen = 0;
    if (candidates.size() > 1) {
      std::vector<TunedSettings> settings;
      for (const TuneCandidate& candidate : candidates) settings.push_back(candidate.settings);
      const auto samples = measure(settings, stage.metric);
      if (!samples) return tl::make_unexpected(samples.error());
      // Half a stage tells nothing: rounds were taken in turns, but not by all.
      if ((outcome.stopped = stop())) return outcome;
      choice.figures = figures_of(*samples, stage.metric, candidates);
      if (stage.setting == "weights" && (*samples)[0].weights == (*samples)[1].weights) {
        choice.reason = fmt::format("auto: this model's weights are {} either way", (*samples)[0].weights);
      } else {
        std::vector<Summary> rates;
        for (const TuneFigure& figure : choice.figures) rates.push_back(figure.rate);
        chosen = choose(rates);
      }
    }
    choice.value = choice.figures.empty() ? candidates.front().value : choice.figures[chosen].value;
    choice.changed = chosen != 0;
    if (choice.reason.empty()) choice.reason = choice.figures.empty() ? choice.value : reason_of(choice, chosen);
    if (!remark.empty()) choice.reason += (choice.figures.empty() ? ": " : "; ") + remark;
    outcome.settings = candidates[chosen].settings;
    outcome.choices.push_back(choice);
    if (options.chosen) options.chosen(choice);
  }
  if (outcome.settings == defaults || (outcome.stopped = stop())) return outcome;
  const std::vector<TuneCandidate> ends{{.value = "defaults", .settings = defaults},
                                        {.value = "tuned", .settings = outcome.settings}};
  const std::vector<TunedSettings> settings{defaults, outcome.settings};
  const TuneMetric metric = stages.front().metric;  // of all that there is
  const auto samples = measure(settings, metric);
  if (!samples) return tl::make_unexpected(samples.error());
  if ((outcome.stopped = stop())) return outcome;
  outcome.before_after = figures_of(*samples, metric, ends);
  if (outcome.before_after[1].beside.difference == Difference::lower) outcome.settings = defaults;
  return outcome;
}

}  // namespace quern::tools
