#include "bench_compare.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <fstream>

#include "json_place.hpp"

namespace quern::tools {

namespace {

using Json = nlohmann::ordered_json;

/// The rate that times are of: ends change places.
Summary inverse(const Summary& seconds) {
  const auto over = [](double x) { return x > 0.0 ? 1.0 / x : 0.0; };
  return {.count = seconds.count,
          .median = over(seconds.median),
          .minimum = over(seconds.maximum),
          .maximum = over(seconds.minimum),
          .quartile_low = over(seconds.quartile_high),
          .quartile_high = over(seconds.quartile_low),
          .low = over(seconds.high),
          .high = over(seconds.low),
          .coverage = seconds.coverage};
}

Result<BenchFigure> kernel_figure(const JsonPlace& row) {
  const auto name = row.text("name");
  if (!name) return tl::make_unexpected(name.error());
  const auto seconds = row.summary("seconds");
  if (!seconds) return tl::make_unexpected(seconds.error());
  const auto share = row.summary("share");
  if (!share) return tl::make_unexpected(share.error());
  return BenchFigure{*name, inverse(*seconds), *share};
}

/// Tokens per second over what the machine did around the same round: decode by the memory, prefill by the arithmetic.
Result<BenchFigure> infer_figure(const JsonPlace& row) {
  const auto kind = row.text("kind");
  if (!kind) return tl::make_unexpected(kind.error());
  const bool decode = *kind == "decode";
  std::string name = *kind;
  for (const char* key : {"depth", "sequences", "tokens"}) {
    if (decode == (std::string_view(key) == "tokens")) continue;
    const auto value = row.number(key);
    if (!value) return tl::make_unexpected(value.error());
    name += fmt::format("/{}{:.0f}", decode ? std::string(key) + " " : "", *value);
  }
  const auto rounds = row.list("rounds");
  if (!rounds) return tl::make_unexpected(rounds.error());
  std::vector<double> rates, shares;
  for (const JsonPlace& round : *rounds) {
    const auto rate = round.number("tokens_per_second");
    if (!rate) return tl::make_unexpected(rate.error());
    const auto machine = round.object("machine");
    if (!machine) return tl::make_unexpected(machine.error());
    const auto tiles = machine->number("bf16_tile_flops");
    const bool has_tiles = tiles && *tiles > 0.0;
    const auto roof = machine->number(decode ? "memory_bytes_per_second" : has_tiles ? "bf16_tile_flops" : "f32_flops");
    if (!roof) return tl::make_unexpected(roof.error());
    rates.push_back(*rate);
    if (*roof > 0.0) shares.push_back(*rate / *roof);
  }
  return BenchFigure{std::move(name), summarize(rates), summarize(shares)};
}

/// Tokens per second of each round over the mean of the peaks before and after it.
Result<BenchFigure> train_figure(const JsonPlace& row) {
  const auto name = row.text("run");
  if (!name) return tl::make_unexpected(name.error());
  const auto precision = row.text("precision");
  if (!precision) return tl::make_unexpected(precision.error());
  const auto rates = row.numbers("tokens_per_second_of_rounds");
  if (!rates) return tl::make_unexpected(rates.error());
  const auto peaks = row.numbers("register_peaks_gflops");
  if (!peaks) return tl::make_unexpected(peaks.error());
  if (peaks->size() != rates->size() + 1) return row.wrong("register_peaks_gflops", "one more than there are rounds");
  std::vector<double> shares;
  for (std::size_t i = 0; i < rates->size(); ++i) {
    const double peak = ((*peaks)[i] + (*peaks)[i + 1]) / 2.0;
    if (peak > 0.0) shares.push_back((*rates)[i] / peak);
  }
  return BenchFigure{fmt::format("{}/{}", *name, *precision), summarize(*rates), summarize(shares)};
}

using Reader = Result<BenchFigure> (*)(const JsonPlace&);

Result<void> read_figures(const std::vector<JsonPlace>& rows, Reader read, BenchFile& file) {
  for (const JsonPlace& row : rows) {
    auto figure = read(row);
    if (!figure) return tl::make_unexpected(figure.error());
    const auto same = [&](const BenchFigure& other) { return other.name == figure->name; };
    if (std::any_of(file.figures.begin(), file.figures.end(), same)) {
      return bad_input(fmt::format("two figures are called `{}`", figure->name));
    }
    file.figures.push_back(std::move(*figure));
  }
  return {};
}

/// Settings that results of inference or training name.
void read_settings(const JsonPlace& place, BenchFile& file) {
  for (const auto& [key, name] : {std::pair{"kv_type", "KV type"}, std::pair{"compute", "activations"}}) {
    if (const auto value = place.text(key)) file.settings.emplace_back(name, *value);
  }
  for (const auto& [key, name] :
       {std::pair{"fused", "fused operations"}, std::pair{"arena", "planned buffers"}, std::pair{"kv_cache", "KV cache"}}) {
    if (const auto value = place.boolean(key)) file.settings.emplace_back(name, *value ? "on" : "off");
  }
}

Result<void> read_rows(const Json& json, BenchFile& file) {
  if (json.is_array()) {  // quern bench train
    const Json whole = {{"rows", json}};
    const auto rows = JsonPlace(whole, "train").list("rows");
    if (!rows) return tl::make_unexpected(rows.error());
    file.bench = "train";
    if (!rows->empty()) {
      file.instruction_set = rows->front().text("isa").value_or("");
      file.threads = static_cast<std::int64_t>(std::clamp(rows->front().number("threads").value_or(0.0), 0.0, 1e6));
      read_settings(rows->front(), file);
    }
    return read_figures(*rows, train_figure, file);
  }
  if (!json.is_object() || !json.contains("rows")) {
    return bad_input("expected what `quern bench kernels`, `infer` or `train` writes with --json");
  }
  const bool kernels = json.value("bench", Json()) == "kernels";
  file.bench = kernels ? "kernels" : "infer";
  const JsonPlace whole(json, file.bench);
  file.instruction_set = whole.text(kernels ? "instruction_set" : "isa").value_or("");
  file.threads = static_cast<std::int64_t>(std::clamp(whole.number("threads").value_or(0.0), 0.0, 1e6));
  read_settings(whole, file);
  const auto rows = whole.list("rows");
  if (!rows) return tl::make_unexpected(rows.error());
  return read_figures(*rows, kernels ? kernel_figure : infer_figure, file);
}

std::string ratio_text(const Comparison& comparison) {
  return fmt::format("{:.3f} [{:.3f}-{:.3f}]", comparison.ratio, comparison.ratio_low, comparison.ratio_high);
}

Json ratio_json(const Comparison& comparison) {
  return {{"ratio", comparison.ratio},
          {"low", comparison.ratio_low},
          {"high", comparison.ratio_high},
          {"difference", to_word(comparison.difference)}};
}

}  // namespace

std::string_view to_word(Verdict verdict) {
  switch (verdict) {
    case Verdict::not_told_apart:
      return "not told apart";
    case Verdict::faster:
      return "faster";
    case Verdict::slower:
      return "slower";
    case Verdict::regression:
      return "regression";
  }
  return "unknown";
}

std::int64_t BenchComparison::count(Verdict verdict) const {
  return std::count_if(figures.begin(), figures.end(), [&](const FigureComparison& one) { return one.verdict == verdict; });
}

Result<BenchFile> read_bench(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) return bad_input(fmt::format("{}: cannot be opened", path));
  const Json json = Json::parse(stream, nullptr, false);
  if (json.is_discarded()) return bad_input(fmt::format("{}: expected JSON", path));
  BenchFile file;
  file.path = path;
  if (auto read = read_rows(json, file); !read) return bad_input(fmt::format("{}: {}", path, read.error().message));
  return file;
}

