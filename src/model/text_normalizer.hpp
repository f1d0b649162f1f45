// What a vocabulary does to a text before it looks for tokens: spaces spelled as U+2581, a space in front, and the like.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "math/result.hpp"

namespace quern {

/// U+2581, with which SentencePiece spells a space.
inline constexpr std::string_view kSpaceMark = "\xE2\x96\x81";

struct NormalizerStep {
  enum class Kind : std::uint8_t {
    replace,  ///< each `from` becomes `to`
    prepend,  ///< `to` goes in front of a text that is not empty
    nfc       ///< Unicode's normalization form C
  };
  Kind kind = Kind::replace;
  std::string from, to;
  bool unless_present = false;  ///< prepend: not where the text begins with `to`
  bool first_only = false;      ///< prepend: only at the start of the whole text, not after special tokens
  friend bool operator==(const NormalizerStep&, const NormalizerStep&) = default;
};

/// The text with each `from` (not empty) replaced by `to`.
[[nodiscard]] std::string replace_all(std::string_view text, std::string_view from, std::string_view to);

/// Where a text stands in the whole.
enum class TextStand : std::uint8_t {
  first,          ///< at its start
  after_special,  ///< behind a special token
  continues       ///< behind ordinary text: nothing is put in front
};

/// Applies the steps in order. Linear in the text's length: an error where a step would make it longer than 64 times what it
/// was and 1 MiB.
[[nodiscard]] Result<std::string> normalize(std::string_view text, const std::vector<NormalizerStep>& steps,
                                            TextStand stand);

}  // namespace quern
