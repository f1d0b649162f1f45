// Cuts text into the pieces ("words") inside which byte-pair merges happen.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "math/result.hpp"

namespace quern {

/// GPT-2's pattern: contractions, letters, numbers, other symbols (each with one space before), white space; the last space
/// of a run belongs to what follows. White space is spelled out as Unicode's White_Space, since PCRE2's \s also takes
/// U+180E.
[[nodiscard]] const std::string& gpt2_pattern();

/// What becomes of an expression's matches; the names are Hugging Face's.
enum class SplitBehavior : std::uint8_t {
  isolated,              ///< each match is a piece
  removed,               ///< matches are dropped
  merged_with_previous,  ///< a match ends the piece before it
  merged_with_next,      ///< a match begins the piece after it
  contiguous             ///< neighbouring matches are one piece
};

/// One expression of a Pretokenizer.
struct SplitRule {
  std::string pattern;
  SplitBehavior behavior = SplitBehavior::isolated;
  bool invert = false;        ///< what lies between matches plays the matches' part, and the other way round
  bool empty_cuts = false;    ///< an empty match cuts the text where it stands
  bool line_anchors = false;  ///< ^ and $ also match at line ends, as in Ruby's dialect
  bool over_bytes = false;    ///< the expression sees bytes instead of characters
  friend bool operator==(const SplitRule&, const SplitRule&) = default;
};

/// Bounds of a piece in its text.
struct Piece {
  std::size_t begin = 0;
  std::size_t end = 0;
};

/// An ordered list of regular expressions (PCRE2, UTF and Unicode properties, compiled to machine code where PCRE2 can).
/// The first cuts the text into its matches and what lies between them; each further one cuts those pieces again. Without
/// expressions the text is one piece. An expression that needs more backtracking than a limit linear in the text's length
/// counts as without further matches there. Immutable and safe to share between threads; copies share the compiled code.
class Pretokenizer {
 public:
  Pretokenizer() = default;
  /// Error bad_input names the expression that does not compile, and where.
  [[nodiscard]] static Result<Pretokenizer> create(const std::vector<std::string>& patterns);
  [[nodiscard]] static Result<Pretokenizer> from_rules(const std::vector<SplitRule>& rules);

  /// Appends the end offset of each piece to `ends`: pieces are consecutive, not empty, and cover `text` exactly (unless a
  /// rule removes matches, see pieces). Bytes that are not UTF-8 are pieces of their own (one per run), so any bytes
  /// survive.
  void split(std::string_view text, std::vector<std::size_t>& ends) const;
  /// Appends the pieces: in order, not empty, without overlap; what no piece covers was removed by a rule.
  void pieces(std::string_view text, std::vector<Piece>& pieces) const;

  [[nodiscard]] bool empty() const { return codes_.empty(); }

 private:
  struct Code;
  template <class Emit>
  void split_valid(std::string_view text, Piece piece, std::size_t rule, const Emit& emit) const;
  template <class Emit>
  void split_any(std::string_view text, const Emit& emit) const;
  std::vector<std::shared_ptr<const Code>> codes_;
};

/// The last place at or before `limit` where a long text may be cut so that both sides give the same pieces as the whole:
/// before a space that follows an ASCII letter or digit, which no published pattern has within a piece; where there is none,
/// before an ASCII white space that follows another ASCII character, which GPT-2's has not (later ones join punctuation and
/// the line ends behind it). Where there is neither, a character boundary (the pieces beside the cut may then differ), and
/// `limit` itself in bytes that are not UTF-8. 0 < result <= limit for 0 < limit <= text.size(), limit >= 4.
[[nodiscard]] std::size_t cut_between_pieces(std::string_view text, std::size_t limit);

}  // namespace quern
