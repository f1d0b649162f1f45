// Loops that only move memory: what bandwidth is measured with. Plain data only: instruction-set files include this header.
#pragma once

#include <cstddef>
#include <cstdint>

namespace quern {

/// Blocks that streams work on are multiples of this many bytes and aligned to 64.
inline constexpr std::size_t kStreamStep = 512;

/// One thread's loops. Each goes `passes` times over blocks of `bytes` (a multiple of kStreamStep), from low to high
/// addresses, with the widest registers of the instruction set. Nothing is computed: loads wait for nothing but the memory.
struct StreamKernels {
  const char* name = nullptr;
  void (*read)(const std::byte* from, std::size_t bytes, std::int64_t passes) = nullptr;
  void (*write)(std::byte* to, std::size_t bytes, std::int64_t passes) = nullptr;
  void (*copy)(std::byte* to, const std::byte* from, std::size_t bytes, std::int64_t passes) = nullptr;
  /// Writes past the caches (non-temporal stores), ended by a fence; null where the instruction set has no such stores.
  void (*write_past)(std::byte* to, std::size_t bytes, std::int64_t passes) = nullptr;
};

/// Tables by instruction set; null where this build lacks it. Call stream_kernels() instead.
const StreamKernels* stream_kernels_portable();
const StreamKernels* stream_kernels_avx2();
const StreamKernels* stream_kernels_avx512();

}  // namespace quern
