#include "model/pretokenizer_names.hpp"

#include <algorithm>
#include <charconv>
#include <string>

#include "model/regex_dialect.hpp"
#include "model/utf8.hpp"

namespace quern {
namespace {

// The expressions' parts. They are in the published dialect (to_pcre2).
#define QUERN_CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define QUERN_LINES_AND_SPACES R"(\s*[\r\n]+|\s+(?!\S)|\s+)"
#define QUERN_UPPER R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])"
#define QUERN_LOWER R"([\p{Ll}\p{Lm}\p{Lo}\p{M}])"
#define QUERN_BEFORE_WORD R"([^\r\n\p{L}\p{N}]?)"

constexpr std::string_view kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// GPT-4's (cl100k) family: they differ in how many digits make a number, and in combining marks.
constexpr std::string_view kLlama3 =
    QUERN_CONTRACTIONS "|" QUERN_BEFORE_WORD R"(\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)" QUERN_LINES_AND_SPACES;
constexpr std::string_view kQwen2 =
    QUERN_CONTRACTIONS "|" QUERN_BEFORE_WORD R"(\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)" QUERN_LINES_AND_SPACES;
constexpr std::string_view kQwen35 =
    QUERN_CONTRACTIONS "|" QUERN_BEFORE_WORD R"([\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|)" QUERN_LINES_AND_SPACES;

// o200k, where a word is cut before an upper-case letter that follows a lower-case one; Tekken's is without contractions.
constexpr std::string_view kO200k =
    QUERN_BEFORE_WORD QUERN_UPPER "*" QUERN_LOWER "+" QUERN_CONTRACTIONS "?|" QUERN_BEFORE_WORD QUERN_UPPER "+" QUERN_LOWER
                                  "*" QUERN_CONTRACTIONS R"(?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|)"  //
    QUERN_LINES_AND_SPACES;
constexpr std::string_view kTekken =
    QUERN_BEFORE_WORD QUERN_UPPER "*" QUERN_LOWER "+|" QUERN_BEFORE_WORD QUERN_UPPER "+" QUERN_LOWER
                                  R"(*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|)" QUERN_LINES_AND_SPACES;

// DeepSeek LLM's letters: cased ones of the scripts that it was trained on. (U+1F7D, U+1FBE, U+1FD3, U+1FDB, U+2126 and
// U+212A are often found replaced by the characters that Unicode's normalization makes of them.)
constexpr std::string_view kDeepseekLetters =
    R"(\s?[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-\x{2AF}\x{370}-\x{373})"
    R"(\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481})"
    R"(\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF})"
    R"(\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45})"
    R"(\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE})"
    R"(\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4})"
    R"(\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D})"
    R"(\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B})"
    R"(\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F})"
    R"(\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A})"
    R"(\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2})"
    R"(\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}]+)";
constexpr std::string_view kDeepseekPunctuation =
    R"(\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+)";
constexpr std::string_view kDeepseekCjk = R"([\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+)";
constexpr std::string_view kHanAndKana = R"([\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+)";
constexpr std::string_view kDeepseekV3 =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|)" QUERN_LINES_AND_SPACES;

#undef QUERN_CONTRACTIONS
#undef QUERN_LINES_AND_SPACES
#undef QUERN_UPPER
#undef QUERN_LOWER
#undef QUERN_BEFORE_WORD

struct Family {
  std::vector<std::string_view> names;
  std::vector<std::string_view> patterns;
  bool ignore_merges = false;
  bool add_bos = false;
};

const std::vector<Family>& families() {
  static const std::vector<Family> list = {
      {{"gpt-2", "phi-2", "mpt", "olmo", "jais", "modern-bert", "trillion", "exaone4", "jina-es", "jina-de", "jina-v2-es",
        "jina-v2-de", "jina-v2-code", "jina-v1-en", "gigachat", "a.x-4.0", "roberta-bpe", "mellum", "granite-docling"},
       {kGpt2}},
      {{"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"}, {kLlama3}, true, true},
      {{"dbrx", "smaug-bpe", "glm4", "chatglm-bpe"}, {kLlama3}},
      {{"qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "solar-open", "megrez", "grok-2", "kormo", "f2llmv2"},
       {kQwen2}},
      {{"qwen35"}, {kQwen35}},
      {{"gpt-4o", "llama4", "kanana2"}, {kO200k}},
      {{"tekken"}, {kTekken}, true, true},
      {{"deepseek-llm"}, {R"([\r\n])", kDeepseekLetters, kDeepseekPunctuation, R"(\s+$)", kDeepseekCjk, R"(\p{N}+)"}},
      {{"deepseek-coder"}, {R"([\r\n])", R"(\s?\p{L}+)", R"(\s?\p{P}+)", kDeepseekCjk, R"(\p{N})"}},
      {{"deepseek-v3", "hunyuan-dense", "joyai-llm"}, {R"(\p{N}{1,3})", kHanAndKana, kDeepseekV3}},
      {{"starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"}, {R"(\p{N})", kGpt2}},
      {{"falcon"}, {R"([\p{P}$+<=>\^~|`]+)", kGpt2, "[0-9][0-9][0-9]"}},
      {{"default"}, {R"([\p{P}$+<=>\^~|]+)", kGpt2, R"(\p{N}+)", "[0-9][0-9][0-9]"}},
  };
  return list;
}

// The pattern with characters instead of their code points (outside ASCII) and of \r and \n: published files have both.
std::string canonical(std::string_view pattern) {
  std::string out;
  while (!pattern.empty()) {
    const std::size_t end = pattern.find('}');
    if (pattern.starts_with(R"(\x{)") && end != std::string_view::npos) {
      std::int32_t code_point = 0;
      const auto [stop, wrong] = std::from_chars(pattern.data() + 3, pattern.data() + end, code_point, 16);
      if (wrong == std::errc() && stop == pattern.data() + end && code_point >= 0x80 && code_point <= 0x10FFFF) {
        append_utf8(out, code_point);
        pattern.remove_prefix(end + 1);
        continue;
      }
    }
    // An escaped character stays with its backslash.
    const std::size_t taken = pattern[0] == '\\' && pattern.size() > 1 ? 2 : 1;
    const std::string_view part = pattern.substr(0, taken);
    out += part == R"(\n)" ? "\n" : part == R"(\r)" ? "\r" : part;
    pattern.remove_prefix(taken);
  }
  return out;
}

// Whether a rule does what an isolating rule with the pattern does. `total`: matches of the pattern cover any text, so what
// happens between them does not matter.
bool same_cuts(const SplitRule& rule, std::string_view pattern, bool total) {
  if (rule.over_bytes) return false;
  const bool isolates = rule.behavior == SplitBehavior::isolated;
  const bool takes_matches = rule.behavior == SplitBehavior::removed && rule.invert && total;
  // None of the named expressions has line anchors in the middle of a piece, or matches nothing.
  return (isolates || takes_matches) && canonical(rule.pattern) == canonical(*to_pcre2(pattern));
}

}  // namespace

std::vector<std::string_view> find_pretokenizer_names(const std::vector<SplitRule>& rules) {
  std::vector<std::string_view> names;
  for (const Family& family : families()) {
    if (family.patterns.size() != rules.size()) continue;
    bool same = true;
    for (std::size_t i = 0; i < rules.size(); ++i) same = same && same_cuts(rules[i], family.patterns[i], rules.size() == 1);
    if (same) names.push_back(family.names[0]);
  }
  return names;
}

std::optional<NamedPretokenizer> named_pretokenizer(std::string_view name) {
  for (const Family& family : families()) {
    if (std::find(family.names.begin(), family.names.end(), name) == family.names.end()) continue;
    NamedPretokenizer made;
    made.ignore_merges = family.ignore_merges;
    made.add_bos = family.add_bos;
    for (const std::string_view pattern : family.patterns) made.rules.push_back({.pattern = *to_pcre2(pattern)});
    return made;
  }
  return std::nullopt;
}

}  // namespace quern
