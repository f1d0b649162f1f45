#include "model/pretokenizer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "model/utf8.hpp"

namespace quern {
namespace {

struct MatchMemory {
  // Two values: the bounds of the whole match. The JIT's stack starts at 32 KiB; patterns that backtrack deeply may take
  // more.
  pcre2_match_data* match = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(std::size_t{32} << 10, std::size_t{1} << 20, nullptr);
  MatchMemory() { pcre2_jit_stack_assign(context, nullptr, stack); }
  MatchMemory(const MatchMemory&) = delete;
  MatchMemory& operator=(const MatchMemory&) = delete;
  ~MatchMemory() {
    pcre2_jit_stack_free(stack);
    pcre2_match_context_free(context);
    pcre2_match_data_free(match);
  }
};

// Matching needs working memory; a thread keeps its own.
MatchMemory& match_memory() {
  thread_local MatchMemory memory;
  return memory;
}

// Lines end with LF, whatever PCRE2 was built for.
pcre2_compile_context* compile_context() {
  static pcre2_compile_context* const context = [] {
    pcre2_compile_context* made = pcre2_compile_context_create(nullptr);
    pcre2_set_newline(made, PCRE2_NEWLINE_LF);
    return made;
  }();
  return context;
}

constexpr std::size_t kLeastMatchLimit = 1'000'000;
constexpr std::size_t kMatchLimitPerByte = 64;

bool ascii_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

}  // namespace

struct Pretokenizer::Code {
  SplitRule rule;
  pcre2_code* code = nullptr;
  bool jit = false;
  Code() = default;
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
  ~Code() { pcre2_code_free(code); }

  // Finds the first match in text[from..]; the text is valid UTF-8. False when there is none (or PCRE2 gave up on one).
  bool find(std::string_view text, std::size_t from, std::size_t& begin, std::size_t& end) const {
    MatchMemory& memory = match_memory();
    const auto* subject = reinterpret_cast<PCRE2_SPTR8>(text.data());
    // A run of a million spaces needs some steps per space before an expression knows that no line end follows; only an
    // expression of a hostile file needs more than this.
    const std::size_t limit =
        std::min<std::size_t>(kLeastMatchLimit + kMatchLimitPerByte * (text.size() - from), UINT32_MAX);
    pcre2_set_match_limit(memory.context, static_cast<std::uint32_t>(limit));
    const std::uint32_t options = rule.over_bytes ? 0 : PCRE2_NO_UTF_CHECK;
    int count = PCRE2_ERROR_JIT_STACKLIMIT;
    if (jit) count = pcre2_jit_match(code, subject, text.size(), from, options, memory.match, memory.context);
    if (count == PCRE2_ERROR_JIT_STACKLIMIT) {
      count = pcre2_match(code, subject, text.size(), from, options | PCRE2_NO_JIT, memory.match, memory.context);
    }
    if (count < 0) return false;
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(memory.match);
    begin = bounds[0];
    end = bounds[1];
    return begin <= end && begin >= from;
  }

  // Calls between(a, b) for what lies between matches (maybe empty) and match(a, b) for matches, in the order of the text.
  template <class Between, class Match>
  void each(std::string_view text, const Between& between, const Match& match) const {
    std::size_t done = 0;
    std::size_t from = 0;
    std::size_t begin = 0;
    std::size_t end = 0;
    while (from < text.size() && find(text, from, begin, end)) {
      if (begin == end) {
        if (end == text.size()) break;
        from = end + (rule.over_bytes ? 1 : utf8_step(text, end).bytes);
        if (!rule.empty_cuts) continue;
        between(done, begin);
        done = begin;
        continue;
      }
      between(done, begin);
      match(begin, end);
      done = from = end;
    }
    between(done, text.size());
  }
};

const std::string& gpt2_pattern() {
  static const std::string pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\t-\r\x{85}\p{Z}\p{L}\p{N}]+)"
                                     R"(|[\t-\r\x{85}\p{Z}]+(?![^\t-\r\x{85}\p{Z}])|[\t-\r\x{85}\p{Z}]+)";
  return pattern;
}

Result<Pretokenizer> Pretokenizer::create(const std::vector<std::string>& patterns) {
  std::vector<SplitRule> rules;
  for (const std::string& pattern : patterns) rules.push_back({.pattern = pattern});
  return from_rules(rules);
}

