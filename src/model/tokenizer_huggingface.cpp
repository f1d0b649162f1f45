// Reading Hugging Face's tokenizer.json: BPE models, byte-level or converted from SentencePiece.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "model/regex_dialect.hpp"
#include "model/tokenizer_internal.hpp"

namespace quern {
namespace {

using Json = nlohmann::json;
using internal::VocabularyDescription;

// Ids may leave holes, but not so many that a small file takes much memory.
constexpr std::size_t kMaxHoles = 65'536;
constexpr int kMaxNesting = 16;  // of sequences inside sequences

const Json& member(const Json& object, const char* key) {
  static const Json nothing;
  if (!object.is_object()) return nothing;
  const auto found = object.find(key);
  return found == object.end() ? nothing : *found;
}
bool flag(const Json& object, const char* key, bool fallback) {
  const Json& value = member(object, key);
  return value.is_boolean() ? value.get<bool>() : fallback;
}
std::string_view text_of(const Json& value) {
  return value.is_string() ? std::string_view(value.get_ref<const std::string&>()) : std::string_view();
}
std::string_view type_of(const Json& object) { return text_of(member(object, "type")); }
bool blank(const Json& value) { return value.is_null() || (value.is_string() && text_of(value).empty()); }

/// Reads one file; messages name the key, the caller adds the file.
class Reader {
 public:
  explicit Reader(const Json& json) : json_(json) {}

  Result<VocabularyDescription> read() {
    if (!json_.is_object()) return bad_input("expected a JSON object");
    description_.marks_spaces = false;
    for (const auto step :
         {&Reader::read_vocabulary, &Reader::read_added_tokens, &Reader::read_normalizers, &Reader::read_pretokenizers,
          &Reader::read_decoders, &Reader::read_postprocessor, &Reader::read_merges}) {
      if (auto done = (this->*step)(); !done) return tl::make_unexpected(done.error());
    }
    finish();
    return std::move(description_);
  }

 private:
  static tl::unexpected<Error> lacks(std::string_view key, std::string_view type) {
    return bad_input(fmt::format("key `{}`: the type \"{}\" is not supported", key, type));
  }

  // ---- Tokens

  Result<void> set_token(const std::string& text, const Json& id, TokenKind kind, std::string_view key) {
    const bool right = id.is_number_unsigned() && id.get<std::uint64_t>() < limit_;
    if (!right) {
      return bad_input(fmt::format("key `{}`: token \"{}\": expected an id below {}, found {}", key, text.substr(0, 100),
                                   limit_, id.dump(-1, ' ', true, Json::error_handler_t::replace)));
    }
    const auto at = static_cast<std::size_t>(id.get<std::uint64_t>());
    if (at >= description_.texts.size()) {
      description_.texts.resize(at + 1);
      description_.kinds.resize(at + 1, TokenKind::unused);
    }
    if (!description_.texts[at].empty() && description_.texts[at] != text) {
      return bad_input(fmt::format("key `{}`: the id {} belongs to two tokens, \"{}\" and \"{}\"", key, at,
                                   description_.texts[at].substr(0, 100), text.substr(0, 100)));
    }
    description_.texts[at] = text;
    description_.kinds[at] = kind;
    return {};
  }

  Result<void> read_vocabulary() {
    model_ = &member(json_, "model");
    const std::string_view type = type_of(*model_);
    if (!model_->is_object() || (type != "BPE" && (!type.empty() || !member(*model_, "merges").is_array()))) {
      return bad_input(fmt::format("key `model.type`: expected BPE, found \"{}\"", type));
    }
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      if (!blank(member(*model_, key))) return bad_input(fmt::format("key `model.{}` is not supported", key));
    }
    const Json& vocab = member(*model_, "vocab");
    if (!vocab.is_object() || vocab.empty()) return bad_input("key `model.vocab`: expected an object of tokens and ids");
    const Json& added = member(json_, "added_tokens");
    limit_ = 2 * (vocab.size() + (added.is_array() ? added.size() : 0)) + kMaxHoles;
    for (const auto& [text, id] : vocab.items()) {
      if (auto done = set_token(text, id, TokenKind::normal, "model.vocab"); !done) return done;
    }
    const Json& unknown = member(*model_, "unk_token");
    if (!blank(unknown)) {
      const auto found = vocab.find(std::string(text_of(unknown)));
      if (found == vocab.end()) return bad_input("key `model.unk_token`: expected a token of the vocabulary");
      description_.roles.unknown = found->get<std::int32_t>();
      description_.kinds[static_cast<std::size_t>(*description_.roles.unknown)] = TokenKind::unknown;
    }
    description_.ignore_merges = flag(*model_, "ignore_merges", false);
    description_.byte_fallback = flag(*model_, "byte_fallback", false);
    description_.fuse_unknown = flag(*model_, "fuse_unk", false);
    return {};
  }