Result<BenchComparison> compare_benches(const BenchFile& before, const BenchFile& after, double margin, JudgeBy judge_by) {
  if (before.bench != after.bench) {
    return bad_input(fmt::format("{} is of `quern bench {}`, {} of `quern bench {}`: they have no figures in common",
                                 before.path, before.bench, after.path, after.bench));
  }
  BenchComparison result;
  result.judged_by = judge_by;
  if (before.instruction_set != after.instruction_set) {
    result.remarks.push_back(
        fmt::format("the first ran with {}, the second with {}", before.instruction_set, after.instruction_set));
  }
  if (before.threads != after.threads) {
    result.remarks.push_back(fmt::format("the first ran on {} threads, the second on {}", before.threads, after.threads));
  }
  for (const auto& [name, value] : before.settings) {
    const auto other =
        std::find_if(after.settings.begin(), after.settings.end(), [&](const auto& one) { return one.first == name; });
    if (other != after.settings.end() && other->second != value) {
      result.remarks.push_back(fmt::format("{}: the first {}, the second {}", name, value, other->second));
    }
  }
  const auto find = [](const BenchFile& file, const std::string& name) {
    return std::find_if(file.figures.begin(), file.figures.end(), [&](const BenchFigure& one) { return one.name == name; });
  };
  for (const BenchFigure& figure : before.figures) {
    const auto other = find(after, figure.name);
    if (other == after.figures.end()) {
      result.missing.push_back(figure.name);
      continue;
    }
    FigureComparison one{.name = figure.name,
                         .rate = compare(figure.rate, other->rate),
                         .share = compare(figure.share, other->share),
                         .enough = false,
                         .verdict = Verdict::not_told_apart};
    const bool by_rates = judge_by == JudgeBy::rates;
    const Comparison& judged = by_rates ? one.rate : one.share;
    one.enough = by_rates ? figure.rate.has_interval() && other->rate.has_interval()
                          : figure.share.has_interval() && other->share.has_interval();
    if (judged.difference == Difference::higher) one.verdict = Verdict::faster;
    if (judged.difference == Difference::lower) {
      // Even where the first was at its lowest and the second at its highest, it is slower by more than the margin.
      one.verdict = judged.ratio_high < 1.0 - margin ? Verdict::regression : Verdict::slower;
    }
    result.figures.push_back(std::move(one));
  }
  for (const BenchFigure& figure : after.figures) {
    if (find(before, figure.name) == before.figures.end()) result.added.push_back(figure.name);
  }
  return result;
}

