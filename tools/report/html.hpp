// Text, numbers and tables as HTML. Whatever comes from a file goes through escape().
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace quern::tools {

/// Text as HTML or an attribute's value: markup characters become entities; control characters and bytes that are no UTF-8
/// become U+FFFD; more than `max_bytes` of text end in an ellipsis.
[[nodiscard]] std::string escape(std::string_view text, std::size_t max_bytes = 400);

/// A table with one header row. Cells are plain text.
struct HtmlTable {
  std::string caption;
  std::vector<std::string> columns;
  std::vector<std::vector<std::string>> rows;  ///< each as long as `columns`; the first cell is the row's header
};

/// The table as HTML, with scopes for readers of a screen. A cell that begins with a digit or a sign is set to the right.
[[nodiscard]] std::string html_table(const HtmlTable& table);

/// A plot beside the table of its numbers. `plot` is HTML (svg_plot() or bar_plot()); empty: only the table.
[[nodiscard]] std::string figure(const std::string& plot, const HtmlTable& table);

/// "1.50 GB" of a number from a file: what is not finite or below 0 counts as 0.
[[nodiscard]] std::string bytes_of(double bytes);

/// A paragraph of plain text.
[[nodiscard]] std::string paragraph(std::string_view text);

}  // namespace quern::tools
