#include "model/bpe.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <unordered_map>
#include <unordered_set>

namespace quern {
namespace {

// Up to here looking at every pair for each merge beats keeping a heap (words of English have about five bytes).
constexpr std::size_t kShortWord = 24;

// std::push_heap keeps the largest on top: the lowest rank, then the leftmost position.
bool later(const BpeScratch::Candidate& a, const BpeScratch::Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
}

}  // namespace

Result<BpeMerges> BpeMerges::create(std::span<const TokenPair> pairs, std::span<const std::int32_t> results,
                                    std::int64_t vocab_size) {
  if (pairs.size() != results.size() || pairs.size() > (std::size_t{1} << 30)) {
    return bad_input(fmt::format("{} merges with {} results", pairs.size(), results.size()));
  }
  BpeMerges merges;
  if (pairs.empty()) return merges;
  merges.slots_.resize(std::bit_ceil(pairs.size() * 2 + 1));
  const auto valid = [vocab_size](std::int32_t id) { return id >= 0 && id < vocab_size; };
  for (std::size_t rank = 0; rank < pairs.size(); ++rank) {
    const TokenPair pair = pairs[rank];
    if (!valid(pair.left) || !valid(pair.right) || !valid(results[rank])) {
      return bad_input(fmt::format("merge {} ({} {} -> {}) names a token outside the vocabulary of {}", rank, pair.left,
                                   pair.right, results[rank], vocab_size));
    }
    std::size_t at = merges.slot_of(pair);
    while (merges.slots_[at].pair.left >= 0) {
      if (merges.slots_[at].pair == pair) {
        return bad_input(fmt::format("merge {} ({} {}) occurs a second time", rank, pair.left, pair.right));
      }
      at = (at + 1) & (merges.slots_.size() - 1);
    }
    merges.slots_[at] = {pair, {static_cast<std::int32_t>(rank), results[rank]}};
  }
  return merges;
}

Result<BpeMerges> BpeMerges::create(std::span<const RankedMerge> list, std::int64_t symbol_count) {
  if (list.size() > (std::size_t{1} << 30)) return bad_input(fmt::format("{} merges are too many", list.size()));
  BpeMerges merges;
  if (list.empty()) return merges;
  merges.slots_.resize(std::bit_ceil(list.size() * 2 + 1));
  const auto valid = [symbol_count](std::int32_t id) { return id >= 0 && id < symbol_count; };
  for (const RankedMerge& merge : list) {
    if (!valid(merge.pair.left) || !valid(merge.pair.right) || !valid(merge.result)) {
      return bad_input(fmt::format("merge ({} {} -> {}) names a symbol outside the {} known", merge.pair.left,
                                   merge.pair.right, merge.result, symbol_count));
    }
    std::size_t at = merges.slot_of(merge.pair);
    while (merges.slots_[at].pair.left >= 0 && merges.slots_[at].pair != merge.pair)
      at = (at + 1) & (merges.slots_.size() - 1);
    Slot& slot = merges.slots_[at];
    if (slot.pair.left < 0 || merge.rank < slot.merge.rank) slot = {merge.pair, {merge.rank, merge.result}};
  }
  return merges;
}

std::vector<RankedMerge> BpeMerges::sorted() const {
  std::vector<RankedMerge> list;
  for (const Slot& slot : slots_) {
    if (slot.pair.left >= 0) list.push_back({slot.pair, slot.merge.rank, slot.merge.result});
  }
  std::sort(list.begin(), list.end(), [](const RankedMerge& a, const RankedMerge& b) {
    if (a.rank != b.rank) return a.rank < b.rank;
    return a.pair.left != b.pair.left ? a.pair.left < b.pair.left : a.pair.right < b.pair.right;
  });
  return list;
}

void BpeMerges::apply(std::vector<std::int32_t>& symbols, BpeScratch& scratch) const {
  if (symbols.size() < 2 || slots_.empty()) return;
  if (symbols.size() <= kShortWord) {
    apply_short(symbols);
  } else {
    apply_long(symbols, scratch);
  }
}

void BpeMerges::apply_short(std::vector<std::int32_t>& symbols) const {
  // merges[i]: the merge of symbols i and i+1. A merge at i changes entries i-1 and i only.
  std::array<const Merge*, kShortWord> merges{};
  std::size_t count = symbols.size();
  for (std::size_t i = 0; i + 1 < count; ++i) merges[i] = find({symbols[i], symbols[i + 1]});
  for (;;) {
    std::size_t best = count;
    for (std::size_t i = 0; i + 1 < count; ++i) {
      if (merges[i] != nullptr && (best == count || merges[i]->rank < merges[best]->rank)) best = i;
    }
    if (best == count) break;
    symbols[best] = merges[best]->result;
    for (std::size_t i = best + 1; i + 1 < count; ++i) {
      symbols[i] = symbols[i + 1];
      merges[i] = i + 2 < count ? merges[i + 1] : nullptr;
    }
    --count;
    merges[best] = best + 1 < count ? find({symbols[best], symbols[best + 1]}) : nullptr;
    if (best > 0) merges[best - 1] = find({symbols[best - 1], symbols[best]});
  }
  symbols.resize(count);
}

void BpeMerges::apply_long(std::vector<std::int32_t>& symbols, BpeScratch& scratch) const {
  // A list linked by positions: a merge keeps its left position and unlinks its right one. A candidate in the heap is stale
  // when its pair no longer stands at its position.
  const auto count = static_cast<std::int32_t>(symbols.size());
  auto& heap = scratch.heap;
  auto& next = scratch.next;
  auto& previous = scratch.previous;
  heap.clear();
  next.resize(symbols.size());
  previous.resize(symbols.size());
  for (std::int32_t i = 0; i < count; ++i) {
    next[i] = i + 1;
    previous[i] = i - 1;
  }
  const auto add = [&](std::int32_t left) {
    if (left < 0 || next[left] >= count) return false;
    const TokenPair pair{symbols[left], symbols[next[left]]};
    const Merge* merge = find(pair);
    if (merge != nullptr) heap.push_back({merge->rank, left, pair});
    return merge != nullptr;
  };
  const auto consider = [&](std::int32_t left) {
    if (add(left)) std::push_heap(heap.begin(), heap.end(), later);
  };
  for (std::int32_t i = 0; i + 1 < count; ++i) add(i);
  std::make_heap(heap.begin(), heap.end(), later);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const BpeScratch::Candidate top = heap.back();
    heap.pop_back();
    const std::int32_t left = top.position;
    if (symbols[left] != top.pair.left || next[left] >= count || symbols[next[left]] != top.pair.right) continue;
    const std::int32_t right = next[left];
    symbols[left] = find(top.pair)->result;
    symbols[right] = -1;  // unlinked: equals no pair's left
    next[left] = next[right];
    if (next[left] < count) previous[next[left]] = left;
    consider(previous[left]);
    consider(left);
  }
  std::size_t kept = 0;
  for (std::int32_t i = 0; i < count; i = next[i]) symbols[kept++] = symbols[i];
  symbols.resize(kept);
}

