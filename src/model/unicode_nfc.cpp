#include "model/unicode_nfc.hpp"

#include <algorithm>
#include <unordered_map>
#include <vector>

#include "model/unicode_nfc_internal.hpp"
#include "model/utf8.hpp"

namespace quern {
namespace {

using internal::CanonicalDecomposition;

// Hangul syllables are put together by arithmetic (The Unicode Standard, 3.12).
constexpr std::int32_t kSyllable = 0xAC00, kLead = 0x1100, kVowel = 0x1161, kTail = 0x11A7;
constexpr std::int32_t kVowels = 21, kTails = 28, kSyllables = 11172, kLeads = 19;

struct Tables {
  std::unordered_map<std::int32_t, CanonicalDecomposition> decompositions;
  std::unordered_map<std::uint64_t, std::int32_t> compositions;
  std::unordered_map<std::int32_t, std::int32_t> classes;
  std::vector<bool> unstable;  // may change, or change what stands before

  Tables() : unstable(0x110000) {
    for (const auto& entry : internal::combining_classes()) {
      for (std::int32_t point = entry.first; point <= entry.last; ++point) {
        classes[point] = entry.value;
        unstable[point] = true;
      }
    }
    for (const auto& entry : internal::canonical_decompositions()) {
      decompositions[entry.code_point] = entry;
      if (entry.never_composed != 0) {
        unstable[entry.code_point] = true;
      } else {
        compositions[key(entry.first, entry.second)] = entry.code_point;
        unstable[entry.second] = true;
      }
    }
    for (std::int32_t i = 0; i < kVowels; ++i) unstable[kVowel + i] = true;
    for (std::int32_t i = 1; i < kTails; ++i) unstable[kTail + i] = true;
  }
  static std::uint64_t key(std::int32_t first, std::int32_t second) {
    return static_cast<std::uint64_t>(first) << 32 | static_cast<std::uint64_t>(second);
  }
  [[nodiscard]] std::int32_t combining_class(std::int32_t point) const {
    const auto found = classes.find(point);
    return found == classes.end() ? 0 : found->second;
  }
  // 0: the two do not compose.
  [[nodiscard]] std::int32_t compose(std::int32_t first, std::int32_t second) const {
    if (first >= kLead && first < kLead + kLeads && second >= kVowel && second < kVowel + kVowels) {
      return kSyllable + ((first - kLead) * kVowels + (second - kVowel)) * kTails;
    }
    if (first >= kSyllable && first < kSyllable + kSyllables && (first - kSyllable) % kTails == 0 && second > kTail &&
        second < kTail + kTails) {
      return first + (second - kTail);
    }
    const auto found = compositions.find(key(first, second));
    return found == compositions.end() ? 0 : found->second;
  }
  void decompose(std::int32_t point, std::vector<std::int32_t>& out) const {
    if (point >= kSyllable && point < kSyllable + kSyllables) {
      const std::int32_t index = point - kSyllable;
      out.push_back(kLead + index / (kVowels * kTails));
      out.push_back(kVowel + index % (kVowels * kTails) / kTails);
      if (index % kTails != 0) out.push_back(kTail + index % kTails);
      return;
    }
    const auto found = decompositions.find(point);
    if (found == decompositions.end()) {
      out.push_back(point);
      return;
    }
    decompose(found->second.first, out);
    if (found->second.second != 0) decompose(found->second.second, out);
  }
};

const Tables& tables() {
  static const Tables made;
  return made;
}

// One starter and what follows it up to the next stable character.
void append_normalized(const std::vector<std::int32_t>& points, std::string& out) {
  const Tables& table = tables();
  std::vector<std::int32_t> parts;
  for (const std::int32_t point : points) table.decompose(point, parts);
  // Canonical order: runs of combining characters by their class.
  for (std::size_t at = 0; at < parts.size();) {
    if (table.combining_class(parts[at]) == 0) {
      ++at;
      continue;
    }
    std::size_t end = at;
    while (end < parts.size() && table.combining_class(parts[end]) != 0) ++end;
    std::stable_sort(parts.begin() + static_cast<std::ptrdiff_t>(at), parts.begin() + static_cast<std::ptrdiff_t>(end),
                     [&](std::int32_t a, std::int32_t b) { return table.combining_class(a) < table.combining_class(b); });
    at = end;
  }
  // Composition: each character joins the last starter, unless one of the same or a higher class stands between them.
  std::vector<std::int32_t> composed;
  std::size_t starter = SIZE_MAX;
  std::int32_t last_class = 0;
  for (const std::int32_t part : parts) {
    const std::int32_t part_class = table.combining_class(part);
    const bool blocked = starter != SIZE_MAX && starter + 1 < composed.size() && last_class >= part_class;
    if (starter != SIZE_MAX && !blocked) {
      if (const std::int32_t whole = table.compose(composed[starter], part); whole != 0) {
        composed[starter] = whole;
        continue;
      }
    }
    composed.push_back(part);
    last_class = part_class;
    if (part_class == 0) starter = composed.size() - 1;
  }
  for (const std::int32_t point : composed) append_utf8(out, point);
}

}  // namespace

std::string to_nfc(std::string_view text) {
  // Below U+0300 nothing composes or reorders: bytes below 0xCC.
  const auto low = [](char c) { return static_cast<unsigned char>(c) < 0xCC; };
  if (std::all_of(text.begin(), text.end(), low)) return std::string(text);
  const Tables& table = tables();
  std::string out;
  out.reserve(text.size());
  std::vector<std::int32_t> held;  // a stable character and the unstable ones after it
  bool changed = false;
  const auto flush = [&] {
    if (changed) {
      append_normalized(held, out);
    } else {
      for (const std::int32_t point : held) append_utf8(out, point);
    }
    held.clear();
    changed = false;
  };
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Step step = utf8_step(text, at);
    if (step.code_point < 0) {
      flush();
      out.push_back(text[at]);
    } else if (table.unstable[step.code_point]) {
      held.push_back(step.code_point);
      changed = true;
    } else {
      flush();
      held.push_back(step.code_point);
    }
    at += step.bytes;
  }
  flush();
  return out;
}

}  // namespace quern
