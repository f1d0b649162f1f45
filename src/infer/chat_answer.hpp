// What a model says, told apart while it speaks: reasoning, answer, tool calls. Two families: GPT-OSS's channels
// ("harmony"), whose control tokens are special tokens, and tags such as <think> ... </think> in the text.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace quern {

enum class AnswerStyle { plain, tags, channels };

/// From the text of a chat template: `channels` where it writes <|channel|>, `tags` where it knows thinking or tool tags.
[[nodiscard]] AnswerStyle detect_answer_style(std::string_view template_text);

enum class AnswerKind { reasoning, answer, tool };

struct AnswerPiece {
  AnswerKind kind = AnswerKind::answer;
  std::string text;
  std::string recipient;        ///< of tool calls by channels: "functions.get_weather"
  bool starts_section = false;  ///< the first piece of its reasoning, answer or tool call
};

/// Feeds on tokens, gives pieces as soon as their kind is certain: text that could be the start of a tag waits for the next
/// token. Pieces are never empty. White space around reasoning, and before the
/// answer where there was reasoning, is dropped.
class AnswerParser {
 public:
  /// `prompt` is the rendered template (its end suffices): it may open the reasoning (`<think>`), close it (thinking
  /// switched off) or name a channel.
  AnswerParser(AnswerStyle style, std::string_view prompt);

  /// One token: its text, and whether it is a special token (then `text` is its name, such as "<|channel|>"). Tags count as
  /// either. Special tokens without a meaning here are dropped.
  [[nodiscard]] std::vector<AnswerPiece> push(std::string_view text, bool is_special);
  /// The end of generation: what still waited.
  [[nodiscard]] std::vector<AnswerPiece> finish();

 private:
  enum class Place { start, answer, reasoning, tool, header, outside };
  void push_channel_token(std::string_view name);
  void push_channel_text(std::string_view text);
  void open_message();
  void scan(bool is_end);
  void scan_start(bool is_end, bool& more);
  void scan_inside(bool is_end, bool& more);
  void emit(AnswerKind kind, std::string_view text);

  AnswerStyle style_;
  Place place_ = Place::start;
  std::string waiting_;  ///< text not yet told apart
  std::string close_;    ///< the tag that ends the reasoning or tool call under way
  std::string header_;   ///< of the message under way: role, recipient and channel
  std::string recipient_;
  std::string spaces_;    ///< white space of reasoning that is dropped where it turns out to be the last
  bool at_start_ = true;  ///< of a piece whose leading white space is dropped
  bool is_new_section_ = true;
  AnswerKind kind_ = AnswerKind::answer;
  std::vector<AnswerPiece> out_;
};

}  // namespace quern
