// Arithmetic and slices with Python's rules; integers are 64-bit, and a result beyond is an error.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "infer/jinja_value.hpp"

namespace quern::jinja {

/// `+ - * / // ** %`; `%` with text on the left formats.
[[nodiscard]] Value binary(Heap& heap, std::string_view word, const Value& left, const Value& right);
[[nodiscard]] Value negated(const Value& value);
/// `== != < <= > >=`.
[[nodiscard]] bool compares(Heap& heap, std::string_view word, const Value& left, const Value& right);
/// value[start:stop:step]; none or undefined bounds are open.
[[nodiscard]] Value slice(Heap& heap, const Value& value, const Value& start, const Value& stop, const Value& step);
/// Where a slice of a sequence of `length` elements starts and ends, as Python's slice.indices().
struct SliceBounds {
  std::int64_t start = 0, step = 1, count = 0;
};
[[nodiscard]] SliceBounds slice_bounds(std::int64_t length, std::optional<std::int64_t> start,
                                       std::optional<std::int64_t> stop, std::int64_t step);

}  // namespace quern::jinja
