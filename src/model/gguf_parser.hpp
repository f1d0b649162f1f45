// One GGUF file image, read and checked: header, metadata, tensor descriptors.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "math/result.hpp"
#include "model/gguf_file.hpp"

namespace quern::internal {

// Limits that bound the time and memory which a hostile file can cost. The first three go beyond the format's; they are far
// above any published model (some dozens of entries, a few thousand tensors, a million strings).
inline constexpr std::uint64_t kMaxGgufEntries = std::uint64_t{1} << 16;  ///< of metadata
inline constexpr std::uint64_t kMaxGgufTensors = std::uint64_t{1} << 20;  ///< in one file
inline constexpr std::uint64_t kMaxGgufStrings = std::uint64_t{1} << 24;  ///< elements of a file's string arrays together
inline constexpr std::uint64_t kMaxGgufStringBytes = std::uint64_t{1} << 30;
inline constexpr std::uint64_t kMaxGgufElements = std::uint64_t{1} << 30;  ///< of one array
inline constexpr std::uint64_t kMaxGgufKeyBytes = 65535;
inline constexpr std::uint64_t kMaxGgufNameBytes = 63;  ///< of a tensor
inline constexpr std::int64_t kMinGgufAlignment = 8;
inline constexpr std::int64_t kMaxGgufAlignment = 1 << 20;
inline constexpr std::size_t kDefaultGgufAlignment = 32;

/// What one file holds; views point into the image.
struct GgufPart {
  std::uint32_t version = 0;
  std::size_t alignment = kDefaultGgufAlignment;
  std::vector<GgufValue> metadata;        ///< in the file's order
  std::vector<std::uint32_t> key_order;   ///< of metadata, by key; keys are unique
  std::vector<GgufTensor> tensors;        ///< in the file's order
  std::vector<std::uint32_t> name_order;  ///< of tensors, by name; names are unique
  [[nodiscard]] const GgufValue* find(std::string_view key) const;
};

/// Reads an image. Takes time in proportion to the bytes in front of the tensor data, with a factor log n for uniqueness,
/// and memory of a small multiple of those bytes. Errors bad_input: docs/formats.md lists what is checked.
[[nodiscard]] Result<GgufPart> parse_gguf(std::span<const std::byte> bytes, const std::string& name);

/// How a file is part of a split model: keys split.count (1: it is whole), split.no and split.tensors.count (of all parts).
struct GgufSplit {
  std::int64_t count = 1;
  std::int64_t number = 0;
  std::int64_t tensors = 0;
};
[[nodiscard]] Result<GgufSplit> split_of(const GgufPart& part, const std::string& name);

/// Positions of items in the order of their names. Sorting cannot be driven to quadratic time, as a hash table can.
template <class T>
[[nodiscard]] std::vector<std::uint32_t> order_by(const std::vector<T>& items, std::string_view T::*name) {
  std::vector<std::uint32_t> order(items.size());
  std::iota(order.begin(), order.end(), 0U);
  std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) { return items[a].*name < items[b].*name; });
  return order;
}

/// A name that two items have; null where all differ.
template <class T>
[[nodiscard]] const T* find_duplicate(const std::vector<T>& items, const std::vector<std::uint32_t>& order,
                                      std::string_view T::*name) {
  const auto at = std::adjacent_find(order.begin(), order.end(),
                                     [&](std::uint32_t a, std::uint32_t b) { return items[a].*name == items[b].*name; });
  return at == order.end() ? nullptr : &items[*at];
}

/// The item called `wanted`; null where there is none.
template <class T>
[[nodiscard]] const T* find_by(const std::vector<T>& items, const std::vector<std::uint32_t>& order,
                               std::string_view T::*name, std::string_view wanted) {
  const auto at = std::lower_bound(order.begin(), order.end(), wanted,
                                   [&](std::uint32_t a, std::string_view text) { return items[a].*name < text; });
  return at == order.end() || items[*at].*name != wanted ? nullptr : &items[*at];
}

}  // namespace quern::internal
