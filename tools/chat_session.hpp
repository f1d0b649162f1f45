// A conversation with a model: messages in, tokens of the next answer out, the cache reused from turn to turn.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "infer/chat_answer.hpp"
#include "infer/chat_message.hpp"
#include "infer/chat_template.hpp"
#include "infer/engine.hpp"
#include "math/result.hpp"
#include "run_model.hpp"
#include "run_sampling.hpp"
#include "run_speculation.hpp"
#include "run_statistics.hpp"

namespace quern::tools {

struct ChatOptions {
  SamplingOptions sampling;
  ModelOptions model;  ///< how the draft model computes
  SpeculationFlags speculation;
  std::string system;
  std::string template_file;   ///< instead of the model's
  std::string variables_json;  ///< for the template: {"enable_thinking": false}
  std::int64_t tokens = 0;     ///< of an answer at most; 0: what the context leaves
  std::vector<std::string> stop;
};

/// What an answer came to.
struct ChatTurn {
  StopReason stop = StopReason::end_of_text;
  std::int64_t tokens = 0;
};

class ChatSession {
 public:
  /// `running` must outlive the session.
  [[nodiscard]] static Result<std::unique_ptr<ChatSession>> create(RunningModel& running, const ChatOptions& options);

  /// Whether the model has a chat template; else messages become lines "User: ..." and "Assistant: ...".
  [[nodiscard]] bool has_template() const { return has_template_; }

  /// Says `text` to the model. `on_piece` sees the answer as it comes. Ends early when an interrupt comes; what came until
  /// then stays in the conversation. On an error, and where the interrupt came before the answer, it is as it was.
  [[nodiscard]] Result<ChatTurn> say(const std::string& text, const std::function<void(const AnswerPiece&)>& on_piece);

  /// Forgets all but the system message.
  void reset();
  /// Replaces the system message (empty: none); what was said stays.
  void set_system(const std::string& text);

  /// The messages as a JSON file, written whole or not at all; and back. A conversation that cannot be read leaves this one
  /// as it was.
  [[nodiscard]] Result<void> save(const std::string& path) const;
  [[nodiscard]] Result<void> load(const std::string& path);
  [[nodiscard]] std::size_t message_count() const { return messages_.size(); }

  /// Of all answers so far; the machine's figures are not filled in.
  [[nodiscard]] const RunStatistics& statistics() const { return statistics_; }

 private:
  ChatSession(RunningModel& running, ChatTemplate chat_template) : running_(running), template_(std::move(chat_template)) {}
  [[nodiscard]] Result<std::string> render() const;
  [[nodiscard]] Result<std::vector<std::int32_t>> encode(const std::string& prompt) const;
  [[nodiscard]] Result<ChatTurn> answer(const std::function<void(const AnswerPiece&)>& on_piece, ChatMessage& message);

  RunningModel& running_;
  ChatTemplate template_;
  bool has_template_ = true;
  AnswerStyle style_ = AnswerStyle::plain;
  ChatOptions options_;
  SamplerConfig sampler_;
  RunningSpeculation speculation_;
  std::unique_ptr<Decoder> decoder_;
  std::unique_ptr<Engine> engine_;
  std::vector<ChatMessage> messages_;
  RunStatistics statistics_;
};

}  // namespace quern::tools
