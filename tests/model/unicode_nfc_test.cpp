#include "model/unicode_nfc.hpp"

#include <gtest/gtest.h>

namespace quern {
namespace {

TEST(Nfc, KnownCases) {
  EXPECT_EQ(to_nfc("plain"), "plain");
  EXPECT_EQ(to_nfc("e\u0301"), "\u00E9");
  EXPECT_EQ(to_nfc("\u00E9"), "\u00E9");
  EXPECT_EQ(to_nfc("\u212B"), "\u00C5") << "a singleton";
  EXPECT_EQ(to_nfc("\u2126\u212A"), "\u03A9K");
  EXPECT_EQ(to_nfc("q\u0307\u0323"), "q\u0323\u0307") << "canonical order";
  EXPECT_EQ(to_nfc("s\u0307\u0323"), "\u1E69") << "order, then composition twice";
  EXPECT_EQ(to_nfc("\u1E9B\u0323"), "\u1E9B\u0323");
  EXPECT_EQ(to_nfc("\u0958"), "\u0915\u093C") << "excluded from composition";
  EXPECT_EQ(to_nfc("\u1112\u1161\u11AB"), "\uD55C") << "Hangul";
  EXPECT_EQ(to_nfc("\uD558\u11AB"), "\uD55C");
  EXPECT_EQ(to_nfc("a\u0315\u0300\u05AE\u0301"
                   "b"),
            "\u00E0\u05AE\u0301\u0315"
            "b")
      << "the second accent is blocked";
  EXPECT_EQ(to_nfc("\u0301"), "\u0301");
  EXPECT_EQ(to_nfc("\xFF\u0065\u0301\xC3"), "\xFF\u00E9\xC3") << "bytes that are not UTF-8 stay";
  EXPECT_EQ(to_nfc(""), "");
}

TEST(Nfc, ManyMarksTakeNoQuadraticTime) {
  std::string text = "a";
  for (int i = 0; i < 300'000; ++i) text += i % 2 == 0 ? "\u0323" : "\u0307";
  const std::string once = to_nfc(text);
  EXPECT_EQ(to_nfc(once), once);
}

}  // namespace
}  // namespace quern
