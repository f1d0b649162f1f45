// The parsed form of a template: a tree of statements and expressions whose depth is bounded, so that walking and freeing it
// are safe for any input.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "infer/jinja_value.hpp"

namespace quern::jinja {

/// Deepest nesting of an expression and of statements that the parser accepts.
inline constexpr int kExpressionDepth = 200;
inline constexpr int kStatementDepth = 60;

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

/// Arguments of a call, filter or test.
struct Arguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  ExpressionPtr more_positional, more_named;  ///< *args, **kwargs
};

enum class ExpressionKind : std::uint8_t {
  literal,      ///< `value`
  name,         ///< `text`
  list,         ///< `operands`
  tuple,        ///< `operands`
  dict,         ///< `operands`: key, value, key, value ...
  attribute,    ///< operands[0].text
  subscript,    ///< operands[0][operands[1]]
  slice,        ///< operands[0][operands[1] : operands[2] : operands[3]], each may be null
  call,         ///< operands[0](arguments)
  filter,       ///< operands[0] | text(arguments); operands[0] is null in a filter block
  test,         ///< operands[0] is text(arguments)
  negate,       ///< - operands[0]
  plus,         ///< + operands[0]
  logical_not,  ///< not operands[0]
  logical_and,
  logical_or,
  binary,      ///< operands[0] text operands[1], an arithmetic operator
  concat,      ///< operands[0] ~ operands[1] ~ ...
  comparison,  ///< operands[0] words[0] operands[1] words[1] operands[2] ...
  condition,   ///< operands[0] if operands[1] else operands[2], which may be null
};

struct Expression {
  ExpressionKind kind = ExpressionKind::literal;
  int line = 0;
  int depth = 1;  ///< of the tree below
  std::string text;
  Value value;  ///< of literals; a string's text is `text`
  std::vector<ExpressionPtr> operands;
  std::vector<std::string> words;
  Arguments arguments;
};

/// What a for loop, set or with assigns to.
struct Target {
  std::string name;       ///< the variable; empty for a tuple of targets
  std::string attribute;  ///< of a namespace: name.attribute
  std::vector<Target> parts;
};

enum class StatementKind : std::uint8_t {
  text,          ///< `text`
  output,        ///< {{ expression }}
  choice,        ///< if, elif, else: branches
  loop,          ///< for
  set,           ///< set targets = expression
  set_block,     ///< set target [| filter] ... endset: `expression` is the filter, or null
  with,          ///< targets, values, body
  macro,         ///< `text` is the name
  call_block,    ///< expression is the call, parameters those of caller()
  filter_block,  ///< expression is the filter
  scope,         ///< a body with a scope of its own: generation
  break_loop,
  continue_loop,
};

struct Statement;
using Block = std::vector<std::unique_ptr<Statement>>;

struct Parameter {
  std::string name;
  ExpressionPtr fallback;  ///< null: none
};

/// Which of the special names a macro's body mentions: only then it takes more arguments than it names.
struct MacroUses {
  bool more_positional = false, more_named = false, caller = false;
};

struct Statement {
  StatementKind kind = StatementKind::text;
  int line = 0;
  std::string text;
  ExpressionPtr expression;
  ExpressionPtr condition;                                ///< of a loop: for ... if condition
  std::vector<std::pair<ExpressionPtr, Block>> branches;  ///< the condition of else is null
  std::vector<Target> targets;
  std::vector<ExpressionPtr> values;  ///< of with
  std::vector<Parameter> parameters;
  MacroUses uses;
  Block body, otherwise;
};

/// Parses a template; fails (jinja::Failure) with the line of the mistake.
[[nodiscard]] Block parse_template(std::string_view source);

}  // namespace quern::jinja
