#include "report/html.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace quern::tools {

namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

/// Bytes of the UTF-8 sequence that `text` begins with, 0 where it is none: overlong forms, surrogates and numbers above
/// U+10FFFF are not (RFC 3629).
std::size_t sequence_bytes(std::string_view text) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
  const auto continues = [&](std::size_t i) { return (byte(i) & 0xC0U) == 0x80U; };
  const unsigned first = byte(0), second = byte(1);
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return continues(1) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    const bool fits = continues(1) && continues(2) && !(first == 0xE0 && second < 0xA0) && !(first == 0xED && second > 0x9F);
    return fits ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    const bool fits = continues(1) && continues(2) && continues(3) && !(first == 0xF0 && second < 0x90) &&
                      !(first == 0xF4 && second > 0x8F);
    return fits ? 4 : 0;
  }
  return 0;
}

bool is_number(const std::string& cell) {
  return !cell.empty() && ((cell[0] >= '0' && cell[0] <= '9') || cell[0] == '+' || cell[0] == '-');
}

}  // namespace

std::string escape(std::string_view text, std::size_t max_bytes) {
  std::string html;
  const std::size_t end = text.size();
  for (std::size_t at = 0; at < end;) {
    if (at >= max_bytes) return html + "\xE2\x80\xA6";
    const std::size_t bytes = sequence_bytes(text.substr(at));
    const char letter = text[at];
    if (bytes > 1) {
      html += text.substr(at, bytes);
    } else if (bytes == 0 || static_cast<unsigned char>(letter) < 0x20 || letter == 0x7F) {
      html += letter == '\n' || letter == '\t' ? " " : kReplacement;
    } else if (letter == '&') {
      html += "&amp;";
    } else if (letter == '<') {
      html += "&lt;";
    } else if (letter == '>') {
      html += "&gt;";
    } else if (letter == '"') {
      html += "&quot;";
    } else if (letter == '\'') {
      html += "&#39;";
    } else {
      html += letter;
    }
    at += std::max<std::size_t>(bytes, 1);
  }
  return html;
}

std::string html_table(const HtmlTable& table) {
  std::string html = fmt::format(
      "<div class=\"table\" tabindex=\"0\" role=\"region\" aria-label=\"{0}\"><table><caption>{0}</caption>\n<thead><tr>",
      escape(table.caption));
  for (const std::string& column : table.columns) html += fmt::format("<th scope=\"col\">{}</th>", escape(column));
  html += "</tr></thead>\n<tbody>\n";
  for (const std::vector<std::string>& row : table.rows) {
    html += "<tr>";
    for (std::size_t i = 0; i < row.size(); ++i) {
      const char* const number = is_number(row[i]) ? " class=\"number\"" : "";
      html += i == 0 ? fmt::format("<th scope=\"row\"{}>{}</th>", number, escape(row[i]))
                     : fmt::format("<td{}>{}</td>", number, escape(row[i]));
    }
    html += "</tr>\n";
  }
  return html + "</tbody></table></div>\n";
}

std::string figure(const std::string& plot, const HtmlTable& table) {
  if (plot.empty()) return html_table(table);
  return "<div class=\"figure\">\n" + plot + html_table(table) + "</div>\n";
}

std::string bytes_of(double bytes) {
  if (!std::isfinite(bytes) || bytes < 0.0) return "0 bytes";
  if (bytes >= 1e9) return fmt::format("{:.2f} GB", bytes * 1e-9);
  if (bytes >= 1e6) return fmt::format("{:.2f} MB", bytes * 1e-6);
  return fmt::format("{:.0f} bytes", bytes);
}

std::string paragraph(std::string_view text) { return "<p>" + escape(text, 4000) + "</p>\n"; }

}  // namespace quern::tools
