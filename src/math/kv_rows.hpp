// Rows of keys and values in the number formats that a KV cache may have: f32, f16, bf16, q8_0, q4_0.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "math/element_type.hpp"

namespace quern {

/// The formats, most exact first.
[[nodiscard]] std::span<const ElementType> kv_types();
/// "f32", "f16", "bf16", "q8_0", "q4_0"; empty where `type` is none of them.
[[nodiscard]] std::string_view kv_type_name(ElementType type);
[[nodiscard]] std::optional<ElementType> kv_type_named(std::string_view name);

/// Elements that share a scale: 32 in q8_0 and q4_0, 1 in the others, 0 where `type` is not a format of KV caches.
[[nodiscard]] std::int64_t kv_block_elements(ElementType type);
/// Bytes of `elements` (whole blocks) consecutive elements.
[[nodiscard]] std::size_t kv_row_bytes(ElementType type, std::int64_t elements);

/// Writes `elements` (whole blocks) numbers as `type`. Equal types are copied bit for bit; f16 and bf16 round to nearest
/// even (beyond 65504 f16 is infinite). Blocks follow ggml's reference rules: q8_0 has d = max|x| / 127 and codes rounded
/// to nearest, q4_0 has d = m / -8 with m the element of largest magnitude; d is stored as f16, codes are chosen with the
/// exact d. So
///   q8_0: |error| <= max|x| * (1/254 + 2^-11) + 127 * 2^-25
///   q4_0: |error| <= max|x| * (1/8 + 2^-11) + 8 * 2^-25 (half of it but for elements near -m)
/// of the block. A block with a NaN or an infinity reads as NaN as a whole. `to` needs no alignment.
template <class T>
void write_kv_row(ElementType type, const T* from, std::int64_t elements, std::byte* to);

}  // namespace quern
