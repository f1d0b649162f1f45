// The tables behind unicode_nfc; only its own sources include this.
#pragma once

#include <cstdint>
#include <span>

namespace quern::internal {

/// `code_point` is canonically `first` followed by `second` (0: by nothing). `never_composed`: not put together again.
struct CanonicalDecomposition {
  std::int32_t code_point, first, second;
  std::int32_t never_composed;
};
/// The combining class of first..last, where it is not 0.
struct CombiningClass {
  std::int32_t first, last, value;
};

[[nodiscard]] std::span<const CanonicalDecomposition> canonical_decompositions();
[[nodiscard]] std::span<const CombiningClass> combining_classes();

}  // namespace quern::internal
