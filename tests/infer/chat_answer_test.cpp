// Reasoning, answers and tool calls told apart: whole, character by character, and in every two parts.
#include "infer/chat_answer.hpp"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace quern {
namespace {

using Tokens = std::vector<std::pair<std::string, bool>>;  ///< text, is special

/// "R:...|A:...|T(recipient):...", a part for each section.
std::string told_apart(AnswerStyle style, const std::string& prompt, const Tokens& tokens) {
  AnswerParser parser(style, prompt);
  std::vector<AnswerPiece> all;
  const auto take = [&](const std::vector<AnswerPiece>& pieces) {
    for (const AnswerPiece& piece : pieces) {
      EXPECT_FALSE(piece.text.empty());
      if (!piece.starts_section) {
        ASSERT_FALSE(all.empty());
        EXPECT_EQ(all.back().kind, piece.kind);
        EXPECT_EQ(all.back().recipient, piece.recipient);
        all.back().text += piece.text;
      } else {
        all.push_back(piece);
      }
    }
  };
  for (const auto& [text, is_special] : tokens) take(parser.push(text, is_special));
  take(parser.finish());
  std::string out;
  for (const AnswerPiece& piece : all) {
    const char* const kind = piece.kind == AnswerKind::reasoning ? "R" : piece.kind == AnswerKind::tool ? "T" : "A";
    out += (out.empty() ? "" : "|") + std::string(kind) + (piece.recipient.empty() ? "" : "(" + piece.recipient + ")") +
           ":" + piece.text;
  }
  return out;
}

/// Tags in text: the same whatever the tokens are.
void expect_tags(const std::string& prompt, const std::string& text, const std::string& expected) {
  EXPECT_EQ(told_apart(AnswerStyle::tags, prompt, {{text, false}}), expected) << text;
  Tokens characters;
  for (const char c : text) characters.emplace_back(std::string(1, c), false);
  EXPECT_EQ(told_apart(AnswerStyle::tags, prompt, characters), expected) << text;
  for (std::size_t i = 0; i <= text.size(); ++i) {
    EXPECT_EQ(told_apart(AnswerStyle::tags, prompt, {{text.substr(0, i), false}, {text.substr(i), false}}), expected)
        << text << i;
  }
}

TEST(ChatAnswer, StyleComesFromTheTemplate) {
  EXPECT_EQ(detect_answer_style("{{ '<|channel|>final<|message|>' }}"), AnswerStyle::channels);
  EXPECT_EQ(detect_answer_style("{{ content.split('</think>')[-1] }}"), AnswerStyle::tags);
  EXPECT_EQ(detect_answer_style("<tool_call>"), AnswerStyle::tags);
  EXPECT_EQ(detect_answer_style("{{ message.content }}"), AnswerStyle::plain);
  EXPECT_EQ(detect_answer_style(""), AnswerStyle::plain);
}

TEST(ChatAnswer, PlainTextIsTheAnswer) {
  EXPECT_EQ(told_apart(AnswerStyle::plain, "<think>", {{" <think>x", false}, {"<|eot|>", true}, {"</think>", false}}),
            "A: <think>x</think>");
}

TEST(ChatAnswer, TagsOpenedByTheModel) {
  expect_tags("<|im_start|>assistant\n", "<think>\nLet me\n\nsee.\n</think>\n\nThe answer.\n",
              "R:Let me\n\nsee.|A:The answer.\n");
  expect_tags("", "\n<think>a</think>b", "R:a|A:b");
  expect_tags("", "<think>\n\n</think>\n\nb", "A:b");
  expect_tags("", "No reasoning.", "A:No reasoning.");
  expect_tags("", "<thin air>", "A:<thin air>");
  expect_tags("", "<thi", "A:<thi");
  expect_tags("", "<think>never closed", "R:never closed");
  expect_tags("", "Later <think>is text</think>.", "A:Later <think>is text</think>.");
  expect_tags("", "<think>a < b </thin> c</think>d </think>", "R:a < b </thin> c|A:d </think>");
  expect_tags("", "[THINK]m[/THINK]n", "R:m|A:n");
  expect_tags("", "", "");
}

TEST(ChatAnswer, TagsOpenedOrClosedByThePrompt) {
  expect_tags("<|Assistant|><think>\n", "Hm.\n</think>\n\nYes.", "R:Hm.|A:Yes.");
  expect_tags("<|Assistant|><think>\n", "cut of", "R:cut of");
  expect_tags("assistant\n<think>\n\n</think>\n\n", "Yes <think>.", "A:Yes <think>.");
}

TEST(ChatAnswer, ToolCallsInTags) {
  expect_tags("", "I look.\n<tool_call>\n{\"name\": \"f\"}\n</tool_call>\n<tool_call>{}</tool_call>",
              "A:I look.\n|T:{\"name\": \"f\"}|T:{}");
  expect_tags("<think>\n", "t</think>\n<tool_call>{}</tool_call>", "R:t|T:{}");
}

TEST(ChatAnswer, TagsAsSpecialTokens) {
  EXPECT_EQ(told_apart(AnswerStyle::tags, "",
                       {{"<think>", true}, {"a", false}, {"</think>", true}, {"b", false}, {"<|im_end|>", true}}),
            "R:a|A:b");
}

TEST(ChatAnswer, Channels) {
  const Tokens tokens = {{"<|channel|>", true},  {"ana", false},          {"lysis", false},      {"<|message|>", true},
                         {"We", false},          {" think.", false},      {"<|end|>", true},     {"<|start|>", true},
                         {"assistant", false},   {"<|channel|>", true},   {"commentary", false}, {" to=functions.f", false},
                         {" ", false},           {"<|constrain|>", true}, {"json", false},       {"<|message|>", true},
                         {"{\"a\":", false},     {" 1}", false},          {"<|call|>", true},    {"<|start|>", true},
                         {"assistant", false},   {"<|channel|>", true},   {"final", false},      {"<|message|>", true},
                         {"The <|end|>", false}, {" answer.\n", false},   {"<|return|>", true}};
  EXPECT_EQ(told_apart(AnswerStyle::channels, "<|start|>user<|message|>Hi<|end|><|start|>assistant", tokens),
            "R:We think.|T(functions.f):{\"a\": 1}|A:The <|end|> answer.\n");
}

TEST(ChatAnswer, ChannelsWithTheRecipientFirst) {
  EXPECT_EQ(
      told_apart(
          AnswerStyle::channels, "<|start|>assistant",
          {{" to=functions.g", false}, {"<|channel|>", true}, {"commentary", false}, {"<|message|>", true}, {"{}", false}}),
      "T(functions.g):{}");
}

TEST(ChatAnswer, ChannelsThatThePromptOpened) {
  EXPECT_EQ(told_apart(AnswerStyle::channels, "<|start|>assistant<|channel|>final<|message|>", {{"Yes", false}}), "A:Yes");
  EXPECT_EQ(told_apart(AnswerStyle::channels, "<|start|>assistant<|channel|>analysis<|message|>So", {{" far", false}}),
            "R: far");
}

TEST(ChatAnswer, TextWithoutChannelsIsTheAnswer) {
  EXPECT_EQ(told_apart(AnswerStyle::channels, "<|start|>assistant", {{"Just", false}, {" text", false}}), "A:Just text");
  EXPECT_EQ(told_apart(AnswerStyle::channels, "<|start|>assistant", {{"<|channel|>", true}, {"final", false}}), "");
  EXPECT_EQ(told_apart(AnswerStyle::channels, "<|start|>assistant", {}), "");
}

}  // namespace
}  // namespace quern
