#include "quantize_report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "inspect_file.hpp"
#include "math/block_formats.hpp"
#include "model/gguf_values.hpp"
#include "run_statistics.hpp"

namespace quern::tools {
namespace {

using Json = nlohmann::ordered_json;

/// Sums over tensors.
struct Totals {
  std::int64_t tensors = 0, elements = 0, unweighted = 0;
  std::size_t before = 0, after = 0;
  QuantizationError error;

  void add(const QuantizedTensor& tensor) {
    ++tensors;
    elements += tensor.choice.tensor->elements();
    before += tensor.choice.tensor->bytes;
    after += tensor.bytes;
    error += tensor.error;
    if (tensor.choice.quantize && !tensor.used_importance) ++unweighted;
  }
  [[nodiscard]] double bits_per_weight() const {
    return elements > 0 ? 8.0 * static_cast<double>(after) / static_cast<double>(elements) : 0.0;
  }
};

Totals totals_of(std::span<const QuantizedTensor> tensors) {
  Totals totals;
  for (const QuantizedTensor& tensor : tensors) totals.add(tensor);
  return totals;
}

std::string_view type_before(const QuantizedTensor& tensor) { return block_format(tensor.choice.tensor->type).name; }
std::string_view type_after(const QuantizedTensor& tensor) {
  return block_format(tensor.choice.quantize ? tensor.choice.type : tensor.choice.tensor->type).name;
}

std::string percent(double fraction) { return fmt::format("{:.3f} %", 100.0 * fraction); }

struct Line {
  std::string name;
  const QuantizedTensor* first;
  Totals totals;
};

/// Tensors of all layers that have the same types and notes are one line, in the order of the first of each.
std::vector<Line> lines_of(const QuantizeReport& report) {
  using Kind = std::tuple<std::string, std::string_view, std::string_view, std::string_view>;
  std::map<Kind, std::size_t> kinds;
  std::vector<Line> lines;
  for (const QuantizedTensor& tensor : report.tensors) {
    const std::string name(tensor.choice.tensor->name);
    Kind kind{report.all ? name : without_layer(name), type_before(tensor), type_after(tensor), tensor.choice.note};
    const auto [at, is_new] = kinds.emplace(kind, lines.size());
    if (is_new) lines.push_back({std::get<0>(kind), &tensor, {}});
    lines[at->second].totals.add(tensor);
  }
  return lines;
}

void print_line(const Line& line, const QuantizeReport& report) {
  const QuantizedTensor& first = *line.first;
  std::string text = fmt::format("  {:<34} {:>6} {:<5} -> {:<5} {:>11}", internal::shown(line.name),
                                 line.totals.tensors > 1 ? fmt::format("x {}", line.totals.tensors) : "", type_before(first),
                                 type_after(first), bytes_text(line.totals.after));
  if (report.measured) {
    text += fmt::format(" {:>10}", first.choice.quantize ? percent(line.totals.error.relative_rms()) : "");
    if (report.weighted) {
      text += fmt::format(" {:>10}", !first.choice.quantize ? ""
                                     : line.totals.unweighted == line.totals.tensors
                                         ? "-"
                                         : percent(line.totals.error.weighted_relative_rms()));
    }
  }
  if (!first.choice.note.empty()) text += "  " + internal::shown(first.choice.note, 120);
  text.erase(text.find_last_not_of(' ') + 1);
  fmt::print("{}\n", text);
}

}  // namespace

void print_report(const QuantizeReport& report) {
  std::string head = fmt::format("  {:<34} {:>6} {:<14} {:>11}", "tensor", "", "type", "bytes");
  if (report.measured) head += fmt::format(" {:>10}{}", "RMS error", report.weighted ? "   weighted" : "");
  fmt::print("{}\n", head);
  for (const Line& line : lines_of(report)) print_line(line, report);

  const Totals totals = totals_of(report.tensors);
  fmt::print("{} tensors, {} parameters: {} -> {}, {:.3f} bits per weight\n", totals.tensors, grouped(totals.elements),
             bytes_text(totals.before), bytes_text(totals.after), totals.bits_per_weight());
  if (!report.measured) return;
  fmt::print("relative RMS error of what was quantized: {}", percent(totals.error.relative_rms()));
  if (report.weighted) {
    fmt::print(", weighted {}; {} quantized tensors have no importance", percent(totals.error.weighted_relative_rms()),
               totals.unweighted);
  }
  fmt::print("\n");
}

void add_report(Json& json, const QuantizeReport& report) {
  const Totals totals = totals_of(report.tensors);
  json["tensor_count"] = totals.tensors;
  json["parameters"] = totals.elements;
  json["bytes_before"] = totals.before;
  json["bytes"] = totals.after;
  json["bits_per_weight"] = totals.bits_per_weight();
  if (report.measured) {
    json["relative_rms_error"] = totals.error.relative_rms();
    if (report.weighted) json["weighted_relative_rms_error"] = totals.error.weighted_relative_rms();
  }
  Json list = Json::array();
  for (const QuantizedTensor& tensor : report.tensors) {
    const GgufTensor& source = *tensor.choice.tensor;
    Json entry = {{"name", source.name},
                  {"type_before", type_before(tensor)},
                  {"type", type_after(tensor)},
                  {"elements", source.elements()},
                  {"bytes_before", source.bytes},
                  {"bytes", tensor.bytes},
                  {"quantized", tensor.choice.quantize}};
    if (report.measured && tensor.choice.quantize) {
      entry["relative_rms_error"] = tensor.error.relative_rms();
      if (report.weighted) {
        entry["used_importance"] = tensor.used_importance;
        entry["weighted_relative_rms_error"] = tensor.error.weighted_relative_rms();
      }
    }
    if (!tensor.choice.note.empty()) entry["note"] = tensor.choice.note;
    list.push_back(std::move(entry));
  }
  json["tensors"] = std::move(list);
}

}  // namespace quern::tools
