#include "model/kv_cache.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <limits>
#include <string>

namespace quern {

namespace {

std::int64_t pages_for(std::int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

/// Pages that a windowed sequence holds at most: from the page of position length - window - batch to the last one.
std::int64_t window_pages(std::int64_t window, std::int64_t batch) { return pages_for(window + batch) + 1; }

/// product * factor, or nothing where it leaves the address space.
bool multiply(std::int64_t& product, std::int64_t factor) { return !__builtin_mul_overflow(product, factor, &product); }

}  // namespace

Result<KvCache::Plan> KvCache::plan(const ModelConfig& config, ElementType type, std::int64_t capacity_tokens,
                                    std::int64_t max_sequences, std::int64_t max_batch_tokens) {
  if (capacity_tokens < 1 || max_sequences < 1 || max_batch_tokens < 0) {
    return bad_input("KV cache: needs room for at least one token and sequence");
  }
  const std::int64_t block = kv_block_elements(type);
  if (block == 0) return bad_input("KV cache: the element type must be f32, f16, bf16, q8_0 or q4_0");
  if (config.head_dim % block != 0) {
    return bad_input("KV cache: " + std::string(kv_type_name(type)) + " holds blocks of " + std::to_string(block) +
                     " elements, which do not divide the model's head_dim of " + std::to_string(config.head_dim));
  }
  // Above this, sums below could overflow; so could pages as 32-bit numbers.
  constexpr std::int64_t kMost = std::int64_t{1} << 36;
  const auto overflow = [&] {
    return bad_input("KV cache: " + std::to_string(capacity_tokens) + " tokens of " + std::to_string(max_sequences) +
                     " sequences exceed the address space");
  };
  if (capacity_tokens > kMost || max_sequences > kMost / kPageTokens) return overflow();

  Plan plan;
  plan.row_bytes = kv_row_bytes(type, config.kv_width());
  plan.batch = max_batch_tokens == 0 ? kMost : std::min(max_batch_tokens, kMost);
  plan.groups.emplace_back();
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    // A window as long as the cache saves nothing.
    const std::int64_t asked = config.attention_shape(layer).window;
    const std::int64_t window = asked < capacity_tokens ? asked : 0;
    const auto at =
        std::find_if(plan.groups.begin(), plan.groups.end(), [&](const Group& group) { return group.window == window; });
    Group& group = at == plan.groups.end() ? plan.groups.emplace_back() : *at;
    group.window = window;
    plan.layers.push_back({.group = static_cast<std::size_t>(&group - plan.groups.data()),
                           .key_offset = static_cast<std::size_t>(group.layers * 2 * kPageTokens) * plan.row_bytes});
    ++group.layers;
  }
  std::int64_t total = 0;
  for (Group& group : plan.groups) {
    // Every sequence may leave a page partly filled.
    group.pages = pages_for(capacity_tokens) + max_sequences - 1;
    if (group.window > 0) {
      std::int64_t needed = window_pages(group.window, plan.batch);
      if (multiply(needed, max_sequences)) group.pages = std::min(group.pages, needed);
    }
    std::int64_t bytes = group.layers * 2 * kPageTokens;
    if (!multiply(bytes, static_cast<std::int64_t>(plan.row_bytes))) return overflow();
    group.page_bytes = static_cast<std::size_t>(bytes);
    if (!multiply(bytes, group.pages) || __builtin_add_overflow(total, bytes, &total)) return overflow();
    if (group.pages > std::numeric_limits<std::int32_t>::max()) return overflow();
  }
  return plan;
}

std::size_t KvCache::bytes_needed(const ModelConfig& config, ElementType type, std::int64_t capacity_tokens,
                                  std::int64_t max_sequences, std::int64_t max_batch_tokens) {
  const Result<Plan> planned = plan(config, type, capacity_tokens, max_sequences, max_batch_tokens);
  if (!planned) return std::numeric_limits<std::size_t>::max();
  std::size_t total = 0;
  for (const Group& group : planned->groups) total += static_cast<std::size_t>(group.pages) * group.page_bytes;
  return total;
}

Result<KvCache> KvCache::create(const ModelConfig& config, ElementType type, std::int64_t capacity_tokens,
                                std::int64_t max_sequences, std::int64_t max_batch_tokens) {
  Result<Plan> planned = plan(config, type, capacity_tokens, max_sequences, max_batch_tokens);
  if (!planned) return tl::make_unexpected(planned.error());
  KvCache cache;
  cache.kv_heads_ = config.kv_heads;
  cache.head_dim_ = config.head_dim;
  cache.type_ = type;
  cache.row_bytes_ = planned->row_bytes;
  cache.max_batch_tokens_ = planned->batch;
  cache.layers_ = std::move(planned->layers);
  cache.groups_ = std::move(planned->groups);
  for (Group& group : cache.groups_) {
    auto memory = AlignedBuffer::allocate(static_cast<std::size_t>(group.pages) * group.page_bytes);
    if (!memory) return no_memory("KV cache: " + memory.error().message);
    group.memory = std::move(*memory);
    group.owners.resize(static_cast<std::size_t>(group.pages));
    group.free.reserve(static_cast<std::size_t>(group.pages));
    for (std::int64_t page = group.pages - 1; page >= 0; --page) group.free.push_back(static_cast<std::int32_t>(page));
  }
  cache.sequences_.resize(static_cast<std::size_t>(max_sequences));
  const auto longest = static_cast<std::size_t>(cache.groups_.front().pages);
  for (Sequence& sequence : cache.sequences_) {
    sequence.tables.resize(cache.groups_.size());
    for (Table& table : sequence.tables) {
      table.pages.reserve(longest);
      table.bases.reserve(longest);
    }
  }
  return cache;
}

Result<KvCache::SequenceId> KvCache::add_sequence() {
  for (std::size_t i = 0; i < sequences_.size(); ++i) {
    if (sequences_[i].alive) continue;
    sequences_[i].alive = true;
    return static_cast<SequenceId>(i);
  }
  return no_memory("KV cache: all " + std::to_string(sequences_.size()) + " sequences are in use");
}

Result<KvCache::SequenceId> KvCache::fork(SequenceId source, std::int64_t length) {
  const std::int64_t earliest = earliest_cut(source);
  if (length < 0 || length > slot(source).length || (length > 0 && length < earliest)) {
    return bad_input("KV cache: cannot share the first " + std::to_string(length) + " tokens of a sequence that has " +
                     std::to_string(earliest) + " to " + std::to_string(slot(source).length));
  }
  const Result<SequenceId> added = add_sequence();
  if (!added || length == 0) return added;
  const Sequence& from = slot(source);
  Sequence& to = sequences_[static_cast<std::size_t>(*added)];
  const auto pages = static_cast<std::size_t>(pages_for(length));
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    to.tables[g].pages.assign(from.tables[g].pages.begin(),
                              from.tables[g].pages.begin() + static_cast<std::ptrdiff_t>(pages));
    to.tables[g].bases.assign(from.tables[g].bases.begin(),
                              from.tables[g].bases.begin() + static_cast<std::ptrdiff_t>(pages));
    to.tables[g].first = from.tables[g].first;
    for (auto i = static_cast<std::size_t>(to.tables[g].first); i < pages; ++i) {
      ++groups_[g].owners[static_cast<std::size_t>(to.tables[g].pages[i])];
    }
  }
  to.length = length;
  return added;
}

