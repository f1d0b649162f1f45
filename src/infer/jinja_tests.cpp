// What follows `is`.
#include "infer/jinja_interpreter.hpp"
#include "infer/jinja_operators.hpp"
#include "infer/jinja_text.hpp"

namespace quern::jinja {

namespace {

const Value& argument(const Call& call, std::string_view test) {
  const Bound bound(call, test, {"other"}, 1);
  return bound.at(0);
}

template <Kind kind>
bool is_kind(Interpreter& /*run*/, const Value& input, const Call& /*call*/) {
  return input.is(kind);
}

template <char first, char second = '\0'>
bool compares_with(Interpreter& run, const Value& input, const Call& call) {
  const char word[] = {first, second};
  const std::string_view name(word, second == '\0' ? 1 : 2);
  return compares(run.heap(), name, input, argument(call, name));
}

std::int64_t remainder(Interpreter& run, const Value& input, const Value& by) {
  const Value rest = binary(run.heap(), "%", input, by);
  return rest.is(Kind::floating) ? (rest.as_double() == 0   ? 0
                                    : rest.as_double() == 1 ? 1
                                                            : 2)
         : rest.is_integral()    ? rest.as_integer()
                                 : 2;
}

/// str.isupper() or str.islower(): some letter of the case and none of the other.
bool has_only_case(std::string_view text, bool is_upper) {
  bool found = false;
  for (std::size_t at = 0; at < text.size(); at += character_bytes(text, at)) {
    const std::int32_t c = code_point_at(text, at);
    const bool has_upper = upper_of(c) != c || c == 0xDF, has_lower = lower_of(c) != c;
    if (is_upper ? has_upper : has_lower) return false;
    found |= is_upper ? has_lower : has_upper;
  }
  return found;
}

bool is_defined(Interpreter&, const Value& input, const Call&) { return !input.is(Kind::undefined); }
bool is_true(Interpreter&, const Value& input, const Call&) { return input.is(Kind::boolean) && truth(input); }
bool is_false(Interpreter&, const Value& input, const Call&) { return input.is(Kind::boolean) && !truth(input); }
bool is_number(Interpreter&, const Value& input, const Call&) { return input.is_number(); }
bool is_iterable_test(Interpreter&, const Value& input, const Call&) { return is_iterable(input); }
bool is_sequence(Interpreter&, const Value& input, const Call&) {
  return input.is(Kind::undefined) || input.is(Kind::string) || input.is(Kind::list) || input.is(Kind::tuple) ||
         input.is(Kind::range) || input.is(Kind::dict);
}
bool is_callable(Interpreter&, const Value& input, const Call&) {
  return input.is(Kind::function) || input.is(Kind::joiner) || input.is(Kind::undefined);
}
bool is_odd(Interpreter& run, const Value& input, const Call&) { return remainder(run, input, Value::integer(2)) == 1; }
bool is_even(Interpreter& run, const Value& input, const Call&) { return remainder(run, input, Value::integer(2)) == 0; }
bool divides(Interpreter& run, const Value& input, const Call& call) {
  const Bound bound(call, "divisibleby", {"num"}, 1);
  return remainder(run, input, bound.at(0)) == 0;
}
bool is_in(Interpreter& run, const Value& input, const Call& call) {
  const Bound bound(call, "in", {"seq"}, 1);
  return contains(run.heap(), bound.at(0), input);
}
bool is_same(Interpreter&, const Value& input, const Call& call) {
  const Value& other = argument(call, "sameas");
  if (input.kind() != other.kind()) return false;
  if (input.is(Kind::none)) return true;
  if (input.is_integral()) return input.as_integer() == other.as_integer();
  if (input.is(Kind::string)) return input.as_string() == other.as_string();
  if (input.is(Kind::floating)) return input.as_double() == other.as_double();
  return input.identity() == other.identity();
}
bool is_upper(Interpreter& run, const Value& input, const Call&) { return has_only_case(run.text(input), true); }
bool is_lower(Interpreter& run, const Value& input, const Call&) { return has_only_case(run.text(input), false); }
bool is_escaped(Interpreter&, const Value&, const Call&) { return false; }
bool names_filter(Interpreter&, const Value& input, const Call&) {
  return input.is(Kind::string) && is_filter(input.as_string());
}
bool names_test(Interpreter&, const Value& input, const Call&) {
  return input.is(Kind::string) && is_test(input.as_string());
}

constexpr Named<TestFunction> kTests[] = {
    {"defined", is_defined},
    {"undefined", is_kind<Kind::undefined>},
    {"none", is_kind<Kind::none>},
    {"string", is_kind<Kind::string>},
    {"mapping", is_kind<Kind::dict>},
    {"boolean", is_kind<Kind::boolean>},
    {"true", is_true},
    {"false", is_false},
    {"integer", is_kind<Kind::integer>},
    {"float", is_kind<Kind::floating>},
    {"number", is_number},
    {"iterable", is_iterable_test},
    {"sequence", is_sequence},
    {"callable", is_callable},
    {"odd", is_odd},
    {"even", is_even},
    {"divisibleby", divides},
    {"in", is_in},
    {"sameas", is_same},
    {"upper", is_upper},
    {"lower", is_lower},
    {"escaped", is_escaped},
    {"filter", names_filter},
    {"test", names_test},
    {"==", compares_with<'=', '='>},
    {"eq", compares_with<'=', '='>},
    {"equalto", compares_with<'=', '='>},
    {"!=", compares_with<'!', '='>},
    {"ne", compares_with<'!', '='>},
    {">", compares_with<'>'>},
    {"gt", compares_with<'>'>},
    {"greaterthan", compares_with<'>'>},
    {">=", compares_with<'>', '='>},
    {"ge", compares_with<'>', '='>},
    {"<", compares_with<'<'>},
    {"lt", compares_with<'<'>},
    {"lessthan", compares_with<'<'>},
    {"<=", compares_with<'<', '='>},
    {"le", compares_with<'<', '='>},
};

}  // namespace

std::span<const Named<TestFunction>> tests() { return kTests; }

}  // namespace quern::jinja
