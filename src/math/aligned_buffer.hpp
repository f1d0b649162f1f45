// Memory that frees itself, aligned for vectors and tiles.
#pragma once

#include <cstddef>
#include <memory>

#include "math/result.hpp"

namespace quern {

/// Alignment of every buffer and of every block inside an arena: a cache line, an AVX-512 vector and a row of an AMX tile.
inline constexpr std::size_t kBufferAlignment = 64;

/// A move-only block of bytes aligned to kBufferAlignment (to 2 MiB and advised to huge pages from 4 MiB up), zeroed.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  /// Error no_memory when the system refuses.
  [[nodiscard]] static Result<AlignedBuffer> allocate(std::size_t bytes);

  [[nodiscard]] std::byte* data() { return memory_.get(); }
  [[nodiscard]] const std::byte* data() const { return memory_.get(); }
  /// The bytes asked for; 0 after a move from this buffer.
  [[nodiscard]] std::size_t bytes() const { return memory_ == nullptr ? 0 : bytes_; }
  template <class T>
  [[nodiscard]] T* as() {
    return reinterpret_cast<T*>(memory_.get());
  }
  template <class T>
  [[nodiscard]] const T* as() const {
    return reinterpret_cast<const T*>(memory_.get());
  }

 private:
  struct Free {
    std::size_t mapped_bytes;  // 0: from aligned_alloc, else the length of an mmap; unique_ptr sets it to 0 when it is empty
    void operator()(std::byte* memory) const;
  };
  std::unique_ptr<std::byte, Free> memory_;
  std::size_t bytes_ = 0;
};

}  // namespace quern