void KvCache::remove_sequence(SequenceId sequence) {
  truncate(sequence, 0);
  sequences_[static_cast<std::size_t>(sequence)].alive = false;
}

Result<void> KvCache::truncate(SequenceId sequence, std::int64_t length) {
  Sequence& s = sequences_[static_cast<std::size_t>(sequence)];
  if (length >= s.length) return {};
  const std::int64_t earliest = earliest_cut(sequence);
  if (length < 0 || (length > 0 && length < earliest)) {
    return bad_input("KV cache: cannot cut a sequence of " + std::to_string(s.length) + " tokens to " +
                     std::to_string(length) + ": its windowed layers have kept what follows token " +
                     std::to_string(earliest) + " or nothing");
  }
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    Table& table = s.tables[g];
    while (std::ssize(table.pages) > pages_for(length)) {
      if (table.pages.back() >= 0) drop_page(groups_[g], table.pages.back());
      table.pages.pop_back();
      table.bases.pop_back();
    }
    table.first = std::min<std::int64_t>(table.first, std::ssize(table.pages));
  }
  s.length = length;
  return {};
}

std::int64_t KvCache::earliest_cut(SequenceId sequence) const {
  const Sequence& s = slot(sequence);
  std::int64_t earliest = 0;
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    // Position `length` sees length - window + 1 and later ones.
    if (s.tables[g].first > 0) earliest = std::max(earliest, s.tables[g].first * kPageTokens + groups_[g].window - 1);
  }
  return earliest;
}

