// A block of memory in pages of a chosen size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace quern {

/// Zeroed memory that asks the system for transparent huge pages, or for none. Move-only; gives itself back.
class PageBlock {
 public:
  PageBlock() = default;
  /// data() is null where the system refuses. Starts at a multiple of 2 MiB.
  PageBlock(std::size_t bytes, bool huge_pages);
  ~PageBlock();
  PageBlock(PageBlock&& other) noexcept { swap(other); }
  PageBlock& operator=(PageBlock&& other) noexcept {
    swap(other);
    return *this;
  }

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }
  /// Bytes of the block that lie in huge pages now; 0 also where the system does not say (/proc/self/smaps).
  [[nodiscard]] std::uint64_t huge_bytes() const;

 private:
  void swap(PageBlock& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(mapped_, other.mapped_);
    std::swap(mapped_bytes_, other.mapped_bytes_);
  }
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
  void* mapped_ = nullptr;
  std::size_t mapped_bytes_ = 0;
};

}  // namespace quern
