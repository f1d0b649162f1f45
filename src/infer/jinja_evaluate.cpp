// Expressions.
#include "infer/jinja_interpreter.hpp"
#include "infer/jinja_operators.hpp"

namespace quern::jinja {

Value Interpreter::variable(std::string_view name) {
  if (const Value* const found = scope_->find(name)) return *found;
  if (const Value* const found = context_->find(name)) return *found;
  if (const NativeFunction* const found = find_named(globals(), name)) {
    return Value::function(heap_.make<Function>(name, *found, Value(), nullptr, nullptr));
  }
  return heap_.make_missing(Kind::undefined, name);
}

Value Interpreter::evaluate(const Expression& expression) {
  if (depth_ >= limits_.depth) throw Failure{"the template's calls and blocks are nested too deeply", expression.line};
  ++depth_;
  heap_.work();
  line_ = expression.line;
  const Value value = evaluate_node(expression);
  --depth_;
  return value;
}

Value Interpreter::evaluate_node(const Expression& expression) {
  switch (expression.kind) {
    case ExpressionKind::literal:
      return expression.value;
    case ExpressionKind::name:
      return variable(expression.text);
    case ExpressionKind::list:
    case ExpressionKind::tuple:
      return evaluate_sequence(expression);
    case ExpressionKind::dict:
      return evaluate_dict(expression);
    case ExpressionKind::attribute:
      return attribute(evaluate(*expression.operands[0]), expression.text);
    case ExpressionKind::subscript: {
      const Value owner = evaluate(*expression.operands[0]);
      return subscript(owner, evaluate(*expression.operands[1]));
    }
    case ExpressionKind::slice:
      return evaluate_slice(expression);
    case ExpressionKind::call:
      return evaluate_call(expression);
    case ExpressionKind::filter:
    case ExpressionKind::test:
      return evaluate_filters(expression, evaluate(*expression.operands[0]));
    case ExpressionKind::negate:
      return negated(evaluate(*expression.operands[0]));
    case ExpressionKind::plus: {
      const Value operand = evaluate(*expression.operands[0]);
      return operand.is(Kind::floating) ? operand : binary(heap_, "+", Value::integer(0), operand);
    }
    case ExpressionKind::logical_not:
      return Value::boolean(!truth(evaluate(*expression.operands[0])));
    case ExpressionKind::logical_and: {
      const Value left = evaluate(*expression.operands[0]);
      return truth(left) ? evaluate(*expression.operands[1]) : left;
    }
    case ExpressionKind::logical_or: {
      const Value left = evaluate(*expression.operands[0]);
      return truth(left) ? left : evaluate(*expression.operands[1]);
    }
    case ExpressionKind::binary: {
      const Value left = evaluate(*expression.operands[0]);
      const Value right = evaluate(*expression.operands[1]);
      line_ = expression.line;
      return binary(heap_, expression.text, left, right);
    }
    case ExpressionKind::concat:
      return evaluate_concat(expression);
    case ExpressionKind::comparison:
      return evaluate_comparison(expression);
    case ExpressionKind::condition:
      return evaluate_condition(expression);
  }
  return {};
}

Value Interpreter::evaluate_sequence(const Expression& expression) {
  Sequence* const made = heap_.make_sequence(expression.operands.size());
  for (const ExpressionPtr& operand : expression.operands) made->items.push_back(evaluate(*operand));
  return Value::sequence(expression.kind == ExpressionKind::list ? Kind::list : Kind::tuple, made);
}

Value Interpreter::evaluate_dict(const Expression& expression) {
  Dict* const made = heap_.make_dict();
  for (std::size_t i = 0; i + 1 < expression.operands.size(); i += 2) {
    const Value key = evaluate(*expression.operands[i]);
    made->set(key, evaluate(*expression.operands[i + 1]));
  }
  return Value::dict(made);
}

Value Interpreter::evaluate_comparison(const Expression& expression) {
  Value left = evaluate(*expression.operands[0]);
  for (std::size_t i = 0; i < expression.words.size(); ++i) {
    const Value right = evaluate(*expression.operands[i + 1]);
    line_ = expression.line;
    const std::string_view word = expression.words[i];
    const bool holds = word == "in"       ? contains(heap_, right, left)
                       : word == "not in" ? !contains(heap_, right, left)
                                          : compares(heap_, word, left, right);
    if (!holds) return Value::boolean(false);
    left = right;
  }
  return Value::boolean(true);
}

Value Interpreter::evaluate_concat(const Expression& expression) {
  Builder out(heap_);
  for (const ExpressionPtr& operand : expression.operands) out.add(text(evaluate(*operand)));
  return out.value();
}

Value Interpreter::evaluate_slice(const Expression& expression) {
  const auto part = [&](std::size_t i) {
    return expression.operands[i] == nullptr ? Value::none() : evaluate(*expression.operands[i]);
  };
  const Value value = evaluate(*expression.operands[0]);
  const Value start = part(1), stop = part(2), step = part(3);
  return slice(heap_, value, start, stop, step);
}

Value Interpreter::evaluate_condition(const Expression& expression) {
  if (truth(evaluate(*expression.operands[1]))) return evaluate(*expression.operands[0]);
  if (expression.operands[2] != nullptr) return evaluate(*expression.operands[2]);
  return heap_.make_missing(heap_.keep("the inline if-expression on line " + std::to_string(expression.line) +
                                       " evaluated to false and no else section was defined."));
}

void Interpreter::evaluate_arguments(const Arguments& arguments, Call& out) {
  for (const ExpressionPtr& argument : arguments.positional) out.positional.push_back(evaluate(*argument));
  for (const auto& [name, argument] : arguments.named) out.named.emplace_back(name, evaluate(*argument));
  if (arguments.more_positional != nullptr) {
    const Values& more = elements(heap_, evaluate(*arguments.more_positional))->items;
    out.positional.insert(out.positional.end(), more.begin(), more.end());
  }
  if (arguments.more_named != nullptr) {
    const Value more = evaluate(*arguments.more_named);
    if (!more.is(Kind::dict))
      throw Failure{"argument after ** must be a mapping, not " + std::string(type_word(more.kind()))};
    for (const auto& [name, value] : more.as_dict()->entries()) {
      if (!name.is(Kind::string)) throw Failure{"keywords must be strings"};
      out.named.emplace_back(name.as_string(), value);
    }
  }
}

Value Interpreter::evaluate_call(const Expression& expression, const Value* caller) {
  const Value callee = evaluate(*expression.operands[0]);
  Call arguments(heap_);
  evaluate_arguments(expression.arguments, arguments);
  if (caller != nullptr) arguments.named.emplace_back("caller", *caller);
  line_ = expression.line;
  const Value result = call(callee, arguments);
  line_ = expression.line;
  return result;
}

/// A filter or test, or in blocks a chain of filters whose innermost operand is `input`.
Value Interpreter::evaluate_filters(const Expression& expression, const Value& input) {
  Value value = input;
  if (expression.operands[0] != nullptr && expression.operands[0]->kind == ExpressionKind::filter) {
    const Expression* innermost = &expression;
    while (innermost->operands[0] != nullptr && innermost->operands[0]->kind == ExpressionKind::filter) {
      innermost = innermost->operands[0].get();
    }
    if (innermost->operands[0] == nullptr) value = evaluate_filters(*expression.operands[0], input);
  }
  Call arguments(heap_);
  evaluate_arguments(expression.arguments, arguments);
  line_ = expression.line;
  if (expression.kind == ExpressionKind::test) return Value::boolean(test(expression.text, value, arguments));
  return filter(expression.text, value, arguments);
}

}  // namespace quern::jinja
