// Byte-pair merges over characters, as SentencePiece's BPE models do: by the scores of the tokens that they make, or by a
// list of merges.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "math/result.hpp"
#include "model/bpe.hpp"
#include "model/text_index.hpp"

namespace quern {

/// What becomes of a character that no token stands for.
struct CharacterFallback {
  std::array<std::int32_t, 256>
      byte_tokens{};          ///< token of each byte, -1: none; used where all bytes of a character have one
  std::int32_t unknown = -1;  ///< else this token; -1: such text is an error
  bool fuse_unknown = false;  ///< one unknown token for a run of such characters
  CharacterFallback() { byte_tokens.fill(-1); }
};

/// Working memory of encoders, kept by the caller.
struct BpeWork {
  BpeScratch scratch;
  std::vector<std::int32_t> symbols;
};

/// Immutable; safe to share between threads.
class CharacterBpe {
 public:
  CharacterBpe() = default;

  /// Neighbours merge when together they are a token, the one of highest score first, the leftmost among equals. `texts` are
  /// the tokens that may be made (an empty text: none), `scores` one per text, `unused` those that are taken apart again
  /// after merging (SentencePiece's unused type). Tokens above 256 bytes are not made by merging.
  [[nodiscard]] static Result<CharacterBpe> from_scores(std::span<const std::string> texts, std::span<const float> scores,
                                                        const std::vector<bool>& unused);
  /// Merges in their order of preference; both parts and their concatenation must be among the texts.
  [[nodiscard]] static Result<CharacterBpe> from_merges(
      std::span<const std::string> texts, std::span<const std::pair<std::string_view, std::string_view>> merges);

  /// The merges in their order of preference; of tokens only where from_merges made this.
  [[nodiscard]] std::vector<TokenPair> merges() const;

  /// Appends the tokens of `text`, in which spaces are already spelled as the vocabulary spells them. Bytes that are not
  /// UTF-8 are treated as characters without a token. O(n log n). Calls word(view, encode) for each stretch that can be
  /// encoded alone, so that the caller may remember those it met before; error bad_input names what has no token.
  template <class Word>
  [[nodiscard]] Result<void> encode(std::string_view text, const CharacterFallback& fallback, BpeWork& work,
                                    std::vector<std::int32_t>& tokens, const Word& word) const {
    std::size_t begin = 0;
    std::int32_t previous = -1;
    bool unknown_before = false;
    std::size_t at = 0;
    const auto flush = [&]() -> Result<void> {
      const std::string_view stretch = text.substr(begin, at - begin);
      if (stretch.empty()) return {};
      if (is_unknown(stretch)) return append_unknown(stretch, fallback, unknown_before, tokens);
      unknown_before = false;
      Result<void> done;
      word(stretch, [&] { done = encode_stretch(stretch, fallback, work, tokens); });
      return done;
    };
    while (at < text.size()) {
      const Next next = step(text, at);
      if (begin < at && !joins(previous, next.code_point)) {
        if (auto done = flush(); !done) return done;
        begin = at;
      }
      previous = next.code_point;
      at += next.bytes;
    }
    return flush();
  }

 private:
  struct Next {
    std::int32_t code_point = -1;
    std::size_t bytes = 1;
  };
  [[nodiscard]] static Next step(std::string_view text, std::size_t at);
  [[nodiscard]] std::int32_t symbol_of(std::int32_t code_point) const;
  // Whether any merge joins a left part that ends with one character and a right part that begins with the other. Where
  // none does, a text may be cut: no token will span the place.
  [[nodiscard]] bool joins(std::int32_t left, std::int32_t right) const;
  [[nodiscard]] bool is_unknown(std::string_view stretch) const;
  [[nodiscard]] Result<void> encode_stretch(std::string_view stretch, const CharacterFallback& fallback, BpeWork& work,
                                            std::vector<std::int32_t>& tokens) const;
  [[nodiscard]] static Result<void> append_unknown(std::string_view character, const CharacterFallback& fallback,
                                                   bool& unknown_before, std::vector<std::int32_t>& tokens);
  void learn_characters(std::span<const std::string> texts, const TextIndex& ids);
  void add_join(std::string_view left, std::string_view right);
  void build_joins();

  std::array<std::int32_t, 128> ascii_{};                      // symbol of each ASCII character, -1: none
  std::unordered_map<std::int32_t, std::int32_t> characters_;  // of the others
  std::vector<std::string> extra_;                             // characters that are only parts of tokens: symbols_ and up
  std::int32_t symbols_ = 0;                                   // number of tokens
  BpeMerges merges_;
  std::unordered_map<std::int32_t, TokenPair> taken_apart_;  // unused tokens
  std::vector<std::uint64_t> join_list_;                     // while building
  std::vector<std::uint64_t> joins_;                         // open addressing, 0: free
};

}  // namespace quern
