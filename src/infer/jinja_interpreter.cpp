#include "infer/jinja_interpreter.hpp"

#include <algorithm>

#include "infer/jinja_print.hpp"

namespace quern::jinja {

/// One more level of evaluation on the machine's stack.
class Interpreter::Deeper {
 public:
  explicit Deeper(Interpreter& run) : run_(run) {
    if (run_.depth_ >= run_.limits_.depth) throw Failure{"the template's calls and blocks are nested too deeply"};
    ++run_.depth_;
  }
  ~Deeper() { --run_.depth_; }
  Deeper(const Deeper&) = delete;
  Deeper& operator=(const Deeper&) = delete;

 private:
  Interpreter& run_;
};

/// Output goes to `text` while this lives.
class Interpreter::Capture {
 public:
  Capture(Interpreter& run, std::string& text) : run_(run), outer_(std::exchange(run.out_, &text)), written_(run.written_) {}
  ~Capture() {
    run_.out_ = outer_;
    run_.written_ = written_;
  }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

 private:
  Interpreter& run_;
  std::string* outer_;
  std::size_t written_;
};

/// Variables are those of `scope` while this lives.
class Interpreter::Inside {
 public:
  Inside(Interpreter& run, Scope* scope) : run_(run), outer_(std::exchange(run.scope_, scope)) {}
  ~Inside() { run_.scope_ = outer_; }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;

