// Walks a parsed template: scopes, loops, macros, calls, and what filters, tests and methods need of them.
#pragma once

#include <array>
#include <chrono>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "infer/jinja_syntax.hpp"
#include "infer/jinja_value.hpp"

namespace quern::jinja {

class Interpreter;

/// The evaluated arguments of a call, filter or test.
struct Call {
  explicit Call(Heap& heap) : positional(heap.memory()), named(heap.memory()) {}
  Values positional;
  std::pmr::vector<std::pair<std::string_view, Value>> named;
};

/// The arguments of a native function by the names of its parameters, of which the first `required` must be given.
class Bound {
 public:
  Bound(const Call& call, std::string_view function, std::initializer_list<std::string_view> names,
        std::size_t required = 0);
  /// Null where the argument was not given.
  [[nodiscard]] const Value* operator[](std::size_t index) const { return slots_[index]; }
  [[nodiscard]] const Value& at(std::size_t index) const { return *slots_[index]; }
  [[nodiscard]] bool flag(std::size_t index, bool fallback = false) const;
  [[nodiscard]] std::int64_t integer(std::size_t index, std::int64_t fallback = 0) const;
  [[nodiscard]] std::string_view string(std::size_t index, std::string_view fallback = {}) const;

 private:
  std::string_view function_;
  std::array<const Value*, 6> slots_{};
};

/// Variables of one block; what it does not know, the blocks around it may.
struct Scope {
  Scope(Heap& of, Scope* around) : heap(&of), parent(around), variables(of.memory()) {}
  Heap* heap;  ///< counts the work of lookups
  Scope* parent;
  std::pmr::vector<std::pair<std::string_view, Value>> variables;
  bool is_captured = false;  ///< a macro was defined in it or below: it lives on
  [[nodiscard]] const Value* find(std::string_view name) const;
  void set(std::string_view name, const Value& value);
};

using NativeFunction = Value (*)(Interpreter& run, const Function& self, const Call& call);

/// Something to call.
struct Function {
  std::string_view name;
  NativeFunction native = nullptr;  ///< null: a macro
  Value self;                       ///< the object that a method belongs to
  const Statement* macro = nullptr;
  Scope* scope = nullptr;  ///< where the macro was defined
};
[[nodiscard]] std::string function_text(const Function& function);

/// The variable `loop`: elements are fetched as the loop goes, one ahead where the template looks ahead.
struct LoopState {
  Sequence* source = nullptr;
  std::size_t next = 0;
  const Statement* statement = nullptr;  ///< of a filtered loop; its condition is asked per element
  Scope* scope = nullptr;                ///< around the loop
  std::int64_t index0 = -1;
  int depth = 1;
  bool has_ahead = false, has_previous = false, has_changed = false;
  std::int64_t length = -1;
  Value ahead, current, previous, changed;
};
[[nodiscard]] std::string loop_text(const LoopState& loop);

class Interpreter {
 public:
  /// `context` is a dict of the template's variables; `now` is what strftime_now() formats.
  Interpreter(Heap& heap, const Limits& limits, const Value& context, std::chrono::local_seconds now);

  [[nodiscard]] std::string render(const Block& body);

  // What native functions use.
  [[nodiscard]] Heap& heap() { return heap_; }
  [[nodiscard]] std::chrono::local_seconds now() const { return now_; }
  [[nodiscard]] std::string_view text(const Value& value);
  [[nodiscard]] Value call(const Value& callee, const Call& call);
  [[nodiscard]] Value filter(std::string_view name, const Value& input, const Call& call);
  [[nodiscard]] bool test(std::string_view name, const Value& input, const Call& call);
  [[nodiscard]] Value attribute(const Value& owner, std::string_view name);
  [[nodiscard]] Value subscript(const Value& owner, const Value& key);
  [[nodiscard]] Value method(std::string_view name, NativeFunction native, const Value& self);
  bool fetch(LoopState& loop, Value& out);  ///< the loop's next element; false at its end

 private:
  enum class Flow { normal, stopped, next };
  class Deeper;
  class Capture;
  class Inside;

