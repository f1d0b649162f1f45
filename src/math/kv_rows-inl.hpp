// Layouts of the number formats that a KV cache may have. Internal linkage: the cache writes them, each instruction set
// reads them.
#pragma once

#include <cstdint>

#include "math/element_type.hpp"

namespace quern {
namespace {

/// n elements (whole blocks) take n / block_elements * block_bytes bytes.
struct KvFormat {
  std::int64_t block_elements = 0;  ///< 0: not a format of KV caches
  std::int64_t block_bytes = 0;
};

/// Elements of a block of q8_0 (f16 scale d, 32 int8 q: d * q) and of q4_0 (f16 scale d, 16 bytes: the low nibbles are
/// elements 0 .. 15, the high ones 16 .. 31: d * (q - 8)).
constexpr std::int64_t kKvBlock = 32;

constexpr KvFormat kv_format(ElementType type) {
  switch (type) {
    case ElementType::f32:
      return {1, 4};
    case ElementType::f16:
    case ElementType::bf16:
      return {1, 2};
    case ElementType::q8_0:
      return {kKvBlock, 34};
    case ElementType::q4_0:
      return {kKvBlock, 18};
    default:
      return {};
  }
}

}  // namespace
}  // namespace quern