Result<BpeVocabulary> build_bpe_vocabulary(std::span<const TokenPair> merges) {
  BpeVocabulary vocabulary;
  vocabulary.tokens.reserve(256 + merges.size());
  vocabulary.results.reserve(merges.size());
  std::unordered_map<std::string, std::int32_t> ids;
  std::unordered_set<std::uint64_t> seen;
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary.tokens.emplace_back(1, static_cast<char>(byte));
    ids.emplace(vocabulary.tokens.back(), byte);
  }
  std::size_t total_bytes = 256;
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const auto [left, right] = merges[rank];
    const auto known = static_cast<std::int32_t>(vocabulary.tokens.size());
    if (left < 0 || right < 0 || left >= known || right >= known) {
      return bad_input(
          fmt::format("merge {} ({} {}) names a token that no earlier merge made (there are {})", rank, left, right, known));
    }
    if (!seen.insert(static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint64_t>(right)).second) {
      return bad_input(fmt::format("merge {} ({} {}) occurs a second time", rank, left, right));
    }
    std::string bytes = vocabulary.tokens[left] + vocabulary.tokens[right];
    total_bytes += bytes.size();
    if (bytes.size() > kMaxTokenBytes || total_bytes > kMaxVocabularyBytes) {
      return bad_input(
          fmt::format("merge {} makes a token of {} bytes and a vocabulary of {}; at most {} and {} are allowed", rank,
                      bytes.size(), total_bytes, kMaxTokenBytes, kMaxVocabularyBytes));
    }
    const auto [place, fresh] = ids.emplace(std::move(bytes), known);
    if (fresh) vocabulary.tokens.push_back(place->first);
    vocabulary.results.push_back(place->second);
  }
  return vocabulary;
}

}  // namespace quern
