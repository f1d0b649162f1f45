// Statements: {% for %}, {% if %}, {% set %}, {% macro %} and the others.
#include <algorithm>
#include <initializer_list>

#include "infer/jinja_expression_parser.hpp"
#include "infer/jinja_syntax.hpp"

namespace quern::jinja {

namespace {

using StatementPtr = std::unique_ptr<Statement>;

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : in_(std::move(tokens)) {}

  Block run() {
    Block all = block({});
    if (in_.current().kind != TokenKind::end) in_.fail("unexpected " + in_.found());
    return all;
  }

 private:
  using Words = std::initializer_list<std::string_view>;

  [[nodiscard]] StatementPtr make(StatementKind kind) const {
    auto made = std::make_unique<Statement>();
    made->kind = kind;
    made->line = in_.current().line;
    return made;
  }

  /// Statements up to a tag that starts with one of `ends`, whose name is then the current token. Without ends: everything.
  Block block(Words ends) {
    if (++depth_ > kStatementDepth) in_.fail("statements are nested too deeply");
    Block statements;
    while (true) {
      const TokenKind kind = in_.current().kind;
      if (kind == TokenKind::text) {
        StatementPtr text = make(StatementKind::text);
        text->text = in_.next().text;
        statements.push_back(std::move(text));
      } else if (kind == TokenKind::output_begin) {
        (void)in_.next();
        StatementPtr output = make(StatementKind::output);
        output->expression = in_.tuple(true);
        in_.expect(TokenKind::output_end, "'}}'");
        statements.push_back(std::move(output));
      } else if (kind == TokenKind::tag_begin) {
        (void)in_.next();
        const auto ends_here = [&](std::string_view word) { return in_.at_name(word); };
        if (std::any_of(ends.begin(), ends.end(), ends_here)) break;
        statements.push_back(statement());
      } else {
        if (ends.size() > 0) {
          in_.fail("unexpected end of template, expected '" + std::string(*(ends.end() - 1)) + "'");
        }
        break;
      }
    }
    --depth_;
    return statements;
  }

  /// The rest of an opening tag, a body, and the name of the tag that ends it, which is skipped.
  Block body(Words ends, std::string* end = nullptr) {
    in_.skip_symbol(":");
    in_.expect(TokenKind::tag_end, "'%}'");
    Block statements = block(ends);
    std::string word = in_.next().text;
    if (end != nullptr) {
      *end = std::move(word);
    }
    return statements;
  }

  StatementPtr statement() {
    const std::string word = in_.current().kind == TokenKind::name ? in_.current().text : std::string();
    StatementPtr made;
    if (word == "for") {
      made = loop();
    } else if (word == "if") {
      made = choice();
    } else if (word == "set") {
      made = set();
    } else if (word == "macro") {
      made = macro();
    } else if (word == "with") {
      made = with();
    } else if (word == "call") {
      made = call_block();
    } else if (word == "filter") {
      made = filter_block();
    } else if (word == "generation") {
      made = make(StatementKind::scope);
      (void)in_.next();
      made->body = body({"endgeneration"});
    } else if (word == "break" || word == "continue") {
      if (loops_ == 0) in_.fail("'" + word + "' outside of a loop");
      made = make(word == "break" ? StatementKind::break_loop : StatementKind::continue_loop);
      (void)in_.next();
    } else if (word == "print") {
      made = make(StatementKind::output);
      (void)in_.next();
      made->expression = in_.expression();
    } else if (word == "include" || word == "import" || word == "from" || word == "extends" || word == "block" ||
               word == "autoescape" || word == "do") {
      in_.fail("the tag '" + word + "' is not supported in chat templates");
    } else {
      in_.fail(word.empty() ? "a tag name expected, found " + in_.found() : "unknown tag '" + word + "'");
    }
    in_.expect(TokenKind::tag_end, "'%}'");
    return made;
  }

