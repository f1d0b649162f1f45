#include "model/special_matcher.hpp"

#include <algorithm>

#include "model/pretokenizer.hpp"
#include "model/utf8.hpp"

namespace quern {
namespace {

// The character that ends at `at` (> 0).
Utf8Step step_before(std::string_view text, std::size_t at) {
  const std::size_t start = utf8_boundary_before(text, at - 1);
  const Utf8Step step = utf8_step(text, start);
  return start + step.bytes == at ? step : Utf8Step{};
}

std::size_t white_space_end(std::string_view text, std::size_t at) {
  while (at < text.size()) {
    const Utf8Step step = utf8_step(text, at);
    if (!is_white_space(step.code_point)) break;
    at += step.bytes;
  }
  return at;
}

std::size_t white_space_begin(std::string_view text, std::size_t at, std::size_t least) {
  while (at > least) {
    const Utf8Step step = step_before(text, at);
    if (!is_white_space(step.code_point)) break;
    at -= step.bytes;
  }
  return at;
}

bool is_word(std::int32_t code_point) {
  if (code_point < 0) return false;
  if (code_point < 128) {
    return (code_point >= '0' && code_point <= '9') || (code_point >= 'a' && code_point <= 'z') ||
           (code_point >= 'A' && code_point <= 'Z') || code_point == '_';
  }
  static const Pretokenizer words = *Pretokenizer::from_rules({SplitRule{R"([\w\p{M}])", SplitBehavior::removed}});
  std::string text;
  append_utf8(text, code_point);
  std::vector<Piece> pieces;
  words.pieces(text, pieces);
  return pieces.empty();
}

}  // namespace

bool is_white_space(std::int32_t code_point) {
  return code_point == ' ' || (code_point >= '\t' && code_point <= '\r') || code_point == 0x85 || code_point == 0xA0 ||
         code_point == 0x1680 || (code_point >= 0x2000 && code_point <= 0x200A) || code_point == 0x2028 ||
         code_point == 0x2029 || code_point == 0x202F || code_point == 0x205F || code_point == 0x3000;
}

SpecialMatcher::SpecialMatcher(std::vector<SpecialText> texts) : texts_(std::move(texts)) {
  std::erase_if(texts_, [](const SpecialText& t) { return t.text.empty() || t.text.size() > kMaxSpecialBytes; });
  std::stable_sort(texts_.begin(), texts_.end(), [](const SpecialText& a, const SpecialText& b) { return a.text < b.text; });
  texts_.erase(
      std::unique(texts_.begin(), texts_.end(), [](const SpecialText& a, const SpecialText& b) { return a.text == b.text; }),
      texts_.end());
  std::size_t at = 0;
  for (int byte = 0; byte <= 256; ++byte) {
    while (at < texts_.size() && static_cast<unsigned char>(texts_[at].text[0]) < byte) ++at;
    first_bytes_[byte] = static_cast<std::uint32_t>(at);
  }
}

const SpecialText* SpecialMatcher::longest_at(std::string_view text, std::size_t at) const {
  // [low, high): the texts that agree with the text so far. Sorted as they are, one that ends here comes first.
  const auto first = static_cast<unsigned char>(text[at]);
  auto low = texts_.begin() + first_bytes_[first];
  auto high = texts_.begin() + first_bytes_[first + 1];
  const SpecialText* found = nullptr;
  for (std::size_t length = 1; low != high; ++length) {
    if (low->text.size() == length) {
      found = &*low;
      ++low;
    }
    if (at + length >= text.size() || low == high) break;
    const auto next = static_cast<unsigned char>(text[at + length]);
    low = std::partition_point(low, high,
                               [&](const SpecialText& t) { return static_cast<unsigned char>(t.text[length]) < next; });
    high = std::partition_point(low, high,
                                [&](const SpecialText& t) { return static_cast<unsigned char>(t.text[length]) == next; });
  }
  return found;
}

void SpecialMatcher::split(std::string_view text, std::vector<Part>& parts) const {
  std::size_t done = 0;
  for (std::size_t at = 0; at < text.size() && !texts_.empty();) {
    const SpecialText* found = longest_at(text, at);
    if (found == nullptr) {
      ++at;
      continue;
    }
    std::size_t begin = at;
    std::size_t end = at + found->text.size();
    if (found->whole_word && ((begin > 0 && is_word(step_before(text, begin).code_point)) ||
                              (end < text.size() && is_word(utf8_step(text, end).code_point)))) {
      at = end;
      continue;
    }
    if (found->strip_left) begin = white_space_begin(text, begin, done);
    if (found->strip_right) end = white_space_end(text, end);
    if (begin > done) parts.push_back({done, begin, -1});
    parts.push_back({begin, end, found->id});
    at = done = end;
  }
  if (text.size() > done) parts.push_back({done, text.size(), -1});
}

}  // namespace quern
