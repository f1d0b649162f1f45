#include "infer/jinja_expression_parser.hpp"

#include <algorithm>
#include <array>

namespace quern::jinja {

/// Counts the recursion of the parser itself.
class ExpressionParser::Deeper {
 public:
  explicit Deeper(ExpressionParser& parser) : parser_(parser) {
    if (++parser_.depth_ > kExpressionDepth) parser_.fail("an expression is nested too deeply");
  }
  ~Deeper() { --parser_.depth_; }
  Deeper(const Deeper&) = delete;
  Deeper& operator=(const Deeper&) = delete;

 private:
  ExpressionParser& parser_;
};

void ExpressionParser::fail(std::string message) const { throw Failure{std::move(message), current().line}; }

std::string ExpressionParser::found() const {
  switch (current().kind) {
    case TokenKind::end:
      return "the end of the template";
    case TokenKind::text:
      return "text";
    case TokenKind::output_begin:
      return "'{{'";
    case TokenKind::output_end:
      return "'}}'";
    case TokenKind::tag_begin:
      return "'{%'";
    case TokenKind::tag_end:
      return "'%}'";
    case TokenKind::integer:
    case TokenKind::floating:
      return "a number";
    case TokenKind::string:
      return "a string";
    default:
      return "'" + current().text + "'";
  }
}

bool ExpressionParser::skip_symbol(std::string_view symbol) {
  if (!at_symbol(symbol)) return false;
  (void)next();
  return true;
}

bool ExpressionParser::skip_name(std::string_view name) {
  if (!at_name(name)) return false;
  (void)next();
  return true;
}

void ExpressionParser::expect_symbol(std::string_view symbol) {
  if (!skip_symbol(symbol)) fail("expected '" + std::string(symbol) + "', found " + found());
}

void ExpressionParser::expect(TokenKind kind, std::string_view what) {
  if (current().kind != kind) fail("expected " + std::string(what) + ", found " + found());
  (void)next();
}

std::string ExpressionParser::expect_name() {
  if (current().kind != TokenKind::name) fail("expected a name, found " + found());
  return next().text;
}

ExpressionPtr ExpressionParser::make(ExpressionKind kind, int line) const {
  auto made = std::make_unique<Expression>();
  made->kind = kind;
  made->line = line;
  return made;
}

template <class... Operands>
ExpressionPtr ExpressionParser::make(ExpressionKind kind, int line, Operands... operands) const {
  ExpressionPtr made = make(kind, line);
  (made->operands.push_back(std::move(operands)), ...);
  finish(*made);
  return made;
}

void ExpressionParser::finish(Expression& expression) const {
  const auto below = [&](const ExpressionPtr& part) {
    if (part != nullptr) expression.depth = std::max(expression.depth, part->depth + 1);
  };
  for (const ExpressionPtr& operand : expression.operands) below(operand);
  for (const ExpressionPtr& argument : expression.arguments.positional) below(argument);
  for (const auto& argument : expression.arguments.named) below(argument.second);
  below(expression.arguments.more_positional);
  below(expression.arguments.more_named);
  if (expression.depth > kExpressionDepth) fail("an expression is nested too deeply");
}

ExpressionPtr ExpressionParser::expression() {
  const Deeper deeper(*this);
  const int line = current().line;
  ExpressionPtr value = logical_or();
  while (skip_name("if")) {
    ExpressionPtr condition = logical_or();
    ExpressionPtr otherwise = skip_name("else") ? expression() : nullptr;
    value = make(ExpressionKind::condition, line, std::move(value), std::move(condition), std::move(otherwise));
  }
  return value;
}

ExpressionPtr ExpressionParser::expression_without_condition() {
  const Deeper deeper(*this);
  return logical_or();
}

ExpressionPtr ExpressionParser::tuple(bool with_condition, bool in_parentheses) {
  const Deeper deeper(*this);
  const int line = current().line;
  ExpressionPtr items = make(ExpressionKind::tuple, line);
  bool has_comma = false;
  while (true) {
    const bool ends = current().kind == TokenKind::tag_end || current().kind == TokenKind::output_end || at_symbol(")") ||
                      (!with_condition && at_name("recursive"));
    if (ends) break;
    items->operands.push_back(with_condition ? expression() : expression_without_condition());
    if (!skip_symbol(",")) break;
    has_comma = true;
  }
  if (!has_comma && items->operands.size() == 1) return std::move(items->operands[0]);
  if (!has_comma && !in_parentheses) fail("expected an expression, found " + found());
  finish(*items);
  return items;
}

ExpressionPtr ExpressionParser::logical_or() {
  ExpressionPtr left = logical_and();
  while (at_name("or")) {
    const int line = next().line;
    ExpressionPtr right = logical_and();
    left = make(ExpressionKind::logical_or, line, std::move(left), std::move(right));
  }
  return left;
}

ExpressionPtr ExpressionParser::logical_and() {
  ExpressionPtr left = logical_not();
  while (at_name("and")) {
    const int line = next().line;
    ExpressionPtr right = logical_not();
    left = make(ExpressionKind::logical_and, line, std::move(left), std::move(right));
  }
  return left;
}

ExpressionPtr ExpressionParser::logical_not() {
  if (!at_name("not")) return comparison();
  const Deeper deeper(*this);
  const int line = next().line;
  return make(ExpressionKind::logical_not, line, logical_not());
}

ExpressionPtr ExpressionParser::comparison() {
  static constexpr std::array<std::string_view, 6> kWords = {"==", "!=", "<", "<=", ">", ">="};
  ExpressionPtr chain = make(ExpressionKind::comparison, current().line);
  chain->operands.push_back(sum());
  while (true) {
    std::string word;
    if (current().kind == TokenKind::symbol && std::find(kWords.begin(), kWords.end(), current().text) != kWords.end()) {
      word = next().text;
    } else if (at_name("in")) {
      word = next().text;
    } else if (at_name("not") && tokens_[at_ + 1].kind == TokenKind::name && tokens_[at_ + 1].text == "in") {
      (void)next();
      (void)next();
      word = "not in";
    } else {
      break;
    }
    chain->words.push_back(std::move(word));
    chain->operands.push_back(sum());
  }
  if (chain->words.empty()) return std::move(chain->operands[0]);
  finish(*chain);
  return chain;
}

ExpressionPtr ExpressionParser::sum() {
  ExpressionPtr left = concat();
  while (at_symbol("+") || at_symbol("-")) {
    const Token& word = next();
    ExpressionPtr right = concat();
    left = make(ExpressionKind::binary, word.line, std::move(left), std::move(right));
    left->text = word.text;
  }
  return left;
}

ExpressionPtr ExpressionParser::concat() {
  ExpressionPtr first = product();
  if (!at_symbol("~")) return first;
  ExpressionPtr chain = make(ExpressionKind::concat, current().line);
  chain->operands.push_back(std::move(first));
  while (skip_symbol("~")) chain->operands.push_back(product());
  finish(*chain);
  return chain;
}

ExpressionPtr ExpressionParser::product() {
  ExpressionPtr left = power();
  while (at_symbol("*") || at_symbol("/") || at_symbol("//") || at_symbol("%")) {
    const Token& word = next();
    ExpressionPtr right = power();
    left = make(ExpressionKind::binary, word.line, std::move(left), std::move(right));
    left->text = word.text;
  }
  return left;
}

ExpressionPtr ExpressionParser::power() {
  ExpressionPtr left = unary();
  while (at_symbol("**")) {
    const int line = next().line;
    ExpressionPtr right = unary();
    left = make(ExpressionKind::binary, line, std::move(left), std::move(right));
    left->text = "**";
  }
  return left;
}

ExpressionPtr ExpressionParser::unary(bool with_filters) {
  const Deeper deeper(*this);
  ExpressionPtr operand;
  if (at_symbol("-") || at_symbol("+")) {
    const Token& sign = next();
    operand = make(sign.text == "-" ? ExpressionKind::negate : ExpressionKind::plus, sign.line, unary(false));
  } else {
    operand = primary();
  }
  operand = postfix(std::move(operand));
  if (!with_filters) return operand;
  while (true) {
    if (at_symbol("|")) {
      operand = filters(std::move(operand), false);
    } else if (at_name("is")) {
      operand = test(std::move(operand));
    } else if (at_symbol("(")) {
      operand = call(std::move(operand));
    } else {
      return operand;
    }
  }
}

ExpressionPtr ExpressionParser::primary() {
  const int line = current().line;
  switch (current().kind) {
    case TokenKind::name:
      return name_or_constant();
    case TokenKind::string: {
      ExpressionPtr literal = make(ExpressionKind::literal, line);
      while (current().kind == TokenKind::string) literal->text += next().text;
      literal->value = Value::string(literal->text);
      return literal;
    }
    case TokenKind::integer:
    case TokenKind::floating: {
      ExpressionPtr literal = make(ExpressionKind::literal, line);
      const Token& number = next();
      literal->value = number.kind == TokenKind::integer ? Value::integer(number.integer) : Value::floating(number.floating);
      return literal;
    }
    default:
      break;
  }
  if (skip_symbol("(")) {
    ExpressionPtr inner = tuple(true, true);
    expect_symbol(")");
    return inner;
  }
  if (at_symbol("[")) return list();
  if (at_symbol("{")) return dict();
  fail("unexpected " + found());
}

ExpressionPtr ExpressionParser::name_or_constant() {
  const Token& token = next();
  const std::string& word = token.text;
  ExpressionPtr made = make(ExpressionKind::literal, token.line);
  if (word == "true" || word == "True") {
    made->value = Value::boolean(true);
  } else if (word == "false" || word == "False") {
    made->value = Value::boolean(false);
  } else if (word == "none" || word == "None") {
    made->value = Value::none();
  } else {
    made->kind = ExpressionKind::name;
    made->text = word;
    for (MacroUses* const uses : macros_) {
      uses->more_positional |= word == "varargs";
      uses->more_named |= word == "kwargs";
      uses->caller |= word == "caller";
    }
  }
  return made;
}

ExpressionPtr ExpressionParser::list() {
  ExpressionPtr made = make(ExpressionKind::list, current().line);
  expect_symbol("[");
  while (!at_symbol("]")) {
    if (!made->operands.empty()) expect_symbol(",");
    if (at_symbol("]")) break;
    made->operands.push_back(expression());
  }
  expect_symbol("]");
  finish(*made);
  return made;
}

ExpressionPtr ExpressionParser::dict() {
  ExpressionPtr made = make(ExpressionKind::dict, current().line);
  expect_symbol("{");
  while (!at_symbol("}")) {
    if (!made->operands.empty()) expect_symbol(",");
    if (at_symbol("}")) break;
    made->operands.push_back(expression());
    expect_symbol(":");
    made->operands.push_back(expression());
  }
  expect_symbol("}");
  finish(*made);
  return made;
}

ExpressionPtr ExpressionParser::postfix(ExpressionPtr operand) {
  while (true) {
    if (at_symbol(".")) {
      operand = attribute(std::move(operand));
    } else if (at_symbol("[")) {
      operand = subscript(std::move(operand));
    } else if (at_symbol("(")) {
      operand = call(std::move(operand));
    } else {
      return operand;
    }
  }
}

ExpressionPtr ExpressionParser::attribute(ExpressionPtr operand) {
  const int line = current().line;
  expect_symbol(".");
  if (current().kind == TokenKind::integer) {
    ExpressionPtr index = make(ExpressionKind::literal, line);
    index->value = Value::integer(next().integer);
    return make(ExpressionKind::subscript, line, std::move(operand), std::move(index));
  }
  std::string name = expect_name();
  ExpressionPtr made = make(ExpressionKind::attribute, line, std::move(operand));
  made->text = std::move(name);
  return made;
}

ExpressionPtr ExpressionParser::subscript(ExpressionPtr operand) {
  const int line = current().line;
  expect_symbol("[");
  const auto bound = [&]() -> ExpressionPtr { return at_symbol(":") || at_symbol("]") ? nullptr : expression(); };
  ExpressionPtr first = bound();
  ExpressionPtr made;
  if (skip_symbol(":")) {
    ExpressionPtr stop = bound();
    ExpressionPtr step = skip_symbol(":") ? bound() : nullptr;
    made = make(ExpressionKind::slice, line, std::move(operand), std::move(first), std::move(stop), std::move(step));
  } else {
    if (first == nullptr) fail("expected a subscript, found " + found());
    if (at_symbol(",")) {
      ExpressionPtr keys = make(ExpressionKind::tuple, line, std::move(first));
      while (skip_symbol(",")) keys->operands.push_back(expression());
      finish(*keys);
      first = std::move(keys);
    }
    made = make(ExpressionKind::subscript, line, std::move(operand), std::move(first));
  }
  expect_symbol("]");
  return made;
}

void ExpressionParser::arguments(Arguments& out) {
  expect_symbol("(");
  bool is_first = true;
  while (!at_symbol(")")) {
    if (!is_first) {
      expect_symbol(",");
      if (at_symbol(")")) break;
    }
    is_first = false;
    const bool is_named =
        current().kind == TokenKind::name && tokens_[at_ + 1].kind == TokenKind::symbol && tokens_[at_ + 1].text == "=";
    if (at_symbol("*") && out.more_positional == nullptr && out.more_named == nullptr) {
      (void)next();
      out.more_positional = expression();
    } else if (at_symbol("**") && out.more_named == nullptr) {
      (void)next();
      out.more_named = expression();
    } else if (is_named && out.more_named == nullptr) {
      std::string name = next().text;
      (void)next();
      out.named.emplace_back(std::move(name), expression());
    } else if (!is_named && out.named.empty() && out.more_positional == nullptr && out.more_named == nullptr) {
      out.positional.push_back(expression());
    } else {
      fail("invalid syntax for function call expression");
    }
  }
  expect_symbol(")");
}

ExpressionPtr ExpressionParser::call(ExpressionPtr callee) {
  ExpressionPtr made = make(ExpressionKind::call, current().line);
  made->operands.push_back(std::move(callee));
  arguments(made->arguments);
  finish(*made);
  return made;
}

std::string ExpressionParser::dotted_name() {
  std::string name = expect_name();
  while (skip_symbol(".")) name += "." + expect_name();
  return name;
}

ExpressionPtr ExpressionParser::filters(ExpressionPtr operand, bool first_inline) {
  while (first_inline || skip_symbol("|")) {
    first_inline = false;
    ExpressionPtr made = make(ExpressionKind::filter, current().line);
    made->text = dotted_name();
    made->operands.push_back(std::move(operand));
    if (at_symbol("(")) arguments(made->arguments);
    finish(*made);
    operand = std::move(made);
  }
  return operand;
}

ExpressionPtr ExpressionParser::test(ExpressionPtr operand) {
  const int line = next().line;  // is
  const bool is_negated = skip_name("not");
  ExpressionPtr made = make(ExpressionKind::test, line);
  made->text = dotted_name();
  made->operands.push_back(std::move(operand));
  const TokenKind kind = current().kind;
  const bool starts_argument = kind == TokenKind::name || kind == TokenKind::string || kind == TokenKind::integer ||
                               kind == TokenKind::floating || at_symbol("[") || at_symbol("{");
  if (at_symbol("(")) {
    arguments(made->arguments);
  } else if (starts_argument && !at_name("else") && !at_name("or") && !at_name("and")) {
    if (at_name("is")) fail("tests with 'is' cannot be chained");
    const Deeper deeper(*this);
    made->arguments.positional.push_back(postfix(primary()));
  }
  finish(*made);
  return is_negated ? make(ExpressionKind::logical_not, line, std::move(made)) : std::move(made);
}

Target ExpressionParser::target_part(bool with_attributes) {
  const Deeper deeper(*this);
  Target made;
  if (skip_symbol("(")) {
    made = target(with_attributes);
    expect_symbol(")");
    return made;
  }
  made.name = expect_name();
  for (const char* const word : {"true", "True", "false", "False", "none", "None"}) {
    if (made.name == word) fail("cannot assign to '" + made.name + "'");
  }
  if (with_attributes && skip_symbol(".")) made.attribute = expect_name();
  return made;
}

Target ExpressionParser::target(bool with_attributes) {
  Target first = target_part(with_attributes);
  if (!at_symbol(",")) return first;
  Target all;
  all.parts.push_back(std::move(first));
  while (skip_symbol(",")) {
    if (current().kind != TokenKind::name && !at_symbol("(")) break;
    if (at_name("in")) break;
    all.parts.push_back(target_part(with_attributes));
  }
  return all;
}

}  // namespace quern::jinja
