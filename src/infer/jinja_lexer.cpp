#include "infer/jinja_lexer.hpp"

#include <array>
#include <charconv>
#include <limits>
#include <optional>

#include "infer/jinja_text.hpp"
#include "infer/jinja_value.hpp"
#include "model/utf8.hpp"

namespace quern::jinja {

namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

/// The value of a digit in any base up to 36; 99 for other characters.
unsigned digit_value(char c) {
  if (is_digit(c)) return static_cast<unsigned>(c - '0');
  if (c >= 'a' && c <= 'z') return static_cast<unsigned>(c - 'a' + 10);
  if (c >= 'A' && c <= 'Z') return static_cast<unsigned>(c - 'A' + 10);
  return 99;
}

/// Line ends become \n, and one at the very end is dropped.
std::string normalized(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out += source[i];
    } else {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    }
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(source) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) outside();
    add(TokenKind::end);
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail(std::string message) const { throw Failure{std::move(message), line_}; }

  [[nodiscard]] char peek(std::size_t ahead = 0) const { return at_ + ahead < source_.size() ? source_[at_ + ahead] : '\0'; }
  [[nodiscard]] bool follows(std::string_view word) const { return source_.substr(at_).starts_with(word); }

  void advance(std::size_t bytes) {
    for (; bytes > 0; --bytes) line_ += source_[at_++] == '\n' ? 1 : 0;
  }
  void skip_space() {
    while (at_ < source_.size() && is_space(code_point_at(source_, at_))) advance(character_bytes(source_, at_));
  }

  void add(TokenKind kind, std::string text = {}) { tokens_.push_back({kind, line_, std::move(text), 0, 0}); }

  /// The text before a tag, with the whitespace that the tag takes away.
  [[nodiscard]] std::string_view text_before_tag(std::string_view text, char sign, bool is_output) const {
    if (sign == '-') return strip(text, nullptr, false, true);
    if (sign == '+' || is_output) return text;
    const std::size_t newline = text.rfind('\n');
    const std::size_t line_start = newline == std::string_view::npos ? 0 : newline + 1;
    if (newline == std::string_view::npos && !line_starting_) return text;
    return strip(text.substr(line_start)).empty() ? text.substr(0, line_start) : text;
  }

  /// A text up to the next tag, and the tag.
  void outside() {
    std::size_t open = source_.find('{', at_);
    while (open != std::string_view::npos && open + 1 < source_.size() && source_[open + 1] != '{' &&
           source_[open + 1] != '%' && source_[open + 1] != '#') {
      open = source_.find('{', open + 1);
    }
    if (open == std::string_view::npos || open + 1 >= source_.size()) {
      add(TokenKind::text, std::string(source_.substr(at_)));
      advance(source_.size() - at_);
      return;
    }
    const char type = source_[open + 1];
    const char sign = open + 2 < source_.size() ? source_[open + 2] : '\0';
    const bool has_sign = sign == '-' || sign == '+';
    const std::string_view text = text_before_tag(source_.substr(at_, open - at_), sign, type == '{');
    if (!text.empty()) add(TokenKind::text, std::string(text));
    advance(open - at_);
    advance(has_sign ? 3 : 2);
    line_starting_ = false;
    if (type == '#') {
      comment();
    } else if (type == '%' && raw()) {
      return;
    } else {
      inside(type == '{');
    }
  }

  /// The newline or whitespace that a closed tag takes away.
  void after_tag(char sign, bool takes_newline) {
    if (sign == '-') {
      skip_space();
    } else if (sign != '+' && takes_newline && peek() == '\n') {
      advance(1);
    }
    line_starting_ = at_ > 0 && source_[at_ - 1] == '\n';
  }

  void comment() {
    const std::size_t close = source_.find("#}", at_);
    if (close == std::string_view::npos) fail("missing end of comment tag");
    // The opening tag's sign is no closing one: {#-#}.
    const char sign = close > at_ ? source_[close - 1] : '\0';
    advance(close + 2 - at_);
    after_tag(sign, true);
  }

  /// {% raw %} to {% endraw %}; false where this tag is another.
  bool raw() {
    const std::size_t start = at_;
    const int start_line = line_;
    skip_space();
    if (!follows("raw")) {
      at_ = start;
      line_ = start_line;
      return false;
    }
    advance(3);
    skip_space();
    const bool strips = follows("-%}");
    if (!strips && !follows("%}")) {
      at_ = start;
      line_ = start_line;
      return false;
    }
    advance(strips ? 3 : 2);
    after_tag(strips ? '-' : '\0', false);
    for (std::size_t open = source_.find("{%", at_); open != std::string_view::npos; open = source_.find("{%", open + 2)) {
      std::size_t at = open + 2;
      const char sign = at < source_.size() ? source_[at] : '\0';
      if (sign == '-' || sign == '+') ++at;
      at = after_space(at);
      if (!source_.substr(at).starts_with("endraw")) continue;
      at = after_space(at + 6);
      const char end_sign = at < source_.size() ? source_[at] : '\0';
      if (end_sign == '-' || end_sign == '+') ++at;
      if (!source_.substr(at).starts_with("%}")) continue;
      const std::string_view text = text_before_tag(source_.substr(at_, open - at_), sign, false);
      if (!text.empty()) add(TokenKind::text, std::string(text));
      advance(at + 2 - at_);
      after_tag(end_sign, true);
      return true;
    }
    fail("missing end of raw directive");
  }

  [[nodiscard]] std::size_t after_space(std::size_t at) const {
    while (at < source_.size() && is_space(code_point_at(source_, at))) at += character_bytes(source_, at);
    return at;
  }

  /// The tokens of {{ }} or {% %} up to its end.
  void inside(bool is_output) {
    add(is_output ? TokenKind::output_begin : TokenKind::tag_begin);
    const std::string_view end = is_output ? "}}" : "%}";
    std::string brackets;
    while (true) {
      skip_space();
      if (at_ >= source_.size())
        fail(is_output ? "unexpected end of template, expected '}}'" : "unexpected end of template, expected '%}'");
      if (brackets.empty()) {
        const char sign = peek();
        const bool has_sign = sign == '-' || (sign == '+' && !is_output);
        if (source_.substr(at_ + (has_sign ? 1 : 0)).starts_with(end)) {
          add(is_output ? TokenKind::output_end : TokenKind::tag_end);
          advance(has_sign ? 3 : 2);
          after_tag(has_sign ? sign : '\0', !is_output);
          return;
        }
      }
      if (is_digit(peek())) {
        number();
      } else if (is_letter(peek()) || static_cast<unsigned char>(peek()) >= 0x80) {
        name();
      } else if (peek() == '\'' || peek() == '"') {
        string();
      } else {
        symbol(brackets);
      }
    }
  }

  void name() {
    const std::size_t start = at_;
    while (is_letter(peek()) || is_digit(peek()) || static_cast<unsigned char>(peek()) >= 0x80) {
      if (static_cast<unsigned char>(peek()) >= 0x80 && is_space(code_point_at(source_, at_))) break;
      advance(character_bytes(source_, at_));
    }
    add(TokenKind::name, std::string(source_.substr(start, at_ - start)));
  }

  /// The digits at the current place in `base`; single underscores between digits are dropped.
  std::string digits(unsigned base) {
    std::string out;
    while (digit_value(peek()) < base || (peek() == '_' && digit_value(peek(1)) < base)) {
      if (peek() != '_') out += peek();
      advance(1);
    }
    return out;
  }

  void number() {
    Token token{TokenKind::integer, line_, {}, 0, 0};
    const char letter = static_cast<char>(peek(1) | 0x20);
    const int base = peek() != '0' ? 10 : letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 10;
    if (base != 10) advance(2);
    std::string text = digits(static_cast<unsigned>(base));
    // In x.0.1 both numbers are subscripts.
    const bool is_subscript = !tokens_.empty() && tokens_.back().kind == TokenKind::symbol && tokens_.back().text == ".";
    if (base == 10 && !is_subscript && peek() == '.' && is_digit(peek(1))) {
      token.kind = TokenKind::floating;
      advance(1);
      text += "." + digits(10);
    }
    const std::size_t exponent = peek(1) == '+' || peek(1) == '-' ? 2 : 1;
    if (base == 10 && (peek() == 'e' || peek() == 'E') && is_digit(peek(exponent))) {
      token.kind = TokenKind::floating;
      text += 'e';
      if (peek(1) == '-') text += '-';
      advance(exponent);
      text += digits(10);
    }
    const char* const last = text.data() + text.size();
    if (token.kind == TokenKind::floating) {
      const auto read = std::from_chars(text.data(), last, token.floating);
      if (read.ec == std::errc::result_out_of_range) {
        token.floating = text.find("e-") != std::string::npos ? 0.0 : std::numeric_limits<double>::infinity();
      }
    } else {
      const auto read = std::from_chars(text.data(), last, token.integer, base);
      if (read.ec != std::errc() || read.ptr != last) fail("the number " + text + " is not a 64-bit integer");
    }
    tokens_.push_back(std::move(token));
  }

  /// One escape of `digits` hexadecimal digits behind \x, \u or \U.
  void hexadecimal(std::string& out, std::size_t count) {
    std::int32_t code_point = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const unsigned digit = digit_value(peek());
      if (digit >= 16 || code_point >= 0x110000) fail("a truncated or invalid \\x, \\u or \\U escape in a string");
      code_point = code_point * 16 + static_cast<std::int32_t>(digit);
      advance(1);
    }
    if (code_point >= 0x110000 || (code_point >= 0xD800 && code_point < 0xE000)) {
      fail("an escape in a string that names no character");
    }
    append_utf8(out, code_point);
  }

  void escape(std::string& out) {
    const char c = peek();
    static constexpr std::string_view kLetters = "\\'\"abfnrtv";
    static constexpr std::string_view kMeanings = "\\'\"\a\b\f\n\r\t\v";
    if (const std::size_t letter = kLetters.find(c); letter != std::string_view::npos) {
      out += kMeanings[letter];
      advance(1);
    } else if (c == 'x' || c == 'u' || c == 'U') {
      advance(1);
      hexadecimal(out, c == 'x' ? 2 : c == 'u' ? 4 : 8);
    } else if (c >= '0' && c <= '7') {
      std::int32_t code_point = 0;
      for (int i = 0; i < 3 && peek() >= '0' && peek() <= '7'; ++i, advance(1)) code_point = code_point * 8 + (peek() - '0');
      append_utf8(out, code_point);
    } else if (c == '\n') {
      advance(1);
    } else if (c == 'N') {
      fail("character names (\\N) in strings are not supported");
    } else {
      out += '\\';
    }
  }

  void string() {
    const char quote = peek();
    Token token{TokenKind::string, line_, {}, 0, 0};
    advance(1);
    while (peek() != quote) {
      if (at_ >= source_.size()) fail("a string without its closing quote");
      if (peek() == '\\' && at_ + 1 < source_.size()) {
        advance(1);
        escape(token.text);
      } else {
        token.text += peek();
        advance(1);
      }
    }
    advance(1);
    tokens_.push_back(std::move(token));
  }

  void symbol(std::string& brackets) {
    static constexpr std::array<std::string_view, 26> kSymbols = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "*",
                                                                  "/",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                                                  ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    std::string_view found;
    for (const std::string_view candidate : kSymbols) {
      if (follows(candidate)) {
        found = candidate;
        break;
      }
    }
    if (found.empty())
      fail("unexpected character '" + std::string(source_.substr(at_, character_bytes(source_, at_))) + "'");
    if (found == "(" || found == "[" || found == "{") {
      brackets += found == "(" ? ')' : found == "[" ? ']' : '}';
    } else if (found == ")" || found == "]" || found == "}") {
      if (brackets.empty()) fail("unexpected '" + std::string(found) + "'");
      if (brackets.back() != found[0]) {
        fail("unexpected '" + std::string(found) + "', expected '" + brackets.substr(brackets.size() - 1) + "'");
      }
      brackets.pop_back();
    }
    add(TokenKind::symbol, std::string(found));
    advance(found.size());
  }

  std::string_view source_;
  std::size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;  ///< the text to come starts a line
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) {
  if (find_invalid_utf8(source) != std::string_view::npos) throw Failure{"the template is not valid UTF-8"};
  const std::string text = normalized(source);
  return Lexer(text).run();
}

}  // namespace quern::jinja
