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

bool ascii_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

}  // namespace

struct Pretokenizer::Code {
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
    int count = PCRE2_ERROR_JIT_STACKLIMIT;
    if (jit) count = pcre2_jit_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK, memory.match, memory.context);
    if (count == PCRE2_ERROR_JIT_STACKLIMIT) {
      count = pcre2_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, memory.match, memory.context);
    }
    if (count < 0) return false;
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(memory.match);
    begin = bounds[0];
    end = bounds[1];
    return begin <= end && begin >= from;
  }
};

const std::string& gpt2_pattern() {
  static const std::string pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\t-\r\x{85}\p{Z}\p{L}\p{N}]+)"
                                     R"(|[\t-\r\x{85}\p{Z}]+(?![^\t-\r\x{85}\p{Z}])|[\t-\r\x{85}\p{Z}]+)";
  return pattern;
}

Result<Pretokenizer> Pretokenizer::create(const std::vector<std::string>& patterns) {
  Pretokenizer made;
  for (const std::string& pattern : patterns) {
    auto code = std::make_shared<Code>();
    int error = 0;
    PCRE2_SIZE at = 0;
    code->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR8>(pattern.data()), pattern.size(),
                               PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &at, nullptr);
    if (code->code == nullptr) {
      std::array<PCRE2_UCHAR8, 200> text{};
      pcre2_get_error_message(error, text.data(), text.size());
      return bad_input(fmt::format("the pre-tokenizer's expression \"{}\" is wrong at byte {}: {}", pattern, at,
                                   reinterpret_cast<const char*>(text.data())));
    }
    code->jit = pcre2_jit_compile(code->code, PCRE2_JIT_COMPLETE) == 0;
    made.codes_.push_back(std::move(code));
  }
  return made;
}

void Pretokenizer::split_valid(std::string_view text, std::size_t begin, std::size_t end, std::size_t pattern,
                               std::vector<std::size_t>& ends) const {
  if (begin == end) return;
  if (pattern == codes_.size()) {
    ends.push_back(end);
    return;
  }
  // The expression sees the piece alone: what lies beside it must not answer its look-arounds.
  const std::string_view piece = text.substr(begin, end - begin);
  std::size_t done = 0;  // offsets within the piece
  std::size_t from = 0;
  std::size_t match_begin = 0;
  std::size_t match_end = 0;
  while (from < piece.size() && codes_[pattern]->find(piece, from, match_begin, match_end)) {
    if (match_begin == match_end) {  // an empty match cuts nothing
      from = match_end < piece.size() ? match_end + utf8_step(piece, match_end).bytes : piece.size();
      continue;
    }
    split_valid(text, begin + done, begin + match_begin, pattern + 1, ends);
    split_valid(text, begin + match_begin, begin + match_end, pattern + 1, ends);
    done = from = match_end;
  }
  split_valid(text, begin + done, end, pattern + 1, ends);
}

void Pretokenizer::split(std::string_view text, std::vector<std::size_t>& ends) const {
  std::size_t at = 0;
  while (at < text.size()) {
    const std::size_t valid = find_invalid_utf8(text.substr(at));
    const std::size_t stop = valid == std::string_view::npos ? text.size() : at + valid;
    split_valid(text, at, stop, 0, ends);
    at = stop;
    while (at < text.size() && utf8_step(text, at).code_point < 0) ++at;
    if (at > stop) ends.push_back(at);
  }
}

std::size_t cut_between_pieces(std::string_view text, std::size_t limit) {
  for (std::size_t at = limit; at > 1; --at) {
    // At the very end of the text nothing says what follows, so that end is not taken for a safe place.
    if (at == text.size()) continue;
    const char before = text[at - 1];
    if (ascii_space(text[at]) && !ascii_space(before) && static_cast<unsigned char>(before) < 0x80) return at;
  }
  return std::max<std::size_t>(utf8_boundary_before(text, limit), 1);
}

}  // namespace quern
