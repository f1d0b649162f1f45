// Arguments of native functions, and what names filters and tests have.
#include <algorithm>

#include "infer/jinja_interpreter.hpp"
#include "infer/jinja_print.hpp"

namespace quern::jinja {

Bound::Bound(const Call& call, std::string_view function, std::initializer_list<std::string_view> names,
             std::size_t required)
    : function_(function) {
  const std::string name(function);
  if (call.positional.size() > names.size()) {
    throw Failure{name + "() takes at most " + std::to_string(names.size()) + " arguments, found " +
                  std::to_string(call.positional.size())};
  }
  for (std::size_t i = 0; i < call.positional.size(); ++i) slots_[i] = &call.positional[i];
  for (const auto& [key, value] : call.named) {
    const auto* const found = std::find(names.begin(), names.end(), key);
    if (found == names.end()) throw Failure{name + "() got an unexpected keyword argument '" + std::string(key) + "'"};
    const Value*& slot = slots_[static_cast<std::size_t>(found - names.begin())];
    if (slot != nullptr) throw Failure{name + "() got multiple values for argument '" + std::string(key) + "'"};
    slot = &value;
  }
  for (std::size_t i = 0; i < required; ++i) {
    if (slots_[i] == nullptr) throw Failure{name + "() misses its argument '" + std::string(names.begin()[i]) + "'"};
  }
}

bool Bound::flag(std::size_t index, bool fallback) const {
  return slots_[index] == nullptr ? fallback : truth(*slots_[index]);
}

std::int64_t Bound::integer(std::size_t index, std::int64_t fallback) const {
  if (slots_[index] == nullptr) return fallback;
  if (slots_[index]->is(Kind::undefined)) throw Failure{missing_sentence(*slots_[index])};
  if (!slots_[index]->is_integral()) {
    throw Failure{std::string(function_) + "() needs an integer, found '" + std::string(type_word(slots_[index]->kind())) +
                  "'"};
  }
  return slots_[index]->as_integer();
}

std::string_view Bound::string(std::size_t index, std::string_view fallback) const {
  if (slots_[index] == nullptr) return fallback;
  if (slots_[index]->is(Kind::undefined)) throw Failure{missing_sentence(*slots_[index])};
  if (!slots_[index]->is(Kind::string)) {
    throw Failure{std::string(function_) + "() needs a string, found '" + std::string(type_word(slots_[index]->kind())) +
                  "'"};
  }
  return slots_[index]->as_string();
}

namespace {

const FilterFunction* find_filter(std::string_view name) {
  for (const auto table : {text_filters(), sequence_filters(), selection_filters(), value_filters()}) {
    if (const FilterFunction* const found = find_named(table, name)) return found;
  }
  return nullptr;
}

}  // namespace

bool is_filter(std::string_view name) { return find_filter(name) != nullptr; }
bool is_test(std::string_view name) { return find_named(tests(), name) != nullptr; }

Value Interpreter::filter(std::string_view name, const Value& input, const Call& call) {
  const FilterFunction* const found = find_filter(name);
  if (found == nullptr) throw Failure{"No filter named '" + std::string(name) + "'."};
  return (*found)(*this, input, call);
}

bool Interpreter::test(std::string_view name, const Value& input, const Call& call) {
  const TestFunction* const found = find_named(tests(), name);
  if (found == nullptr) throw Failure{"No test named '" + std::string(name) + "'."};
  return (*found)(*this, input, call);
}

}  // namespace quern::jinja
