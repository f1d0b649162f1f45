#include "chat_session.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "model/atomic_file.hpp"

namespace quern::tools {

namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMostTemplateBytes = std::size_t{1} << 20;
constexpr std::size_t kMostConversationBytes = std::size_t{1} << 28;

// For models without a template: what a reader of text understands.
constexpr std::string_view kPlainTemplate =
    "{% for message in messages %}"
    "{% if message.role == 'system' %}{{ message.content }}\n\n"
    "{% elif message.role == 'user' %}User: {{ message.content }}\n"
    "{% else %}Assistant: {{ message.content }}\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}";

std::string trimmed(const std::string& text) {
  constexpr const char* kSpace = " \t\r\n";
  const std::size_t first = text.find_first_not_of(kSpace);
  return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

ChatMessage message_of(std::string role, std::string content) {
  ChatMessage message;
  message.role = std::move(role);
  message.content = std::move(content);
  return message;
}

/// A template's mistake names its line; say which template.
template <class T>
Result<T> with_name(Result<T> result, const std::string& name) {
  if (!result) result.error().message = name + ": " + result.error().message;
  return result;
}

Result<ChatTemplate> open_template(const LoadedModel& model, const std::string& file) {
  if (!file.empty()) {
    const auto text = read_named_file(file, kMostTemplateBytes);
    if (!text) return tl::make_unexpected(text.error());
    return with_name(ChatTemplate::parse(*text), file);
  }
  if (model.chat_template().empty()) return ChatTemplate::parse(kPlainTemplate);
  return with_name(ChatTemplate::parse(model.chat_template()), model.path());
}

std::string token_name(const Tokenizer& tokenizer, std::optional<std::int32_t> token) {
  return token ? std::string(tokenizer.token_bytes(*token)) : std::string();
}

}  // namespace

Result<std::unique_ptr<ChatSession>> ChatSession::create(RunningModel& running, const ChatOptions& options) {
  const LoadedModel& model = *running.model;
  auto chat_template = open_template(model, options.template_file);
  if (!chat_template) return tl::make_unexpected(chat_template.error());
  auto session = std::unique_ptr<ChatSession>(new ChatSession(running, std::move(*chat_template)));
  session->has_template_ = !options.template_file.empty() || !model.chat_template().empty();
  session->style_ = session->has_template_ ? detect_answer_style(session->template_.text()) : AnswerStyle::plain;
  session->options_ = options;
  auto sampler = sampler_config(options.sampling, model.weights().config.vocab);
  if (!sampler) return tl::make_unexpected(sampler.error());
  session->sampler_ = std::move(*sampler);
  auto speculation = open_speculation(running, options.model, options.speculation, running.batch);
  if (!speculation) return tl::make_unexpected(speculation.error());
  session->speculation_ = std::move(*speculation);
  session->statistics_.speculation = session->speculation_.word();
  auto decoder = running.decoder({.batch_tokens = std::min(model.context_tokens(), running.batch),
                                  .context_tokens = model.context_tokens(),
                                  .logit_rows = session->speculation_.logit_rows()});
  if (!decoder) return tl::make_unexpected(decoder.error());
  session->decoder_ = std::move(*decoder);
  // The last turn's sequence stays, and the next turn takes over what it has in common with it.
  auto engine = Engine::create(*session->decoder_, &model.tokenizer(),
                               {.sequences = 1,
                                .longest_turn = 0,
                                .share_prefixes = true,
                                .kept_sequences = 1,
                                .speculation = session->speculation_.options});
  if (!engine) return tl::make_unexpected(engine.error());
  session->engine_ = std::move(*engine);
  session->set_system(options.system);
  // Templates that refuse what they are given do so now.
  session->messages_.push_back(message_of("user", "?"));
  if (auto rendered = session->render(); !rendered) return tl::make_unexpected(rendered.error());
  session->messages_.pop_back();
  return session;
}

Result<std::string> ChatSession::render() const {
  const Tokenizer& tokenizer = running_.model->tokenizer();
  const SpecialTokens& special = tokenizer.special_tokens();
  ChatRequest request;
  request.messages = messages_;
  request.bos_token = token_name(tokenizer, special.bos);
  request.eos_token = token_name(tokenizer, special.eos);
  request.variables_json = options_.variables_json;
  return with_name(template_.render(request, local_time_now()),
                   options_.template_file.empty() ? running_.model->path() : options_.template_file);
}

Result<std::vector<std::int32_t>> ChatSession::encode(const std::string& prompt) const {
  const Tokenizer& tokenizer = running_.model->tokenizer();
  auto tokens = tokenizer.encode(prompt, {.parse_special = has_template_});
  if (!tokens) return tokens;
  const SpecialTokens& special = tokenizer.special_tokens();
  // Most templates write the beginning-of-text token themselves.
  if (special.add_bos && special.bos && (tokens->empty() || tokens->front() != *special.bos)) {
    tokens->insert(tokens->begin(), *special.bos);
  }
  return tokens;
}

Result<ChatTurn> ChatSession::say(const std::string& text, const std::function<void(const AnswerPiece&)>& on_piece) {
  messages_.push_back(message_of("user", text));
  ChatMessage message = message_of("assistant", "");
  auto turn = answer(on_piece, message);
  if (!turn || (message.content.empty() && turn->stop == StopReason::interrupted)) {
    messages_.pop_back();
    return turn;
  }
  messages_.push_back(std::move(message));
  return turn;
}

Result<ChatTurn> ChatSession::answer(const std::function<void(const AnswerPiece&)>& on_piece, ChatMessage& message) {
  const auto prompt = render();
  if (!prompt) return tl::make_unexpected(prompt.error());
  auto tokens = encode(*prompt);
  if (!tokens) return tl::make_unexpected(tokens.error());
  const Tokenizer& tokenizer = running_.model->tokenizer();
  const std::int64_t context = engine_->context_tokens();
  if (std::ssize(*tokens) >= context) {
    return bad_input(
        fmt::format("the conversation has {} tokens and leaves no room in a context of {}; /reset begins anew, "
                    "--context makes it larger",
                    tokens->size(), context));
  }
  Request request{.prompt = std::move(*tokens), .sampler = sampler_};
  request.stop.max_tokens = options_.tokens > 0 ? options_.tokens : context;
  const std::span<const std::int32_t> ends = tokenizer.end_of_generation();
  request.stop.end_tokens.assign(ends.begin(), ends.end());
  for (const std::string& stop : options_.stop) request.stop.strings.push_back(unescape(stop));
  if (!has_template_) request.stop.strings.emplace_back("\nUser:");

  AnswerParser parser(style_, *prompt);
  const auto take = [&](const std::vector<AnswerPiece>& pieces) {
    for (const AnswerPiece& piece : pieces) {
      if (piece.kind == AnswerKind::answer) message.content += piece.text;
      if (on_piece) on_piece(piece);
    }
  };
  const auto id = engine_->submit(std::move(request));
  if (!id) return tl::make_unexpected(id.error());
  ChatTurn turn;
  std::optional<Error> failure;
  for (bool finished = false; !finished;) {
    for (const EngineEvent& event : engine_->step()) {
      if (event.error) failure = *event.error;
      if (!event.text.empty()) take(parser.push(event.text, false));
      if (event.token && tokenizer.is_special(*event.token)) take(parser.push(tokenizer.token_bytes(*event.token), true));
      if (!event.finished) continue;
      finished = true;
      turn.stop = *event.finished;
      turn.tokens = event.timings.tokens;
      add_timings(statistics_, event.timings);
    }
    if (interrupted()) engine_->cancel(*id);
  }
  take(parser.finish());
  if (failure) return tl::make_unexpected(*failure);
  message.content = trimmed(message.content);
  return turn;
}

void ChatSession::reset() {
  const bool has_system = !messages_.empty() && messages_.front().role == "system";
  messages_.resize(has_system ? 1 : 0);
}

void ChatSession::set_system(const std::string& text) {
  if (!messages_.empty() && messages_.front().role == "system") messages_.erase(messages_.begin());
  if (!text.empty()) messages_.insert(messages_.begin(), message_of("system", text));
}

Result<void> ChatSession::save(const std::string& path) const {
  Json messages = Json::array();
  for (const ChatMessage& message : messages_) {
    messages.push_back({{"role", message.role}, {"content", message.content}});
  }
  const Json json = {{"model", running_.model->path()}, {"messages", std::move(messages)}};
  return write_file_atomically(path, json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

Result<void> ChatSession::load(const std::string& path) {
  const auto text = read_named_file(path, kMostConversationBytes);
  if (!text) return tl::make_unexpected(text.error());
  const Json json = Json::parse(*text, nullptr, false);
  if (!json.is_object() || !json.contains("messages") || !json["messages"].is_array()) {
    return bad_input(path + ": expected a JSON object with an array `messages`");
  }
  std::vector<ChatMessage> messages;
  for (const Json& entry : json["messages"]) {
    const auto field = [&](const char* name) {
      return entry.is_object() && entry.contains(name) && entry[name].is_string() ? &entry[name] : nullptr;
    };
    const Json* role = field("role");
    const Json* content = field("content");
    if (role == nullptr || content == nullptr) {
      return bad_input(
          fmt::format("{}: message {}: expected an object with strings `role` and `content`", path, messages.size() + 1));
    }
    messages.push_back(message_of(role->get<std::string>(), content->get<std::string>()));
  }
  messages_ = std::move(messages);
  return {};
}

}  // namespace quern::tools
