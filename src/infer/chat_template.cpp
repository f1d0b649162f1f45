#include "infer/chat_template.hpp"

#include <ctime>
#include <utility>

#include "infer/jinja_interpreter.hpp"
#include "infer/jinja_json.hpp"
#include "infer/jinja_syntax.hpp"

namespace quern {

namespace {

// The longest published template has 24 KB.
constexpr std::size_t kMaxTemplateBytes = std::size_t{1} << 22;

tl::unexpected<Error> failed(const jinja::Failure& failure) {
  const std::string place = failure.line > 0 ? ", line " + std::to_string(failure.line) : "";
  return bad_input("chat template" + place + ": " + failure.message);
}

}  // namespace

std::chrono::local_seconds local_time_now() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  if (localtime_r(&now, &local) == nullptr) return std::chrono::local_seconds(std::chrono::seconds(now));
  return std::chrono::local_seconds(std::chrono::seconds(now + local.tm_gmtoff));
}

struct ChatTemplate::State {
  std::string text;
  jinja::Block body;
};

ChatTemplate::ChatTemplate(std::unique_ptr<State> state) : state_(std::move(state)) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

const std::string& ChatTemplate::text() const { return state_->text; }

Result<ChatTemplate> ChatTemplate::parse(std::string_view text) {
  if (text.size() > kMaxTemplateBytes) {
    return bad_input("chat template: " + std::to_string(text.size()) + " bytes, at most " +
                     std::to_string(kMaxTemplateBytes) + " are read");
  }
  try {
    auto state = std::make_unique<State>();
    state->text = std::string(text);
    state->body = jinja::parse_template(text);
    return ChatTemplate(std::move(state));
  } catch (const jinja::Failure& failure) {
    return failed(failure);
  }
}

Result<std::string> ChatTemplate::render(std::string_view context_json, std::chrono::local_seconds now) const {
  const jinja::Limits limits;
  jinja::Heap heap(limits);
  jinja::Value context;
  try {
    context = jinja::read_json(heap, context_json);
  } catch (const jinja::Failure& failure) {
    return bad_input("context of the chat template: " + failure.message);
  }
  if (!context.is(jinja::Kind::dict)) return bad_input("context of the chat template: expected a JSON object");
  try {
    return jinja::Interpreter(heap, limits, context, now).render(state_->body);
  } catch (const jinja::Failure& failure) {
    return failed(failure);
  }
}

Result<std::string> ChatTemplate::render(const ChatRequest& request, std::chrono::local_seconds now) const {
  const Result<std::string> context = chat_context_json(request);
  if (!context) return tl::make_unexpected(context.error());
  return render(*context, now);
}

}  // namespace quern
