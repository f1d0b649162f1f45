// The KV cache: pages of keys and values of many sequences, in every layer, drawn from one pool.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "math/aligned_buffer.hpp"
#include "math/attention_kernels.hpp"
#include "math/result.hpp"
#include "model/model_config.hpp"

namespace quern {

/// Tokens in a page: one key block, so that a page is packed as a whole by the attention kernels.
inline constexpr std::int64_t kPageTokens = kKeyBlock;

/// Owns the pages. A page holds kPageTokens positions of one sequence in all layers; inside it, per layer, keys then values
/// as [kPageTokens, kv_heads, head_dim] of `type`. Not thread-safe; during a forward pass several threads may write
/// different rows and read.
class KvCache {
 public:
  using SequenceId = std::int64_t;

  /// Room for `capacity_tokens` in total (each sequence takes whole pages) of up to `max_sequences` sequences. type is f32
  /// or bf16. Error no_memory when it does not fit; bad_input when sizes overflow.
  [[nodiscard]] static Result<KvCache> create(const ModelConfig& config, ElementType type, std::int64_t capacity_tokens,
                                              std::int64_t max_sequences);

  /// Bytes that create() would take.
  [[nodiscard]] static std::size_t bytes_needed(const ModelConfig& config, ElementType type, std::int64_t capacity_tokens,
                                                std::int64_t max_sequences);

  /// A new, empty sequence; error when max_sequences are alive.
  [[nodiscard]] Result<SequenceId> add_sequence();
  /// Gives the sequence's pages back.
  void remove_sequence(SequenceId sequence);
  /// Forgets positions >= length; pages past it go back to the pool.
  void truncate(SequenceId sequence, std::int64_t length);

  /// Tokens present.
  [[nodiscard]] std::int64_t length(SequenceId sequence) const { return slot(sequence).length; }

  /// Makes room for `tokens` more positions and counts them as present; their keys and values are to be written before they
  /// are read. Error no_memory when the pool is empty; nothing is changed then. Allocates nothing.
  [[nodiscard]] Result<void> extend(SequenceId sequence, std::int64_t tokens);

  /// Where position `position` of `layer` goes: [kv_heads, head_dim] elements of type().
  [[nodiscard]] std::byte* key_row(SequenceId sequence, std::int64_t layer, std::int64_t position);
  [[nodiscard]] std::byte* value_row(SequenceId sequence, std::int64_t layer, std::int64_t position);

  /// What attention reads; valid until the sequence changes.
  [[nodiscard]] KvView view(SequenceId sequence, std::int64_t layer) const;

  [[nodiscard]] ElementType type() const { return type_; }
  [[nodiscard]] std::size_t bytes() const { return memory_.bytes(); }
  [[nodiscard]] std::int64_t free_tokens() const { return static_cast<std::int64_t>(free_pages_.size()) * kPageTokens; }

 private:
  struct Sequence {
    bool alive = false;
    std::int64_t length = 0;
    std::vector<std::int64_t> pages;
    std::vector<const void*> key_pages;    // [layers, max pages]
    std::vector<const void*> value_pages;  // [layers, max pages]
  };
  [[nodiscard]] const Sequence& slot(SequenceId sequence) const { return sequences_[static_cast<std::size_t>(sequence)]; }
  [[nodiscard]] std::byte* row(SequenceId sequence, std::int64_t layer, std::int64_t position, bool value);

  std::int64_t layers_ = 0, kv_heads_ = 0, head_dim_ = 0, max_pages_ = 0;
  ElementType type_ = ElementType::f32;
  std::size_t row_bytes_ = 0;  // keys (or values) of one position in one layer
  AlignedBuffer memory_;
  std::vector<std::int64_t> free_pages_;
  std::vector<Sequence> sequences_;
};

}  // namespace quern
