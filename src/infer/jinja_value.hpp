// Values of chat templates: what Python objects are to Jinja. They live in a Heap that is freed at once when a rendering
// ends, so that no value owns another and no nesting or cycle can hurt a destructor.
//
// Everything in quern::jinja throws Failure for what a template or its data did wrong; ChatTemplate, the library's border,
// turns it into an Error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace quern::jinja {

/// A template that is wrong, or that ran into a limit. Never leaves the library.
struct Failure {
  std::string message;
  int line = 0;  ///< of the template; 0: not known yet
};

/// What one rendering may use. Generous to real templates: the longest published ones with a thousand messages stay below
/// a hundredth of each.
struct Limits {
  std::int64_t steps = 50'000'000;                  ///< nodes evaluated, elements visited, 64-byte pieces copied
  std::size_t memory_bytes = std::size_t{1} << 28;  ///< of all values made, dead ones too
  std::size_t output_bytes = std::size_t{1} << 26;
  int depth = 1000;  ///< of nested evaluation on this machine's stack: expressions, blocks and macro calls together
};

/// Depth of nested lists, dicts and JSON that printing, comparing and reading follow.
inline constexpr int kValueDepth = 200;
/// Python's sandboxed range has the same bound.
inline constexpr std::uint64_t kMaxRange = 100'000;

enum class Kind : std::uint8_t {
  undefined,
  none,
  boolean,
  integer,
  floating,
  string,
  list,
  tuple,
  dict,
  view,  ///< of a dict: keys(), values() or items()
  range,
  iterator,  ///< what map, select, reverse, ... give: to be walked once, always true, without a length
  space,     ///< namespace()
  function,  ///< a macro, a global function or a method bound to its object
  loop,      ///< the variable of a for loop
  cycler,
  joiner,
};

class Value;
class Dict;
class Heap;
struct Function;
struct Sequence;
struct LoopState;
using Values = std::pmr::vector<Value>;

/// Why a value is not there: the lookup that failed.
struct Missing {
  Kind owner = Kind::undefined;  ///< undefined: a variable
  std::string_view name;         ///< the attribute or variable, or the subscript as Python prints it
  bool is_subscript = false;
  std::string_view sentence;  ///< instead of all that, where not empty
};

/// A number, text or reference, passed by value. Text is valid UTF-8 that outlives the rendering.
class Value {
 public:
  Value() = default;
  [[nodiscard]] static Value none() { return Value(Kind::none); }
  [[nodiscard]] static Value boolean(bool value);
  [[nodiscard]] static Value integer(std::int64_t value);
  [[nodiscard]] static Value floating(double value);
  [[nodiscard]] static Value string(std::string_view text);
  [[nodiscard]] static Value undefined(const Missing* why);
  [[nodiscard]] static Value sequence(Kind kind, Sequence* items);
  [[nodiscard]] static Value dict(Dict* entries, Kind kind = Kind::dict);
  [[nodiscard]] static Value function(const Function* callee);
  [[nodiscard]] static Value loop(LoopState* state);
  [[nodiscard]] static Value joiner(Sequence* state) { return sequence(Kind::joiner, state); }

  [[nodiscard]] Kind kind() const { return kind_; }
  [[nodiscard]] bool is(Kind kind) const { return kind_ == kind; }
  [[nodiscard]] bool is_number() const { return kind_ >= Kind::boolean && kind_ <= Kind::floating; }
  /// True, False and integers, which Python counts as integers all.
  [[nodiscard]] bool is_integral() const { return kind_ == Kind::boolean || kind_ == Kind::integer; }
  [[nodiscard]] bool has_items() const { return kind_ >= Kind::list && kind_ <= Kind::iterator && kind_ != Kind::dict; }

  [[nodiscard]] std::int64_t as_integer() const { return number_; }  ///< boolean, integer
  [[nodiscard]] double as_double() const { return kind_ == Kind::floating ? real_ : static_cast<double>(number_); }
  [[nodiscard]] std::string_view as_string() const { return {text_, size_}; }
  [[nodiscard]] const Missing* as_missing() const { return missing_; }
  [[nodiscard]] Sequence* as_sequence() const { return sequence_; }
  [[nodiscard]] Dict* as_dict() const { return dict_; }  ///< dict, space
  [[nodiscard]] const Function* as_function() const { return function_; }
  [[nodiscard]] LoopState* as_loop() const { return loop_; }
  [[nodiscard]] const void* identity() const { return sequence_; }

 private:
  explicit Value(Kind kind) : kind_(kind) {}
  Kind kind_ = Kind::undefined;
  std::size_t size_ = 0;  ///< bytes of a string
  union {
    std::int64_t number_ = 0;
    double real_;
    const char* text_;
    const Missing* missing_;
    Sequence* sequence_;
    Dict* dict_;
    const Function* function_;
    LoopState* loop_;
  };
};

/// A list, tuple, view, range, iterator or cycler.
struct Sequence {
  explicit Sequence(std::pmr::memory_resource* memory) : items(memory) {}
  Values items;
  std::size_t next = 0;                        ///< iterators, cyclers: the first element not yet taken
  std::string_view word;                       ///< views: dict_keys, dict_values, dict_items
  std::int64_t start = 0, stop = 0, step = 1;  ///< ranges
};

