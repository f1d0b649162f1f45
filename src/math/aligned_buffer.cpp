#include "math/aligned_buffer.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>

namespace quern {
namespace {

constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;
/// From two huge pages up at least one whole huge page lies inside the block, so that the advice can help.
constexpr std::size_t kMapFromBytes = std::size_t{4} << 20;
/// Larger objects cannot be indexed with std::ptrdiff_t.
constexpr std::size_t kLargestBytes = static_cast<std::size_t>(std::numeric_limits<std::ptrdiff_t>::max());

tl::unexpected<Error> refused(std::size_t bytes) {
  return no_memory("cannot allocate " + std::to_string(bytes) + " bytes (" + std::to_string(bytes >> 20) +
                   " MiB): the system refused");
}

/// Maps `mapped_bytes` (a multiple of the page size) of zeroed memory at a multiple of kHugePageBytes; null when refused.
std::byte* map_aligned(std::size_t mapped_bytes) {
  const std::size_t reserved_bytes = mapped_bytes + kHugePageBytes;
  void* reserved = mmap(nullptr, reserved_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (reserved == MAP_FAILED) return nullptr;
  auto* const start = static_cast<std::byte*>(reserved);
  const std::size_t past = reinterpret_cast<std::uintptr_t>(start) % kHugePageBytes;
  const std::size_t skipped = past == 0 ? 0 : kHugePageBytes - past;
  // Give the ends back; failure only leaves address space reserved.
  if (skipped > 0) munmap(start, skipped);
  if (skipped < kHugePageBytes) munmap(start + skipped + mapped_bytes, kHugePageBytes - skipped);
  std::byte* const memory = start + skipped;
  madvise(memory, mapped_bytes, MADV_HUGEPAGE);  // advice only: systems without huge pages refuse it harmlessly
  return memory;
}

}  // namespace

Result<AlignedBuffer> AlignedBuffer::allocate(std::size_t bytes) {
  AlignedBuffer buffer;
  if (bytes == 0) return buffer;
  if (bytes > kLargestBytes - 2 * kHugePageBytes) return refused(bytes);
  std::byte* memory = nullptr;
  std::size_t mapped_bytes = 0;
  if (bytes >= kMapFromBytes) {
    const auto page_bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    mapped_bytes = (bytes + page_bytes - 1) / page_bytes * page_bytes;
    memory = map_aligned(mapped_bytes);
  } else {
    const std::size_t rounded_bytes = (bytes + kBufferAlignment - 1) / kBufferAlignment * kBufferAlignment;
    memory = static_cast<std::byte*>(std::aligned_alloc(kBufferAlignment, rounded_bytes));
    if (memory != nullptr) std::memset(memory, 0, rounded_bytes);
  }
  if (memory == nullptr) return refused(bytes);
  buffer.memory_ = std::unique_ptr<std::byte, Free>(memory, Free{mapped_bytes});
  buffer.bytes_ = bytes;
  return buffer;
}

void AlignedBuffer::Free::operator()(std::byte* memory) const {
  if (mapped_bytes > 0) {
    munmap(memory, mapped_bytes);
  } else {
    std::free(memory);
  }
}

}  // namespace quern
