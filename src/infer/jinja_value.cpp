#include "infer/jinja_value.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "infer/jinja_text.hpp"

namespace quern::jinja {

Value Value::boolean(bool value) {
  Value made(Kind::boolean);
  made.number_ = value ? 1 : 0;
  return made;
}
Value Value::integer(std::int64_t value) {
  Value made(Kind::integer);
  made.number_ = value;
  return made;
}
Value Value::floating(double value) {
  Value made(Kind::floating);
  made.real_ = value;
  return made;
}
Value Value::string(std::string_view text) {
  Value made(Kind::string);
  made.text_ = text.data();
  made.size_ = text.size();
  return made;
}
Value Value::undefined(const Missing* why) {
  Value made(Kind::undefined);
  made.missing_ = why;
  return made;
}
Value Value::sequence(Kind kind, Sequence* items) {
  Value made(kind);
  made.sequence_ = items;
  return made;
}
Value Value::dict(Dict* entries, Kind kind) {
  Value made(kind);
  made.dict_ = entries;
  return made;
}
Value Value::function(const Function* callee) {
  Value made(Kind::function);
  made.function_ = callee;
  return made;
}
Value Value::loop(LoopState* state) {
  Value made(Kind::loop);
  made.loop_ = state;
  return made;
}

namespace {
constexpr std::size_t kSmallDict = 8;  // below, a scan is as fast as an index
}

Dict::Dict(Heap& heap) : heap_(&heap), entries_(heap.memory()), slots_(heap.memory()) {}

std::size_t Dict::index_of(const Value& key) const {
  if (slots_.empty()) {
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      if (equal(*heap_, entries_[i].first, key)) return i;
    }
    return entries_.size();
  }
  const std::size_t mask = slots_.size() - 1;
  for (std::size_t slot = hash_of(*heap_, key) & mask;; slot = (slot + 1) & mask) {
    if (slots_[slot] == 0) return entries_.size();
    if (equal(*heap_, entries_[slots_[slot] - 1].first, key)) return slots_[slot] - 1;
  }
}

void Dict::rebuild_slots() {
  std::size_t size = 4 * kSmallDict;
  while (size < 2 * entries_.size() + 2) size *= 2;
  slots_.assign(size, 0);
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    std::size_t slot = hash_of(*heap_, entries_[i].first) & (size - 1);
    while (slots_[slot] != 0) slot = (slot + 1) & (size - 1);
    slots_[slot] = static_cast<std::uint32_t>(i + 1);
  }
}

const Value* Dict::find(const Value& key) const {
  (void)hash_of(*heap_, key);
  const std::size_t index = index_of(key);
  return index < entries_.size() ? &entries_[index].second : nullptr;
}

void Dict::set(const Value& key, const Value& value) {
  const std::size_t hash = hash_of(*heap_, key);
  const std::size_t index = index_of(key);
  if (index < entries_.size()) {
    entries_[index].second = value;
    return;
  }
  entries_.emplace_back(key, value);
  if (entries_.size() <= kSmallDict) return;
  if (entries_.size() * 2 > slots_.size()) {
    rebuild_slots();
    return;
  }
  std::size_t slot = hash & (slots_.size() - 1);
  while (slots_[slot] != 0) slot = (slot + 1) & (slots_.size() - 1);
  slots_[slot] = static_cast<std::uint32_t>(entries_.size());
}

Heap::Heap(const Limits& limits)
    : remaining_steps_(limits.steps < 0 ? 0 : static_cast<std::size_t>(limits.steps)), counted_(limits.memory_bytes) {}

void Heap::exhausted() { throw Failure{"the template does more work than a rendering may"}; }

void* Heap::Counted::do_allocate(std::size_t bytes, std::size_t alignment) {
  if (bytes > remaining_) throw Failure{"the template needs more memory than a rendering may"};
  remaining_ -= bytes;
  return chunks_.allocate(bytes, alignment);
}

char* Heap::make_text(std::size_t bytes) {
  work_bytes(bytes);
  return static_cast<char*>(counted_.allocate(bytes + 1, 1));
}

