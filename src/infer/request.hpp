// What an engine is asked for, and what it answers.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "infer/sampler.hpp"
#include "infer/stop_conditions.hpp"
#include "math/result.hpp"

namespace quern {

/// Numbers count up from 1 in the order of submission.
using RequestId = std::int64_t;

/// What happens when a sequence has as many tokens as the context.
enum class FullContext : std::uint8_t {
  stop,  ///< the text ends with StopReason::context_full
  shift  ///< keep_tokens first ones stay, the older half of the rest is forgotten, and what is left is computed again
};

struct Request {
  std::vector<std::int32_t> prompt;  ///< at least one token
  SamplerConfig sampler{};
  StopConditions stop{};
  FullContext when_full = FullContext::stop;
  std::int64_t keep_tokens = 0;  ///< of the prompt's beginning, with FullContext::shift
  /// Log-probabilities of each token and of this many likeliest ones; none: not computed.
  std::optional<std::int64_t> top_log_probabilities{};
};

/// Of one request. The seconds of a step's forward pass count whole for each request that had tokens in it, those of a draw
/// for its own.
struct RequestTimings {
  double queue_seconds = 0.0;        ///< from submission to the first admission
  double first_token_seconds = 0.0;  ///< from submission to the first token
  double prefill_seconds = 0.0;      ///< steps with tokens of the prompt, or computed again after a preemption or shift
  double decode_seconds = 0.0;       ///< steps with its last drawn token
  double total_seconds = 0.0;        ///< from submission to the end
  std::int64_t prompt_tokens = 0;
  std::int64_t shared_tokens = 0;   ///< of the prompt, found in the cache at the first admission
  std::int64_t prefill_tokens = 0;  ///< computed in prefill steps
  std::int64_t decode_tokens = 0;   ///< drawn in decode steps
  std::int64_t tokens = 0;          ///< generated
  std::int64_t preemptions = 0;
  std::int64_t decode_steps = 0;     ///< forward passes of decode_tokens; fewer where proposals were right
  std::int64_t drafted_tokens = 0;   ///< proposals that were checked
  std::int64_t accepted_tokens = 0;  ///< of them right
  double draft_seconds = 0.0;        ///< of decode_seconds: making proposals
};

/// Something happened to a request: a token, the end, or both.
struct EngineEvent {
  RequestId request = 0;
  std::optional<std::int32_t> token{};                  ///< a token of the text
  std::optional<std::int32_t> end_token{};              ///< the end token that ended the text (no token of it)
  std::string text{};                                   ///< can be printed now; whole characters until the end
  std::optional<LogProbabilities> log_probabilities{};  ///< of token or end_token, where asked for
  std::optional<StopReason> finished{};                 ///< the request's last event
  std::optional<Error> error{};                         ///< why, with StopReason::failed
  RequestTimings timings{};                             ///< with `finished`
};

/// Of all requests.
struct EngineTotals {
  std::int64_t steps = 0;
  std::int64_t prefill_tokens = 0;  ///< of prompts and of recomputed texts, in any step
  std::int64_t decode_tokens = 0;   ///< drawn tokens that were fed back, in any step
  double prefill_seconds = 0.0;     ///< steps with prefill tokens
  double decode_seconds = 0.0;      ///< steps without
  std::int64_t preemptions = 0;
  std::int64_t shared_tokens = 0;                        ///< found in the cache instead of computed
  std::int64_t drafted_tokens = 0, accepted_tokens = 0;  ///< proposals that were checked, and those that were right
  std::int64_t finished_requests = 0;
};

}  // namespace quern
