#include "sweep_report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "summary_report.hpp"

namespace quern::tools {

namespace {

using Json = nlohmann::ordered_json;

bool same_work(const SweepRow& a, const SweepRow& b) { return a.kind == b.kind && a.work == b.work; }

SweepVerdict verdict_of(const std::vector<SweepRow>& rows, const std::vector<SweepFigure>& figures, std::size_t row,
                        std::size_t best) {
  bool alone = true, apart = true;
  for (std::size_t other = 0; other < rows.size(); ++other) {
    if (other == row || rows[other].rates.empty() || !same_work(rows[other], rows[row])) continue;
    alone = false;
    apart = apart && compare(figures[row].rate, figures[other].rate).difference == Difference::lower;
  }
  if (alone) return SweepVerdict::alone;
  if (!figures[row].rate.has_interval() || !figures[best].rate.has_interval()) return SweepVerdict::no_word;
  if (apart) return SweepVerdict::fastest;
  return figures[row].comparison.difference == Difference::lower ? SweepVerdict::slower : SweepVerdict::among_the_fastest;
}

/// The value of a setting that all rows with rounds share, by name.
std::map<std::string, std::string> shared_settings(const std::vector<SweepRow>& rows) {
  std::map<std::string, std::string> shared;
  std::vector<std::string> unlike;
  for (const SweepRow& row : rows) {
    if (row.rates.empty()) continue;
    for (const auto& [name, value] : row.settings) {
      const auto [found, first] = shared.emplace(name, value);
      if (!first && found->second != value) unlike.push_back(name);
    }
  }
  for (const std::string& name : unlike) shared.erase(name);
  return shared;
}

std::string quoted(const std::string& text) {
  if (text.find_first_of(",\"\n\r") == std::string::npos) return text;
  std::string result = "\"";
  for (const char c : text) result += c == '"' ? std::string("\"\"") : std::string(1, c);
  return result + '"';
}

std::string memory_cell(const SweepRow& row) {
  if (row.memory_bytes == 0) return "-";
  if (row.cache_bytes == 0) return bytes_text(row.memory_bytes);
  return fmt::format("{}, cache {}", bytes_text(row.memory_bytes), bytes_text(row.cache_bytes));
}

}  // namespace

std::string_view to_word(SweepVerdict verdict) {
  switch (verdict) {
    case SweepVerdict::alone:
      return "alone";
    case SweepVerdict::no_word:
      return "too few rounds";
    case SweepVerdict::fastest:
      return "fastest";
    case SweepVerdict::among_the_fastest:
      return "among the fastest";
    case SweepVerdict::slower:
      return "slower";
  }
  return "unknown";
}

std::vector<SweepFigure> sweep_figures(const std::vector<SweepRow>& rows) {
  std::vector<SweepFigure> figures(rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) figures[i].rate = summarize(rows[i].rates);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].rates.empty()) continue;
    std::size_t best = i;
    for (std::size_t j = 0; j < rows.size(); ++j) {
      if (same_work(rows[j], rows[i]) && figures[j].rate.median > figures[best].rate.median) best = j;
    }
    figures[i].comparison = compare(figures[best].rate, figures[i].rate);
    figures[i].verdict = verdict_of(rows, figures, i, best);
  }
  return figures;
}

std::string sweep_table(const std::vector<SweepRow>& rows) {
  const std::vector<SweepFigure> figures = sweep_figures(rows);
  const std::map<std::string, std::string> shared = shared_settings(rows);
  std::string text;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const SweepRow& row = rows[i];
    if (row.rates.empty()) continue;
    if (text.empty()) {
      std::string everywhere, rule = "|---|", head = "| |";
      for (const auto& [name, value] : row.settings) {
        if (!shared.contains(name)) {
          head += fmt::format(" {} |", name);
          rule += "---|";
        } else if (!value.empty()) {
          everywhere += fmt::format("{}{} {}", everywhere.empty() ? "" : ", ", name, value);
        }
      }
      text = everywhere.empty() ? "" : "Everywhere: " + everywhere + "\n\n";
      text += head + " tokens/s | spread | of the highest | verdict | memory |\n" + rule + "---|---|---|---|---|\n";
    }
    text += fmt::format("| {} |", row.kind);
    for (const auto& [name, value] : row.settings) {
      if (!shared.contains(name)) text += fmt::format(" {} |", value);
    }
    const Comparison& beside = figures[i].comparison;
    const bool highest = beside.ratio == 1.0;
    text +=
        fmt::format(" {} | {} | {} | {} | {} |\n", summary_text(figures[i].rate), spread_text(figures[i].rate),
                    highest ? "1" : fmt::format("{:.3f} [{:.3f}-{:.3f}]", beside.ratio, beside.ratio_low, beside.ratio_high),
                    figures[i].verdict == SweepVerdict::alone ? "-" : to_word(figures[i].verdict), memory_cell(row));
  }
  return text;
}

std::string sweep_csv(const std::vector<SweepRow>& rows) {
  std::string text;
  const std::vector<SweepFigure> figures = sweep_figures(rows);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].rates.empty()) continue;
    if (text.empty()) {
      text = "kind";
      for (const auto& [name, value] : rows[i].settings) text += ',' + quoted(name);
      text +=
          ",rounds,tokens_per_second,low,high,coverage,spread,of_highest,of_highest_low,of_highest_high,verdict,"
          "memory_bytes,cache_bytes\n";
    }
    text += rows[i].kind;
    for (const auto& [name, value] : rows[i].settings) text += ',' + quoted(value);
    const Summary& rate = figures[i].rate;
    const Comparison& beside = figures[i].comparison;
    text += fmt::format(",{},{:.9g},{:.9g},{:.9g},{:.4g},{:.4g},{:.6g},{:.6g},{:.6g},{},{},{}\n", rate.count, rate.median,
                        rate.low, rate.high, rate.coverage, rate.spread(), beside.ratio, beside.ratio_low, beside.ratio_high,
                        to_word(figures[i].verdict), rows[i].memory_bytes, rows[i].cache_bytes);
  }
  return text;
}

Json sweep_json(const std::vector<SweepRow>& rows) {
  Json list = Json::array();
  const std::vector<SweepFigure> figures = sweep_figures(rows);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].rates.empty()) continue;
    Json row = {{"kind", rows[i].kind}, {"work", rows[i].work}};
    for (const auto& [name, value] : rows[i].settings) row["settings"][name] = value;
    row["tokens_per_second"] = summary_json(figures[i].rate);
    row["tokens_per_second_of_rounds"] = rows[i].rates;
    const Comparison& beside = figures[i].comparison;
    row["of_highest"] = {{"ratio", beside.ratio}, {"low", beside.ratio_low}, {"high", beside.ratio_high}};
    row["verdict"] = to_word(figures[i].verdict);
    row["memory_bytes"] = rows[i].memory_bytes;
    row["cache_bytes"] = rows[i].cache_bytes;
    list.push_back(std::move(row));
  }
  return list;
}

}  // namespace quern::tools
