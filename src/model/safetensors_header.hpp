// The JSON header of a safetensors file, checked for form; what its numbers mean is checked by the file's reader.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "math/result.hpp"

namespace quern::internal {

struct SafetensorsHeaderEntry {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0, end = 0;  ///< from the start of the data
};

struct SafetensorsHeader {
  std::vector<SafetensorsHeaderEntry> tensors;  ///< in the header's order
  std::vector<std::pair<std::string, std::string>> metadata;
};

/// Reads the header without building a document, so that names and keys that are there twice are seen, and memory is
/// bounded by the text. `where` begins messages.
[[nodiscard]] Result<SafetensorsHeader> parse_safetensors_header(std::string_view text, std::string_view where);

}  // namespace quern::internal
