#include "support/shared_data.hpp"

#include <cstdlib>
#include <system_error>

#include "support/tests_paths.hpp"

namespace quern {

std::optional<std::filesystem::path> shared_data(std::string_view relative) {
  const char* const named = std::getenv("QUERN_SHARED");
  const std::filesystem::path shared =
      named != nullptr && *named != '\0' ? std::filesystem::path(named) : source_folder().parent_path() / "shared";
  std::filesystem::path path = shared / relative;
  std::error_code error;
  if (!std::filesystem::exists(path, error) || error) return std::nullopt;
  return path;
}

}  // namespace quern
