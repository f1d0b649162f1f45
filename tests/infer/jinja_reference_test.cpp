// Expressions, statements, filters, tests, methods and errors against what Python's Jinja2 gives: jinja_cases.json, which
// jinja_cases.py renders.
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "infer/chat_template.hpp"
#include "support/tests_paths.hpp"

namespace quern {
namespace {

using Json = nlohmann::ordered_json;

TEST(JinjaReference, EveryCaseIsAsInPython) {
  std::ifstream file(source_folder() / "tests/infer/jinja_cases.json");
  ASSERT_TRUE(file);
  const Json data = Json::parse(file);
  const std::string context = data["context"].dump();
  const std::chrono::local_seconds now =
      std::chrono::local_days(std::chrono::year(2026) / 1 / 15) + std::chrono::minutes(630);
  ASSERT_GT(data["cases"].size(), 1400U);
  for (const Json& entry : data["cases"]) {
    const std::string text = entry["template"].get<std::string>();
    const auto parsed = ChatTemplate::parse(text);
    const Result<std::string> rendered = parsed ? parsed->render(context, now) : tl::make_unexpected(parsed.error());
    if (entry.contains("expected")) {
      EXPECT_TRUE(rendered) << text << "\n" << (rendered ? "" : rendered.error().message);
      EXPECT_EQ(rendered.value_or(""), entry["expected"].get<std::string>()) << text;
    } else {
      EXPECT_FALSE(rendered) << text << "\ngives " << (rendered ? *rendered : "");
      if (!rendered) {
        EXPECT_EQ(rendered.error().code, ErrorCode::bad_input) << text;
        EXPECT_NE(rendered.error().message.find(entry["error"].get<std::string>()), std::string::npos)
            << text << "\n"
            << rendered.error().message;
      }
    }
  }
}

}  // namespace
}  // namespace quern