  Result<void> read_added_tokens() {
    const Json& list = member(json_, "added_tokens");
    if (list.is_null()) return {};
    if (!list.is_array()) return bad_input("key `added_tokens`: expected a list");
    for (const Json& entry : list) {
      const std::string text(text_of(member(entry, "content")));
      if (text.empty()) return bad_input("key `added_tokens`: expected tokens with a text in `content`");
      const bool special = flag(entry, "special", false);
      if (auto done =
              set_token(text, member(entry, "id"), special ? TokenKind::control : TokenKind::user_defined, "added_tokens");
          !done) {
        return done;
      }
      SpecialText found{.text = text, .id = member(entry, "id").get<std::int32_t>()};
      if (description_.roles.unknown == found.id)
        description_.kinds[static_cast<std::size_t>(found.id)] = TokenKind::unknown;
      found.strip_left = flag(entry, "lstrip", false);
      found.strip_right = flag(entry, "rstrip", false);
      found.whole_word = flag(entry, "single_word", false);
      (flag(entry, "normalized", !special) ? description_.normalized : description_.special).push_back(std::move(found));
    }
    return {};
  }

  // ---- What happens to the text

  Result<void> read_normalizers() {
    if (auto done = read_normalizer(member(json_, "normalizer"), 0); !done) return done;
    for (SpecialText& special : description_.normalized) {
      auto text = normalize(special.text, description_.normalizer, TextStand::first);
      if (!text) return tl::make_unexpected(text.error());
      special.text = std::move(*text);
    }
    return {};
  }

  Result<void> read_normalizer(const Json& normalizer, int depth) {
    if (normalizer.is_null()) return {};
    const std::string_view type = type_of(normalizer);
    if (type == "Sequence") {
      const Json& list = member(normalizer, "normalizers");
      if (!list.is_array() || depth == kMaxNesting) return bad_input("key `normalizer`: expected a list of `normalizers`");
      for (const Json& entry : list) {
        if (auto done = read_normalizer(entry, depth + 1); !done) return done;
      }
    } else if (type == "Prepend") {
      const std::string text(text_of(member(normalizer, "prepend")));
      description_.normalizer.push_back({.kind = NormalizerStep::Kind::prepend, .from = {}, .to = text});
      prepends_space_ = prepends_space_ || text == kSpaceMark || text == " ";
      description_.strips_after_special = true;
    } else if (type == "Replace") {
      const Json& from = member(member(normalizer, "pattern"), "String");
      if (!from.is_string()) return bad_input("key `normalizer`: Replace of expressions is not supported");
      description_.normalizer.push_back(
          {.from = std::string(text_of(from)), .to = std::string(text_of(member(normalizer, "content")))});
    } else if (type == "NFC") {
      description_.normalizer.push_back({.kind = NormalizerStep::Kind::nfc, .from = {}, .to = {}});
    } else {
      return lacks("normalizer", type);
    }
    return {};
  }