std::string_view Heap::keep(std::string_view text) {
  char* const copy = make_text(text.size());
  if (!text.empty()) std::memcpy(copy, text.data(), text.size());
  return {copy, text.size()};
}

Builder& Builder::add(std::string_view text) {
  heap_.work_bytes(text.size());
  if (text.size() > heap_.memory_left() || text_.size() > heap_.memory_left() - text.size()) {
    throw Failure{"the template needs more memory than a rendering may"};
  }
  text_ += text;
  return *this;
}

Builder& Builder::add_repeated(std::string_view text, std::int64_t count) {
  if (count < 1 || text.empty()) return *this;
  if (static_cast<std::uint64_t>(count) > heap_.memory_left() / text.size()) {
    throw Failure{"the template needs more memory than a rendering may"};
  }
  for (; count > 0; --count) add(text);
  return *this;
}

Sequence* Heap::make_sequence(std::size_t reserve) {
  auto* const made = make<Sequence>(memory());
  if (reserve > 0) {
    work(reserve / 8);
    made->items.reserve(reserve);
  }
  return made;
}

Dict* Heap::make_dict() { return make<Dict>(*this); }

Value Heap::make_missing(Kind owner, std::string_view name, bool is_subscript) {
  return Value::undefined(make<Missing>(owner, name, is_subscript, std::string_view()));
}
Value Heap::make_missing(std::string_view sentence) {
  return Value::undefined(make<Missing>(Kind::undefined, std::string_view(), false, sentence));
}

std::string_view type_word(Kind kind) {
  switch (kind) {
    case Kind::undefined:
      return "Undefined";
    case Kind::none:
      return "NoneType";
    case Kind::boolean:
      return "bool";
    case Kind::integer:
      return "int";
    case Kind::floating:
      return "float";
    case Kind::string:
      return "str";
    case Kind::list:
      return "list";
    case Kind::tuple:
      return "tuple";
    case Kind::dict:
      return "dict";
    case Kind::view:
      return "dict_view";
    case Kind::range:
      return "range";
    case Kind::iterator:
      return "generator";
    case Kind::space:
      return "Namespace";
    case Kind::function:
      return "function";
    case Kind::loop:
      return "LoopContext";
    case Kind::cycler:
      return "Cycler";
    case Kind::joiner:
      return "Joiner";
  }
  return "object";
}

bool truth(const Value& value) {
  switch (value.kind()) {
    case Kind::undefined:
    case Kind::none:
      return false;
    case Kind::boolean:
    case Kind::integer:
      return value.as_integer() != 0;
    case Kind::floating:
      return value.as_double() != 0;
    case Kind::string:
      return !value.as_string().empty();
    case Kind::list:
    case Kind::tuple:
    case Kind::view:
    case Kind::range:
      return !value.as_sequence()->items.empty();
    case Kind::dict:
      return !value.as_dict()->entries().empty();
    default:
      return true;
  }
}

namespace {

bool equal_sequences(Heap& heap, const Sequence& left, const Sequence& right, int depth) {
  if (left.items.size() != right.items.size()) return false;
  for (std::size_t i = 0; i < left.items.size(); ++i) {
    if (!equal(heap, left.items[i], right.items[i], depth + 1)) return false;
  }
  return true;
}

bool equal_dicts(Heap& heap, const Dict& left, const Dict& right, int depth) {
  if (left.entries().size() != right.entries().size()) return false;
  for (const auto& [key, value] : left.entries()) {
    const Value* const other = right.find(key);
    if (other == nullptr || !equal(heap, value, *other, depth + 1)) return false;
  }
  return true;
}

/// An integer against a float without rounding the integer.
int compare_mixed(std::int64_t left, double right) {
  if (right >= 0x1p63) return -1;
  if (right < -0x1p63) return 1;
  const auto whole = static_cast<std::int64_t>(right);
  if (left != whole) return left < whole ? -1 : 1;
  const double rest = right - static_cast<double>(whole);
  return rest > 0 ? -1 : rest < 0 ? 1 : 0;
}

bool has_nan(const Value& value) { return value.is(Kind::floating) && std::isnan(value.as_double()); }

int compare_numbers(const Value& left, const Value& right) {
  if (left.is_integral() && right.is_integral()) {
    return left.as_integer() < right.as_integer() ? -1 : left.as_integer() > right.as_integer() ? 1 : 0;
  }
  if (left.is_integral()) return compare_mixed(left.as_integer(), right.as_double());
  if (right.is_integral()) return -compare_mixed(right.as_integer(), left.as_double());
  return left.as_double() < right.as_double() ? -1 : left.as_double() > right.as_double() ? 1 : 0;
}

}  // namespace

