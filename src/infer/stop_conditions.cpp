#include "infer/stop_conditions.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "model/utf8.hpp"

namespace quern {

namespace {

/// Bytes at the end of `text` that may be the beginning of a stop string.
std::size_t possible_beginning(std::string_view text, const std::vector<std::string>& strings) {
  std::size_t longest = 0;
  for (const std::string& string : strings) {
    for (std::size_t length = std::min(string.size() - 1, text.size()); length > longest; --length) {
      if (text.ends_with(std::string_view(string).substr(0, length))) longest = length;
    }
  }
  return longest;
}

/// Where the stop string begins that is complete first, the longest of those; npos without one.
std::size_t find_stop(std::string_view text, const std::vector<std::string>& strings) {
  std::size_t begin = std::string_view::npos, end = std::string_view::npos;
  for (const std::string& string : strings) {
    const std::size_t found = text.find(string);
    if (found == std::string_view::npos) continue;
    const std::size_t found_end = found + string.size();
    if (begin == std::string_view::npos || found_end < end || (found_end == end && found < begin)) {
      begin = found;
      end = found_end;
    }
  }
  return begin;
}

}  // namespace

std::string_view to_word(StopReason reason) {
  switch (reason) {
    case StopReason::token_limit:
      return "token limit";
    case StopReason::end_of_text:
      return "end of text";
    case StopReason::stop_string:
      return "stop string";
    case StopReason::context_full:
      return "context full";
    case StopReason::interrupted:
      return "interrupted";
    case StopReason::failed:
      return "failed";
  }
  return "";
}

Result<void> validate(const StopConditions& conditions) {
  if (conditions.max_tokens < 1) {
    return bad_input(fmt::format("stop conditions: max_tokens must be at least 1, found {}", conditions.max_tokens));
  }
  for (const std::string& string : conditions.strings) {
    if (string.empty()) return bad_input("stop conditions: a stop string is empty");
    if (const std::size_t at = find_invalid_utf8(string); at != std::string::npos) {
      return bad_input(fmt::format("stop conditions: a stop string is not UTF-8 at byte {}", at));
    }
  }
  return {};
}

StopFilter::StopFilter(const Tokenizer* tokenizer, StopConditions conditions, std::optional<std::int32_t> previous)
    : conditions_(std::move(conditions)) {
  if (tokenizer == nullptr) return;
  decoder_.emplace(*tokenizer, DecodeOptions{.special = conditions_.special_text, .text_start = false});
  if (previous && tokenizer->is_special(*previous)) static_cast<void>(decoder_->push(*previous));
}

bool StopFilter::is_end_token(std::int32_t token) const {
  const auto& ends = conditions_.end_tokens;
  return !conditions_.ignore_end_tokens && std::find(ends.begin(), ends.end(), token) != ends.end();
}

StopFilter::Step StopFilter::push(std::int32_t token) {
  if (is_end_token(token)) return {.text = finish(), .stop = StopReason::end_of_text, .is_end_token = true};
  ++tokens_;
  Step step;
  if (decoder_) {
    held_ += decoder_->push(token);
    if (const std::size_t begin = find_stop(held_, conditions_.strings); begin != std::string::npos) {
      held_.resize(begin);
      step.text = std::exchange(held_, {});
      step.stop = StopReason::stop_string;
      return step;
    }
    const std::size_t ready = held_.size() - possible_beginning(held_, conditions_.strings);
    step.text = held_.substr(0, ready);
    held_.erase(0, ready);
  }
  if (tokens_ >= conditions_.max_tokens) {
    step.text += finish();
    step.stop = StopReason::token_limit;
  }
  return step;
}

std::string StopFilter::finish() {
  std::string text = std::exchange(held_, {});
  if (decoder_) text += decoder_->finish();
  return text;
}

}  // namespace quern
