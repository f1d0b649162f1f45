// Attributes and subscripts: `a.b` asks the object's attributes and then its keys, `a['b']` the other way round. What would
// change a list or dict does not exist here, as in Jinja's immutable sandbox.
#include <array>

#include "infer/jinja_interpreter.hpp"
#include "infer/jinja_operators.hpp"
#include "infer/jinja_print.hpp"
#include "infer/jinja_text.hpp"

namespace quern::jinja {

namespace {

/// Methods that Python has and the sandbox refuses.
bool is_refused(Kind kind, std::string_view name) {
  static constexpr std::array<std::string_view, 8> kList = {"append", "clear", "pop",    "reverse",
                                                            "insert", "sort",  "extend", "remove"};
  static constexpr std::array<std::string_view, 5> kDict = {"clear", "pop", "popitem", "setdefault", "update"};
  const auto has = [&](const auto& names) {
    for (const std::string_view known : names) {
      if (known == name) return true;
    }
    return false;
  };
  return (kind == Kind::list && has(kList)) || (kind == Kind::dict && has(kDict));
}

std::span<const Named<NativeFunction>> methods_of(Kind kind) {
  switch (kind) {
    case Kind::string:
      return string_methods();
    case Kind::list:
    case Kind::tuple:
    case Kind::range:
      return list_methods();
    case Kind::dict:
      return dict_methods();
    case Kind::loop:
      return loop_methods();
    case Kind::cycler:
      return cycler_methods();
    default:
      return {};
  }
}

}  // namespace

Value Interpreter::method(std::string_view name, NativeFunction native, const Value& self) {
  return Value::function(heap_.make<Function>(name, native, self, nullptr, nullptr));
}

Value Interpreter::loop_attribute(LoopState& loop, std::string_view name, bool& found) {
  found = true;
  const auto look_ahead = [&] {
    if (!loop.has_ahead) loop.has_ahead = fetch(loop, loop.ahead);
    return loop.has_ahead;
  };
  const auto whole_length = [&] {
    if (loop.length < 0 && loop.statement == nullptr) loop.length = static_cast<std::int64_t>(loop.source->items.size());
    if (loop.length < 0) {  // a filtered loop: now every element is asked
      Sequence* const rest = heap_.make_sequence();
      for (Value element; fetch(loop, element);) rest->items.push_back(element);
      loop.source = rest;
      loop.next = 0;
      loop.statement = nullptr;
      loop.length = loop.index0 + 1 + (loop.has_ahead ? 1 : 0) + static_cast<std::int64_t>(rest->items.size());
    }
    return loop.length;
  };
  if (name == "index") return Value::integer(loop.index0 + 1);
  if (name == "index0") return Value::integer(loop.index0);
  if (name == "first") return Value::boolean(loop.index0 == 0);
  if (name == "last") return Value::boolean(!look_ahead());
  if (name == "length") return Value::integer(whole_length());
  if (name == "revindex") return Value::integer(whole_length() - loop.index0);
  if (name == "revindex0") return Value::integer(whole_length() - loop.index0 - 1);
  if (name == "depth") return Value::integer(loop.depth);
  if (name == "depth0") return Value::integer(loop.depth - 1);
  if (name == "previtem") return loop.has_previous ? loop.previous : heap_.make_missing("there is no previous item");
  if (name == "nextitem") return look_ahead() ? loop.ahead : heap_.make_missing("there is no next item");
  found = false;
  return {};
}

Value Interpreter::own_attribute(const Value& owner, std::string_view name, bool& found) {
  found = true;
  if (const NativeFunction* const native = find_named(methods_of(owner.kind()), name)) {
    const bool is_tuple_like = owner.is(Kind::tuple) || owner.is(Kind::range);
    if (!is_tuple_like || name != "copy") return method(name, *native, owner);
  }
  if (is_refused(owner.kind(), name)) {
    return heap_.make_missing(heap_.keep("access to attribute '" + std::string(name) + "' of '" +
                                         std::string(type_word(owner.kind())) + "' object is unsafe."));
  }
  if (owner.is(Kind::space)) {
    if (const Value* const value = owner.as_dict()->find(name)) return *value;
  }
  if (owner.is(Kind::loop)) return loop_attribute(*owner.as_loop(), name, found);
  if (owner.is(Kind::cycler) && name == "current") {
    const Sequence& cycler = *owner.as_sequence();
    return cycler.items[cycler.next % cycler.items.size()];
  }
  if (owner.is(Kind::range)) {
    const Sequence& range = *owner.as_sequence();
    if (name == "start") return Value::integer(range.start);
    if (name == "stop") return Value::integer(range.stop);
    if (name == "step") return Value::integer(range.step);
  }
  if (owner.is(Kind::function) && name == "name") return Value::string(owner.as_function()->name);
  found = false;
  return {};
}

bool Interpreter::own_item(const Value& owner, const Value& key, Value& out) {
  if (owner.is(Kind::dict)) {
    const bool is_hashable = !key.is(Kind::list) && !key.is(Kind::dict) && !key.is(Kind::view);
    const Value* const found = is_hashable ? owner.as_dict()->find(key) : nullptr;
    if (found != nullptr) out = *found;
    return found != nullptr;
  }
  const bool is_text = owner.is(Kind::string);
  if (!key.is_integral() || (!is_text && !owner.is(Kind::list) && !owner.is(Kind::tuple) && !owner.is(Kind::range)))
    return false;
  if (is_text) heap_.work_bytes(owner.as_string().size());
  const std::int64_t size = length(owner);
  const std::int64_t index = key.as_integer() < 0 ? key.as_integer() + size : key.as_integer();
  if (index < 0 || index >= size) return false;
  if (is_text) {
    const std::string_view text = owner.as_string();
    const std::size_t at = byte_offset(text, static_cast<std::size_t>(index));
    out = Value::string(text.substr(at, character_bytes(text, at)));
  } else {
    out = owner.as_sequence()->items[static_cast<std::size_t>(index)];
  }
  return true;
}

Value Interpreter::attribute(const Value& owner, std::string_view name) {
  if (owner.is(Kind::undefined)) throw Failure{missing_sentence(owner)};
  bool found = false;
  const Value own = own_attribute(owner, name, found);
  if (found) return own;
  Value item;
  if (own_item(owner, Value::string(name), item)) return item;
  return heap_.make_missing(owner.kind(), name);
}

Value Interpreter::subscript(const Value& owner, const Value& key) {
  if (owner.is(Kind::undefined)) throw Failure{missing_sentence(owner)};
  Value item;
  if (own_item(owner, key, item)) return item;
  if (!key.is(Kind::string)) {
    Builder name(heap_);
    append_repr(name, key);
    return heap_.make_missing(owner.kind(), heap_.keep(name.text()), true);
  }
  bool found = false;
  const Value own = own_attribute(owner, key.as_string(), found);
  return found ? own : heap_.make_missing(owner.kind(), key.as_string());
}

}  // namespace quern::jinja
