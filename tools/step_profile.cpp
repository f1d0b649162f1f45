#include "step_profile.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "model/trace_file.hpp"

namespace quern::tools {

namespace {

using Json = nlohmann::ordered_json;
using Total = OperationRecorder::Total;

/// One line of the table: seconds are wall seconds of all steps, with every thread at work.
struct Row {
  std::string_view name;
  double seconds = 0.0;
  double flops = 0.0;
  double bytes = 0.0;

  [[nodiscard]] double gflops() const { return seconds > 0.0 ? flops / seconds * 1e-9 : 0.0; }
  [[nodiscard]] double gigabytes() const { return seconds > 0.0 ? bytes / seconds * 1e-9 : 0.0; }
  void add(const Row& row) {
    seconds += row.seconds;
    flops += row.flops;
    bytes += row.bytes;
  }
};

struct PhaseRows {
  Row sum;
  std::vector<Row> rows;  // the longest first
};

struct Table {
  std::vector<PhaseRows> phases;
  Row outside;
  Row all;
};

Table table_of(const OperationProfile& profile) {
  Table table;
  for (int p = 0; p < kStepPhases; ++p) {
    const auto phase = static_cast<StepPhase>(p);
    PhaseRows rows{{.name = to_word(phase)}, {}};
    for (int o = 0; o < kOperations; ++o) {
      const auto operation = static_cast<Operation>(o);
      const Total total = profile.total(phase, operation);
      if (total.count == 0) continue;
      rows.rows.push_back({to_word(operation), total.seconds / profile.threads(), total.flops, total.bytes});
      rows.sum.add(rows.rows.back());
    }
    if (rows.rows.empty()) continue;
    std::stable_sort(rows.rows.begin(), rows.rows.end(), [](const Row& a, const Row& b) { return a.seconds > b.seconds; });
    table.all.add(rows.sum);
    table.phases.push_back(std::move(rows));
  }
  table.outside = {.name = "outside", .seconds = std::max(0.0, profile.seconds() - table.all.seconds)};
  table.all.name = "step";
  table.all.seconds = profile.seconds();
  return table;
}

}  // namespace

std::string step_profile_text(const OperationProfile& profile, double peak_gflops) {
  if (profile.steps() == 0) return "profile: no step ran\n";
  const Table table = table_of(profile);
  const auto steps = static_cast<double>(profile.steps());
  std::string text = fmt::format("profile of {} step{} on {} thread{}, mean over threads\n", profile.steps(),
                                 profile.steps() == 1 ? "" : "s", profile.threads(), profile.threads() == 1 ? "" : "s");
  text += fmt::format("{:<26}{:>8}{:>12}{:>10}{:>9}{:>8}\n", "", "share", "ms/step", "GFLOP/s", "of peak", "GB/s");
  const auto line = [&](std::string_view indent, const Row& row) {
    text += fmt::format("{}{:<{}}{:>6.1f} %{:>12.3f}", indent, row.name, 26 - indent.size(),
                        100.0 * row.seconds / profile.seconds(), row.seconds / steps * 1e3);
    text += row.flops > 0.0 ? fmt::format("{:>10.1f}", row.gflops()) : fmt::format("{:>10}", "");
    text += row.flops > 0.0 && peak_gflops > 0.0 ? fmt::format("{:>7.1f} %", 100.0 * row.gflops() / peak_gflops)
                                                 : fmt::format("{:>9}", "");
    if (row.bytes > 0.0) text += fmt::format("{:>8.1f}", row.gigabytes());
    text.erase(text.find_last_not_of(' ') + 1);
    text += '\n';
  };
  for (const PhaseRows& phase : table.phases) {
    line("", phase.sum);
    for (const Row& row : phase.rows) line("  ", row);
  }
  line("", table.outside);
  line("", table.all);
  return text;
}

Json step_profile_json(const OperationProfile& profile, double peak_gflops) {
  Json json = {{"steps", profile.steps()}, {"threads", profile.threads()}, {"seconds", profile.seconds()}};
  if (profile.steps() == 0) return json;
  const Table table = table_of(profile);
  const auto steps = static_cast<double>(profile.steps());
  const auto figures = [&](const Row& row) {
    Json figure = {{"share", row.seconds / profile.seconds()}, {"ms_per_step", row.seconds / steps * 1e3}};
    if (row.flops > 0.0) {
      figure["flops_per_step"] = row.flops / steps;
      figure["gflops"] = row.gflops();
      if (peak_gflops > 0.0) figure["peak_fraction"] = row.gflops() / peak_gflops;
    }
    if (row.bytes > 0.0) {
      figure["bytes_per_step"] = row.bytes / steps;
      figure["gigabytes_per_second"] = row.gigabytes();
    }
    return figure;
  };
  Json phases = Json::object();
  for (const PhaseRows& phase : table.phases) {
    Json entry = figures(phase.sum);
    Json operations = Json::object();
    for (const Row& row : phase.rows) operations[std::string(row.name)] = figures(row);
    entry["operations"] = std::move(operations);
    phases[std::string(phase.sum.name)] = std::move(entry);
  }
  json["phases"] = std::move(phases);
  json["outside"] = figures(table.outside);
  json["step"] = figures(table.all);
  return json;
}

Result<void> write_step_trace(const OperationProfile& profile, const std::string& path) {
  auto file = TraceFile::create(path);
  if (!file) return tl::make_unexpected(file.error());
  std::int64_t left_out = 0;
  const std::vector<OperationRecorder>& recorders = profile.recorders();
  for (std::size_t i = 0; i < recorders.size(); ++i) {
    file->name_track(static_cast<int>(i), fmt::format("thread {}", i));
  }
  for (std::size_t i = 0; i < recorders.size(); ++i) {
    left_out += recorders[i].events_left_out();
    for (const OperationRecorder::Event& event : recorders[i].events()) {
      auto added = file->add({.name = to_word(event.operation),
                              .category = to_word(event.phase),
                              .track = static_cast<int>(i),
                              .begin_ns = event.begin_ns,
                              .end_ns = event.end_ns,
                              .layer = event.layer});
      if (!added) return added;
    }
  }
  return file->commit(left_out);
}

}  // namespace quern::tools
