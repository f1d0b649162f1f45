#include "output_path.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <string_view>
#include <system_error>

namespace quern::tools {

namespace {

/// "NAME-00001-of-00003.gguf": the names of all parts; of other names that name alone.
std::vector<std::string> parts_of(const std::string& path) {
  constexpr std::string_view kPattern = "-NNNNN-of-NNNNN.gguf";
  std::vector<std::string> parts{path};
  if (path.size() < kPattern.size()) return parts;
  const std::size_t start = path.size() - kPattern.size();
  int count = 0;
  for (std::size_t i = 0; i < kPattern.size(); ++i) {
    const char c = path[start + i];
    const bool digit = c >= '0' && c <= '9';
    if (kPattern[i] == 'N' ? !digit : c != kPattern[i]) return parts;
    if (i > kPattern.rfind("of") && digit) count = 10 * count + (c - '0');
  }
  for (int part = 1; part <= count; ++part) {
    parts.push_back(fmt::format("{}-{:05}-of-{:05}.gguf", path.substr(0, start), part, count));
  }
  return parts;
}

}  // namespace

Result<void> check_output(const std::string& path, const std::vector<std::string>& inputs, bool replace) {
  if (path.empty()) return bad_input("the name of the file to write is empty");
  std::error_code code;
  if (std::filesystem::exists(path, code)) {
    for (const std::string& input : inputs) {
      if (input.empty() || input == "-") continue;
      for (const std::string& part : parts_of(input)) {
        if (std::filesystem::equivalent(part, path, code)) {
          return bad_input(fmt::format("{}: is both what is read and what is to be written", path));
        }
      }
    }
    if (!replace) return bad_input(fmt::format("{}: is there already; --force replaces it", path));
  }
  if (std::filesystem::is_symlink(path, code)) return {};  // the file is written where the link points
  std::filesystem::path folder = std::filesystem::path(path).parent_path();
  if (folder.empty()) folder = ".";
  if (::access(folder.c_str(), W_OK | X_OK) != 0) {
    const std::string reason = std::generic_category().message(errno);
    return io_error(fmt::format("{}: cannot create a file in folder {}: {}", path, folder.string(), reason));
  }
  return {};
}

}  // namespace quern::tools
