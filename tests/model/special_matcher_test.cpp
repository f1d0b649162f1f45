#include "model/special_matcher.hpp"

#include <gtest/gtest.h>

namespace quern {
namespace {

// "[7]" for token 7, ordinary text as it is.
std::string parts_of(const SpecialMatcher& matcher, const std::string& text) {
  std::vector<SpecialMatcher::Part> parts;
  matcher.split(text, parts);
  std::string out;
  std::size_t at = 0;
  for (const auto& part : parts) {
    EXPECT_EQ(part.begin, at);
    EXPECT_LT(part.begin, part.end);
    at = part.end;
    out += part.id < 0 ? "(" + text.substr(part.begin, part.end - part.begin) + ")" : "[" + std::to_string(part.id) + "]";
  }
  EXPECT_EQ(at, text.size());
  return out;
}

TEST(SpecialMatcher, TheLongestWinsFromLeftToRight) {
  const SpecialMatcher matcher(
      {{"<a>", 1}, {"<a><b>", 2}, {"<b>", 3}, {"", 4}, {"<a>", 5}, {"\n", 6}, {"\n\n", 7}, {"\n\n\n", 8}});
  EXPECT_EQ(parts_of(matcher, ""), "");
  EXPECT_EQ(parts_of(matcher, "x<a><b><b>y<a"), "(x)[2][3](y<a)");
  EXPECT_EQ(parts_of(matcher, "<a>"), "[1]") << "the first of two entries with one text counts";
  EXPECT_EQ(parts_of(matcher, "\n\n\n\n\n"), "[8][7]");
  EXPECT_EQ(parts_of(matcher, "<<a>>"), "(<)[1](>)");
  EXPECT_EQ(parts_of(SpecialMatcher(), "a<b>"), "(a<b>)");
  EXPECT_EQ(parts_of(SpecialMatcher({{"\xFF", 1}, {"\xFF\xFE", 2}, {"\x80", 3}}), "\xFF\xFE\xFF\x80z"), "[2][1][3](z)");
}

TEST(SpecialMatcher, StripsWhiteSpaceWhereAsked) {
  const SpecialMatcher matcher({{.text = "<l>", .id = 1, .strip_left = true},
                                {.text = "<r>", .id = 2, .strip_right = true},
                                {.text = "<b>", .id = 3, .strip_left = true, .strip_right = true},
                                {.text = "<n>", .id = 4}});
  EXPECT_EQ(parts_of(matcher, "a \n<l> b"), "(a)[1]( b)");
  EXPECT_EQ(parts_of(matcher, "a <r> \u3000\tb"), "(a )[2](b)") << "Unicode's white space";
  EXPECT_EQ(parts_of(matcher, " <b>  <b> "), "[3][3]");
  EXPECT_EQ(parts_of(matcher, "<n> <l>"), "[4][1]");
  EXPECT_EQ(parts_of(matcher, "<n> <n>"), "[4]( )[4]");
}

TEST(SpecialMatcher, WholeWords) {
  const SpecialMatcher matcher({{.text = "MASK", .id = 1, .whole_word = true}});
  EXPECT_EQ(parts_of(matcher, "MASK MASKS aMASK (MASK) _MASK MASK"), "[1]( MASKS aMASK ()[1]() _MASK )[1]");
  EXPECT_EQ(parts_of(matcher, "\u00E9MASK MASK\u4E00 \u00BBMASK\u00AB"), "(\u00E9MASK MASK\u4E00 \u00BB)[1](\u00AB)");
}

TEST(SpecialMatcher, LongTextsAreNotRecognised) {
  const std::string longest(kMaxSpecialBytes, 'x');
  EXPECT_EQ(parts_of(SpecialMatcher({{longest, 1}}), longest), "[1]");
  EXPECT_EQ(parts_of(SpecialMatcher({{longest + "x", 1}}), longest + "x"), "(" + longest + "x)");
}

}  // namespace
}  // namespace quern