bool equal(Heap& heap, const Value& left, const Value& right, int depth) {
  if (depth > kValueDepth) throw Failure{"values are nested too deeply to be compared"};
  heap.work();
  if (left.is_number() && right.is_number()) {
    return !has_nan(left) && !has_nan(right) && compare_numbers(left, right) == 0;
  }
  if (left.kind() != right.kind()) return false;
  switch (left.kind()) {
    case Kind::undefined:
    case Kind::none:
      return true;
    case Kind::string:
      if (left.as_string().size() != right.as_string().size()) return false;
      heap.work_bytes(left.as_string().size());
      return left.as_string() == right.as_string();
    case Kind::list:
    case Kind::tuple:
    case Kind::view:
    case Kind::range:
      return equal_sequences(heap, *left.as_sequence(), *right.as_sequence(), depth);
    case Kind::dict:
      return equal_dicts(heap, *left.as_dict(), *right.as_dict(), depth);
    default:
      return left.identity() == right.identity();
  }
}

int compare(Heap& heap, const Value& left, const Value& right, std::string_view word, int depth) {
  if (depth > kValueDepth) throw Failure{"values are nested too deeply to be compared"};
  heap.work();
  if (left.is_number() && right.is_number()) return compare_numbers(left, right);
  if (left.is(Kind::string) && right.is(Kind::string)) {
    heap.work_bytes(std::min(left.as_string().size(), right.as_string().size()));
    return left.as_string().compare(right.as_string());
  }
  if (left.kind() == right.kind() && (left.is(Kind::list) || left.is(Kind::tuple))) {
    const Values& a = left.as_sequence()->items;
    const Values& b = right.as_sequence()->items;
    for (std::size_t i = 0; i < a.size() && i < b.size(); ++i) {
      if (!equal(heap, a[i], b[i], depth + 1)) return compare(heap, a[i], b[i], word, depth + 1);
    }
    return a.size() < b.size() ? -1 : a.size() > b.size() ? 1 : 0;
  }
  if (left.is(Kind::undefined)) throw Failure{missing_sentence(left)};
  if (right.is(Kind::undefined)) throw Failure{missing_sentence(right)};
  throw Failure{"'" + std::string(word) + "' not supported between instances of '" + std::string(type_word(left.kind())) +
                "' and '" + std::string(type_word(right.kind())) + "'"};
}

std::size_t hash_of(Heap& heap, const Value& value, int depth) {
  if (depth > kValueDepth) throw Failure{"values are nested too deeply to be a dict's key"};
  heap.work();
  switch (value.kind()) {
    case Kind::boolean:
    case Kind::integer:
      return std::hash<std::int64_t>()(value.as_integer()) * 0x9E3779B97F4A7C15ULL >> 7;
    case Kind::floating: {
      const double real = value.as_double();
      if (real >= -0x1p63 && real < 0x1p63 && real == std::floor(real)) {
        return hash_of(heap, Value::integer(static_cast<std::int64_t>(real)));
      }
      return std::hash<double>()(real);
    }
    case Kind::string:
      heap.work_bytes(value.as_string().size());
      return std::hash<std::string_view>()(value.as_string());
    case Kind::tuple: {
      std::size_t hash = 0x345678;
      for (const Value& item : value.as_sequence()->items) hash = hash * 1000003 + hash_of(heap, item, depth + 1);
      return hash;
    }
    case Kind::list:
    case Kind::dict:
    case Kind::view:
      throw Failure{"unhashable type: '" + std::string(type_word(value.kind())) + "'"};
    case Kind::none:
    case Kind::undefined:
      return 17 + static_cast<std::size_t>(value.kind());
    default:
      return std::hash<const void*>()(value.identity());
  }
}

