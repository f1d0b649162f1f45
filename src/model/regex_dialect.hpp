// Expressions as published tokenizers write them (the dialect of Rust's regex crates and Oniguruma), for PCRE2.
#pragma once

#include <string>
#include <string_view>

#include "math/result.hpp"

namespace quern {

/// The same expression for PCRE2 with UTF and Unicode properties. What differs: white space is Unicode's White_Space
/// (PCRE2's \s also takes U+180E), \uXXXX and \u{...} are code points, and `\s+$` is written so that a run of spaces in the
/// middle of a text costs time linear in its length. Error bad_input for sets inside sets (`[a[bc]]`, `&&`), which PCRE2
/// would read as something else.
[[nodiscard]] Result<std::string> to_pcre2(std::string_view pattern);

/// The other way round, of what to_pcre2 gave: an expression that Oniguruma and Rust's crates read as PCRE2 reads this one.
[[nodiscard]] std::string from_pcre2(std::string_view pattern);

/// An expression that matches `text` itself.
[[nodiscard]] std::string literal_pattern(std::string_view text);

}  // namespace quern