 private:
  Interpreter& run_;
  Scope* outer_;
};

const Value* Scope::find(std::string_view name) const {
  for (const Scope* at = this; at != nullptr; at = at->parent) {
    heap->work(at->variables.size() / 8);
    for (const auto& [known, value] : at->variables) {
      if (known == name) return &value;
    }
  }
  return nullptr;
}

void Scope::set(std::string_view name, const Value& value) {
  heap->work(variables.size() / 8);
  for (auto& [known, old] : variables) {
    if (known == name) {
      old = value;
      return;
    }
  }
  variables.emplace_back(name, value);
}

std::string function_text(const Function& function) {
  const std::string name(function.name);
  return function.native == nullptr ? "<Macro '" + name + "'>" : "<function " + name + ">";
}

std::string loop_text(const LoopState& loop) { return "<LoopContext " + std::to_string(loop.index0 + 1) + ">"; }

Interpreter::Interpreter(Heap& heap, const Limits& limits, const Value& context, std::chrono::local_seconds now)
    : heap_(heap), limits_(limits), now_(now), context_(context.as_dict()), root_(heap, nullptr), scope_(&root_) {}

std::string Interpreter::render(const Block& body) {
  std::string out;
  out_ = &out;
  try {
    (void)run(body);
  } catch (Failure& failure) {
    if (failure.line == 0) failure.line = line_;
    throw;
  }
  return out;
}

std::string_view Interpreter::text(const Value& value) { return to_text(heap_, value); }

void Interpreter::write(std::string_view text) {
  heap_.work_bytes(text.size());
  if (text.size() > limits_.output_bytes - written_) throw Failure{"the template writes more than a rendering may"};
  written_ += text.size();
  *out_ += text;
}

Interpreter::Flow Interpreter::run(const Block& body) {
  const Deeper deeper(*this);
  for (const auto& statement : body) {
    const Flow flow = run(*statement);
    if (flow != Flow::normal) return flow;
  }
  return Flow::normal;
}

Interpreter::Flow Interpreter::run(const Statement& statement) {
  heap_.work();
  line_ = statement.line;
  switch (statement.kind) {
    case StatementKind::text:
      write(statement.text);
      break;
    case StatementKind::output:
      write(text(evaluate(*statement.expression)));
      break;
    case StatementKind::choice:
      return run_choice(statement);
    case StatementKind::loop:
      return run_loop(statement);
    case StatementKind::set:
      assign(statement.targets[0], evaluate(*statement.expression));
      break;
    case StatementKind::set_block:
      run_set_block(statement);
      break;
    case StatementKind::with:
      return run_with(statement);
    case StatementKind::macro:
      scope_->set(statement.text, define_macro(statement, statement.text));
      break;
    case StatementKind::call_block:
      run_call_block(statement);
      break;
    case StatementKind::filter_block:
      run_filter_block(statement);
      break;
    case StatementKind::scope: {
      const Inside inside(*this, heap_.make<Scope>(heap_, scope_));
      return run(statement.body);
    }
    case StatementKind::break_loop:
      return Flow::stopped;
    case StatementKind::continue_loop:
      return Flow::next;
  }
  return Flow::normal;
}

Interpreter::Flow Interpreter::run_choice(const Statement& statement) {
  for (const auto& [condition, body] : statement.branches) {
    if (condition == nullptr || truth(evaluate(*condition))) return run(body);
  }
  return Flow::normal;
}

bool Interpreter::fetch(LoopState& loop, Value& out) {
  while (loop.next < loop.source->items.size()) {
    heap_.work();
    out = loop.source->items[loop.next++];
    if (loop.statement == nullptr) return true;
    const Inside inside(*this, heap_.make<Scope>(heap_, loop.scope));
    assign(loop.statement->targets[0], out);
    if (truth(evaluate(*loop.statement->condition))) return true;
  }
  return false;
}

/// One turn of a loop; false at its end. Turns share one scope, emptied between them, unless a macro keeps it.
bool Interpreter::run_iteration(const Statement& statement, LoopState& loop, Scope*& scope, Flow& flow) {
  Value element;
  if (loop.has_ahead) {
    element = loop.ahead;
    loop.has_ahead = false;
  } else if (!fetch(loop, element)) {
    return false;
  }
  loop.has_previous = loop.index0 >= 0;
  loop.previous = loop.current;
  loop.current = element;
  ++loop.index0;
  if (scope == nullptr || scope->is_captured) {
    scope = heap_.make<Scope>(heap_, loop.scope);
    scope->variables.reserve(4);
  } else {
    scope->variables.clear();
  }
  const Inside inside(*this, scope);
  scope_->set("loop", Value::loop(&loop));
  assign(statement.targets[0], element);
  flow = run(statement.body);
  return true;
}

Interpreter::Flow Interpreter::run_loop(const Statement& statement) {
  const Value source = evaluate(*statement.expression);
  auto* const loop = heap_.make<LoopState>();
  loop->source = elements(heap_, source);
  loop->statement = statement.condition == nullptr ? nullptr : &statement;
  loop->scope = scope_;
  bool completed_one = false;
  Scope* scope = nullptr;
  Flow flow = Flow::normal;
  while (run_iteration(statement, *loop, scope, flow)) {
    completed_one |= flow == Flow::normal;
    if (flow == Flow::stopped) break;
  }
  // As in Jinja, `else` also runs where break or continue left every turn early.
  if (!completed_one && !statement.otherwise.empty()) {
    const Inside inside(*this, heap_.make<Scope>(heap_, scope_));
    return run(statement.otherwise);
  }
  return Flow::normal;
}

Interpreter::Flow Interpreter::run_with(const Statement& statement) {
  auto* const scope = heap_.make<Scope>(heap_, scope_);
  for (std::size_t i = 0; i < statement.targets.size(); ++i) {
    const Value value = evaluate(*statement.values[i]);  // in the scope around
    scope->set(statement.targets[i].name, value);
  }
  const Inside inside(*this, scope);
  return run(statement.body);
}

Value Interpreter::define_macro(const Statement& statement, std::string_view name) {
  for (Scope* at = scope_; at != nullptr && !at->is_captured; at = at->parent) at->is_captured = true;
  return Value::function(heap_.make<Function>(name, nullptr, Value(), &statement, scope_));
}

Value Interpreter::capture(const Block& body, Scope* scope) {
  std::string text;
  {
    const Capture capturing(*this, text);
    const Inside inside(*this, scope);
    (void)run(body);
  }
  return heap_.make_string(text);
}

void Interpreter::run_set_block(const Statement& statement) {
  Value value = capture(statement.body, heap_.make<Scope>(heap_, scope_));
  if (statement.expression != nullptr) value = evaluate_filters(*statement.expression, value);
  assign(statement.targets[0], value);
}

void Interpreter::run_filter_block(const Statement& statement) {
  const Value body = capture(statement.body, heap_.make<Scope>(heap_, scope_));
  write(text(evaluate_filters(*statement.expression, body)));
}

void Interpreter::run_call_block(const Statement& statement) {
  const Value caller = define_macro(statement, "caller");
  write(text(evaluate_call(*statement.expression, &caller)));
}

void Interpreter::assign(const Target& target, const Value& value) {
  if (target.parts.empty()) {
    if (target.attribute.empty()) {
      scope_->set(target.name, value);
      return;
    }
    const Value space = variable(target.name);
    if (!space.is(Kind::space)) throw Failure{"cannot assign attribute on non-namespace object"};
    space.as_dict()->set(Value::string(target.attribute), value);
    return;
  }
  const Sequence* const parts = elements(heap_, value);
  const std::size_t expected = target.parts.size(), found = parts->items.size();
  if (found < expected) {
    throw Failure{"not enough values to unpack (expected " + std::to_string(expected) + ", got " + std::to_string(found) +
                  ")"};
  }
  if (found > expected) throw Failure{"too many values to unpack (expected " + std::to_string(expected) + ")"};
  for (std::size_t i = 0; i < expected; ++i) assign(target.parts[i], parts->items[i]);
}

void Interpreter::bind_parameters(const Function& function, const Call& call, Scope& scope) {
  const Statement& macro = *function.macro;
  const std::string name = "macro '" + std::string(function.name) + "'";
  for (std::size_t i = 0; i < call.positional.size() && i < macro.parameters.size(); ++i) {
    scope.set(macro.parameters[i].name, call.positional[i]);
  }
  Dict* const more_named = heap_.make_dict();
  for (const auto& [key, value] : call.named) {
    const auto is_named = [&word = key](const Parameter& parameter) { return parameter.name == word; };
    const bool is_parameter = std::any_of(macro.parameters.begin(), macro.parameters.end(), is_named);
    bool is_taken = false;
    for (const auto& variable : scope.variables) is_taken |= variable.first == key;
    if (is_parameter && !is_taken) {
      scope.set(key, value);
    } else if (!is_parameter && key == "caller" && macro.uses.caller) {
      scope.set(key, value);
    } else if (macro.uses.more_named) {
      more_named->set(Value::string(key), value);
    } else {
      throw Failure{name + " takes no keyword argument '" + std::string(key) + "'"};
    }
  }
  Sequence* const more = heap_.make_sequence();
  if (call.positional.size() > macro.parameters.size()) {
    if (!macro.uses.more_positional) {
      throw Failure{name + " takes not more than " + std::to_string(macro.parameters.size()) + " argument(s)"};
    }
    more->items.assign(call.positional.begin() + static_cast<std::ptrdiff_t>(macro.parameters.size()),
                       call.positional.end());
  }
  if (macro.uses.more_positional) scope.set("varargs", Value::sequence(Kind::tuple, more));
  if (macro.uses.more_named) scope.set("kwargs", Value::dict(more_named));
}

Value Interpreter::call_macro(const Function& function, const Call& call) {
  const Deeper deeper(*this);
  auto* const scope = heap_.make<Scope>(heap_, function.scope);
  bind_parameters(function, call, *scope);
  const Inside inside(*this, scope);
  const auto is_bound = [&](std::string_view name) {
    return std::any_of(scope->variables.begin(), scope->variables.end(), [&](const auto& v) { return v.first == name; });
  };
  for (const Parameter& parameter : function.macro->parameters) {
    if (is_bound(parameter.name)) continue;
    scope->set(parameter.name, parameter.fallback != nullptr
                                   ? evaluate(*parameter.fallback)
                                   : heap_.make_missing(heap_.keep("parameter '" + parameter.name + "' was not provided")));
  }
  if (function.macro->uses.caller && function.macro->kind == StatementKind::macro && !is_bound("caller")) {
    scope->set("caller", heap_.make_missing("No caller defined"));
  }
  return capture(function.macro->body, scope);
}

Value Interpreter::call(const Value& callee, const Call& call) {
  const Deeper deeper(*this);
  heap_.work();
  if (callee.is(Kind::undefined)) throw Failure{missing_sentence(callee)};
  if (callee.is(Kind::joiner)) {  // nothing the first time, then the separator
    Sequence* const state = callee.as_sequence();
    return state->next++ == 0 ? Value::string("") : state->items[0];
  }
  if (!callee.is(Kind::function)) {
    throw Failure{"'" + std::string(type_word(callee.kind())) + "' object is not callable"};
  }
  const Function& function = *callee.as_function();
  return function.native != nullptr ? function.native(*this, function, call) : call_macro(function, call);
}

}  // namespace quern::jinja