Result<Pretokenizer> Pretokenizer::from_rules(const std::vector<SplitRule>& rules) {
  Pretokenizer made;
  for (const SplitRule& rule : rules) {
    auto code = std::make_shared<Code>();
    code->rule = rule;
    int error = 0;
    PCRE2_SIZE at = 0;
    const std::uint32_t options =
        (rule.over_bytes ? 0 : PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C) | (rule.line_anchors ? PCRE2_MULTILINE : 0);
    code->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR8>(rule.pattern.data()), rule.pattern.size(), options, &error, &at,
                               compile_context());
    if (code->code == nullptr) {
      std::array<PCRE2_UCHAR8, 200> text{};
      pcre2_get_error_message(error, text.data(), text.size());
      return bad_input(fmt::format("the pre-tokenizer's expression \"{}\" is wrong at byte {}: {}", rule.pattern, at,
                                   reinterpret_cast<const char*>(text.data())));
    }
    code->jit = pcre2_jit_compile(code->code, PCRE2_JIT_COMPLETE) == 0;
    made.codes_.push_back(std::move(code));
  }
  return made;
}

template <class Emit>
void Pretokenizer::split_valid(std::string_view text, Piece bounds, std::size_t rule, const Emit& emit) const {
  if (bounds.begin == bounds.end) return;
  if (rule == codes_.size()) {
    emit(bounds);
    return;
  }
  // The expression sees the piece alone: what lies beside it must not answer its look-arounds.
  const Code& code = *codes_[rule];
  const std::string_view piece = text.substr(bounds.begin, bounds.end - bounds.begin);
  const auto further = [&](std::size_t begin, std::size_t end) {
    split_valid(text, {bounds.begin + begin, bounds.begin + end}, rule + 1, emit);
  };
  if (code.rule.behavior == SplitBehavior::isolated) {
    code.each(piece, further, further);
    return;
  }
  struct Part {
    Piece bounds;
    bool match;
  };
  std::vector<Part> parts;
  const auto collect = [&parts](bool match) {
    return [&parts, match](std::size_t begin, std::size_t end) {
      if (begin < end) parts.push_back({{begin, end}, match});
    };
  };
  code.each(piece, collect(code.rule.invert), collect(!code.rule.invert));
  std::vector<Piece> cut;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const Part& part = parts[i];
    const bool after_match = i > 0 && parts[i - 1].match;
    bool joins = false;  // the piece before
    switch (code.rule.behavior) {
      case SplitBehavior::isolated:
        break;
      case SplitBehavior::removed:
        if (part.match) continue;
        break;
      case SplitBehavior::merged_with_previous:
        joins = i > 0 && part.match && !after_match;
        break;
      case SplitBehavior::merged_with_next:
        joins = !part.match && after_match;
        break;
      case SplitBehavior::contiguous:
        joins = part.match && after_match;
        break;
    }
    if (joins) {
      cut.back().end = part.bounds.end;
    } else {
      cut.push_back(part.bounds);
    }
  }
  for (const Piece& part : cut) further(part.begin, part.end);
}

template <class Emit>
void Pretokenizer::split_any(std::string_view text, const Emit& emit) const {
  std::size_t at = 0;
  while (at < text.size()) {
    const std::size_t valid = find_invalid_utf8(text.substr(at));
    const std::size_t stop = valid == std::string_view::npos ? text.size() : at + valid;
    split_valid(text, {at, stop}, 0, emit);
    at = stop;
    while (at < text.size() && utf8_step(text, at).code_point < 0) ++at;
    if (at > stop) emit(Piece{stop, at});
  }
}

void Pretokenizer::split(std::string_view text, std::vector<std::size_t>& ends) const {
  split_any(text, [&ends](Piece piece) { ends.push_back(piece.end); });
}

void Pretokenizer::pieces(std::string_view text, std::vector<Piece>& pieces) const {
  split_any(text, [&pieces](Piece piece) { pieces.push_back(piece); });
}

std::size_t cut_between_pieces(std::string_view text, std::size_t limit) {
  const auto last_place = [&](auto safe) -> std::size_t {
    for (std::size_t at = limit; at > 1; --at) {
      // At the very end of the text nothing says what follows, so that end is not taken for a safe place.
      if (at < text.size() && safe(text[at - 1], text[at])) return at;
    }
    return 0;
  };
  const auto alphanumeric = [](char c) { return (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z'); };
  if (const std::size_t at = last_place([&](char before, char after) { return after == ' ' && alphanumeric(before); });
      at > 0) {
    return at;
  }
  if (const std::size_t at = last_place([](char before, char after) {
        return ascii_space(after) && !ascii_space(before) && static_cast<unsigned char>(before) < 0x80;
      });
      at > 0) {
    return at;
  }
  return std::max<std::size_t>(utf8_boundary_before(text, limit), 1);
}

}  // namespace quern
