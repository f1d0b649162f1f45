// Chat templates: the Jinja in a model's metadata that turns a conversation into the text a model continues. Templates come
// from strangers: an interpreter of our own runs the subset that they use, as Python's Jinja2 does in Hugging Face's setting
// (immutable sandbox, trim_blocks, lstrip_blocks, loop controls), with bounds on work, memory, output and nesting.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>

#include "infer/chat_message.hpp"
#include "math/result.hpp"

namespace quern {

/// The time of day where this program runs, which templates print.
[[nodiscard]] std::chrono::local_seconds local_time_now();

/// A parsed template: immutable, movable, to be used from any number of threads at once.
class ChatTemplate {
 public:
  /// bad_input names the line of a mistake, or a tag that chat templates have no use for (include, import, ...).
  [[nodiscard]] static Result<ChatTemplate> parse(std::string_view text);

  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  /// The text for the variables in `context_json`, a JSON object such as {"messages": [...], "add_generation_prompt": true}.
  /// `now` is what strftime_now() prints. bad_input carries the template's own message where it calls raise_exception().
  [[nodiscard]] Result<std::string> render(std::string_view context_json, std::chrono::local_seconds now) const;
  /// The same for messages.
  [[nodiscard]] Result<std::string> render(const ChatRequest& request, std::chrono::local_seconds now) const;

  [[nodiscard]] const std::string& text() const;  ///< as it was parsed

 private:
  struct State;
  explicit ChatTemplate(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace quern
