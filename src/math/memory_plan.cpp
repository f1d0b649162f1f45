#include "math/memory_plan.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

namespace quern {
namespace {

constexpr std::size_t kLargestBytes = static_cast<std::size_t>(std::numeric_limits<std::ptrdiff_t>::max());

/// Callers have checked that `bytes` is at most kLargestBytes, so that this cannot wrap.
std::size_t rounded_up(std::size_t bytes) { return (bytes + kBufferAlignment - 1) / kBufferAlignment * kBufferAlignment; }

/// Bytes that start or stop being live at a time. At equal times those that stop come first: last_use + 1 is when a buffer
/// stops, so a buffer that starts there may take its place.
struct Change {
  std::int64_t time;
  bool starts;
  std::size_t bytes;
};

std::size_t peak_bytes(std::vector<Change>& changes) {
  std::sort(changes.begin(), changes.end(),
            [](const Change& a, const Change& b) { return a.time != b.time ? a.time < b.time : a.starts < b.starts; });
  std::size_t live = 0;
  std::size_t peak = 0;
  for (const Change& change : changes) {
    live = change.starts ? live + change.bytes : live - change.bytes;
    peak = std::max(peak, live);
  }
  return peak;
}

}  // namespace

std::string_view category_name(MemoryCategory category) {
  switch (category) {
    case MemoryCategory::weights:
      return "weights";
    case MemoryCategory::gradients:
      return "gradients";
    case MemoryCategory::optimizer:
      return "optimizer";
    case MemoryCategory::activations:
      return "activations";
    case MemoryCategory::cache:
      return "cache";
    case MemoryCategory::scratch:
      return "scratch";
  }
  return "unknown";
}

std::size_t MemoryReport::total() const { return std::accumulate(bytes.begin(), bytes.end(), std::size_t{0}); }

BufferId MemoryPlan::add(std::string name, std::size_t bytes, MemoryCategory category, std::int64_t first_use,
                         std::int64_t last_use) {
  const bool shares = placement_ == Placement::arena || first_use > last_use;  // (which place() refuses)
  buffers_.push_back({.name = std::move(name),
                      .bytes = bytes,
                      .category = category,
                      .first_use = shares ? first_use : 0,
                      .last_use = shares ? last_use : kForever,
                      .offset = 0});
  return buffers_.size() - 1;
}

Result<void> MemoryPlan::place() {
  arena_bytes_ = 0;
  // The sum of all sizes bounds every offset and every peak, so that nothing below this check can overflow.
  std::size_t sum = 0;
  for (const Buffer& buffer : buffers_) {
    if (buffer.first_use > buffer.last_use) {
      return bad_input("memory plan: buffer '" + buffer.name + "' is last used at " + std::to_string(buffer.last_use) +
                       ", before its first use at " + std::to_string(buffer.first_use));
    }
    if (buffer.bytes > kLargestBytes - kBufferAlignment || rounded_up(buffer.bytes) > kLargestBytes - sum) {
      return bad_input("memory plan: buffer '" + buffer.name + "' of " + std::to_string(buffer.bytes) +
                       " bytes makes the plan larger than memory can be addressed");
    }
    sum += rounded_up(buffer.bytes);
  }

  std::vector<BufferId> order(buffers_.size());
  std::iota(order.begin(), order.end(), BufferId{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](BufferId a, BufferId b) { return buffers_[a].bytes > buffers_[b].bytes; });

  std::vector<BufferId> placed;  // by offset
  placed.reserve(buffers_.size());
  for (const BufferId id : order) {
    Buffer& buffer = buffers_[id];
    const std::size_t bytes = rounded_up(buffer.bytes);
    buffer.offset = 0;
    if (bytes == 0) continue;
    // Walk the gaps below the buffers that are live at the same time, lowest first.
    for (const BufferId other_id : placed) {
      const Buffer& other = buffers_[other_id];
      if (other.last_use < buffer.first_use || other.first_use > buffer.last_use) continue;
      if (other.offset >= buffer.offset + bytes) break;
      buffer.offset = std::max(buffer.offset, other.offset + rounded_up(other.bytes));
    }
    arena_bytes_ = std::max(arena_bytes_, buffer.offset + bytes);
    const auto position = std::upper_bound(placed.begin(), placed.end(), buffer.offset,
                                           [&](std::size_t offset, BufferId a) { return offset < buffers_[a].offset; });
    placed.insert(position, id);
  }
  return {};
}

MemoryReport MemoryPlan::report() const {
  MemoryReport report;
  for (std::size_t category = 0; category < kMemoryCategories; ++category) {
    std::vector<Change> changes;
    for (const Buffer& buffer : buffers_) {
      if (static_cast<std::size_t>(buffer.category) != category) continue;
      const std::size_t bytes = rounded_up(buffer.bytes);
      changes.push_back({buffer.first_use, true, bytes});
      if (buffer.last_use != kForever) changes.push_back({buffer.last_use + 1, false, bytes});
    }
    report.bytes[category] = peak_bytes(changes);
  }
  return report;
}

Result<Arena> Arena::allocate(const MemoryPlan& plan) {
  Arena arena;
  if (plan.placement() == Placement::apart) {
    for (BufferId id = 0; id < plan.size(); ++id) {
      Result<AlignedBuffer> one = AlignedBuffer::allocate(std::max<std::size_t>(plan.bytes(id), 1));
      if (!one) return tl::make_unexpected(std::move(one.error()));
      arena.apart_.push_back(std::move(*one));
    }
    return arena;
  }
  Result<AlignedBuffer> memory = AlignedBuffer::allocate(plan.arena_bytes());
  if (!memory) return tl::make_unexpected(std::move(memory.error()));
  arena.memory_ = std::move(*memory);
  return arena;
}

std::size_t Arena::bytes() const {
  std::size_t sum = memory_.bytes();
  for (const AlignedBuffer& buffer : apart_) sum += buffer.bytes();
  return sum;
}

}  // namespace quern
