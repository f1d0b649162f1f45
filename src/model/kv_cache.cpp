#include "model/kv_cache.hpp"

#include <string>

namespace quern {

namespace {
std::size_t element_bytes(ElementType type) { return type == ElementType::f32 ? 4 : 2; }
std::int64_t pages_for(std::int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }
}  // namespace

std::size_t KvCache::bytes_needed(const ModelConfig& config, ElementType type, std::int64_t capacity_tokens,
                                  std::int64_t max_sequences) {
  // Every sequence may leave a page partly filled.
  const auto pages = static_cast<std::size_t>(pages_for(capacity_tokens) + max_sequences - 1);
  return pages * static_cast<std::size_t>(kPageTokens * config.layers * 2 * config.kv_width()) * element_bytes(type);
}

Result<KvCache> KvCache::create(const ModelConfig& config, ElementType type, std::int64_t capacity_tokens,
                                std::int64_t max_sequences) {
  if (capacity_tokens < 1 || max_sequences < 1) return bad_input("KV cache: needs room for at least one token and sequence");
  std::int64_t product = 0;
  if (__builtin_mul_overflow(capacity_tokens + max_sequences * kPageTokens, config.layers * 2 * config.kv_width() * 4,
                             &product)) {
    return bad_input("KV cache: " + std::to_string(capacity_tokens) + " tokens overflow the address space");
  }
  KvCache cache;
  cache.layers_ = config.layers;
  cache.kv_heads_ = config.kv_heads;
  cache.head_dim_ = config.head_dim;
  cache.type_ = type;
  cache.row_bytes_ = static_cast<std::size_t>(config.kv_width()) * element_bytes(type);
  cache.max_pages_ = pages_for(capacity_tokens) + max_sequences - 1;
  auto memory = AlignedBuffer::allocate(bytes_needed(config, type, capacity_tokens, max_sequences));
  if (!memory) return tl::make_unexpected(memory.error());
  cache.memory_ = std::move(*memory);
  for (std::int64_t page = cache.max_pages_ - 1; page >= 0; --page) cache.free_pages_.push_back(page);
  cache.sequences_.resize(static_cast<std::size_t>(max_sequences));
  for (Sequence& sequence : cache.sequences_) {
    sequence.pages.reserve(static_cast<std::size_t>(cache.max_pages_));
    sequence.key_pages.resize(static_cast<std::size_t>(cache.layers_ * cache.max_pages_));
    sequence.value_pages.resize(static_cast<std::size_t>(cache.layers_ * cache.max_pages_));
  }
  return cache;
}

Result<KvCache::SequenceId> KvCache::add_sequence() {
  for (std::size_t i = 0; i < sequences_.size(); ++i) {
    if (sequences_[i].alive) continue;
    sequences_[i].alive = true;
    sequences_[i].length = 0;
    return static_cast<SequenceId>(i);
  }
  return no_memory("KV cache: all " + std::to_string(sequences_.size()) + " sequences are in use");
}

void KvCache::remove_sequence(SequenceId sequence) {
  truncate(sequence, 0);
  sequences_[static_cast<std::size_t>(sequence)].alive = false;
}

void KvCache::truncate(SequenceId sequence, std::int64_t length) {
  Sequence& s = sequences_[static_cast<std::size_t>(sequence)];
  if (length >= s.length) return;
  while (std::ssize(s.pages) > pages_for(length)) {
    free_pages_.push_back(s.pages.back());
    s.pages.pop_back();
  }
  s.length = length;
}

Result<void> KvCache::extend(SequenceId sequence, std::int64_t tokens) {
  Sequence& s = sequences_[static_cast<std::size_t>(sequence)];
  const std::int64_t more = pages_for(s.length + tokens) - std::ssize(s.pages);
  if (more > std::ssize(free_pages_)) {
    return no_memory("KV cache: " + std::to_string(tokens) + " more tokens do not fit, room is left for " +
                     std::to_string(free_tokens()));
  }
  const std::size_t layer_bytes = row_bytes_ * static_cast<std::size_t>(kPageTokens);
  for (std::int64_t i = 0; i < more; ++i) {
    const std::int64_t page = free_pages_.back();
    free_pages_.pop_back();
    const auto index = static_cast<std::size_t>(s.pages.size());
    s.pages.push_back(page);
    for (std::int64_t layer = 0; layer < layers_; ++layer) {
      const std::byte* base = memory_.data() + static_cast<std::size_t>((page * layers_ + layer) * 2) * layer_bytes;
      const std::size_t entry = static_cast<std::size_t>(layer * max_pages_) + index;
      s.key_pages[entry] = base;
      s.value_pages[entry] = base + layer_bytes;
    }
  }
  s.length += tokens;
  return {};
}

std::byte* KvCache::row(SequenceId sequence, std::int64_t layer, std::int64_t position, bool value) {
  const Sequence& s = slot(sequence);
  const std::int64_t page = s.pages[static_cast<std::size_t>(position / kPageTokens)];
  const auto part = static_cast<std::size_t>((page * layers_ + layer) * 2 + (value ? 1 : 0));
  return memory_.data() +
         (part * static_cast<std::size_t>(kPageTokens) + static_cast<std::size_t>(position % kPageTokens)) * row_bytes_;
}

std::byte* KvCache::key_row(SequenceId sequence, std::int64_t layer, std::int64_t position) {
  return row(sequence, layer, position, false);
}

std::byte* KvCache::value_row(SequenceId sequence, std::int64_t layer, std::int64_t position) {
  return row(sequence, layer, position, true);
}

KvView KvCache::view(SequenceId sequence, std::int64_t layer) const {
  const Sequence& s = slot(sequence);
  return {.key_pages = s.key_pages.data() + layer * max_pages_,
          .value_pages = s.value_pages.data() + layer * max_pages_,
          .type = type_,
          .page_tokens = kPageTokens,
          .token_stride = kv_heads_ * head_dim_,
          .head_stride = head_dim_,
          .length = s.length};
}

}  // namespace quern