  StatementPtr loop() {
    StatementPtr made = make(StatementKind::loop);
    (void)in_.next();
    made->targets.push_back(in_.target(false));
    if (!in_.skip_name("in")) in_.fail("expected 'in', found " + in_.found());
    made->expression = in_.tuple(false);
    if (in_.skip_name("if")) made->condition = in_.expression();
    if (in_.at_name("recursive")) in_.fail("recursive loops are not supported in chat templates");
    std::string end;
    ++loops_;
    made->body = body({"else", "endfor"}, &end);
    --loops_;
    if (end == "else") made->otherwise = body({"endfor"});
    return made;
  }

  StatementPtr choice() {
    StatementPtr made = make(StatementKind::choice);
    (void)in_.next();
    std::string end = "elif";
    while (end == "elif") {
      ExpressionPtr condition = in_.tuple(false);
      made->branches.emplace_back(std::move(condition), body({"elif", "else", "endif"}, &end));
    }
    if (end == "else") made->branches.emplace_back(nullptr, body({"endif"}));
    return made;
  }

  StatementPtr set() {
    StatementPtr made = make(StatementKind::set);
    (void)in_.next();
    made->targets.push_back(in_.target(true));
    if (in_.skip_symbol("=")) {
      made->expression = in_.tuple(true);
      return made;
    }
    made->kind = StatementKind::set_block;
    made->expression = in_.filters(nullptr, false);
    made->body = body({"endset"});
    return made;
  }

  StatementPtr with() {
    StatementPtr made = make(StatementKind::with);
    (void)in_.next();
    while (in_.current().kind != TokenKind::tag_end && !in_.at_symbol(":")) {
      if (!made->targets.empty()) in_.expect_symbol(",");
      Target target;
      target.name = in_.expect_name();
      made->targets.push_back(std::move(target));
      in_.expect_symbol("=");
      made->values.push_back(in_.expression());
    }
    made->body = body({"endwith"});
    return made;
  }

  void signature(Statement& of) {
    in_.expect_symbol("(");
    while (!in_.at_symbol(")")) {
      if (!of.parameters.empty()) in_.expect_symbol(",");
      Parameter parameter;
      parameter.name = in_.expect_name();
      for (const Parameter& other : of.parameters) {
        if (other.name == parameter.name) in_.fail("duplicate argument '" + parameter.name + "' in a macro");
      }
      if (in_.skip_symbol("=")) {
        parameter.fallback = in_.expression();
      } else if (!of.parameters.empty() && of.parameters.back().fallback != nullptr) {
        in_.fail("non-default argument follows default argument");
      }
      of.parameters.push_back(std::move(parameter));
    }
    in_.expect_symbol(")");
  }

  /// A body that is a function: loops around it do not reach into it.
  Block function_body(Statement& of, Words ends) {
    const int outer_loops = std::exchange(loops_, 0);
    in_.enter_macro(&of.uses);
    Block statements = body(ends);
    in_.leave_macro();
    loops_ = outer_loops;
    return statements;
  }

  StatementPtr macro() {
    StatementPtr made = make(StatementKind::macro);
    (void)in_.next();
    made->text = in_.expect_name();
    signature(*made);
    made->body = function_body(*made, {"endmacro"});
    return made;
  }

  StatementPtr call_block() {
    StatementPtr made = make(StatementKind::call_block);
    (void)in_.next();
    if (in_.at_symbol("(")) signature(*made);
    made->expression = in_.expression();
    if (made->expression->kind != ExpressionKind::call) in_.fail("expected a call");
    made->text = "caller";
    made->body = function_body(*made, {"endcall"});
    return made;
  }

  StatementPtr filter_block() {
    StatementPtr made = make(StatementKind::filter_block);
    (void)in_.next();
    made->expression = in_.filters(nullptr, true);
    made->body = body({"endfilter"});
    return made;
  }

  ExpressionParser in_;
  int depth_ = 0;
  int loops_ = 0;
};

}  // namespace

Block parse_template(std::string_view source) { return Parser(tokenize(source)).run(); }

}  // namespace quern::jinja
