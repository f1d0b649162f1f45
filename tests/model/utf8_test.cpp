#include "model/utf8.hpp"

#include <gtest/gtest.h>

namespace quern {
namespace {

TEST(Utf8, EveryCodePointRoundTrips) {
  for (std::int32_t code_point = 0; code_point <= 0x10FFFF; ++code_point) {
    if (code_point >= 0xD800 && code_point <= 0xDFFF) continue;
    std::string text;
    append_utf8(text, code_point);
    const Utf8Step step = utf8_step(text, 0);
    ASSERT_EQ(step.code_point, code_point);
    ASSERT_EQ(step.bytes, text.size());
    ASSERT_EQ(text.size(), code_point < 0x80 ? 1u : code_point < 0x800 ? 2u : code_point < 0x10000 ? 3u : 4u);
  }
}

// Counts by brute force: of all texts of three bytes exactly the ones RFC 3629 names are one three-byte character.
TEST(Utf8, InvalidFormsAreRefused) {
  int valid = 0;
  for (int a = 0xE0; a < 0xF0; ++a) {
    for (int b = 0; b < 256; ++b) {
      for (int c = 0; c < 256; ++c) {
        const std::string text = {static_cast<char>(a), static_cast<char>(b), static_cast<char>(c)};
        valid += utf8_step(text, 0).bytes == 3;
      }
    }
  }
  EXPECT_EQ(valid, 0x10000 - 0x800 - 2048);
  for (const std::string text : {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF",
                                 "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "\xC3", "\xE2\x82", "\xF0\x9F\x98"}) {
    EXPECT_LT(utf8_step(text, 0).code_point, 0);
    EXPECT_EQ(utf8_step(text, 0).bytes, 1u);
  }
}

TEST(Utf8, FindsTheFirstInvalidByte) {
  EXPECT_EQ(find_invalid_utf8(""), std::string_view::npos);
  EXPECT_EQ(find_invalid_utf8("gr\xC3\xBC\xC3\x9F \xF0\x9F\x98\x80"), std::string_view::npos);
  for (std::size_t at = 0; at < 40; ++at) {
    std::string text(40, 'a');
    text[at] = '\xFE';
    EXPECT_EQ(find_invalid_utf8(text), at);
  }
  EXPECT_EQ(find_invalid_utf8("abc\xE2\x82"), 3u);
}

TEST(Utf8, CompletePrefixHoldsBackOnlyWhatMayBecomeACharacter) {
  const std::string smile = "\xF0\x9F\x98\x80";
  for (std::size_t n = 0; n <= 4; ++n) EXPECT_EQ(complete_utf8_prefix("x" + smile.substr(0, n)), n == 4 ? 5u : 1u) << n;
  EXPECT_EQ(complete_utf8_prefix("\xE2\x82"), 0u);
  EXPECT_EQ(complete_utf8_prefix("\xE2\x82\xAC"), 3u);
  EXPECT_EQ(complete_utf8_prefix("\xE0\x80"), 2u) << "overlong: no byte can complete it";
  EXPECT_EQ(complete_utf8_prefix("\x80\x80\x80"), 3u);
  EXPECT_EQ(complete_utf8_prefix("\xFF"), 1u);
  EXPECT_EQ(complete_utf8_prefix("\xF0\xC3"), 1u) << "the second byte starts anew";
  EXPECT_EQ(complete_utf8_prefix(""), 0u);
}

TEST(Utf8, BoundaryBefore) {
  const std::string text =
      "a\xE2\x82\xAC"
      "b";
  EXPECT_EQ(utf8_boundary_before(text, 0), 0u);
  EXPECT_EQ(utf8_boundary_before(text, 1), 1u);
  EXPECT_EQ(utf8_boundary_before(text, 2), 1u);
  EXPECT_EQ(utf8_boundary_before(text, 3), 1u);
  EXPECT_EQ(utf8_boundary_before(text, 4), 4u);
  EXPECT_EQ(utf8_boundary_before(text, 5), 5u);
  EXPECT_EQ(utf8_boundary_before("\x80\x80\x80\x80\x80", 4), 4u);
}

}  // namespace
}  // namespace quern
