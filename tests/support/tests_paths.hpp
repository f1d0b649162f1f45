// Folders that tests use: the source tree, the shared test data beside it, and folders that vanish with the test.
#pragma once

#include <filesystem>
#include <string_view>

namespace quern {

/// The repository's root, as it was configured.
[[nodiscard]] std::filesystem::path source_folder();

/// Makes an empty folder of its own under the system's temporary folder and removes it, with all it holds, in the end.
/// Failures are reported through GoogleTest.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] std::filesystem::path operator/(std::string_view name) const { return path_ / name; }

  /// Writes a file (and the folders above it) with exactly these bytes; returns its path.
  std::filesystem::path write(std::string_view relative, std::string_view bytes) const;

 private:
  std::filesystem::path path_;
};

}  // namespace quern