  // Statements (jinja_interpreter.cpp).
  Flow run(const Block& body);
  Flow run(const Statement& statement);
  Flow run_loop(const Statement& statement);
  bool run_iteration(const Statement& statement, LoopState& loop, Scope*& scope, Flow& flow);
  Flow run_choice(const Statement& statement);
  Flow run_with(const Statement& statement);
  void run_set_block(const Statement& statement);
  void run_call_block(const Statement& statement);
  void run_filter_block(const Statement& statement);
  [[nodiscard]] Value capture(const Block& body, Scope* scope);
  [[nodiscard]] Value define_macro(const Statement& statement, std::string_view name);
  void assign(const Target& target, const Value& value);
  [[nodiscard]] Value call_macro(const Function& function, const Call& call);
  void bind_parameters(const Function& function, const Call& call, Scope& scope);
  void write(std::string_view text);

  // Expressions (jinja_evaluate.cpp).
  [[nodiscard]] Value evaluate(const Expression& expression);
  [[nodiscard]] Value evaluate_node(const Expression& expression);
  [[nodiscard]] Value evaluate_sequence(const Expression& expression);
  [[nodiscard]] Value evaluate_dict(const Expression& expression);
  [[nodiscard]] Value evaluate_comparison(const Expression& expression);
  [[nodiscard]] Value evaluate_concat(const Expression& expression);
  [[nodiscard]] Value evaluate_slice(const Expression& expression);
  [[nodiscard]] Value evaluate_call(const Expression& expression, const Value* caller = nullptr);
  [[nodiscard]] Value evaluate_filters(const Expression& expression, const Value& input);
  [[nodiscard]] Value evaluate_condition(const Expression& expression);
  [[nodiscard]] Value variable(std::string_view name);
  void evaluate_arguments(const Arguments& arguments, Call& out);

  // Lookups (jinja_lookup.cpp).
  [[nodiscard]] Value own_attribute(const Value& owner, std::string_view name, bool& found);
  [[nodiscard]] bool own_item(const Value& owner, const Value& key, Value& out);
  [[nodiscard]] Value loop_attribute(LoopState& loop, std::string_view name, bool& found);

  Heap& heap_;
  Limits limits_;
  std::chrono::local_seconds now_;
  const Dict* context_;
  Scope root_;
  Scope* scope_;
  std::string* out_ = nullptr;
  std::size_t written_ = 0;  ///< bytes of output and of captures under way
  int depth_ = 0;
  int line_ = 0;  ///< of the node under evaluation
};

// Tables of what templates can call, one per file that implements them.
using FilterFunction = Value (*)(Interpreter& run, const Value& input, const Call& call);
using TestFunction = bool (*)(Interpreter& run, const Value& input, const Call& call);
template <class F>
struct Named {
  std::string_view name;
  F function;
};
[[nodiscard]] std::span<const Named<FilterFunction>> text_filters();
[[nodiscard]] std::span<const Named<FilterFunction>> sequence_filters();
[[nodiscard]] std::span<const Named<FilterFunction>> selection_filters();
[[nodiscard]] std::span<const Named<FilterFunction>> value_filters();
[[nodiscard]] std::span<const Named<TestFunction>> tests();
[[nodiscard]] std::span<const Named<NativeFunction>> globals();
[[nodiscard]] std::span<const Named<NativeFunction>> string_methods();
[[nodiscard]] std::span<const Named<NativeFunction>> list_methods();
[[nodiscard]] std::span<const Named<NativeFunction>> dict_methods();
[[nodiscard]] std::span<const Named<NativeFunction>> loop_methods();
[[nodiscard]] std::span<const Named<NativeFunction>> cycler_methods();
/// str.replace() and str.ljust() ('<'), rjust() ('>'), center() ('^'), which filters share.
[[nodiscard]] Value replaced(Heap& heap, std::string_view text, std::string_view from, std::string_view to,
                             std::int64_t count);
[[nodiscard]] Value justified(Heap& heap, std::string_view text, std::int64_t width, std::string_view fill, char align);
[[nodiscard]] bool is_filter(std::string_view name);
[[nodiscard]] bool is_test(std::string_view name);

template <class F>
[[nodiscard]] const F* find_named(std::span<const Named<F>> table, std::string_view name) {
  for (const Named<F>& entry : table) {
    if (entry.name == name) return &entry.function;
  }
  return nullptr;
}

}  // namespace quern::jinja
