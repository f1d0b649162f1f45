// JSON documents from files that nobody vouches for: no key twice, no great depth, one clear sentence for each fault.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "math/result.hpp"

namespace quern::internal {

/// Parses a document whose top level must be an object. Errors bad_input begin with `where`: malformed text (with its
/// place), nesting beyond 64 levels, a key that an object has twice (the parser alone would keep the last one).
[[nodiscard]] Result<nlohmann::ordered_json> parse_json_document(std::string_view text, std::string_view where);

/// "an integer", "a string", ... for messages.
[[nodiscard]] std::string_view json_kind(const nlohmann::ordered_json& value);

}  // namespace quern::internal
