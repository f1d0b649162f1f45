#include "report/html.hpp"
#include "report/sections.hpp"

namespace quern::tools {

std::string section_sources(const ReportData& data) {
  HtmlTable table{.caption = "Results in this report", .columns = {"result", "of", "about"}, .rows = {}};
  for (const ReportSource& source : data.sources) table.rows.push_back({source.name, source.bench, source.about});
  std::string html;
  if (!data.processor.empty()) html += paragraph("Processor: " + data.processor + ".");
  html += paragraph(
      "A speed is the median of its rounds; brackets and whiskers are the interval that holds the median with 95 % (with "
      "fewer "
      "than six rounds: the slowest and the fastest). Two speeds are called different only where their intervals do not "
      "overlap.");
  return html + html_table(table);
}

}  // namespace quern::tools
