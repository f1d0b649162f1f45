#include "infer/chat_answer.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace quern {

namespace {

struct Tags {
  std::string_view open, close;
  bool is_tool;
};

constexpr std::array<Tags, 6> kTags = {{
    {"<think>", "</think>", false},
    {"[THINK]", "[/THINK]", false},
    {"<|START_THINKING|>", "<|END_THINKING|>", false},
    {"<seed:think>", "</seed:think>", false},
    {"<tool_call>", "</tool_call>", true},
    {"<|START_ACTION|>", "<|END_ACTION|>", true},
}};

bool is_blank(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

std::string_view without_blank_end(std::string_view text) {
  while (!text.empty() && is_blank(text.back())) text.remove_suffix(1);
  return text;
}
std::string_view without_blank_start(std::string_view text) {
  while (!text.empty() && is_blank(text.front())) text.remove_prefix(1);
  return text;
}

/// Length of the longest end of `text` that starts `tag` and could become it.
std::size_t possible_start(std::string_view text, std::string_view tag) {
  for (std::size_t size = std::min(text.size(), tag.size() - 1); size > 0; --size) {
    if (tag.starts_with(text.substr(text.size() - size))) return size;
  }
  return 0;
}

}  // namespace

AnswerStyle detect_answer_style(std::string_view template_text) {
  if (template_text.find("<|channel|>") != std::string_view::npos) return AnswerStyle::channels;
  for (const Tags& tags : kTags) {
    if (template_text.find(tags.open) != std::string_view::npos ||
        template_text.find(tags.close) != std::string_view::npos) {
      return AnswerStyle::tags;
    }
  }
  return AnswerStyle::plain;
}

AnswerParser::AnswerParser(AnswerStyle style, std::string_view prompt) : style_(style) {
  if (style == AnswerStyle::plain) place_ = Place::answer;
  if (style == AnswerStyle::tags) {
    const std::string_view end = without_blank_end(prompt);
    for (const Tags& tags : kTags) {
      if (tags.is_tool) continue;
      if (end.ends_with(tags.open)) {
        place_ = Place::reasoning;
        close_ = tags.close;
      } else if (end.ends_with(tags.close)) {  // thinking is switched off
        place_ = Place::answer;
      }
    }
    if (place_ == Place::start) at_start_ = false;
  }
  if (style == AnswerStyle::channels) {
    place_ = Place::header;
    const std::size_t start = prompt.rfind("<|start|>");
    if (start == std::string_view::npos) return;
    // A prompt that ends within a message: its header is read as if the model had written it.
    std::string_view rest = prompt.substr(start + 9);
    while (!rest.empty()) {
      const std::size_t open = std::min(rest.find("<|"), rest.size());
      push_channel_text(rest.substr(0, open));
      const std::size_t close = rest.find("|>", open);
      if (close == std::string_view::npos) break;
      push_channel_token(rest.substr(open, close + 2 - open));
      rest = rest.substr(close + 2);
    }
    out_.clear();
    is_new_section_ = true;
  }
}

void AnswerParser::emit(AnswerKind kind, std::string_view text) {
  if (kind == AnswerKind::reasoning || at_start_) {
    if (at_start_) text = without_blank_start(text);
    if (text.empty()) return;
    at_start_ = false;
  }
  std::string piece = std::exchange(spaces_, {});
  piece += text;
  if (kind != AnswerKind::answer) {  // white space waits until more follows it
    const std::size_t kept = without_blank_end(piece).size();
    spaces_ = piece.substr(kept);
    piece.resize(kept);
  }
  if (piece.empty()) return;
  out_.push_back({kind, std::move(piece), kind == AnswerKind::tool ? recipient_ : std::string(),
                  std::exchange(is_new_section_, false)});
}

void AnswerParser::open_message() {
  const std::size_t to = header_.find("to=");
  recipient_.clear();
  if (to != std::string::npos) {
    const std::size_t end = std::min(header_.find_first_of(" <\n", to), header_.size());
    recipient_ = header_.substr(to + 3, end - to - 3);
  }
  const std::size_t channel = header_.find("<|channel|>");
  const std::string_view name =
      channel == std::string::npos ? std::string_view() : std::string_view(header_).substr(channel + 11);
  kind_ = !recipient_.empty() ? AnswerKind::tool : name.starts_with("analysis") ? AnswerKind::reasoning : AnswerKind::answer;
  place_ = kind_ == AnswerKind::tool ? Place::tool : kind_ == AnswerKind::reasoning ? Place::reasoning : Place::answer;
  header_.clear();
  spaces_.clear();
  at_start_ = kind_ != AnswerKind::answer;
  is_new_section_ = true;
}

void AnswerParser::push_channel_token(std::string_view name) {
  if (name == "<|message|>") {
    open_message();
  } else if (name == "<|start|>" || name == "<|channel|>") {
    if (name == "<|start|>" || place_ != Place::header) header_.clear();
    if (name == "<|channel|>") header_ += name;
    place_ = Place::header;
  } else if (name == "<|constrain|>") {
    if (place_ == Place::header) header_ += ' ';
  } else if (name == "<|end|>" || name == "<|return|>" || name == "<|call|>") {
    place_ = Place::outside;
    spaces_.clear();
  }
}

void AnswerParser::push_channel_text(std::string_view text) {
  if (place_ == Place::header) {
    header_ += text;
  } else if (place_ != Place::outside) {
    emit(kind_, text);
  }
}

/// At the start of an answer: reasoning may open, with nothing but white space before it.
void AnswerParser::scan_start(bool is_end, bool& more) {
  const std::string_view text = without_blank_start(waiting_);
  if (text.empty() && !is_end) return;
  for (const Tags& tags : kTags) {
    if (tags.is_tool) continue;
    if (text.starts_with(tags.open)) {
      close_ = tags.close;
      waiting_ = std::string(text.substr(tags.open.size()));
      place_ = Place::reasoning;
      at_start_ = true;
      more = true;
      return;
    }
    if (!is_end && tags.open.starts_with(text)) return;
  }
  place_ = Place::answer;
  at_start_ = false;
  more = true;
}

/// In the answer a tool call may open; reasoning and tool calls end with their tag.
void AnswerParser::scan_inside(bool is_end, bool& more) {
  const bool in_answer = place_ == Place::answer;
  const AnswerKind kind = in_answer                    ? AnswerKind::answer
                          : place_ == Place::reasoning ? AnswerKind::reasoning
                                                       : AnswerKind::tool;
  std::size_t found = std::string::npos, held = 0;
  const Tags* opened = nullptr;
  const auto look_for = [&](std::string_view tag, const Tags* tags) {
    const std::size_t at = waiting_.find(tag);
    if (at < found) {
      found = at;
      opened = tags;
    }
    held = std::max(held, possible_start(waiting_, tag));
  };
  if (in_answer) {
    for (const Tags& tags : kTags) {
      if (tags.is_tool) look_for(tags.open, &tags);
    }
  } else {
    look_for(close_, nullptr);
  }
  if (found == std::string::npos) {
    const std::size_t ready = waiting_.size() - (is_end ? 0 : held);
    emit(kind, std::string_view(waiting_).substr(0, ready));
    waiting_.erase(0, ready);
    return;
  }
  emit(kind, std::string_view(waiting_).substr(0, found));
  spaces_.clear();
  at_start_ = true;
  is_new_section_ = true;
  more = true;
  if (opened != nullptr) {
    waiting_.erase(0, found + opened->open.size());
    close_ = opened->close;
    place_ = Place::tool;
  } else {
    waiting_.erase(0, found + close_.size());
    place_ = Place::answer;
  }
}

void AnswerParser::scan(bool is_end) {
  for (bool more = true; more;) {
    more = false;
    if (place_ == Place::start) {
      scan_start(is_end, more);
    } else {
      scan_inside(is_end, more);
    }
  }
}

std::vector<AnswerPiece> AnswerParser::push(std::string_view text, bool is_special) {
  if (style_ == AnswerStyle::channels) {
    if (is_special) {
      push_channel_token(text);
    } else {
      push_channel_text(text);
    }
  } else if (style_ == AnswerStyle::plain) {
    if (!is_special && !text.empty()) {
      out_.push_back({AnswerKind::answer, std::string(text), {}, std::exchange(is_new_section_, false)});
    }
  } else {
    const auto is_tag = [&](const Tags& tags) { return text == tags.open || text == tags.close; };
    if (!is_special || std::any_of(kTags.begin(), kTags.end(), is_tag)) waiting_ += text;
    scan(false);
  }
  return std::exchange(out_, {});
}

std::vector<AnswerPiece> AnswerParser::finish() {
  if (style_ == AnswerStyle::tags) scan(true);
  // A model that wrote text where a header belongs meant its answer.
  if (style_ == AnswerStyle::channels && place_ == Place::header && header_.find("<|channel|>") == std::string::npos) {
    std::string_view text = header_;
    if (text.starts_with("assistant")) text.remove_prefix(9);
    if (!without_blank_start(text).empty()) out_.push_back({AnswerKind::answer, std::string(text), {}, true});
    header_.clear();
  }
  return std::exchange(out_, {});
}

}  // namespace quern
