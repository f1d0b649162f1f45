// The KV cache: pages of keys and values of many sequences, in every layer, drawn from one pool.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "math/aligned_buffer.hpp"
#include "math/attention_kernels.hpp"
#include "math/kv_rows.hpp"
#include "math/result.hpp"
#include "model/model_config.hpp"

namespace quern {

/// Tokens in a page: one key block, so that a page is packed as a whole by the attention kernels.
inline constexpr std::int64_t kPageTokens = kKeyBlock;

/// Bytes of a cache by the kind of layer.
struct KvBytes {
  std::size_t full_layers = 0;      ///< layers that keep every position
  std::size_t windowed_layers = 0;  ///< layers that keep their window and the batch in flight
  [[nodiscard]] std::size_t total() const { return full_layers + windowed_layers; }
};

/// Owns the pages. A page holds kPageTokens positions of one sequence in a group of layers: those that keep every position
/// are one group, those of each window another with a pool of its own. In a page each layer has its keys and then its
/// values, [kv_heads, kPageTokens, head_dim]: what one head reads follows each other. Positions are absolute everywhere. In
/// a windowed group, pages wholly before length - window - max_batch_tokens are given back as the sequence grows.
///
/// Sequences made by fork() share pages; a page that is shared is never written: extend() first copies the last page of a
/// sequence where that is partly filled and shared. Not thread-safe; during a forward pass several threads may store()
/// different rows and read.
class KvCache {
 public:
  using SequenceId = std::int64_t;

  /// Room for `capacity_tokens` in total (each sequence takes whole pages; shared pages count once) of up to
  /// `max_sequences` sequences. type: see math/kv_rows.hpp. max_batch_tokens: the most tokens that one extend() adds to a
  /// sequence; 0: any number, with which windows save nothing. Memory is reserved, not filled: the system provides it when
  /// pages are first written. Errors: no_memory when it does not fit; bad_input when sizes overflow, the type is not one of
  /// a KV cache, or its blocks do not divide head_dim.
  [[nodiscard]] static Result<KvCache> create(const ModelConfig& config, ElementType type, std::int64_t capacity_tokens,
                                              std::int64_t max_sequences, std::int64_t max_batch_tokens = 0);

  /// Bytes that create() would reserve; SIZE_MAX where create() would answer bad_input.
  [[nodiscard]] static std::size_t bytes_needed(const ModelConfig& config, ElementType type, std::int64_t capacity_tokens,
                                                std::int64_t max_sequences, std::int64_t max_batch_tokens = 0);

  /// A new, empty sequence; error no_memory when max_sequences are alive.
  [[nodiscard]] Result<SequenceId> add_sequence();
  /// A new sequence that holds the first `length` positions of `source`, whose pages it shares. O(pages), takes no page.
  /// Errors: no_memory when max_sequences are alive; bad_input when length is above source's or in 1 .. earliest_cut - 1.
  [[nodiscard]] Result<SequenceId> fork(SequenceId source, std::int64_t length);
  /// Gives the sequence's pages back (shared ones when their last owner goes).
  void remove_sequence(SequenceId sequence);
  /// Forgets positions >= length; pages past it go back to the pool. Nothing happens when length is not below the present
  /// one. Error bad_input, with nothing changed, where 0 < length < earliest_cut(sequence): windowed layers no longer have
  /// the keys that position `length` would see.
  Result<void> truncate(SequenceId sequence, std::int64_t length);
  /// The shortest length above 0 to which truncate() and fork() can cut; 0 when any will do. What the last extend() added
  /// can always be taken back.
  [[nodiscard]] std::int64_t earliest_cut(SequenceId sequence) const;

  /// Tokens present.
  [[nodiscard]] std::int64_t length(SequenceId sequence) const { return slot(sequence).length; }

