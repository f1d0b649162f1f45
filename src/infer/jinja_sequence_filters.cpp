// Filters of sequences as a whole: lengths, order, grouping.
#include <algorithm>

#include "infer/jinja_attribute_path.hpp"
#include "infer/jinja_interpreter.hpp"
#include "infer/jinja_operators.hpp"
#include "infer/jinja_text.hpp"

namespace quern::jinja {

namespace {

Value sequence_of(Kind kind, Sequence* items) { return Value::sequence(kind, items); }

Value length_filter(Interpreter& run, const Value& input, const Call&) {
  if (input.is(Kind::string)) run.heap().work_bytes(input.as_string().size());
  return Value::integer(length(input));
}

Value list_filter(Interpreter& run, const Value& input, const Call&) {
  Sequence* const made = run.heap().make_sequence();
  made->items = elements(run.heap(), input)->items;
  run.heap().work(made->items.size());
  return sequence_of(Kind::list, made);
}

Value first(Interpreter& run, const Value& input, const Call&) {
  if (input.is(Kind::iterator)) {
    Sequence& rest = *input.as_sequence();
    if (rest.next < rest.items.size()) return rest.items[rest.next++];
  } else if (input.is(Kind::string) && !input.as_string().empty()) {
    return Value::string(input.as_string().substr(0, character_bytes(input.as_string(), 0)));
  } else if (const Values& items = elements(run.heap(), input)->items; !items.empty()) {
    return items[0];
  }
  return run.heap().make_missing("No first item, sequence was empty.");
}

Value last(Interpreter& run, const Value& input, const Call&) {
  if (input.is(Kind::iterator)) throw Failure{"'generator' object is not reversible"};
  const Values& items = elements(run.heap(), input)->items;
  return items.empty() ? run.heap().make_missing("No last item, sequence was empty.") : items.back();
}

Value reverse(Interpreter& run, const Value& input, const Call&) {
  if (input.is(Kind::string)) return slice(run.heap(), input, Value::none(), Value::none(), Value::integer(-1));
  Sequence* const made = run.heap().make_sequence();
  made->items = elements(run.heap(), input)->items;
  run.heap().work(made->items.size());
  std::reverse(made->items.begin(), made->items.end());
  return sequence_of(input.is(Kind::iterator) ? Kind::list : Kind::iterator, made);
}

Value join(Interpreter& run, const Value& input, const Call& call) {
  const Bound bound(call, "join", {"d", "attribute"});
  const std::string_view separator = bound[0] == nullptr ? std::string_view() : run.text(bound.at(0));
  const AttributePath path(bound[1]);
  Builder out(run.heap());
  bool is_first = true;
  for (const Value& item : elements(run.heap(), input)->items) {
    if (!is_first) out.add(separator);
    is_first = false;
    out.add(run.text(path.of(run, item)));
  }
  return out.value();
}

Value items_filter(Interpreter& run, const Value& input, const Call&) {
  Sequence* const made = run.heap().make_sequence();
  if (input.is(Kind::undefined)) return sequence_of(Kind::iterator, made);
  if (!input.is(Kind::dict)) throw Failure{"Can only get item pairs from a mapping."};
  for (const auto& [key, value] : input.as_dict()->entries()) {
    Sequence* const pair = run.heap().make_sequence(2);
    pair->items = {key, value};
    made->items.push_back(sequence_of(Kind::tuple, pair));
  }
  return sequence_of(Kind::iterator, made);
}

/// Sorts in place, stable; `keys[i]` belongs to `items[i]`.
void sort_by(Heap& heap, Values& items, const std::vector<std::vector<Value>>& keys, bool descending) {
  std::vector<std::size_t> order(items.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  const auto below = [&](std::size_t a, std::size_t b) {
    heap.work();
    for (std::size_t i = 0; i < keys[a].size(); ++i) {
      if (!equal(heap, keys[a][i], keys[b][i])) return compare(heap, keys[a][i], keys[b][i]) < 0;
    }
    return false;
  };
  // Descending and stable, as Python's reverse=True: equal elements keep their order.
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return descending ? below(b, a) : below(a, b); });
  const Values unsorted(items, heap.memory());
  for (std::size_t i = 0; i < order.size(); ++i) items[i] = unsorted[order[i]];
}

Value folded(Interpreter& run, const Value& value, bool case_sensitive) {
  if (value.is(Kind::string)) run.heap().work(value.as_string().size() / 4);
  return value.is(Kind::string) && !case_sensitive ? run.heap().make_string(lower(value.as_string())) : value;
}

Value sort(Interpreter& run, const Value& input, const Call& call) {
  const Bound bound(call, "sort", {"reverse", "case_sensitive", "attribute"});
  std::vector<AttributePath> paths;
  if (bound[2] != nullptr && bound.at(2).is(Kind::string)) {  // "a,b": by a, then by b
    for (std::string_view rest = bound.string(2);;) {
      const std::size_t comma = std::min(rest.find(','), rest.size());
      const Value part = Value::string(rest.substr(0, comma));
      paths.emplace_back(&part);
      if (comma == rest.size()) break;
      rest = rest.substr(comma + 1);
    }
  } else {
    paths.emplace_back(bound[2]);
  }
  Sequence* const made = run.heap().make_sequence();
  made->items = elements(run.heap(), input)->items;
  std::vector<std::vector<Value>> keys;
  for (const Value& item : made->items) {
    auto& key = keys.emplace_back();
    for (const AttributePath& path : paths) key.push_back(folded(run, path.of(run, item), bound.flag(1)));
  }
  sort_by(run.heap(), made->items, keys, bound.flag(0));
  return sequence_of(Kind::list, made);
}

Value dictsort(Interpreter& run, const Value& input, const Call& call) {
  const Bound bound(call, "dictsort", {"case_sensitive", "by", "reverse"});
  const std::string_view by = bound.string(1, "key");
  if (by != "key" && by != "value") throw Failure{"You can only sort by either \"key\" or \"value\""};
  if (input.is(Kind::undefined)) throw Failure{missing_sentence(input)};
  if (!input.is(Kind::dict)) throw Failure{"dictsort needs a dict, found '" + std::string(type_word(input.kind())) + "'"};
  Sequence* const made = elements(run.heap(), items_filter(run, input, call));
  std::vector<std::vector<Value>> keys;
  for (const Value& pair : made->items) {
    keys.push_back({folded(run, pair.as_sequence()->items[by == "key" ? 0 : 1], bound.flag(0))});
  }
  sort_by(run.heap(), made->items, keys, bound.flag(2));
  return sequence_of(Kind::list, made);
}

Value unique(Interpreter& run, const Value& input, const Call& call) {
  const Bound bound(call, "unique", {"case_sensitive", "attribute"});
  const AttributePath path(bound[1]);
  Sequence* const made = run.heap().make_sequence();
  Dict* const seen = run.heap().make_dict();
  for (const Value& item : elements(run.heap(), input)->items) {
    const Value key = folded(run, path.of(run, item), bound.flag(0));
    if (seen->find(key) != nullptr) continue;
    seen->set(key, Value::none());
    made->items.push_back(item);
  }
  return sequence_of(Kind::iterator, made);
}

template <bool greatest>
Value extreme(Interpreter& run, const Value& input, const Call& call) {
  const Bound bound(call, greatest ? "max" : "min", {"case_sensitive", "attribute"});
  const AttributePath path(bound[1]);
  const Values& items = elements(run.heap(), input)->items;
  if (items.empty()) return run.heap().make_missing("No aggregated item, sequence was empty.");
  Value best = items[0], best_key = folded(run, path.of(run, items[0]), bound.flag(0));
  for (std::size_t i = 1; i < items.size(); ++i) {
    const Value key = folded(run, path.of(run, items[i]), bound.flag(0));
    const int order = compare(run.heap(), key, best_key, greatest ? ">" : "<");
    if (greatest ? order > 0 : order < 0) {
      best = items[i];
      best_key = key;
    }
  }
  return best;
}

Value sum(Interpreter& run, const Value& input, const Call& call) {
  const Bound bound(call, "sum", {"attribute", "start"});
  const AttributePath path(bound[0] != nullptr && bound.at(0).is(Kind::none) ? nullptr : bound[0]);
  Value total = bound[1] != nullptr ? bound.at(1) : Value::integer(0);
  if (total.is(Kind::string)) throw Failure{"sum() can't sum strings [use ''.join(seq) instead]"};
  for (const Value& item : elements(run.heap(), input)->items) {
    total = binary(run.heap(), "+", total, path.of(run, item));
  }
  return total;
}

Value batch(Interpreter& run, const Value& input, const Call& call) {
  const Bound bound(call, "batch", {"linecount", "fill_with"}, 1);
  const std::int64_t size = bound.integer(0);
  Sequence* const made = run.heap().make_sequence();
  Sequence* line = nullptr;
  for (const Value& item : elements(run.heap(), input)->items) {
    if (line == nullptr || static_cast<std::int64_t>(line->items.size()) == size) {
      line = run.heap().make_sequence();
      made->items.push_back(sequence_of(Kind::list, line));
    }
    line->items.push_back(item);
  }
  if (line != nullptr && bound[1] != nullptr && !bound.at(1).is(Kind::none)) {
    while (static_cast<std::int64_t>(line->items.size()) < size) {
      run.heap().work();
      line->items.push_back(bound.at(1));
    }
  }
  return sequence_of(Kind::iterator, made);
}

Value slice_filter(Interpreter& run, const Value& input, const Call& call) {
  const Bound bound(call, "slice", {"slices", "fill_with"}, 1);
  const std::int64_t slices = bound.integer(0);
  if (slices == 0) throw Failure{"integer division or modulo by zero"};
  const Values& items = elements(run.heap(), input)->items;
  const auto size = static_cast<std::int64_t>(items.size());
  Sequence* const made = run.heap().make_sequence();
  const std::int64_t each = slices > 0 ? size / slices : 0, extra = slices > 0 ? size % slices : 0;
  std::int64_t at = 0;
  for (std::int64_t i = 0; i < slices; ++i) {
    run.heap().work();
    Sequence* const part = run.heap().make_sequence();
    const std::int64_t end = at + each + (i < extra ? 1 : 0);
    for (; at < end; ++at) part->items.push_back(items[static_cast<std::size_t>(at)]);
    if (i >= extra && bound[1] != nullptr && !bound.at(1).is(Kind::none)) part->items.push_back(bound.at(1));
    made->items.push_back(sequence_of(Kind::list, part));
  }
  return sequence_of(Kind::iterator, made);
}

/// Pairs of a key and the elements that have it, by key.
Value groupby(Interpreter& run, const Value& input, const Call& call) {
  const Bound bound(call, "groupby", {"attribute", "default", "case_sensitive"}, 1);
  const AttributePath path(bound[0], bound[1]);
  Sequence* const sorted = run.heap().make_sequence();
  sorted->items = elements(run.heap(), input)->items;
  std::vector<std::vector<Value>> keys;
  for (const Value& item : sorted->items) keys.push_back({folded(run, path.of(run, item), bound.flag(2))});
  sort_by(run.heap(), sorted->items, keys, false);
  Sequence* const made = run.heap().make_sequence();
  Sequence* group = nullptr;
  Value group_key;
  for (const Value& item : sorted->items) {
    const Value key = folded(run, path.of(run, item), bound.flag(2));
    if (group == nullptr || !equal(run.heap(), key, group_key)) {
      group = run.heap().make_sequence();
      group_key = key;
      Sequence* const pair = run.heap().make_sequence(2);
      pair->items = {path.of(run, item), sequence_of(Kind::list, group)};
      made->items.push_back(sequence_of(Kind::tuple, pair));
    }
    group->items.push_back(item);
  }
  return sequence_of(Kind::list, made);
}

constexpr Named<FilterFunction> kFilters[] = {
    {"length", length_filter}, {"count", length_filter}, {"list", list_filter},   {"first", first}, {"last", last},
    {"reverse", reverse},      {"join", join},           {"items", items_filter}, {"sort", sort},   {"dictsort", dictsort},
    {"unique", unique},        {"min", extreme<false>},  {"max", extreme<true>},  {"sum", sum},     {"batch", batch},
    {"slice", slice_filter},   {"groupby", groupby},
};

}  // namespace

std::span<const Named<FilterFunction>> sequence_filters() { return kFilters; }

}  // namespace quern::jinja
