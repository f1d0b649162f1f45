// --report of the benchmarks.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace quern::tools {

/// --report FILE; check_report() and write_report_of() (page.hpp) are what it asks for.
void add_report_option(CLI::App& command, std::string& path);

}  // namespace quern::tools
