// Template text to tokens: plain text, and the names, literals and operators inside {{ }} and {% %}. Whitespace is trimmed
// as with Jinja's trim_blocks and lstrip_blocks, the setting of chat templates.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace quern::jinja {

enum class TokenKind : std::uint8_t {
  text,          ///< outside of tags
  output_begin,  ///< {{
  output_end,    ///< }}
  tag_begin,     ///< {%
  tag_end,       ///< %}
  name,
  string,
  integer,
  floating,
  symbol,  ///< an operator or bracket, in `text`
  end,
};

struct Token {
  TokenKind kind = TokenKind::end;
  int line = 1;
  std::string text;  ///< text, names, symbols; strings with escapes resolved
  std::int64_t integer = 0;
  double floating = 0;
};

/// Fails (jinja::Failure) on unbalanced brackets, open tags, comments and strings, and characters that Jinja does not know.
[[nodiscard]] std::vector<Token> tokenize(std::string_view source);

}  // namespace quern::jinja