std::string comparison_text(const BenchFile& before, const BenchFile& after, const BenchComparison& comparison,
                            double margin) {
  std::string text = fmt::format(
      "{} against {} (1.1: ten percent faster). Shares: rates over what the machine did in the same repeats. The verdict "
      "is\n"
      "about {}. Brackets: with both medians anywhere in their intervals of 95 %. Different only where these do not "
      "overlap; a\n"
      "regression only where the whole bracket is more than {:.1f} % below 1.\n",
      after.path, before.path, comparison.judged_by == JudgeBy::rates ? "rates" : "shares", 100.0 * margin);
  for (const std::string& remark : comparison.remarks) text += fmt::format("Note: {}.\n", remark);
  text += "\n| figure | rates | shares | verdict |\n|---|---|---|---|\n";
  bool few = false;
  for (const FigureComparison& one : comparison.figures) {
    text += fmt::format("| {} | {} | {} | {}{} |\n", one.name, ratio_text(one.rate), ratio_text(one.share),
                        to_word(one.verdict), one.enough ? "" : " (too few repeats)");
    few = few || !one.enough;
  }
  text += fmt::format("\n{} faster, {} slower, {} regressions, {} not told apart", comparison.count(Verdict::faster),
                      comparison.count(Verdict::slower), comparison.count(Verdict::regression),
                      comparison.count(Verdict::not_told_apart));
  text += comparison.missing.empty() ? "" : fmt::format("; missing in the second: {}", fmt::join(comparison.missing, ", "));
  text += comparison.added.empty() ? "" : fmt::format("; only in the second: {}", fmt::join(comparison.added, ", "));
  text +=
      few ? "\nSix repeats or more on both sides give an interval of 95 %; with fewer nothing is called different.\n" : "\n";
  return text;
}

Json comparison_json(const BenchFile& before, const BenchFile& after, const BenchComparison& comparison, double margin) {
  Json figures = Json::array();
  for (const FigureComparison& one : comparison.figures) {
    figures.push_back({{"name", one.name},
                       {"rate", ratio_json(one.rate)},
                       {"share", ratio_json(one.share)},
                       {"enough_repeats", one.enough},
                       {"verdict", to_word(one.verdict)}});
  }
  return {{"bench", before.bench},
          {"before", before.path},
          {"after", after.path},
          {"margin", margin},
          {"judged_by", comparison.judged_by == JudgeBy::rates ? "rates" : "shares"},
          {"regressions", comparison.count(Verdict::regression)},
          {"figures", std::move(figures)},
          {"missing", comparison.missing},
          {"added", comparison.added},
          {"remarks", comparison.remarks}};
}

}  // namespace quern::tools
