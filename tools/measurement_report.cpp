#include "measurement_report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <set>

#include "math/system_files.hpp"
#include "summary_report.hpp"

namespace quern::tools {

namespace {

using Json = nlohmann::ordered_json;

std::string level_text(int level) { return level == 0 ? "memory" : fmt::format("L{}", level); }

std::string threads_text(int threads) { return fmt::format("{} thread{}", threads, threads == 1 ? "" : "s"); }

void write_peaks(std::string& text, const std::vector<PeakFigure>& peaks) {
  text += "\n| peak | threads | GFLOP/s or GOP/s | spread | how |\n|---|---|---|---|---|\n";
  for (const PeakFigure& figure : peaks) {
    text += fmt::format("| {} | {} | {} | {} | {} |\n", to_word(figure.type), figure.threads,
                        summary_text(figure.ops_per_second, 1e9), spread_text(figure.ops_per_second), figure.method);
  }
}

/// One row for each level and access, one column for each number of threads.
void write_streams(std::string& text, const std::vector<StreamFigure>& streams) {
  std::set<int> counts;
  for (const StreamFigure& figure : streams) counts.insert(figure.threads);
  text += "\n| GB/s | access | block of a thread |";
  for (const int threads : counts) text += fmt::format(" {} |", threads_text(threads));
  text += "\n|---|---|---|";
  for (std::size_t i = 0; i < counts.size(); ++i) text += "---|";
  text += '\n';
  for (std::size_t i = 0; i < streams.size();) {
    const StreamFigure& row = streams[i];
    std::string cells;
    const std::size_t bytes = row.bytes / static_cast<std::size_t>(row.threads);
    for (const int threads : counts) {
      if (i < streams.size() && streams[i].level == row.level && streams[i].access == row.access &&
          streams[i].threads == threads) {
        cells += fmt::format(" {} |", summary_text(streams[i].bytes_per_second, 1e9));
        ++i;
      } else {
        cells += " - |";
      }
    }
    text += fmt::format("| {} | {} | {} |{}\n", level_text(row.level), to_word(row.access), byte_count_text(bytes), cells);
  }
}

void write_pages(std::string& text, const std::vector<PageFigure>& pages) {
  text += "\n| pages | block | in huge pages | read in order, GB/s | loads in no order, ns |\n|---|---|---|---|---|\n";
  for (const PageFigure& figure : pages) {
    text += fmt::format("| {} | {} | {} | {} | {} |\n", figure.huge_pages ? "huge" : "small", byte_count_text(figure.bytes),
                        byte_count_text(figure.huge_bytes), summary_text(figure.read_bytes_per_second, 1e9),
                        summary_text(figure.load_seconds, 1e-9));
  }
}

void write_times(std::string& text, const MachineMeasurement& measurement) {
  text += "\n| latency of a load | block | ns |\n|---|---|---|\n";
  for (const LatencyFigure& figure : measurement.latencies) {
    text += fmt::format("| {} | {} | {} |\n", level_text(figure.level), byte_count_text(figure.bytes),
                        summary_text(figure.load_seconds, 1e-9));
  }
  if (measurement.barriers.empty()) return;
  text += "\n| barrier | ns |\n|---|---|\n";
  for (const BarrierFigure& figure : measurement.barriers) {
    text += fmt::format("| {} | {} |\n", threads_text(figure.threads), summary_text(figure.seconds, 1e-9));
  }
}

void write_clocks(std::string& text, const MachineMeasurement& measurement) {
  text += fmt::format("\nClocks by {}", measurement.clock_method);
  if (!measurement.counters_obstacle.empty()) text += fmt::format(": {}", measurement.counters_obstacle);
  text += '.';
  if (measurement.multiply_over_add > 0.0) {
    text += fmt::format(
        "\nA chain of multiplications takes {:.2f} times as long; 3 means that an addition takes one cycle and clocks can "
        "be "
        "believed.",
        measurement.multiply_over_add);
  }
  text += "\n\n| clock under load | threads | GHz |\n|---|---|---|\n";
  for (const ClockFigure& figure : measurement.clocks) {
    text += fmt::format("| {} | {} | {} |\n", figure.load, figure.threads, summary_text(figure.hertz, 1e9));
  }
}

template <class Figures, class Convert>
Json list_of(const Figures& figures, const Convert& convert) {
  Json list = Json::array();
  for (const auto& figure : figures) list.push_back(convert(figure));
  return list;
}

/// One of the values whose to_word() is in `json[key]`.
template <class Value, std::size_t N>
Result<Value> word_in(const Json& json, const char* key, const Value (&values)[N], const std::string& where) {
  const auto word = json.find(key);
  if (word != json.end() && word->is_string()) {
    for (const Value value : values) {
      if (word->get<std::string>() == to_word(value)) return value;
    }
  }
  return bad_input(fmt::format("{}.{}: expected a word that `quern hardware --measure --json` writes", where, key));
}

Result<std::int64_t> count_in(const Json& json, const char* key, const std::string& where) {
  const auto value = json.find(key);
  if (value == json.end() || !value->is_number_unsigned())
    return bad_input(fmt::format("{}.{}: expected a count", where, key));
  return value->get<std::int64_t>();
}

std::string text_in(const Json& json, const char* key) {
  const auto value = json.find(key);
  return value != json.end() && value->is_string() ? value->get<std::string>() : "";
}

Result<void> read_peak(const Json& json, const std::string& where, MachineMeasurement& measurement) {
  const auto type = word_in(json, "type", kPeakTypes, where);
  if (!type) return tl::make_unexpected(type.error());
  const auto threads = count_in(json, "threads", where);
  if (!threads) return tl::make_unexpected(threads.error());
  auto rate = summary_from_json(json.value("ops_per_second", Json()), where + ".ops_per_second");
  if (!rate) return tl::make_unexpected(rate.error());
  measurement.peaks.push_back({*type, static_cast<int>(*threads), text_in(json, "method"), *rate});
  return {};
}

Result<void> read_stream(const Json& json, const std::string& where, MachineMeasurement& measurement) {
  const auto level = count_in(json, "level", where);
  if (!level) return tl::make_unexpected(level.error());
  const auto access = word_in(json, "access", kStreamAccesses, where);
  if (!access) return tl::make_unexpected(access.error());
  const auto threads = count_in(json, "threads", where);
  if (!threads) return tl::make_unexpected(threads.error());
  const auto bytes = count_in(json, "bytes", where);
  if (!bytes) return tl::make_unexpected(bytes.error());
  auto rate = summary_from_json(json.value("bytes_per_second", Json()), where + ".bytes_per_second");
  if (!rate) return tl::make_unexpected(rate.error());
  measurement.streams.push_back(
      {static_cast<int>(*level), *access, static_cast<int>(*threads), static_cast<std::size_t>(*bytes), *rate});
  return {};
}

using Reader = Result<void> (*)(const Json&, const std::string&, MachineMeasurement&);

Result<void> read_list(const Json& json, const char* key, Reader read, MachineMeasurement& measurement) {
  const auto list = json.find(key);
  if (list == json.end() || !list->is_array()) return bad_input(fmt::format("measurement.{}: expected a list", key));
  for (std::size_t i = 0; i < list->size(); ++i) {
    const std::string where = fmt::format("measurement.{}[{}]", key, i);
    if (!(*list)[i].is_object()) return bad_input(where + ": expected an object");
    if (auto done = read((*list)[i], where, measurement); !done) return done;
  }
  return {};
}

}  // namespace

std::string measurement_text(const MachineMeasurement& measurement) {
  std::string text = fmt::format(
      "measured in {:.0f} s with the kernels of {}, streams in {}{}\n"
      "Figures: the median [interval that holds it with 95 %]; spread: the middle half of the samples over the median.\n"
      "A copy counts the bytes that it reads and those that it writes.\n",
      measurement.seconds, measurement.instruction_set, measurement.stream_registers,
      measurement.stopped ? "; interrupted" : "");
  write_peaks(text, measurement.peaks);
  write_streams(text, measurement.streams);
  if (!measurement.pages.empty()) write_pages(text, measurement.pages);
  if (!measurement.latencies.empty()) write_times(text, measurement);
  if (!measurement.clocks.empty()) write_clocks(text, measurement);
  return text;
}

Json measurement_json(const MachineMeasurement& measurement) {
  return {
      {"processor", measurement.processor},
      {"instruction_set", measurement.instruction_set},
      {"stream_registers", measurement.stream_registers},
      {"seconds", measurement.seconds},
      {"interrupted", measurement.stopped},
      {"peaks", list_of(measurement.peaks,
                        [](const PeakFigure& figure) -> Json {
                          return {{"type", to_word(figure.type)},
                                  {"threads", figure.threads},
                                  {"method", figure.method},
                                  {"ops_per_second", summary_json(figure.ops_per_second)}};
                        })},
      {"streams", list_of(measurement.streams,
                          [](const StreamFigure& figure) -> Json {
                            return {{"level", figure.level},
                                    {"access", to_word(figure.access)},
                                    {"threads", figure.threads},
                                    {"bytes", figure.bytes},
                                    {"bytes_per_second", summary_json(figure.bytes_per_second)}};
                          })},
      {"pages", list_of(measurement.pages,
                        [](const PageFigure& figure) -> Json {
                          return {{"huge_pages", figure.huge_pages},
                                  {"bytes", figure.bytes},
                                  {"huge_bytes", figure.huge_bytes},
                                  {"read_bytes_per_second", summary_json(figure.read_bytes_per_second)},
                                  {"load_seconds", summary_json(figure.load_seconds)}};
                        })},
      {"latencies",
       list_of(
           measurement.latencies,
           [](const LatencyFigure& figure) -> Json {
             return {{"level", figure.level}, {"bytes", figure.bytes}, {"load_seconds", summary_json(figure.load_seconds)}};
           })},
      {"barriers", list_of(measurement.barriers,
                           [](const BarrierFigure& figure) -> Json {
                             return {{"threads", figure.threads}, {"seconds", summary_json(figure.seconds)}};
                           })},
      {"clock_method", measurement.clock_method},
      {"counters_obstacle", measurement.counters_obstacle},
      {"multiply_over_add", measurement.multiply_over_add},
      {"clocks", list_of(measurement.clocks, [](const ClockFigure& figure) -> Json {
         return {{"load", figure.load}, {"threads", figure.threads}, {"hertz", summary_json(figure.hertz)}};
       })}};
}

Result<MachineMeasurement> measurement_from_json(const Json& json) {
  if (!json.is_object()) return bad_input("measurement: expected an object");
  MachineMeasurement measurement;
  measurement.processor = text_in(json, "processor");
  measurement.instruction_set = text_in(json, "instruction_set");
  measurement.stream_registers = text_in(json, "stream_registers");
  if (auto done = read_list(json, "peaks", read_peak, measurement); !done) return tl::make_unexpected(done.error());
  if (auto done = read_list(json, "streams", read_stream, measurement); !done) return tl::make_unexpected(done.error());
  return measurement;
}

Result<MachineMeasurement> read_measurement(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return bad_input(fmt::format("{}: cannot be opened", path));
  const Json json = Json::parse(file, nullptr, false);
  if (!json.is_object() || !json.contains("measurement")) {
    return bad_input(fmt::format("{}: expected what `quern hardware --measure --json` writes", path));
  }
  auto measurement = measurement_from_json(json["measurement"]);
  if (!measurement) return bad_input(fmt::format("{}: {}", path, measurement.error().message));
  return measurement;
}

}  // namespace quern::tools
