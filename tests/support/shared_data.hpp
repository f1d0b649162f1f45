// Test data that is too large for the repository: the folder `shared` beside the source tree, where there is one.
#pragma once

#include <filesystem>
#include <optional>
#include <string_view>

namespace quern {

/// The shared file or folder at `relative`, or nothing where it is absent. The folder is the environment variable
/// QUERN_SHARED, else ../shared beside the source tree. A test that needs it skips with this prefix, by which continuous
/// integration tells such skips from others:
///
///     const auto text = shared_data("testdata/text/tinyshakespeare.txt");
///     if (!text) GTEST_SKIP() << "shared data absent: testdata/text/tinyshakespeare.txt";
[[nodiscard]] std::optional<std::filesystem::path> shared_data(std::string_view relative);

}  // namespace quern
