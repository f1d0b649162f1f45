// From a text to the id of the token (or symbol) that has it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

namespace quern {

/// A hash table of ids that keeps no texts: `text_of(id)` gives the text of an id that was added, the same at every call.
/// Eight bytes a slot, where a map of strings has a node for each.
class TextIndex {
 public:
  /// Makes room for `count` texts.
  void reserve(std::size_t count) {
    std::size_t slots = 16;
    while (slots < count * 2 + 2) slots *= 2;
    if (slots > slots_.size()) rebuild(slots);
  }

  /// The id of `text`, -1 where it was not added.
  template <class TextOf>
  [[nodiscard]] std::int32_t find(std::string_view text, const TextOf& text_of) const {
    if (slots_.empty()) return -1;
    const std::uint32_t hash = hash_of(text);
    for (std::size_t at = hash & (slots_.size() - 1); slots_[at].id >= 0; at = (at + 1) & (slots_.size() - 1)) {
      if (slots_[at].hash == hash && std::string_view(text_of(slots_[at].id)) == text) return slots_[at].id;
    }
    return -1;
  }

  /// Adds `text` with `id`; where it is there already its id stays. Returns the id that it has.
  template <class TextOf>
  std::int32_t add(std::string_view text, std::int32_t id, const TextOf& text_of) {
    if (const std::int32_t known = find(text, text_of); known >= 0) return known;
    if ((used_ + 1) * 2 > slots_.size()) rebuild(slots_.empty() ? 16 : slots_.size() * 2);
    place({hash_of(text), id});
    ++used_;
    return id;
  }

 private:
  struct Slot {
    std::uint32_t hash = 0;
    std::int32_t id = -1;
  };
  static std::uint32_t hash_of(std::string_view text) {
    const std::uint64_t hash = std::hash<std::string_view>{}(text);
    return static_cast<std::uint32_t>(hash ^ hash >> 32);
  }
  void place(Slot slot) {
    std::size_t at = slot.hash & (slots_.size() - 1);
    while (slots_[at].id >= 0) at = (at + 1) & (slots_.size() - 1);
    slots_[at] = slot;
  }
  void rebuild(std::size_t slots) {
    std::vector<Slot> old(slots);
    old.swap(slots_);
    for (const Slot& slot : old) {
      if (slot.id >= 0) place(slot);
    }
  }
  std::vector<Slot> slots_;  // a power of two, at most half full
  std::size_t used_ = 0;
};

}  // namespace quern
