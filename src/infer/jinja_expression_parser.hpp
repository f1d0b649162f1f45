// Expressions of templates: the grammar and precedence of Jinja 3.1 (jinja2/parser.py), by recursive descent.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "infer/jinja_lexer.hpp"
#include "infer/jinja_syntax.hpp"

namespace quern::jinja {

class ExpressionParser {
 public:
  explicit ExpressionParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  // The stream of tokens, which the parser of statements shares.
  [[nodiscard]] const Token& current() const { return tokens_[at_]; }
  [[nodiscard]] const Token& next() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  [[nodiscard]] bool at_symbol(std::string_view symbol) const { return at(TokenKind::symbol, symbol); }
  [[nodiscard]] bool at_name(std::string_view name) const { return at(TokenKind::name, name); }
  bool skip_symbol(std::string_view symbol);
  bool skip_name(std::string_view name);
  void expect_symbol(std::string_view symbol);
  void expect(TokenKind kind, std::string_view what);
  [[nodiscard]] std::string expect_name();
  [[noreturn]] void fail(std::string message) const;
  [[nodiscard]] std::string found() const;  ///< the current token in words

  [[nodiscard]] ExpressionPtr expression();
  [[nodiscard]] ExpressionPtr expression_without_condition();
  /// One expression, or several with commas between them as a tuple.
  [[nodiscard]] ExpressionPtr tuple(bool with_condition, bool in_parentheses = false);
  /// `| name(arguments)`, any number; `first_inline`: the first without its bar. Null where there is none.
  [[nodiscard]] ExpressionPtr filters(ExpressionPtr operand, bool first_inline);
  /// Names or name.attribute, with commas and parentheses.
  [[nodiscard]] Target target(bool with_attributes);

  /// Marks the special names of the macro whose body is being parsed.
  void enter_macro(MacroUses* uses) { macros_.push_back(uses); }
  void leave_macro() { macros_.pop_back(); }

 private:
  class Deeper;
  [[nodiscard]] bool at(TokenKind kind, std::string_view text) const {
    return current().kind == kind && current().text == text;
  }
  [[nodiscard]] ExpressionPtr make(ExpressionKind kind, int line) const;
  /// Adopts operands; fails where the tree becomes too deep.
  template <class... Operands>
  [[nodiscard]] ExpressionPtr make(ExpressionKind kind, int line, Operands... operands) const;
  void finish(Expression& expression) const;

  [[nodiscard]] ExpressionPtr logical_or();
  [[nodiscard]] ExpressionPtr logical_and();
  [[nodiscard]] ExpressionPtr logical_not();
  [[nodiscard]] ExpressionPtr comparison();
  [[nodiscard]] ExpressionPtr sum();
  [[nodiscard]] ExpressionPtr concat();
  [[nodiscard]] ExpressionPtr product();
  [[nodiscard]] ExpressionPtr power();
  [[nodiscard]] ExpressionPtr unary(bool with_filters = true);
  [[nodiscard]] ExpressionPtr primary();
  [[nodiscard]] ExpressionPtr name_or_constant();
  [[nodiscard]] ExpressionPtr list();
  [[nodiscard]] ExpressionPtr dict();
  [[nodiscard]] ExpressionPtr postfix(ExpressionPtr operand);
  [[nodiscard]] ExpressionPtr attribute(ExpressionPtr operand);
  [[nodiscard]] ExpressionPtr subscript(ExpressionPtr operand);
  [[nodiscard]] ExpressionPtr call(ExpressionPtr callee);
  [[nodiscard]] ExpressionPtr test(ExpressionPtr operand);
  [[nodiscard]] std::string dotted_name();
  void arguments(Arguments& out);
  [[nodiscard]] Target target_part(bool with_attributes);

  std::vector<Token> tokens_;
  std::size_t at_ = 0;
  int depth_ = 0;
  std::vector<MacroUses*> macros_;
};

}  // namespace quern::jinja
