// Which cache lines a tile's call fetches for calls to come (MatmulFetch). Internal to matmul*.cpp.
#pragma once

#include <cstdint>

#include "math/matmul_kernels.hpp"

namespace quern::internal {

/// All lines of a block of `rows` rows of row_bytes bytes each, `stride` bytes apart.
[[nodiscard]] inline MatmulFetch fetch_block(const void* data, std::int64_t stride, std::int64_t rows,
                                             std::int64_t row_bytes) {
  const auto offset = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(data) % 64);
  return {.data = data, .stride = stride, .rows = rows, .lines = (offset + row_bytes + 63) / 64};
}

/// The share-th of `shares` parts of such a block, cut between columns: every call then fetches a few lines of each row.
[[nodiscard]] inline MatmulFetch fetch_columns(const void* data, std::int64_t stride, std::int64_t rows,
                                               std::int64_t row_bytes, std::int64_t share, std::int64_t shares) {
  const std::int64_t lines = (row_bytes + 63) / 64;
  const std::int64_t first = lines * share / shares;
  const std::int64_t end = lines * (share + 1) / shares;
  if (rows <= 0 || first == end) return {};
  return {.data = static_cast<const char*>(data) + first * 64, .stride = stride, .rows = rows, .lines = end - first};
}

/// The share-th of `shares` parts of consecutive bytes.
[[nodiscard]] inline MatmulFetch fetch_run(const void* data, std::int64_t bytes, std::int64_t share, std::int64_t shares) {
  constexpr std::int64_t kLines = 4;
  const std::int64_t lines = (bytes + 63) / 64;
  const std::int64_t first = lines * share / shares;
  const std::int64_t end = lines * (share + 1) / shares;
  return {.data = static_cast<const char*>(data) + first * 64,
          .stride = kLines * 64,
          .rows = (end - first + kLines - 1) / kLines,
          .lines = kLines};
}

}  // namespace quern::internal
