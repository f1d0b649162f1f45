// Unicode's normalization form C, which some published tokenizers apply to a text first.
#pragma once

#include <string>
#include <string_view>

namespace quern {

/// The text in normalization form C (Unicode Standard Annex 15). Bytes that are not UTF-8 stay as they are. O(n log n).
[[nodiscard]] std::string to_nfc(std::string_view text);

}  // namespace quern
