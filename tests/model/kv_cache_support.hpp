// What the tests of the KV cache share: small models, and rows written and read by a stamp.
#pragma once

#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "model/kv_cache.hpp"
#include "support/attention_reference.hpp"

namespace quern::testing_kv {

/// `layers` layers of 2 heads of `head_dim`; with a window, layers i with i % period < period - 1 have it (1: every layer).
inline ModelConfig config(std::int64_t layers, std::int64_t head_dim, std::int64_t window = 0, std::int64_t period = 1) {
  ModelConfig c;
  c.layers = layers;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = head_dim;
  c.window = window;
  c.window_period = period;
  return c;
}

/// Row of keys (or values) of a position, read as attention reads it; empty where the page is missing.
inline std::vector<double> read_row(const KvCache& cache, KvCache::SequenceId sequence, std::int64_t layer,
                                    std::int64_t position, bool value, std::int64_t kv_heads = 2) {
  const KvView view = cache.view(sequence, layer);
  const void* const* pages = value ? view.value_pages : view.key_pages;
  const auto* page = static_cast<const std::byte*>(pages[position / view.page_tokens]);
  std::vector<double> row;
  if (page == nullptr) return row;
  page += value ? view.value_offset : view.key_offset;
  page += position % view.page_tokens * static_cast<std::int64_t>(kv_row_bytes(view.type, view.token_stride));
  for (std::int64_t head = 0; head < kv_heads; ++head) {
    const auto* from = page + kv_row_bytes(view.type, head * view.head_stride);
    const std::vector<double> elements = reference_kv_row(view.type, from, view.token_stride);
    row.insert(row.end(), elements.begin(), elements.end());
  }
  return row;
}

/// The number in every element of a stamped row.
inline float stamp_of(std::int64_t stamp, std::int64_t layer, bool value) {
  return static_cast<float>(stamp * 16 + layer * 2 + (value ? 1 : 0));
}

inline void stamp_row(KvCache& cache, KvCache::SequenceId sequence, std::int64_t layers, std::int64_t position,
                      std::int64_t stamp, std::int64_t width) {
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    const std::vector<float> key(static_cast<std::size_t>(width), stamp_of(stamp, layer, false));
    const std::vector<float> value(static_cast<std::size_t>(width), stamp_of(stamp, layer, true));
    cache.store(sequence, layer, position, key.data(), value.data());
  }
}

/// Whether the position has `stamp` in `layer`.
inline testing::AssertionResult has_stamp(const KvCache& cache, KvCache::SequenceId sequence, std::int64_t layer,
                                          std::int64_t position, std::int64_t stamp) {
  for (const bool value : {false, true}) {
    const std::vector<double> row = read_row(cache, sequence, layer, position, value);
    if (row.empty()) {
      return testing::AssertionFailure() << "layer " << layer << " position " << position << " is missing";
    }
    for (const double x : row) {
      if (x != double{stamp_of(stamp, layer, value)}) {
        return testing::AssertionFailure() << "layer " << layer << " position " << position << (value ? " value" : " key")
                                           << ": " << x << " instead of " << stamp_of(stamp, layer, value);
      }
    }
  }
  return testing::AssertionSuccess();
}

/// Pages of `layer` that the sequences hold, each once.
inline std::set<const void*> pages_held(const KvCache& cache, const std::vector<KvCache::SequenceId>& sequences,
                                        std::int64_t layer) {
  std::set<const void*> pages;
  for (const KvCache::SequenceId sequence : sequences) {
    const KvView view = cache.view(sequence, layer);
    for (std::int64_t p = 0; p < view.length; p += view.page_tokens) {
      if (const void* page = view.key_pages[p / view.page_tokens]; page != nullptr) pages.insert(page);
    }
  }
  return pages;
}

}  // namespace quern::testing_kv