/// A dict in insertion order, with an index once it is large.
class Dict {
 public:
  explicit Dict(Heap& heap);
  [[nodiscard]] const std::pmr::vector<std::pair<Value, Value>>& entries() const { return entries_; }
  [[nodiscard]] const Value* find(const Value& key) const;
  [[nodiscard]] const Value* find(std::string_view key) const { return find(Value::string(key)); }
  void set(const Value& key, const Value& value);  ///< unhashable keys fail as in Python

 private:
  [[nodiscard]] std::size_t index_of(const Value& key) const;  ///< entries_.size() when absent
  void rebuild_slots();
  Heap* heap_;  ///< counts the work of comparing keys
  std::pmr::vector<std::pair<Value, Value>> entries_;
  std::pmr::vector<std::uint32_t> slots_;  ///< open addressing, entry + 1; empty while the dict is small
};

/// Memory and work of one rendering, both bounded. Nothing made here is destroyed before the Heap.
class Heap {
 public:
  explicit Heap(const Limits& limits);
  Heap(const Heap&) = delete;
  Heap& operator=(const Heap&) = delete;

  /// Counts work; fails when the limit is reached.
  void work(std::size_t steps = 1) {
    if (steps > remaining_steps_) exhausted();
    remaining_steps_ -= steps;
  }
  void work_bytes(std::size_t bytes) { work(bytes / 64 + 1); }

  [[nodiscard]] std::pmr::memory_resource* memory() { return &counted_; }
  /// Space for text made piece by piece by the caller; `bytes` may be 0.
  [[nodiscard]] char* make_text(std::size_t bytes);
  [[nodiscard]] std::string_view keep(std::string_view text);  ///< a copy that lives as long as the Heap
  [[nodiscard]] Value make_string(std::string_view text) { return Value::string(keep(text)); }
  [[nodiscard]] Sequence* make_sequence(std::size_t reserve = 0);
  [[nodiscard]] Dict* make_dict();
  [[nodiscard]] Value make_missing(Kind owner, std::string_view name, bool is_subscript = false);
  [[nodiscard]] Value make_missing(std::string_view sentence);
  template <class T, class... Arguments>
  [[nodiscard]] T* make(Arguments&&... arguments) {
    return new (counted_.allocate(sizeof(T), alignof(T))) T{std::forward<Arguments>(arguments)...};
  }
  [[nodiscard]] Values make_values() { return Values(&counted_); }
  [[nodiscard]] std::size_t memory_left() const { return counted_.remaining(); }

 private:
  /// A monotonic buffer that counts every request.
  class Counted final : public std::pmr::memory_resource {
   public:
    explicit Counted(std::size_t limit) : remaining_(limit) {}
    [[nodiscard]] std::size_t remaining() const { return remaining_; }

   private:
    void* do_allocate(std::size_t bytes, std::size_t alignment) override;
    void do_deallocate(void* /*pointer*/, std::size_t /*bytes*/, std::size_t /*alignment*/) override {}
    [[nodiscard]] bool do_is_equal(const memory_resource& other) const noexcept override { return this == &other; }
    std::size_t remaining_;
    std::pmr::monotonic_buffer_resource chunks_;
  };
  [[noreturn]] static void exhausted();
  std::size_t remaining_steps_;
  Counted counted_;
};

/// Text made piece by piece, never larger than the memory that the Heap has left.
class Builder {
 public:
  explicit Builder(Heap& heap) : heap_(heap) {}
  Builder& add(std::string_view text);
  Builder& add(char c) { return add(std::string_view(&c, 1)); }
  Builder& add_repeated(std::string_view text, std::int64_t count);  ///< nothing for counts below 1
  [[nodiscard]] std::string& text() { return text_; }
  [[nodiscard]] Heap& heap() { return heap_; }
  [[nodiscard]] Value value() { return heap_.make_string(text_); }

 private:
  Heap& heap_;
  std::string text_;
};

[[nodiscard]] std::string_view type_word(Kind kind);  ///< Python's name of the type: "str", "dict", ...
[[nodiscard]] bool truth(const Value& value);
[[nodiscard]] bool equal(Heap& heap, const Value& left, const Value& right, int depth = 0);
/// Negative, zero or positive as left is below, equal to or above right; types without an order fail with Python's words
/// for `word`, the operator.
[[nodiscard]] int compare(Heap& heap, const Value& left, const Value& right, std::string_view word = "<", int depth = 0);
[[nodiscard]] std::size_t hash_of(Heap& heap, const Value& value, int depth = 0);
/// The sentence for the use of an undefined value, as Jinja says it.
[[nodiscard]] std::string missing_sentence(const Value& value);

/// The elements of anything that can be iterated: text by characters, dicts by keys; iterators are used up. `what` names the
/// use in errors.
[[nodiscard]] Sequence* elements(Heap& heap, const Value& value);
[[nodiscard]] bool is_iterable(const Value& value);
/// The length of anything that has one.
[[nodiscard]] std::int64_t length(const Value& value);
/// `needle in haystack`.
[[nodiscard]] bool contains(Heap& heap, const Value& haystack, const Value& needle);

}  // namespace quern::jinja
