// When a text ends: end tokens, stop strings and the token limit; and what of it may be printed already.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "math/result.hpp"
#include "model/tokenizer.hpp"

namespace quern {

/// Why a generation ended.
enum class StopReason : std::uint8_t {
  token_limit,   ///< max_tokens were generated
  end_of_text,   ///< the model produced one of the end tokens
  stop_string,   ///< the text contains a stop string
  context_full,  ///< the context has no room for another token
  interrupted,   ///< cancelled, or the callback returned false
  failed         ///< an error; its sentence is with the event
};
/// "token limit", "end of text", "stop string", "context full", "interrupted", "failed".
[[nodiscard]] std::string_view to_word(StopReason reason);

struct StopConditions {
  std::int64_t max_tokens = 100;           ///< end tokens do not count
  std::vector<std::int32_t> end_tokens{};  ///< each ends the text and is not part of it
  std::vector<std::string> strings{};      ///< UTF-8; the text ends before the first that becomes complete
  bool ignore_end_tokens = false;          ///< end tokens are never drawn (their logits become -infinity)
  bool special_text = false;               ///< special tokens' names are part of the text, else they give none
};

/// Error bad_input: max_tokens below 1, an empty stop string or one that is not UTF-8.
[[nodiscard]] Result<void> validate(const StopConditions& conditions);

/// Takes the tokens of one text as they are drawn; yields what can be printed and says when to stop.
///
/// Text that may be the beginning of a stop string, and bytes of an unfinished character, are held back until later tokens
/// decide. The stop string that is complete first ends the text (of several that end together the longest), however the text
/// is cut into tokens; it is not part of the text. All pieces together never end inside a character that a token completes.
class StopFilter {
 public:
  /// Valid conditions. Without a tokenizer (null) there is no text; `conditions.strings` must be empty then. `previous` is
  /// the token before the text: vocabularies differ in whether a space at the beginning counts after a special one.
  StopFilter(const Tokenizer* tokenizer, StopConditions conditions, std::optional<std::int32_t> previous = std::nullopt);

  struct Step {
    std::string text;                ///< can be printed now
    std::optional<StopReason> stop;  ///< token_limit, end_of_text or stop_string
    bool is_end_token = false;       ///< the token ended the text and is not one of its tokens
  };
  /// The next token. With a stop, text holds all that was held back. Not to be called after a stop.
  [[nodiscard]] Step push(std::int32_t token);

  /// What is held back, for a text that ends for another reason.
  [[nodiscard]] std::string finish();

  /// Tokens of the text so far.
  [[nodiscard]] std::int64_t tokens() const { return tokens_; }

 private:
  [[nodiscard]] bool is_end_token(std::int32_t token) const;

  std::optional<StreamingDecoder> decoder_;
  StopConditions conditions_;
  std::string held_;
  std::int64_t tokens_ = 0;
};

}  // namespace quern
