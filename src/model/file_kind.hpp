// What a file is, by its first bytes.
#pragma once

#include <cstdint>
#include <string>

#include "math/result.hpp"

namespace quern {

enum class FileKind : std::uint8_t {
  folder,
  gguf,
  checkpoint,
  corpus,
  json,  ///< begins with a brace, after white space if any
  other
};

struct FileStart {
  FileKind kind = FileKind::other;
  std::string bytes;  ///< the first eight; fewer where the file is shorter, none of a folder
};

/// Errors: bad_input where there is nothing, or an empty file, a device or pipe; io where the system refuses to open or
/// read.
[[nodiscard]] Result<FileStart> read_file_start(const std::string& path);

}  // namespace quern
