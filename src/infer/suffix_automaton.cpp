#include "infer/suffix_automaton.hpp"

namespace quern {

namespace {

/// Mixes source and token (the finalizer of MurmurHash3, Appleby, public domain).
std::size_t hash(std::int32_t source, std::int32_t token) {
  std::uint64_t key =
      (static_cast<std::uint64_t>(static_cast<std::uint32_t>(source)) << 32) | static_cast<std::uint32_t>(token);
  key ^= key >> 33;
  key *= 0xFF51AFD7ED558CCDULL;
  key ^= key >> 33;
  key *= 0xC4CEB9FE1A85EC53ULL;
  key ^= key >> 33;
  return static_cast<std::size_t>(key);
}

}  // namespace

void SuffixAutomaton::clear() {
  size_ = 0;
  last_ = 0;
  states_.assign(1, {});
  edges_.clear();
  table_.assign(64, kNone);
}

std::size_t SuffixAutomaton::bytes() const {
  return states_.capacity() * sizeof(State) + edges_.capacity() * sizeof(Edge) + table_.capacity() * sizeof(std::int32_t);
}

std::int32_t SuffixAutomaton::find_edge(std::int32_t source, std::int32_t token) const {
  const std::size_t mask = table_.size() - 1;
  for (std::size_t at = hash(source, token) & mask;; at = (at + 1) & mask) {
    const std::int32_t found = table_[at];
    if (found == kNone) return kNone;
    const Edge& e = edges_[static_cast<std::size_t>(found)];
    if (e.source == source && e.token == token) return found;
  }
}

void SuffixAutomaton::grow_table() {
  table_.assign(table_.size() * 2, kNone);
  const std::size_t mask = table_.size() - 1;
  for (std::size_t i = 0; i < edges_.size(); ++i) {
    std::size_t at = hash(edges_[i].source, edges_[i].token) & mask;
    while (table_[at] != kNone) at = (at + 1) & mask;
    table_[at] = static_cast<std::int32_t>(i);
  }
}

std::int32_t SuffixAutomaton::add_edge(std::int32_t source, std::int32_t token, std::int32_t target, std::int32_t times) {
  const auto index = static_cast<std::int32_t>(edges_.size());
  edges_.push_back({.source = source, .token = token, .target = target, .next = state(source).first_edge, .times = times});
  state(source).first_edge = index;
  if (edges_.size() * 2 > table_.size()) {
    grow_table();  // enters the new edge too
    return index;
  }
  const std::size_t mask = table_.size() - 1;
  std::size_t at = hash(source, token) & mask;
  while (table_[at] != kNone) at = (at + 1) & mask;
  table_[at] = index;
  return index;
}

std::int32_t SuffixAutomaton::add_state(std::int32_t length) {
  states_.push_back({.length = length});
  return static_cast<std::int32_t>(states_.size() - 1);
}

/// A state for the strings of `original` up to `length`. They were followed by the same tokens at the same places so far.
std::int32_t SuffixAutomaton::clone(std::int32_t original, std::int32_t length) {
  const std::int32_t copy = add_state(length);
  const State from = state(original);
  state(copy).link = from.link;
  state(copy).followers = from.followers;
  for (std::int32_t i = from.first_edge; i != kNone; i = edge(i).next) {
    const std::int32_t added = add_edge(copy, edge(i).token, edge(i).target, edge(i).times);
    if (i == from.last_edge_taken) state(copy).last_edge_taken = added;
    if (i == from.frequent_edge) state(copy).frequent_edge = added;
  }
  return copy;
}

void SuffixAutomaton::count(std::int32_t source, std::int32_t edge_index) {
  State& s = state(source);
  const std::int32_t times = ++edge(edge_index).times;
  ++s.followers;
  s.last_edge_taken = edge_index;
  if (s.frequent_edge == kNone || times > edge(s.frequent_edge).times) s.frequent_edge = edge_index;
}

void SuffixAutomaton::append(std::int32_t token) {
  const std::int32_t whole = last_;
  last_ = add_state(static_cast<std::int32_t>(++size_));
  std::int32_t at = whole;
  std::int32_t taken = kNone;
  std::int64_t ends = 0;
  for (; at != kNone; at = state(at).link) {
    taken = find_edge(at, token);
    if (taken != kNone) break;
    count(at, add_edge(at, token, last_, 0));
    ++ends;
  }
  if (at == kNone) {
    state(last_).link = 0;
    return;
  }
  const std::int32_t target = edge(taken).target;
  const std::int32_t length = state(at).length + 1;
  std::int32_t link = target;
  if (state(target).length != length) {
    link = clone(target, length);
    state(target).link = link;
    for (std::int32_t p = at; p != kNone; p = state(p).link) {
      const std::int32_t redirected = find_edge(p, token);
      if (redirected == kNone || edge(redirected).target != target) break;
      edge(redirected).target = link;
    }
  }
  state(last_).link = link;
  for (; at != kNone && ends < counted_ends_; at = state(at).link, ++ends) count(at, find_edge(at, token));
}

void SuffixAutomaton::append(std::span<const std::int32_t> tokens) {
  for (const std::int32_t token : tokens) append(token);
}

SuffixAutomaton::Match SuffixAutomaton::longest_match() const { return shorter({.state = last_, .length = size_}); }

SuffixAutomaton::Match SuffixAutomaton::shorter(const Match& match) const {
  const std::int32_t link = state(match.state).link;
  if (link == kNone) return {};
  return {.state = link, .length = state(link).length};
}

std::optional<SuffixAutomaton::Continuation> SuffixAutomaton::continuation(const Match& match,
                                                                           std::int32_t edge_index) const {
  if (edge_index == kNone) return std::nullopt;
  const Edge& e = edges_[static_cast<std::size_t>(edge_index)];
  return Continuation{.token = e.token,
                      .times = e.times,
                      .followers = state(match.state).followers,
                      .next = {.state = e.target, .length = match.length + 1}};
}

std::optional<SuffixAutomaton::Continuation> SuffixAutomaton::last_continuation(const Match& match) const {
  return continuation(match, state(match.state).last_edge_taken);
}

std::optional<SuffixAutomaton::Continuation> SuffixAutomaton::frequent_continuation(const Match& match) const {
  return continuation(match, state(match.state).frequent_edge);
}

}  // namespace quern
