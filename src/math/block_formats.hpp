// GGUF's element and block formats: names, sizes, and how to read rows of them as f32.
//
// Formats and their byte layouts: ggml's block structures, as "GGUF" files (versions 2 and 3, quantization version 2) hold
// them. Plain data and functions over it; the decoders themselves are kernels of the instruction-set tables.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "math/element_type.hpp"

namespace quern {

/// A format's constants. A row of n elements (n a multiple of block_elements) takes n / block_elements * block_bytes bytes.
struct BlockFormat {
  ElementType type = ElementType::f32;
  std::string_view name;            ///< as GGUF tools print it: "Q4_K", "MXFP4", "F32", ...
  std::int64_t block_elements = 1;  ///< 1 for plain numbers
  std::int64_t block_bytes = 4;
  bool quantized = false;  ///< block-quantized: neither a float nor an integer type
  [[nodiscard]] constexpr double bits_per_element() const {
    return 8.0 * static_cast<double>(block_bytes) / static_cast<double>(block_elements);
  }
};

/// Every format, in the order of their ids.
[[nodiscard]] std::span<const BlockFormat> block_formats();
/// The format of a type of this build's list.
[[nodiscard]] const BlockFormat& block_format(ElementType type);
/// By GGUF's type id; null where the id is unknown, removed or for activations only.
[[nodiscard]] const BlockFormat* find_block_format(std::uint32_t gguf_id);
/// By name, upper or lower case; null where unknown.
[[nodiscard]] const BlockFormat* find_block_format(std::string_view name);

/// Bytes of `elements` (>= 0) consecutive elements; nothing where they are no whole number of blocks or the product
/// overflows.
[[nodiscard]] std::optional<std::size_t> bytes_of(ElementType type, std::int64_t elements);

}  // namespace quern
