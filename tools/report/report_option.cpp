#include "report/report_option.hpp"

namespace quern::tools {

void add_report_option(CLI::App& command, std::string& path) {
  command.add_option("--report", path, "Also write a page with plots, tables and recommendations here (HTML)")
      ->type_name("FILE");
}

}  // namespace quern::tools