Result<void> KvCache::extend(SequenceId sequence, std::int64_t tokens) {
  Sequence& s = sequences_[static_cast<std::size_t>(sequence)];
  if (tokens < 0 || tokens > max_batch_tokens_) {
    return bad_input("KV cache: " + std::to_string(tokens) + " tokens at once, the limit is " +
                     std::to_string(max_batch_tokens_));
  }
  if (tokens == 0) return {};
  const std::int64_t length = s.length + tokens;
  const std::int64_t more = pages_for(length) - pages_for(s.length);
  const auto keep_from = [&](std::size_t g) {
    const std::int64_t window = groups_[g].window;
    if (window == 0) return std::int64_t{0};
    return std::max(s.tables[g].first, (length - window - max_batch_tokens_) / kPageTokens);
  };
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    std::int64_t room = std::ssize(groups_[g].free);
    for (std::int64_t i = s.tables[g].first; i < keep_from(g); ++i) {
      const std::int32_t page = s.tables[g].pages[static_cast<std::size_t>(i)];
      if (groups_[g].owners[static_cast<std::size_t>(page)] == 1) ++room;
    }
    if (more + (must_copy_last(s, g) ? 1 : 0) > room) {
      return no_memory("KV cache: " + std::to_string(tokens) + " more tokens do not fit, room is left for " +
                       std::to_string(free_tokens(sequence)));
    }
  }
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    Table& table = s.tables[g];
    for (const std::int64_t end = keep_from(g); table.first < end; ++table.first) {
      const auto i = static_cast<std::size_t>(table.first);
      drop_page(groups_[g], table.pages[i]);
      table.pages[i] = -1;
      table.bases[i] = nullptr;
    }
    if (must_copy_last(s, g)) copy_last_page(s, g);
    for (std::int64_t i = 0; i < more; ++i) take_page(table, groups_[g]);
  }
  s.length = length;
  return {};
}

bool KvCache::must_copy_last(const Sequence& s, std::size_t group) const {
  if (s.length % kPageTokens == 0) return false;
  return groups_[group].owners[static_cast<std::size_t>(s.tables[group].pages.back())] > 1;
}

void KvCache::take_page(Table& table, Group& group) {
  const std::int32_t page = group.free.back();
  group.free.pop_back();
  group.owners[static_cast<std::size_t>(page)] = 1;
  group.touched = std::max(group.touched, std::int64_t{page} + 1);
  table.pages.push_back(page);
  table.bases.push_back(group.memory.data() + static_cast<std::size_t>(page) * group.page_bytes);
}

void KvCache::drop_page(Group& group, std::int32_t page) {
  if (--group.owners[static_cast<std::size_t>(page)] == 0) group.free.push_back(page);
}

