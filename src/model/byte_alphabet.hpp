// GPT-2's printable spelling of bytes, in which byte-level vocabularies are written.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace quern {

/// Each byte as a character: bytes that print stand for themselves, the others, in order, for U+0100 and up.
[[nodiscard]] std::string spell_bytes(std::string_view bytes);

/// The bytes that a spelling stands for; nothing where a character is not of the alphabet.
[[nodiscard]] std::optional<std::string> unspell_bytes(std::string_view text);

}  // namespace quern