  Result<SplitBehavior> read_behavior(const Json& value, SplitBehavior fallback) {
    if (value.is_null()) return fallback;
    const std::pair<std::string_view, SplitBehavior> names[] = {{"Isolated", SplitBehavior::isolated},
                                                                {"Removed", SplitBehavior::removed},
                                                                {"MergedWithPrevious", SplitBehavior::merged_with_previous},
                                                                {"MergedWithNext", SplitBehavior::merged_with_next},
                                                                {"Contiguous", SplitBehavior::contiguous}};
    for (const auto& [name, behavior] : names) {
      if (text_of(value) == name) return behavior;
    }
    return bad_input(fmt::format("key `pre_tokenizer`: the behavior \"{}\" is not known", text_of(value)));
  }

  Result<void> read_pretokenizers() { return read_pretokenizer(member(json_, "pre_tokenizer"), 0); }

  Result<void> read_pretokenizer(const Json& pre, int depth) {
    if (pre.is_null()) return {};
    const std::string_view type = type_of(pre);
    if (type == "Sequence") {
      const Json& list = member(pre, "pretokenizers");
      if (!list.is_array() || depth == kMaxNesting)
        return bad_input("key `pre_tokenizer`: expected a list of `pretokenizers`");
      for (const Json& entry : list) {
        if (auto done = read_pretokenizer(entry, depth + 1); !done) return done;
      }
      return {};
    }
    const bool first = description_.split_rules.empty() && !byte_level_;
    if (type == "ByteLevel") {
      byte_level_ = true;
      if (flag(pre, "add_prefix_space", true)) {
        if (!first) return bad_input("key `pre_tokenizer`: add_prefix_space after another step is not supported");
        description_.word_spelling.push_back(
            {.kind = NormalizerStep::Kind::prepend, .from = {}, .to = " ", .unless_present = true});
        description_.roles.add_space_prefix = true;
      }
      if (flag(pre, "use_regex", true)) description_.split_rules.push_back({.pattern = gpt2_pattern()});
      return {};
    }
    if (type == "Metaspace") return read_metaspace(pre, first);
    if (type == "Digits") {
      // After ByteLevel digits are looked for among the letters that spell bytes, some of which are numbers to Unicode.
      const std::string digit = byte_level_ ? R"([0-9\xB2\xB3\xB9\xBC-\xBE])" : R"(\p{N})";
      description_.split_rules.push_back(
          {.pattern = digit + (flag(pre, "individual_digits", false) ? "" : "+"), .over_bytes = byte_level_});
      return {};
    }
    if (type == "Punctuation" && !byte_level_) {
      const auto behavior = read_behavior(member(pre, "behavior"), SplitBehavior::isolated);
      if (!behavior) return tl::make_unexpected(behavior.error());
      description_.split_rules.push_back({.pattern = R"([\p{P}$+<=>^`|~])", .behavior = *behavior});
      return {};
    }
    if (type == "Split") return read_split(pre);
    return lacks("pre_tokenizer", type);
  }

  Result<void> read_split(const Json& split) {
    SplitRule rule;
    rule.empty_cuts = rule.line_anchors = true;
    const Json& pattern = member(split, "pattern");
    const Json& literal = member(pattern, "String");
    const Json& expression = member(pattern, "Regex");
    if (literal.is_string()) {
      rule.pattern = literal_pattern(text_of(literal));
    } else if (expression.is_string()) {
      auto translated = to_pcre2(text_of(expression));
      if (!translated) return tl::make_unexpected(translated.error());
      rule.pattern = std::move(*translated);
    } else {
      return bad_input("key `pre_tokenizer`: Split: expected a `pattern` with a String or a Regex");
    }
    // After ByteLevel expressions see the letters that spell bytes; those about ASCII see the same either way.
    if (byte_level_) {
      const auto plain = [](char c) { return static_cast<unsigned char>(c) < 0x80 && c != '\\' && c != '^' && c != '.'; };
      if (!std::all_of(rule.pattern.begin(), rule.pattern.end(), plain)) {
        return bad_input("key `pre_tokenizer`: such a Split after ByteLevel is not supported");
      }
      rule.over_bytes = true;
    }
    const auto behavior = read_behavior(member(split, "behavior"), SplitBehavior::isolated);
    if (!behavior) return tl::make_unexpected(behavior.error());
    rule.behavior = *behavior;
    rule.invert = flag(split, "invert", false);
    if (!rule.pattern.empty()) description_.split_rules.push_back(std::move(rule));
    return {};
  }

