// Filters that apply others to each element: map, select, reject and their attribute forms.
#include <algorithm>

#include "infer/jinja_attribute_path.hpp"
#include "infer/jinja_interpreter.hpp"

namespace quern::jinja {

AttributePath::AttributePath(const Value* attribute, const Value* fallback) : fallback_(fallback) {
  if (attribute == nullptr || attribute->is(Kind::none)) return;
  if (!attribute->is(Kind::string)) {
    parts_.push_back(*attribute);
    return;
  }
  for (std::string_view rest = attribute->as_string();;) {
    const std::size_t dot = std::min(rest.find('.'), rest.size());
    const std::string_view part = rest.substr(0, dot);
    const bool is_index =
        !part.empty() && part.size() < 10 && part.find_first_not_of("0123456789") == std::string_view::npos;
    parts_.push_back(is_index ? Value::integer(std::stol(std::string(part))) : Value::string(part));
    if (dot == rest.size()) return;
    rest = rest.substr(dot + 1);
  }
}

Value AttributePath::of(Interpreter& run, const Value& element) const {
  Value value = element;
  for (const Value& part : parts_) {
    run.heap().work();
    value = run.subscript(value, part);
    if (fallback_ != nullptr && !fallback_->is(Kind::none) && value.is(Kind::undefined)) value = *fallback_;
  }
  return value;
}

namespace {

/// The arguments behind the first `used` ones.
Call rest_of(Interpreter& run, const Call& call, std::size_t used) {
  Call rest(run.heap());
  rest.positional.assign(call.positional.begin() + static_cast<std::ptrdiff_t>(used), call.positional.end());
  rest.named = call.named;
  return rest;
}

std::string_view name_of(const Value& value, std::string_view what) {
  if (!value.is(Kind::string)) throw Failure{"the name of a " + std::string(what) + " must be a string"};
  return value.as_string();
}

Value map(Interpreter& run, const Value& input, const Call& call) {
  Sequence* const made = run.heap().make_sequence();
  const Value result = Value::sequence(Kind::iterator, made);
  if (!truth(input)) return result;
  if (call.positional.empty() && !call.named.empty()) {
    const Bound bound(call, "map", {"attribute", "default"}, 1);
    const AttributePath path(bound[0], bound[1]);
    for (const Value& item : elements(run.heap(), input)->items) made->items.push_back(path.of(run, item));
    return result;
  }
  if (call.positional.empty()) throw Failure{"map requires a filter argument"};
  const std::string_view name = name_of(call.positional[0], "filter");
  const Call arguments = rest_of(run, call, 1);
  for (const Value& item : elements(run.heap(), input)->items) {
    run.heap().work();
    made->items.push_back(run.filter(name, item, arguments));
  }
  return result;
}

template <bool wanted, bool by_attribute>
Value select(Interpreter& run, const Value& input, const Call& call) {
  Sequence* const made = run.heap().make_sequence();
  const Value result = Value::sequence(Kind::iterator, made);
  if (!truth(input)) return result;
  constexpr std::size_t kTest = by_attribute ? 1 : 0;  // the argument that names the test
  if (call.positional.size() < kTest) throw Failure{"Missing parameter for attribute name"};
  const AttributePath path(by_attribute ? &call.positional[0] : nullptr);
  const bool has_test = call.positional.size() > kTest;
  const std::string_view name = has_test ? name_of(call.positional[kTest], "test") : std::string_view();
  const Call arguments = rest_of(run, call, std::min(call.positional.size(), kTest + 1));
  for (const Value& item : elements(run.heap(), input)->items) {
    run.heap().work();
    const Value value = path.of(run, item);
    if ((has_test ? run.test(name, value, arguments) : truth(value)) == wanted) made->items.push_back(item);
  }
  return result;
}

constexpr Named<FilterFunction> kFilters[] = {
    {"map", map},
    {"select", select<true, false>},
    {"reject", select<false, false>},
    {"selectattr", select<true, true>},
    {"rejectattr", select<false, true>},
};

}  // namespace

std::span<const Named<FilterFunction>> selection_filters() { return kFilters; }

}  // namespace quern::jinja
