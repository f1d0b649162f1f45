#include "infer/chat_message.hpp"

#include <nlohmann/json.hpp>

namespace quern {

namespace {

using Json = nlohmann::ordered_json;

/// Reads a field that holds JSON text; a null value where it is empty.
Result<Json> read_field(const std::string& text, std::string_view field, bool is_array) {
  if (text.empty()) return Json();
  Json value = Json::parse(text, nullptr, false);
  if (value.is_discarded() || (is_array ? !value.is_array() : !value.is_object())) {
    return bad_input(std::string(field) + ": expected a JSON " + (is_array ? "array" : "object"));
  }
  return value;
}

}  // namespace

Result<std::string> chat_context_json(const ChatRequest& request) {
  Json context = Json::object();
  Json messages = Json::array();
  for (const ChatMessage& message : request.messages) {
    Json entry = {{"role", message.role}, {"content", message.content}};
    if (!message.reasoning.empty()) {
      entry["reasoning_content"] = message.reasoning;
      entry["thinking"] = message.reasoning;
    }
    auto calls = read_field(message.tool_calls_json, "tool calls of a message", true);
    if (!calls) return tl::make_unexpected(calls.error());
    if (!calls->is_null()) entry["tool_calls"] = std::move(*calls);
    messages.push_back(std::move(entry));
  }
  context["messages"] = std::move(messages);
  context["add_generation_prompt"] = request.add_generation_prompt;
  context["bos_token"] = request.bos_token;
  context["eos_token"] = request.eos_token;
  auto tools = read_field(request.tools_json, "tools", true);
  if (!tools) return tl::make_unexpected(tools.error());
  if (!tools->is_null()) context["tools"] = std::move(*tools);
  auto variables = read_field(request.variables_json, "variables of the chat template", false);
  if (!variables) return tl::make_unexpected(variables.error());
  if (variables->is_object()) {
    for (auto& [name, value] : variables->items()) context[name] = std::move(value);
  }
  return context.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace quern
