// A step's buffers, placed in one arena before the step runs: lifetimes in, offsets out.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "math/aligned_buffer.hpp"
#include "math/result.hpp"

namespace quern {

/// What memory is for; plans and arenas report bytes by category.
enum class MemoryCategory : std::uint8_t { weights, gradients, optimizer, activations, cache, scratch };
inline constexpr std::size_t kMemoryCategories = 6;
[[nodiscard]] std::string_view category_name(MemoryCategory category);

/// Bytes by category.
struct MemoryReport {
  std::array<std::size_t, kMemoryCategories> bytes{};
  [[nodiscard]] std::size_t total() const;
  std::size_t& operator[](MemoryCategory category) { return bytes[static_cast<std::size_t>(category)]; }
  std::size_t operator[](MemoryCategory category) const { return bytes[static_cast<std::size_t>(category)]; }
};

/// Index of a planned buffer.
using BufferId = std::size_t;

/// Where buffers lie.
enum class Placement : std::uint8_t {
  arena,  ///< in one block, which those that are not alive at the same time share
  apart   ///< each in memory of its own, whatever its lifetime: for measuring what an arena gives
};

/// Collects buffers with their lifetimes, then places them. Two buffers whose lifetimes [first_use, last_use] (inclusive,
/// in any unit that orders the step, such as an operation's number) do not meet may share bytes. Placement is greedy
/// by size, lowest free offset first, deterministic; sizes are rounded up to kBufferAlignment.
class MemoryPlan {
 public:
  /// Lives for the whole step.
  static constexpr std::int64_t kForever = INT64_MAX;

  MemoryPlan() = default;
  explicit MemoryPlan(Placement placement) : placement_(placement) {}
  [[nodiscard]] Placement placement() const { return placement_; }

  BufferId add(std::string name, std::size_t bytes, MemoryCategory category, std::int64_t first_use = 0,
               std::int64_t last_use = kForever);

  /// Places every buffer. Error bad_input when sizes overflow.
  [[nodiscard]] Result<void> place();

  /// After place(): the arena's size, a buffer's offset, and peak bytes by category (whose sum may exceed arena_bytes()
  /// where categories share memory at different times).
  [[nodiscard]] std::size_t arena_bytes() const { return arena_bytes_; }
  [[nodiscard]] std::size_t offset(BufferId id) const { return buffers_[id].offset; }
  [[nodiscard]] std::size_t bytes(BufferId id) const { return buffers_[id].bytes; }
  [[nodiscard]] const std::string& name(BufferId id) const { return buffers_[id].name; }
  [[nodiscard]] std::size_t size() const { return buffers_.size(); }
  [[nodiscard]] MemoryReport report() const;

 private:
  struct Buffer {
    std::string name;
    std::size_t bytes = 0;
    MemoryCategory category = MemoryCategory::activations;
    std::int64_t first_use = 0;
    std::int64_t last_use = 0;
    std::size_t offset = 0;
  };
  std::vector<Buffer> buffers_;
  std::size_t arena_bytes_ = 0;
  Placement placement_ = Placement::arena;
};

/// The memory of a placed plan: one block, or one for each buffer where the plan places them apart.
class Arena {
 public:
  Arena() = default;
  [[nodiscard]] static Result<Arena> allocate(const MemoryPlan& plan);
  /// Start of a planned buffer, aligned to kBufferAlignment; valid as long as the arena.
  template <class T>
  [[nodiscard]] T* get(const MemoryPlan& plan, BufferId id) {
    return reinterpret_cast<T*>(apart_.empty() ? memory_.data() + plan.offset(id) : apart_[id].data());
  }
  [[nodiscard]] std::size_t bytes() const;

 private:
  AlignedBuffer memory_;
  std::vector<AlignedBuffer> apart_;  // by BufferId
};

}  // namespace quern
