#include "summary_report.hpp"

#include <fmt/format.h>

#include <array>
#include <cmath>

namespace quern::tools {

namespace {

using Json = nlohmann::ordered_json;

struct Field {
  const char* name;
  double Summary::*member;
};
constexpr std::array kFields{Field{"median", &Summary::median},
                             Field{"low", &Summary::low},
                             Field{"high", &Summary::high},
                             Field{"coverage", &Summary::coverage},
                             Field{"min", &Summary::minimum},
                             Field{"max", &Summary::maximum},
                             Field{"quartile_low", &Summary::quartile_low},
                             Field{"quartile_high", &Summary::quartile_high}};

int digits_for(double value) {
  const double size = std::abs(value);
  return size >= 100.0 ? 0 : size >= 10.0 ? 1 : size >= 1.0 ? 2 : 3;
}

}  // namespace

std::string number_text(double value) { return fmt::format("{:.{}f}", value, digits_for(value)); }

std::string summary_text(const Summary& summary, double unit) {
  const double median = summary.median / unit;
  const int digits = digits_for(median);
  if (summary.count == 0) return "-";
  if (summary.count == 1) return fmt::format("{:.{}f} [1 sample]", median, digits);
  return fmt::format("{:.{}f} [{:.{}f}-{:.{}f}{}]", median, digits, summary.low / unit, digits, summary.high / unit, digits,
                     summary.has_interval() ? "" : fmt::format(", {} samples", summary.count));
}

std::string spread_text(const Summary& summary) { return fmt::format("{:.1f} %", 100.0 * summary.spread()); }

std::string bytes_text(std::size_t bytes) {
  const auto real = static_cast<double>(bytes);
  if (bytes >= 1'000'000'000) return fmt::format("{:.2f} GB", real * 1e-9);
  if (bytes >= 1'000'000) return fmt::format("{:.2f} MB", real * 1e-6);
  return fmt::format("{} bytes", bytes);
}

Json summary_json(const Summary& summary) {
  Json json = {{"count", summary.count}};
  for (const Field& field : kFields) json[field.name] = summary.*field.member;
  return json;
}

Result<Summary> summary_from_json(const Json& json, const std::string& where) {
  if (!json.is_object()) return bad_input(fmt::format("{}: expected an object with a median", where));
  Summary summary;
  const auto count = json.find("count");
  if (count == json.end() || !count->is_number_unsigned())
    return bad_input(fmt::format("{}.count: expected a count", where));
  summary.count = count->get<std::int64_t>();
  for (const Field& field : kFields) {
    const auto value = json.find(field.name);
    if (value == json.end() || !value->is_number()) {
      return bad_input(fmt::format("{}.{}: expected a number", where, field.name));
    }
    summary.*field.member = value->get<double>();
  }
  return summary;
}

}  // namespace quern::tools