  Result<void> read_metaspace(const Json& metaspace, bool first) {
    const Json& mark = member(metaspace, "replacement");
    if (!first || (mark.is_string() && text_of(mark) != kSpaceMark)) {
      return bad_input("key `pre_tokenizer`: Metaspace after another step, or with another mark than U+2581");
    }
    description_.marks_spaces = true;
    description_.word_spelling.push_back({.from = " ", .to = std::string(kSpaceMark)});
    std::string_view scheme = text_of(member(metaspace, "prepend_scheme"));
    if (!flag(metaspace, "add_prefix_space", true)) scheme = "never";
    if (scheme != "never") {
      NormalizerStep prefix{.kind = NormalizerStep::Kind::prepend, .from = {}, .to = std::string(kSpaceMark)};
      prefix.unless_present = true;
      prefix.first_only = scheme == "first";
      description_.strips_after_special = !prefix.first_only;
      description_.word_spelling.push_back(std::move(prefix));
      prepends_space_ = true;
    }
    if (flag(metaspace, "split", true)) {
      description_.split_rules.push_back(
          {.pattern = literal_pattern(kSpaceMark), .behavior = SplitBehavior::merged_with_next});
    }
    return {};
  }

  Result<void> read_decoders() { return read_decoder(member(json_, "decoder"), 0); }

  Result<void> read_decoder(const Json& decoder, int depth) {
    if (decoder.is_null()) return {};
    const std::string_view type = type_of(decoder);
    if (type == "Sequence") {
      const Json& list = member(decoder, "decoders");
      if (!list.is_array() || depth == kMaxNesting) return bad_input("key `decoder`: expected a list of `decoders`");
      for (const Json& entry : list) {
        if (auto done = read_decoder(entry, depth + 1); !done) return done;
      }
    } else if (type == "ByteLevel") {
      byte_level_ = true;
    } else if (type == "Metaspace") {
      description_.marks_spaces = true;
      description_.strips_prefix = true;
    } else if (type == "Replace") {
      if (text_of(member(member(decoder, "pattern"), "String")) != kSpaceMark ||
          text_of(member(decoder, "content")) != " ") {
        return bad_input("key `decoder`: Replace of anything but U+2581 by a space is not supported");
      }
      description_.marks_spaces = true;
    } else if (type == "Strip") {
      if (text_of(member(decoder, "content")) == " " && member(decoder, "start") == 1) description_.strips_prefix = true;
    } else if (type != "ByteFallback" && type != "Fuse") {
      return lacks("decoder", type);
    }
    return {};
  }

  // ---- What goes around the text

  std::optional<std::int32_t> token_named(std::string_view text) const {
    for (std::size_t id = 0; id < description_.texts.size(); ++id) {
      if (description_.texts[id] == text && description_.kinds[id] != TokenKind::normal)
        return static_cast<std::int32_t>(id);
    }
    return std::nullopt;
  }

  Result<void> read_postprocessor() { return read_processor(member(json_, "post_processor"), 0); }

  Result<void> read_processor(const Json& processor, int depth) {
    if (processor.is_null()) return {};
    const std::string_view type = type_of(processor);
    if (type == "ByteLevel") return {};  // moves offsets only
    if (type == "Sequence") {
      const Json& list = member(processor, "processors");
      if (!list.is_array() || depth == kMaxNesting)
        return bad_input("key `post_processor`: expected a list of `processors`");
      for (const Json& entry : list) {
        if (auto done = read_processor(entry, depth + 1); !done) return done;
      }
      return {};
    }
    if (type != "TemplateProcessing") return lacks("post_processor", type);
    const Json& single = member(processor, "single");
    if (!single.is_array()) return bad_input("key `post_processor.single`: expected a list");
    SpecialTokens& roles = description_.roles;
    bool after = false;
    for (const Json& entry : single) {
      if (entry.is_object() && entry.contains("Sequence")) {
        after = true;
        continue;
      }
      const std::string_view name = text_of(member(member(entry, "SpecialToken"), "id"));
      const auto id = token_named(name);
      if (!id) return bad_input(fmt::format("key `post_processor.single`: \"{}\" is no special token", name));
      if (after ? roles.add_eos : roles.add_bos) return bad_input("key `post_processor.single`: two tokens on one side");
      (after ? roles.eos : roles.bos) = id;
      (after ? roles.add_eos : roles.add_bos) = true;
    }
    return {};
  }

