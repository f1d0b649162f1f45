// The file that a command is asked to write.
#pragma once

#include <string>
#include <vector>

#include "math/result.hpp"

namespace quern::tools {

/// Refuses, before long work, a file that cannot or must not be written: one that is read (any of `inputs`, under whatever
/// name; of a split GGUF model every part), one that is there, unless `replace`, or one whose folder takes no new files.
/// Empty inputs and "-" are none. Errors: bad_input; io where the system refuses.
[[nodiscard]] Result<void> check_output(const std::string& path, const std::vector<std::string>& inputs, bool replace);

}  // namespace quern::tools
