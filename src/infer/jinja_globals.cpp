// Global functions of templates, and the methods of dicts, lists, loops and cyclers.
#include <array>
#include <ctime>

#include "infer/jinja_interpreter.hpp"
#include "infer/jinja_operators.hpp"
#include "infer/jinja_print.hpp"

namespace quern::jinja {

namespace {

/// dict() and namespace(): a mapping or pairs, then named values.
Dict* make_mapping(Interpreter& run, const Call& call, std::string_view name) {
  Dict* const made = run.heap().make_dict();
  if (call.positional.size() > 1) throw Failure{std::string(name) + " expected at most 1 argument"};
  if (!call.positional.empty() && call.positional[0].is(Kind::dict)) {
    for (const auto& [key, value] : call.positional[0].as_dict()->entries()) made->set(key, value);
  } else if (!call.positional.empty()) {
    for (const Value& pair : elements(run.heap(), call.positional[0])->items) {
      const Values& parts = elements(run.heap(), pair)->items;
      if (parts.size() != 2) throw Failure{"a dict is made of pairs of keys and values"};
      made->set(parts[0], parts[1]);
    }
  }
  for (const auto& [key, value] : call.named) made->set(Value::string(key), value);
  return made;
}

Value make_dict(Interpreter& run, const Function&, const Call& call) { return Value::dict(make_mapping(run, call, "dict")); }
Value make_namespace(Interpreter& run, const Function&, const Call& call) {
  return Value::dict(make_mapping(run, call, "namespace"), Kind::space);
}

Value make_range(Interpreter& run, const Function&, const Call& call) {
  const Bound bound(call, "range", {"start", "stop", "step"}, 1);
  const std::int64_t start = bound[1] == nullptr ? 0 : bound.integer(0);
  const std::int64_t stop = bound[1] == nullptr ? bound.integer(0) : bound.integer(1);
  const std::int64_t step = bound.integer(2, 1);
  if (step == 0) throw Failure{"range() arg 3 must not be zero"};
  std::uint64_t count = 0;  // differences and negations without sign cannot overflow
  const auto from = static_cast<std::uint64_t>(start), to = static_cast<std::uint64_t>(stop);
  if (step > 0 && start < stop) count = (to - from - 1) / static_cast<std::uint64_t>(step) + 1;
  if (step < 0 && start > stop) count = (from - to - 1) / (~static_cast<std::uint64_t>(step) + 1) + 1;
  if (count > kMaxRange) throw Failure{"a range of more than " + std::to_string(kMaxRange) + " elements is not allowed"};
  Sequence* const made = run.heap().make_sequence(count);
  made->start = start;
  made->stop = stop;
  made->step = step;
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(count); ++i)
    made->items.push_back(Value::integer(start + i * step));
  return Value::sequence(Kind::range, made);
}

Value make_cycler(Interpreter& run, const Function&, const Call& call) {
  if (call.positional.empty()) throw Failure{"no items for cycling given"};
  Sequence* const made = run.heap().make_sequence();
  made->items = call.positional;
  return Value::sequence(Kind::cycler, made);
}

Value make_joiner(Interpreter& run, const Function&, const Call& call) {
  const Bound bound(call, "joiner", {"sep"});
  Sequence* const made = run.heap().make_sequence();
  made->items.push_back(Value::string(bound.string(0, ", ")));
  return Value::joiner(made);
}

Value raise_exception(Interpreter& run, const Function&, const Call& call) {
  const Bound bound(call, "raise_exception", {"message"}, 1);
  throw Failure{std::string(run.text(bound.at(0)))};
}

/// Directives of strftime by the C library, each alone, so that no width or locale surprise passes.
Value strftime_now(Interpreter& run, const Function&, const Call& call) {
  const Bound bound(call, "strftime_now", {"format"}, 1);
  const std::string_view format = bound.string(0);
  const std::time_t seconds = run.now().time_since_epoch().count();
  std::tm time{};
  if (gmtime_r(&seconds, &time) == nullptr) throw Failure{"the time is out of range"};
  Builder out(run.heap());
  for (std::size_t at = 0; at < format.size(); ++at) {
    if (format[at] != '%' || at + 1 == format.size()) {
      out.add(format[at]);
      continue;
    }
    std::string directive = "%";
    ++at;
    if (std::string_view("-_0^#").find(format[at]) != std::string_view::npos && at + 1 < format.size())
      directive += format[at++];
    const char type = format[at];
    directive += type;
    if (type == 'f') {
      out.add("000000");
    } else if (type == 'z' || type == 'Z') {  // a local time without zone, as datetime.now()
    } else if (std::string_view("aAbBcdDeFgGhHIjklmMnpPrRsStTuUVwWxXyYC%").find(type) != std::string_view::npos) {
      std::array<char, 128> buffer{};
      out.add({buffer.data(), std::strftime(buffer.data(), buffer.size(), directive.c_str(), &time)});
    } else {
      out.add(directive);
    }
  }
  return out.value();
}

constexpr Named<NativeFunction> kGlobals[] = {
    {"range", make_range},          {"dict", make_dict},     {"namespace", make_namespace},
    {"cycler", make_cycler},        {"joiner", make_joiner}, {"raise_exception", raise_exception},
    {"strftime_now", strftime_now},
};

enum class Part { keys, values, items };

template <Part part>
Value dict_view(Interpreter& run, const Function& self, const Call& call) {
  const Bound bound(call, self.name, {});
  const auto& entries = self.self.as_dict()->entries();
  Sequence* const made = run.heap().make_sequence(entries.size());
  made->word = part == Part::keys ? "dict_keys" : part == Part::values ? "dict_values" : "dict_items";
  for (const auto& [key, value] : entries) {
    if (part == Part::items) {
      Sequence* const pair = run.heap().make_sequence(2);
      pair->items = {key, value};
      made->items.push_back(Value::sequence(Kind::tuple, pair));
    } else {
      made->items.push_back(part == Part::keys ? key : value);
    }
  }
  return Value::sequence(Kind::view, made);
}

Value dict_get(Interpreter&, const Function& self, const Call& call) {
  if (!call.named.empty()) throw Failure{"dict.get() takes no keyword arguments"};
  const Bound bound(call, "get", {"key", "default"}, 1);
  const Value* const found = self.self.as_dict()->find(bound.at(0));
  return found != nullptr ? *found : bound[1] != nullptr ? bound.at(1) : Value::none();
}

Value dict_copy(Interpreter& run, const Function& self, const Call&) {
  Dict* const made = run.heap().make_dict();
  for (const auto& [key, value] : self.self.as_dict()->entries()) made->set(key, value);
  return Value::dict(made);
}

constexpr Named<NativeFunction> kDictMethods[] = {
    {"keys", dict_view<Part::keys>},
    {"values", dict_view<Part::values>},
    {"items", dict_view<Part::items>},
    {"get", dict_get},
    {"copy", dict_copy},
};

Value list_index(Interpreter& run, const Function& self, const Call& call) {
  const Bound bound(call, "index", {"value", "start", "stop"}, 1);
  const Values& items = self.self.as_sequence()->items;
  const auto size = static_cast<std::int64_t>(items.size());
  const SliceBounds where = slice_bounds(size, bound.integer(1, 0), bound.integer(2, size), 1);
  for (std::int64_t i = where.start; i < where.start + where.count; ++i) {
    if (equal(run.heap(), items[static_cast<std::size_t>(i)], bound.at(0))) return Value::integer(i);
  }
  Builder repr(run.heap());
  append_repr(repr, bound.at(0));
  throw Failure{repr.text() + " is not in list"};
}

Value list_count(Interpreter& run, const Function& self, const Call& call) {
  const Bound bound(call, "count", {"value"}, 1);
  std::int64_t count = 0;
  for (const Value& item : self.self.as_sequence()->items) count += equal(run.heap(), item, bound.at(0)) ? 1 : 0;
  return Value::integer(count);
}

Value list_copy(Interpreter& run, const Function& self, const Call&) {
  Sequence* const made = run.heap().make_sequence();
  made->items = self.self.as_sequence()->items;
  return Value::sequence(Kind::list, made);
}

constexpr Named<NativeFunction> kListMethods[] = {{"index", list_index}, {"count", list_count}, {"copy", list_copy}};

Value loop_cycle(Interpreter&, const Function& self, const Call& call) {
  if (call.positional.empty()) throw Failure{"no items for cycling given"};
  return call.positional[static_cast<std::size_t>(self.self.as_loop()->index0) % call.positional.size()];
}

Value loop_changed(Interpreter& run, const Function& self, const Call& call) {
  LoopState& loop = *self.self.as_loop();
  Sequence* const made = run.heap().make_sequence();
  made->items = call.positional;
  const Value values = Value::sequence(Kind::tuple, made);
  const bool changed = !loop.has_changed || !equal(run.heap(), loop.changed, values);
  loop.has_changed = true;
  loop.changed = values;
  return Value::boolean(changed);
}

constexpr Named<NativeFunction> kLoopMethods[] = {{"cycle", loop_cycle}, {"changed", loop_changed}};

Value cycler_next(Interpreter&, const Function& self, const Call&) {
  Sequence& cycler = *self.self.as_sequence();
  const Value item = cycler.items[cycler.next];
  cycler.next = (cycler.next + 1) % cycler.items.size();
  return item;
}

Value cycler_reset(Interpreter&, const Function& self, const Call&) {
  self.self.as_sequence()->next = 0;
  return Value::none();
}

constexpr Named<NativeFunction> kCyclerMethods[] = {{"next", cycler_next}, {"reset", cycler_reset}};

}  // namespace

std::span<const Named<NativeFunction>> globals() { return kGlobals; }
std::span<const Named<NativeFunction>> dict_methods() { return kDictMethods; }
std::span<const Named<NativeFunction>> list_methods() { return kListMethods; }
std::span<const Named<NativeFunction>> loop_methods() { return kLoopMethods; }
std::span<const Named<NativeFunction>> cycler_methods() { return kCyclerMethods; }

}  // namespace quern::jinja
