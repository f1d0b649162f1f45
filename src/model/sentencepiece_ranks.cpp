#include "model/sentencepiece_ranks.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

namespace quern::internal {
namespace {

// Longer tokens are not made by merging (CharacterBpe).
constexpr std::size_t kMaxMergedBytes = 256;

// Calls split(bytes of the left part) for each place inside `text` where both parts are whole characters.
template <class Split>
void for_each_split(std::string_view text, const Split& split) {
  for (std::size_t at = 1; at < text.size(); ++at) {
    if ((static_cast<unsigned char>(text[at]) & 0xC0U) != 0x80U) split(at);
  }
}

std::unordered_map<std::string_view, std::size_t> index_texts(const std::vector<std::string>& words) {
  std::unordered_map<std::string_view, std::size_t> ids;
  for (std::size_t id = 0; id < words.size(); ++id) {
    if (!words[id].empty()) ids.emplace(words[id], id);
  }
  return ids;
}

// A token that is always cut out of the text before anything merges.
bool never_left_to_merge(const VocabularyDescription& description, std::size_t id) {
  return description.kinds[id] == TokenKind::user_defined && description.texts[id].find(kSpaceMark) == std::string::npos &&
         description.texts[id].find(' ') == std::string::npos;
}

}  // namespace

std::vector<std::string> mergeable_texts(const VocabularyDescription& description) {
  std::vector<std::string> words(description.texts.size());
  std::unordered_set<std::string> known;
  for (const bool normal : {true, false}) {
    for (std::size_t id = 0; id < words.size(); ++id) {
      const TokenKind kind = description.kinds[id];
      if ((kind == TokenKind::normal) != normal) continue;
      if (!normal && kind != TokenKind::user_defined && kind != TokenKind::unused) continue;
      const std::string& text = description.texts[id];
      if (text.empty()) continue;
      std::string word = description.marks_spaces ? replace_all(text, " ", kSpaceMark) : text;
      if (known.insert(word).second) words[id] = std::move(word);
    }
  }
  return words;
}

Result<std::vector<float>> scores_of_merges(const VocabularyDescription& description) {
  const std::vector<std::string> words = mergeable_texts(description);
  const auto ids = index_texts(words);
  std::vector<std::int64_t> order(words.size(), -1);
  std::unordered_set<std::string> pairs;
  std::int64_t made = 0;
  std::string last, whole;
  for (const auto& [left, right] : description.merges) {
    whole.assign(left).append(right);
    pairs.insert(left + '\0' + right);
    if (whole == last) continue;
    last = whole;
    const auto found = ids.find(whole);
    if (found == ids.end()) return bad_input(fmt::format("the merge \"{} {}\" makes no ordinary token", left, right));
    if (order[found->second] >= 0) {
      if (never_left_to_merge(description, found->second)) continue;
      return bad_input(fmt::format("the merges that make \"{}\" stand among those of other tokens", whole));
    }
    order[found->second] = made++;
  }
  for (std::size_t id = 0; id < words.size(); ++id) {
    const std::string& word = words[id];
    if (word.size() > kMaxMergedBytes || never_left_to_merge(description, id)) continue;
    std::string missing;
    for_each_split(word, [&](std::size_t at) {
      const std::string left = word.substr(0, at), right = word.substr(at);
      if (!ids.contains(left) || !ids.contains(right) || pairs.contains(left + '\0' + right)) return;
      missing = left + " " + right;
    });
    if (!missing.empty())
      return bad_input(fmt::format("both parts of \"{}\" and the whole are tokens, but no merge", missing));
  }
  // What no merge makes comes last; types, not scores, tell the special ones apart.
  std::vector<float> scores(words.size(), 0.0F);
  for (std::size_t id = 0; id < words.size(); ++id) {
    if (!words[id].empty()) scores[id] = -static_cast<float>(order[id] >= 0 ? order[id] : made);
  }
  return scores;
}

std::vector<std::pair<std::string, std::string>> merges_of_scores(const VocabularyDescription& description) {
  const std::vector<std::string> words = mergeable_texts(description);
  const auto ids = index_texts(words);
  std::vector<std::size_t> order(words.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return description.scores[a] > description.scores[b]; });
  std::vector<std::pair<std::string, std::string>> merges;
  for (const std::size_t id : order) {
    const std::string& word = words[id];
    if (word.size() > kMaxMergedBytes || description.kinds[id] == TokenKind::unused) continue;
    const std::size_t first = merges.size();
    for_each_split(word, [&](std::size_t at) {
      const auto left = ids.find(std::string_view(word).substr(0, at)), right = ids.find(std::string_view(word).substr(at));
      const auto usable = [&](const auto& part) {
        return part != ids.end() && description.kinds[part->second] != TokenKind::unused;
      };
      if (usable(left) && usable(right)) merges.emplace_back(left->first, right->first);
    });
    std::reverse(merges.begin() + static_cast<std::ptrdiff_t>(first), merges.end());
  }
  return merges;
}

}  // namespace quern::internal