void KvCache::copy_last_page(Sequence& s, std::size_t group) {
  Table& table = s.tables[group];
  const std::int32_t shared = table.pages.back();
  const auto* from = static_cast<const std::byte*>(table.bases.back());
  table.pages.pop_back();
  table.bases.pop_back();
  take_page(table, groups_[group]);
  auto* to = static_cast<std::byte*>(const_cast<void*>(table.bases.back()));
  const std::size_t head_bytes = row_bytes_ / static_cast<std::size_t>(kv_heads_);
  const std::size_t used = static_cast<std::size_t>(s.length % kPageTokens) * head_bytes;
  const std::size_t part = static_cast<std::size_t>(kPageTokens) * head_bytes;
  for (std::int64_t i = 0; i < groups_[group].layers * 2 * kv_heads_; ++i) {
    std::memcpy(to + static_cast<std::size_t>(i) * part, from + static_cast<std::size_t>(i) * part, used);
  }
  drop_page(groups_[group], shared);
}

std::byte* KvCache::row(SequenceId sequence, std::int64_t layer, std::int64_t position, bool value) {
  const LayerPlace& place = layers_[static_cast<std::size_t>(layer)];
  Group& group = groups_[place.group];
  const std::int32_t page = slot(sequence).tables[place.group].pages[static_cast<std::size_t>(position / kPageTokens)];
  assert(page >= 0 && position < slot(sequence).length && "this position is not kept");
  const std::size_t head_bytes = row_bytes_ / static_cast<std::size_t>(kv_heads_);
  return group.memory.data() + static_cast<std::size_t>(page) * group.page_bytes + place.key_offset +
         (value ? static_cast<std::size_t>(kPageTokens) * row_bytes_ : 0) +
         static_cast<std::size_t>(position % kPageTokens) * head_bytes;
}

template <class T>
void KvCache::store(SequenceId sequence, std::int64_t layer, std::int64_t position, const T* key, const T* value) {
  std::byte* keys = row(sequence, layer, position, false);
  std::byte* values = row(sequence, layer, position, true);
  const std::size_t head_bytes = row_bytes_ / static_cast<std::size_t>(kv_heads_);
  const std::size_t stride = static_cast<std::size_t>(kPageTokens) * head_bytes;
  for (std::int64_t head = 0; head < kv_heads_; ++head, keys += stride, values += stride) {
    write_kv_row(type_, key + head * head_dim_, head_dim_, keys);
    write_kv_row(type_, value + head * head_dim_, head_dim_, values);
  }
}

template void KvCache::store<float>(SequenceId, std::int64_t, std::int64_t, const float*, const float*);
template void KvCache::store<bf16>(SequenceId, std::int64_t, std::int64_t, const bf16*, const bf16*);

KvView KvCache::view(SequenceId sequence, std::int64_t layer) const {
  const Sequence& s = slot(sequence);
  const LayerPlace& place = layers_[static_cast<std::size_t>(layer)];
  const Table& table = s.tables[place.group];
  return {.key_pages = table.bases.data(),
          .value_pages = table.bases.data(),
          .type = type_,
          .page_tokens = kPageTokens,
          .token_stride = head_dim_,
          .head_stride = kPageTokens * head_dim_,
          .length = s.length,
          .key_offset = static_cast<std::int64_t>(place.key_offset),
          .value_offset = static_cast<std::int64_t>(place.key_offset + static_cast<std::size_t>(kPageTokens) * row_bytes_)};
}

KvBytes KvCache::bytes_by_kind() const {
  KvBytes bytes;
  for (const Group& group : groups_) (group.window > 0 ? bytes.windowed_layers : bytes.full_layers) += group.memory.bytes();
  return bytes;
}

std::size_t KvCache::touched_bytes() const {
  std::size_t bytes = 0;
  for (const Group& group : groups_) bytes += static_cast<std::size_t>(group.touched) * group.page_bytes;
  return bytes;
}

std::int64_t KvCache::free_tokens() const { return std::ssize(groups_.front().free) * kPageTokens; }

std::int64_t KvCache::free_tokens(SequenceId sequence) const {
  const Sequence& s = slot(sequence);
  if (s.length % kPageTokens == 0) return free_tokens();
  const std::int64_t rest = kPageTokens - s.length % kPageTokens;
  if (!must_copy_last(s, 0)) return free_tokens() + rest;
  return free_tokens() == 0 ? 0 : free_tokens() - kPageTokens + rest;
}

}  // namespace quern
