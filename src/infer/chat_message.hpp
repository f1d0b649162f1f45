// Messages of a conversation, and the request that a chat template turns into a prompt.
#pragma once

#include <string>
#include <vector>

#include "math/result.hpp"

namespace quern {

struct ChatMessage {
  std::string role;  ///< "system", "user", "assistant", "tool" or what else the template knows
  std::string content;
  std::string reasoning;  ///< of the assistant; given to templates as `reasoning_content` and `thinking` where not empty
  std::string tool_calls_json;  ///< a JSON array in the form of the OpenAI API; empty: none
};

struct ChatRequest {
  std::vector<ChatMessage> messages;
  bool add_generation_prompt = true;
  std::string bos_token, eos_token;  ///< their text, as templates print it; empty where the vocabulary has none
  std::string tools_json;            ///< a JSON array of tools; empty: none
  std::string variables_json;  ///< a JSON object of further variables, such as {"enable_thinking": false}; may be empty
};

/// The template's variables as JSON text. Bytes of messages that are not UTF-8 become U+FFFD. bad_input names a field that
/// is not the JSON it must be.
[[nodiscard]] Result<std::string> chat_context_json(const ChatRequest& request);

}  // namespace quern