std::string missing_sentence(const Value& value) {
  const Missing* const why = value.as_missing();
  if (why == nullptr) return "the value is undefined";
  if (!why->sentence.empty()) return std::string(why->sentence);
  const std::string name(why->name);
  if (why->owner == Kind::undefined) return "'" + name + "' is undefined";
  const std::string owner = why->owner == Kind::none ? std::string("None") : std::string(type_word(why->owner)) + " object";
  if (why->is_subscript) return owner + " has no element " + name;
  return "'" + owner + "' has no attribute '" + name + "'";
}

bool is_iterable(const Value& value) {
  return value.has_items() || value.is(Kind::dict) || value.is(Kind::string) || value.is(Kind::undefined);
}

Sequence* elements(Heap& heap, const Value& value) {
  switch (value.kind()) {
    case Kind::undefined:
      return heap.make_sequence();
    case Kind::list:
    case Kind::tuple:
    case Kind::view:
    case Kind::range:
      return value.as_sequence();
    case Kind::iterator: {
      Sequence* const source = value.as_sequence();
      if (source->next == 0) {
        Sequence* const all = heap.make_sequence(source->items.size());
        all->items = source->items;
        source->next = source->items.size();
        return all;
      }
      Sequence* const rest = heap.make_sequence();
      for (; source->next < source->items.size(); ++source->next) rest->items.push_back(source->items[source->next]);
      return rest;
    }
    case Kind::dict: {
      Sequence* const keys = heap.make_sequence(value.as_dict()->entries().size());
      for (const auto& entry : value.as_dict()->entries()) keys->items.push_back(entry.first);
      return keys;
    }
    case Kind::string: {
      const std::string_view text = value.as_string();
      heap.work(text.size());
      Sequence* const characters = heap.make_sequence(count_characters(text));
      for (std::size_t at = 0; at < text.size();) {
        const std::size_t bytes = character_bytes(text, at);
        characters->items.push_back(Value::string(text.substr(at, bytes)));
        at += bytes;
      }
      return characters;
    }
    default:
      throw Failure{"'" + std::string(type_word(value.kind())) + "' object is not iterable"};
  }
}

std::int64_t length(const Value& value) {
  switch (value.kind()) {
    case Kind::undefined:
      return 0;
    case Kind::string:
      return static_cast<std::int64_t>(count_characters(value.as_string()));
    case Kind::list:
    case Kind::tuple:
    case Kind::view:
    case Kind::range:
      return static_cast<std::int64_t>(value.as_sequence()->items.size());
    case Kind::dict:
      return static_cast<std::int64_t>(value.as_dict()->entries().size());
    default:
      throw Failure{"object of type '" + std::string(type_word(value.kind())) + "' has no len()"};
  }
}

bool contains(Heap& heap, const Value& haystack, const Value& needle) {
  if (haystack.is(Kind::string)) {
    if (needle.is(Kind::undefined)) throw Failure{"'in <string>' requires string as left operand, not Undefined"};
    if (!needle.is(Kind::string)) {
      throw Failure{"'in <string>' requires string as left operand, not " + std::string(type_word(needle.kind()))};
    }
    heap.work_bytes(haystack.as_string().size());
    return find_text(haystack.as_string(), needle.as_string(), 0) != std::string_view::npos;
  }
  if (haystack.is(Kind::dict)) return haystack.as_dict()->find(needle) != nullptr;
  if (!is_iterable(haystack)) {
    throw Failure{"argument of type '" + std::string(type_word(haystack.kind())) + "' is not iterable"};
  }
  for (const Value& item : elements(heap, haystack)->items) {
    heap.work();
    if (equal(heap, item, needle)) return true;
  }
  return false;
}

}  // namespace quern::jinja
