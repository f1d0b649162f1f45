#include "model/byte_alphabet.hpp"

#include <array>
#include <cstdint>

#include "model/utf8.hpp"

namespace quern {
namespace {

constexpr std::int32_t kLetters = 256 + 68;  // 68 bytes do not print

struct Alphabet {
  std::array<std::int32_t, 256> code_points{};
  std::array<std::int32_t, kLetters> bytes{};  // -1: no letter
  Alphabet() {
    bytes.fill(-1);
    std::int32_t next = 256;
    for (std::int32_t byte = 0; byte < 256; ++byte) {
      const bool prints = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      code_points[byte] = prints ? byte : next++;
      bytes[code_points[byte]] = byte;
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet made;
  return made;
}

}  // namespace

std::string spell_bytes(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) append_utf8(text, alphabet().code_points[static_cast<unsigned char>(c)]);
  return text;
}

std::optional<std::string> unspell_bytes(std::string_view text) {
  std::string bytes;
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Step step = utf8_step(text, at);
    if (step.code_point < 0 || step.code_point >= kLetters || alphabet().bytes[step.code_point] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(alphabet().bytes[step.code_point]));
    at += step.bytes;
  }
  return bytes;
}

}  // namespace quern
