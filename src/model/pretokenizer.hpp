// Cuts text into the pieces ("words") inside which byte-pair merges happen.
#pragma once

#include <cstddef>
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

/// An ordered list of regular expressions (PCRE2, UTF and Unicode properties, compiled to machine code where PCRE2 can).
/// The first cuts the text into its matches and what lies between them; each further one cuts those pieces again. Without
/// expressions the text is one piece. Immutable and safe to share between threads; copies share the compiled code.
class Pretokenizer {
 public:
  Pretokenizer() = default;
  /// Error bad_input names the expression that does not compile, and where.
  [[nodiscard]] static Result<Pretokenizer> create(const std::vector<std::string>& patterns);

  /// Appends the end offset of each piece to `ends`: pieces are consecutive, not empty, and cover `text` exactly. Bytes that
  /// are not UTF-8 are pieces of their own (one per run), so any bytes survive.
  void split(std::string_view text, std::vector<std::size_t>& ends) const;

  [[nodiscard]] bool empty() const { return codes_.empty(); }

 private:
  struct Code;
  void split_valid(std::string_view text, std::size_t begin, std::size_t end, std::size_t pattern,
                   std::vector<std::size_t>& ends) const;
  std::vector<std::shared_ptr<const Code>> codes_;
};

/// The last place at or before `limit` where a long text may be cut so that both sides give the same GPT-2 pieces as the
/// whole: before an ASCII white space that follows another ASCII character. Where there is none, a character boundary
/// (the pieces beside the cut may then differ), and `limit` itself in bytes that are not UTF-8. 0 < result <= limit for
/// 0 < limit <= text.size(), limit >= 4.
[[nodiscard]] std::size_t cut_between_pieces(std::string_view text, std::size_t limit);

}  // namespace quern
