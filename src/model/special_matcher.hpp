// Finds the texts of special tokens in a text.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace quern {

/// A token that is recognised in the text itself, before any model of words sees it.
struct SpecialText {
  std::string text;
  std::int32_t id = 0;
  bool strip_left = false;   ///< the white space before it belongs to it
  bool strip_right = false;  ///< the white space after it belongs to it
  bool whole_word = false;   ///< only where no letter, digit or underscore touches it
  friend bool operator==(const SpecialText&, const SpecialText&) = default;
};

/// Longer special texts are not recognised, which bounds the work per byte of text.
inline constexpr std::size_t kMaxSpecialBytes = 1024;

/// Immutable; safe to share.
class SpecialMatcher {
 public:
  /// A stretch of the text: a special token, or (id < 0) what lies between such.
  struct Part {
    std::size_t begin = 0;
    std::size_t end = 0;
    std::int32_t id = -1;
  };

  SpecialMatcher() = default;
  /// Empty texts are left out; of two entries with the same text the first counts.
  explicit SpecialMatcher(std::vector<SpecialText> texts);

  [[nodiscard]] bool empty() const { return texts_.empty(); }
  [[nodiscard]] const std::vector<SpecialText>& texts() const { return texts_; }

  /// Appends the parts that cover the text, from left to right, at each place the longest special text. Ordinary parts are
  /// not empty. O(text) for a given vocabulary.
  void split(std::string_view text, std::vector<Part>& parts) const;

 private:
  [[nodiscard]] const SpecialText* longest_at(std::string_view text, std::size_t at) const;
  std::vector<SpecialText> texts_;                // sorted by text
  std::array<std::uint32_t, 257> first_bytes_{};  // texts that begin with byte b: [b], [b+1]
};

/// Unicode's White_Space.
[[nodiscard]] bool is_white_space(std::int32_t code_point);

}  // namespace quern
