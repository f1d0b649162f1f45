// A size that a model must not exceed, and the cheapest choice of types within it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "math/result.hpp"

namespace quern {

/// How large a file may be: in bytes, all of it, or in bits per weight, all tensors' data over all their elements.
struct SizeBudget {
  std::optional<std::size_t> bytes;
  std::optional<double> bits_per_weight;

  /// "4.5GiB", "900MB", "123456789" (bytes), "4.2bpw", in any case. Units: B, kB, MB, GB (powers of 1000), KiB, MiB, GiB
  /// (powers of 1024), bpw. Error bad_input quotes what is none.
  [[nodiscard]] static Result<SizeBudget> parse(std::string_view text);
};

/// One way to store a tensor.
struct SizeOption {
  std::size_t bytes = 0;
  double cost = 0.0;  ///< what it costs in quality; >= 0
};

/// One option per item such that the bytes together are at most `budget` and the sum of costs is least: the
/// multiple-choice knapsack problem, by dynamic programming over the bytes above the smallest choice. Exact where those
/// bytes are at most 65,536 multiples of a common divisor (whole rows of blocks usually are); else they are counted in
/// 65,536ths of the room, rounded up, so that what is found costs no more than the best within items / 65,536 less room,
/// and what is left over is spent on the options that gain most. Nothing where even the smallest choice is too large.
/// Deterministic.
[[nodiscard]] std::optional<std::vector<std::size_t>> choose_within_budget(std::span<const std::vector<SizeOption>> items,
                                                                           std::size_t budget);

}  // namespace quern