  /// Makes room for `tokens` more positions and counts them as present; their keys and values are to be stored before they
  /// are read. Errors: no_memory when the pool is empty; bad_input above max_batch_tokens. Nothing is changed then.
  /// Allocates nothing.
  [[nodiscard]] Result<void> extend(SequenceId sequence, std::int64_t tokens);

  /// Writes the keys and values [kv_heads, head_dim] of a position that the last extend() added, converted to type() as
  /// math/kv_rows.hpp says; equal types are copied bit for bit. T is float or bf16.
  template <class T>
  void store(SequenceId sequence, std::int64_t layer, std::int64_t position, const T* key, const T* value);

  /// What attention reads; valid until the sequence changes.
  [[nodiscard]] KvView view(SequenceId sequence, std::int64_t layer) const;

  [[nodiscard]] ElementType type() const { return type_; }
  /// Bytes reserved.
  [[nodiscard]] std::size_t bytes() const { return bytes_by_kind().total(); }
  [[nodiscard]] KvBytes bytes_by_kind() const;
  /// Bytes of the pages that were in use at once at some time: what the cache holds of the machine's memory, up to rounding
  /// to the system's pages (2 MiB where it grants huge ones).
  [[nodiscard]] std::size_t touched_bytes() const;
  /// Tokens that fit beyond those for which the sequences' last pages have room.
  [[nodiscard]] std::int64_t free_tokens() const;
  /// Tokens that extend() has room for in this sequence now.
  [[nodiscard]] std::int64_t free_tokens(SequenceId sequence) const;

 private:
  /// Layers that keep the same positions, and the pool of their pages.
  struct Group {
    std::int64_t window = 0;  // 0: every position
    std::int64_t layers = 0;  // the first group may have none: its pages then only count tokens
    std::int64_t pages = 0;
    std::size_t page_bytes = 0;
    AlignedBuffer memory;
    std::vector<std::int32_t> free;    // used from the back
    std::vector<std::int32_t> owners;  // sequences that hold each page
    std::int64_t touched = 0;          // pages 0 .. touched - 1 were in use
  };
  struct Table {
    std::vector<std::int32_t> pages;  // by position / kPageTokens; -1 before `first`
    std::vector<const void*> bases;   // the pages' addresses; null before `first`
    std::int64_t first = 0;           // pages that were given back
  };
  struct Sequence {
    bool alive = false;
    std::int64_t length = 0;
    std::vector<Table> tables;  // by group
  };
  struct LayerPlace {
    std::size_t group = 0;
    std::size_t key_offset = 0;  // bytes in a page; values follow kPageTokens rows later
  };
  struct Plan {
    std::vector<Group> groups;
    std::vector<LayerPlace> layers;
    std::size_t row_bytes = 0;
    std::int64_t batch = 0;
  };

  [[nodiscard]] static Result<Plan> plan(const ModelConfig& config, ElementType type, std::int64_t capacity_tokens,
                                         std::int64_t max_sequences, std::int64_t max_batch_tokens);
  [[nodiscard]] const Sequence& slot(SequenceId sequence) const { return sequences_[static_cast<std::size_t>(sequence)]; }
  /// Of the first KV head; the next one's is kPageTokens heads' rows further on.
  [[nodiscard]] std::byte* row(SequenceId sequence, std::int64_t layer, std::int64_t position, bool value);
  /// Whether growing takes a copy of the last page first.
  [[nodiscard]] bool must_copy_last(const Sequence& s, std::size_t group) const;
  void take_page(Table& table, Group& group);
  void drop_page(Group& group, std::int32_t page);
  void copy_last_page(Sequence& s, std::size_t group);

  std::int64_t kv_heads_ = 0, head_dim_ = 0, max_batch_tokens_ = 0;
  ElementType type_ = ElementType::f32;
  std::size_t row_bytes_ = 0;  // keys (or values) of one position in one layer
  std::vector<Group> groups_;  // the first keeps every position
  std::vector<LayerPlace> layers_;
  std::vector<Sequence> sequences_;
};

}  // namespace quern