  Result<void> read_merges() {
    const Json& list = member(*model_, "merges");
    if (!list.is_array()) return bad_input("key `model.merges`: expected a list");
    description_.merges.reserve(list.size());
    for (const Json& entry : list) {
      std::string_view left, right;
      if (entry.is_string()) {
        const std::string_view line = text_of(entry);
        const std::size_t space = line.find(' ', 1);
        left = line.substr(0, space);
        right = space == std::string_view::npos ? std::string_view() : line.substr(space + 1);
      } else if (entry.is_array() && entry.size() == 2) {
        left = text_of(entry[0]);
        right = text_of(entry[1]);
      }
      if (left.empty() || right.empty()) {
        return bad_input(fmt::format("key `model.merges`: merge {}: expected two parts", description_.merges.size()));
      }
      description_.merges.emplace_back(left, right);
    }
    return {};
  }

  void finish() {
    description_.kind = byte_level_ ? TokenizerKind::byte_level_bpe : TokenizerKind::sentencepiece;
    if (!byte_level_) description_.roles.add_space_prefix = prepends_space_;
    if (byte_level_) description_.strips_prefix = description_.strips_after_special = false;
    SpecialTokens& roles = description_.roles;
    const auto name = [this](std::optional<std::int32_t>& role, std::initializer_list<std::string_view> names) {
      // Control tokens first: Gemma has <eos> as one, and </s> as a tag of HTML.
      for (const std::string_view text : names) {
        const auto id = token_named(text);
        if (!role && id && description_.kinds[static_cast<std::size_t>(*id)] == TokenKind::control) role = id;
      }
      for (const std::string_view text : names) {
        if (!role) role = token_named(text);
      }
    };
    // The file does not say which token has which role, beyond what it puts around a text; the names do.
    name(roles.bos, {"<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>",
                     "<\xEF\xBD\x9C"
                     "begin\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>"});
    name(roles.eos, {"</s>", "<eos>", "<|end_of_text|>", "<|return|>", "<|endoftext|>",
                     "<\xEF\xBD\x9C"
                     "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>"});
    name(roles.eot, {"<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<EOT>"});
    name(roles.eom, {"<|eom_id|>"});
    name(roles.padding, {"<pad>", "<|finetune_right_pad_id|>"});
    name(roles.fim_prefix, {"<|fim_prefix|>", "<fim_prefix>"});
    name(roles.fim_suffix, {"<|fim_suffix|>", "<fim_suffix>"});
    name(roles.fim_middle, {"<|fim_middle|>", "<fim_middle>"});
    internal::reserve_ends_of_generation(description_);
  }

  const Json& json_;
  const Json* model_ = nullptr;
  VocabularyDescription description_;
  std::size_t limit_ = 0;
  bool byte_level_ = false;
  bool prepends_space_ = false;
};

}  // namespace

Result<VocabularyDescription> internal::describe_huggingface(std::string_view text) {
  const Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded()) return bad_input("expected JSON, found a syntax error");
  return Reader(json).read();
}

Result<Tokenizer> Tokenizer::from_huggingface_json(std::string_view text, std::string_view where) {
  const auto wrong = [where](const Error& error) {
    return tl::make_unexpected(Error{error.code, fmt::format("{}: tokenizer: {}", where, error.message)});
  };
  auto description = internal::describe_huggingface(text);
  if (!description) return wrong(description.error());
  auto data = internal::build_published(std::move(*description));
  if (!data) return wrong(data.error());
  return Tokenizer(std::move(*data));
}

}  // namespace quern
