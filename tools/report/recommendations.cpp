// Sentences that follow from the figures: each names the figures that it rests on.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/html.hpp"
#include "report/optimization_log.hpp"
#include "report/sections.hpp"
#include "report/series.hpp"
#include "report/type_figures.hpp"
#include "summary_report.hpp"

namespace quern::tools {

namespace {

/// Decode that reads at this share of the memory's speed or above waits for memory and for little else.
constexpr double kMemoryBound = 0.65;
/// Keys and values that are this share of a step's bytes are worth a smaller type.
constexpr double kMuchCache = 0.2;
/// Perplexities within this factor of the best count as its equals.
constexpr double kSamePerplexity = 1.01;
/// Rounds whose middle half is wider than this share of the median come from a machine that others use, or that throttles.
constexpr double kWideSpread = 0.05;

/// Lets the first of each kind of measurement through: a sentence for each of twenty series would be read by nobody.
class OneOfEachKind {
 public:
  bool operator()(const std::string& what) {
    if (std::find(seen_.begin(), seen_.end(), what) != seen_.end()) return false;
    seen_.push_back(what);
    return true;
  }

 private:
  std::vector<std::string> seen_;
};

std::string percent(double share) { return fmt::format("{:.0f} %", 100.0 * share); }
std::string threads_text(const std::string& count) { return count + (count == "1" ? " thread" : " threads"); }

void advise_threads(const ReportData& data, std::vector<std::string>& out) {
  OneOfEachKind first_of_kind;
  for (const SettingSeries& series : series_along(data, "threads", true)) {
    if (!first_of_kind(series.what)) continue;
    const auto best = std::max_element(series.points.begin(), series.points.end(),
                                       [](const auto& a, const auto& b) { return a.at->rate.median < b.at->rate.median; });
    // The fewest threads that are not slower for certain.
    const auto enough = std::find_if(series.points.begin(), series.points.end(), [&](const SeriesPoint& point) {
      return &point == &*best || compare(best->at->rate, point.at->rate).difference != Difference::lower;
    });
    const SeriesPoint& first = series.points.front();
    if (!best->at->rate.has_interval()) {
      out.push_back(
          fmt::format("Threads, {}: {} measured fastest, but too few rounds were measured to say so; measure six or more.",
                      series.name, threads_text(best->value)));
      continue;
    }
    if (enough != best) {
      out.push_back(fmt::format("Threads, {}: use {}; {} are not faster for certain ({} against {} tokens/s).", series.name,
                                threads_text(enough->value), best->value, number_text(best->at->rate.median),
                                number_text(enough->at->rate.median)));
      continue;
    }
    if (best == series.points.begin()) {
      out.push_back(fmt::format("Threads, {}: use {}; more are slower.", series.name, threads_text(best->value)));
      continue;
    }
    const double speedup = best->at->rate.median / first.at->rate.median;
    const double efficiency = speedup * first.x / best->x;
    out.push_back(fmt::format(
        "Threads, {}: use {}, {:.2f} times as fast as {} (efficiency {}).{}", series.name, threads_text(best->value),
        speedup, first.value, percent(efficiency),
        efficiency < 0.5 ? " Less than half of each added thread is gained: where others need the cores, fewer do." : ""));
  }
}

void advise_memory(const ReportData& data, std::vector<std::string>& out) {
  const Measurement* highest = nullptr;
  for (const Measurement& one : data.measurements) {
    if (one.memory_share && (highest == nullptr || *one.memory_share > *highest->memory_share)) highest = &one;
  }
  if (highest != nullptr && *highest->memory_share >= kMemoryBound) {
    out.push_back(
        fmt::format("Memory: decode of {} reads at {} of the memory's speed and waits for it. Fewer bytes make it faster (a "
                    "smaller type, or several sequences that share each read of the weights); more arithmetic does not.",
                    highest->setting("model"), percent(*highest->memory_share)));
  } else if (highest != nullptr) {
    out.push_back(fmt::format(
        "Memory: decode reads at {} of the memory's speed at most, so arithmetic or waiting between threads bounds "
        "it rather than memory: look at threads and the instruction set first.",
        percent(*highest->memory_share)));
  }
  OneOfEachKind first_of_kind;
  for (const SettingSeries& series : series_along(data, "depth", true)) {
    const SeriesPoint &first = series.points.front(), &last = series.points.back();
    if (series.what != "decode" || !last.at->kv_bytes || !last.at->step_bytes || !(*last.at->step_bytes > 0.0)) continue;
    if (!first_of_kind(series.what)) continue;
    const double cache = *last.at->kv_bytes / *last.at->step_bytes;
    const bool slower = compare(first.at->rate, last.at->rate).difference == Difference::lower;
    const std::string kv_type = last.at->setting("KV type");
    out.push_back(fmt::format(
        "Memory, {}: at {} tokens in the cache decode {} ({} against {} tokens/s); keys and values are {} of the bytes of a "
        "step{}.",
        series.name, last.value,
        slower ? "is slower than at " + first.value : "is not told apart from that at " + first.value,
        number_text(last.at->rate.median), number_text(first.at->rate.median), percent(cache),
        cache >= kMuchCache && kv_type != "q8_0" && kv_type != "q4_0" ? ": try --kv-type q8_0, which reads fewer" : ""));
  }
  double most = 0.0;
  std::string model;
  for (const ModelFacts& facts : data.models) {
    if (!(facts.peak_memory_bytes > most)) continue;
    most = facts.peak_memory_bytes;
    model = data.sources[facts.source].about;
  }
  if (most > 0.0)
    out.push_back(fmt::format("Memory: at most {} were resident ({}): leave that much, and room for longer texts.",
                              bytes_of(most), model));
}

void advise_types(const ReportData& data, std::vector<std::string>& out) {
  const std::vector<TypeFigure> types = type_figures(data);
  const auto timed = std::count_if(types.begin(), types.end(), [](const TypeFigure& type) { return type.rate.has_value(); });
  if (types.size() < 2 || timed < 2) return;
  const auto speed = [](const TypeFigure& type) { return type.rate ? type.rate->median : 0.0; };
  const auto fastest =
      std::max_element(types.begin(), types.end(), [&](const auto& a, const auto& b) { return speed(a) < speed(b); });
  const TypeFigure* best = nullptr;
  for (const TypeFigure& type : types) {
    if (type.perplexity && (best == nullptr || type.perplexity->first < best->perplexity->first)) best = &type;
  }
  if (best == nullptr) {
    out.push_back(
        fmt::format("Type: {} decodes fastest, {} tokens/s from {} of weights. Perplexities would say what that costs "
                    "(quern perplexity --json).",
                    fastest->name, number_text(speed(*fastest)), bytes_of(fastest->weight_bytes)));
    return;
  }
  const auto smallest = std::find_if(types.begin(), types.end(), [&](const TypeFigure& type) {
    return type.perplexity && type.perplexity->first <= kSamePerplexity * best->perplexity->first;
  });
  out.push_back(fmt::format(
      "Type: {} is the smallest within 1 % of the best perplexity ({:.3f}; {} has {:.3f}): {} of weights{}.", smallest->name,
      smallest->perplexity->first, best->name, best->perplexity->first, bytes_of(smallest->weight_bytes),
      smallest->rate ? fmt::format(", {} tokens/s", number_text(speed(*smallest))) : ""));
  if (&*fastest != &*smallest && fastest->perplexity) {
    out.push_back(fmt::format("Type: {} is faster ({} tokens/s) at a perplexity of {:.3f}, {:.1f} % above the best.",
                              fastest->name, number_text(speed(*fastest)), fastest->perplexity->first,
                              100.0 * (fastest->perplexity->first / best->perplexity->first - 1.0)));
  }
}

void advise_hardware(const ReportData& data, std::vector<std::string>& out) {
  OneOfEachKind first_of_kind;
  for (const SettingSeries& series : series_along(data, "instruction set", false)) {
    if (!first_of_kind(series.what)) continue;
    const auto by_rate = [](const SeriesPoint& a, const SeriesPoint& b) { return a.at->rate.median < b.at->rate.median; };
    const auto [slow, fast] = std::minmax_element(series.points.begin(), series.points.end(), by_rate);
    const Comparison beside = compare(slow->at->rate, fast->at->rate);
    out.push_back(
        beside.difference == Difference::not_told_apart
            ? fmt::format("Hardware, {}: {} and {} are not told apart.", series.name, slow->value, fast->value)
            : fmt::format("Hardware, {}: {} is {:.2f} times as fast as {}; leave QUERN_ISA unset unless it names that one.",
                          series.name, fast->value, beside.ratio, slow->value));
  }
  const bool waits = std::any_of(data.measurements.begin(), data.measurements.end(),
                                 [](const Measurement& one) { return one.memory_share.value_or(0.0) >= kMemoryBound; });
  if (waits) {
    out.emplace_back(
        "Hardware: for decode buy memory channels and clock, not cores; for prefill and training cores and wider "
        "instructions.");
  }
  const KernelFigure* lowest = nullptr;
  for (const KernelFigure& kernel : data.kernels) {
    if (kernel.share.count > 0 && kernel.share.median > 0.0 &&
        (lowest == nullptr || kernel.share.median < lowest->share.median))
      lowest = &kernel;
  }
  if (lowest != nullptr) {
    const auto memory =
        std::count_if(data.kernels.begin(), data.kernels.end(), [](const KernelFigure& k) { return k.bound_by_memory(); });
    out.push_back(
        fmt::format("Hardware: memory or a cache bounds {} of {} kernels, arithmetic the others; farthest from its roof is "
                    "{} ({} of {}).",
                    memory, data.kernels.size(), lowest->name, percent(lowest->share.median), lowest->roof));
  }
}

void advise_switches(const ReportData& data, std::vector<std::string>& out) {
  for (const auto& [setting, what] : {std::pair{"KV cache", "the KV cache"}, std::pair{"fused", "fused operations"},
                                      std::pair{"arena", "planned buffers"}}) {
    OneOfEachKind first_of_kind;
    for (const SettingSeries& series : series_along(data, setting, false)) {
      const auto on =
          std::find_if(series.points.begin(), series.points.end(), [](const SeriesPoint& p) { return p.value == "on"; });
      const auto off =
          std::find_if(series.points.begin(), series.points.end(), [](const SeriesPoint& p) { return p.value == "off"; });
      if (on == series.points.end() || off == series.points.end() || !first_of_kind(series.what)) continue;
      const Comparison beside = compare(off->at->rate, on->at->rate);
      out.push_back(
          beside.difference == Difference::not_told_apart
              ? fmt::format("Switches, {}: with and without {} are not told apart.", series.name, what)
              : fmt::format("Switches, {}: with {} {:.2f} times as fast as without.", series.name, what, beside.ratio));
    }
  }
}

void advise_log(const ReportData& data, std::vector<std::string>& out) {
  OneOfEachKind first_of_kind;
  for (const LogFigure& figure : log_figures(data)) {
    if (!first_of_kind(figure.name.substr(0, figure.name.find(',')))) continue;
    const auto largest = std::max_element(figure.steps.begin() + 1, figure.steps.end(),
                                          [](const LogStep& a, const LogStep& b) { return a.gain.ratio < b.gain.ratio; });
    const Comparison& total = figure.steps.back().total;
    out.push_back(fmt::format(
        "Steps, {}: together {:.2f} times as fast [{:.2f}-{:.2f}]; the largest gain is that of {} ({:.2f} times).",
        figure.name, total.ratio, total.ratio_low, total.ratio_high, largest->label, largest->gain.ratio));
  }
}

void advise_monitoring(const ReportData& data, std::vector<std::string>& out) {
  const Measurement* widest = nullptr;
  for (const Measurement& one : data.measurements) {
    if (one.rate.count >= 2 && (widest == nullptr || one.rate.spread() > widest->rate.spread())) widest = &one;
  }
  if (widest != nullptr) {
    const std::string source = data.sources[widest->source].label;
    out.push_back(
        widest->rate.spread() > kWideSpread
            ? fmt::format(
                  "Monitor: rounds spread by up to {} of their median ({}, {}): others use this machine, or its clock "
                  "changes. Hold speeds against what the memory and the peak were at the time, not against yesterday's.",
                  percent(widest->rate.spread()), source, widest->what)
            : fmt::format(
                  "Monitor: rounds spread by at most {:.1f} % of their median ({}): a change of more than that is real.",
                  100.0 * widest->rate.spread(), source));
  }
  const bool decodes =
      std::any_of(data.measurements.begin(), data.measurements.end(), [](const auto& one) { return one.what == "decode"; });
  if (decodes) {
    out.emplace_back(
        "Monitor: tokens a second of decode by tokens in the cache, bytes read a second over the memory's speed, and "
        "resident "
        "memory; a falling share at the same speed of memory means that threads wait.");
  }
  if (std::any_of(data.measurements.begin(), data.measurements.end(), [](const auto& one) { return one.what == "train"; })) {
    out.emplace_back(
        "Monitor: tokens a second of training over the register peak (metrics.jsonl has both), and resident memory over the "
        "plan.");
  }
}

}  // namespace

std::vector<std::string> recommendations(const ReportData& data) {
  std::vector<std::string> out;
  advise_log(data, out);
  advise_threads(data, out);
  advise_memory(data, out);
  advise_types(data, out);
  advise_hardware(data, out);
  advise_switches(data, out);
  advise_monitoring(data, out);
  return out;
}

}  // namespace quern::tools
