// Tokenizers as Hugging Face's files: tokenizer.json, and what stands beside it.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "model/byte_alphabet.hpp"
#include "model/regex_dialect.hpp"
#include "model/sentencepiece_ranks.hpp"
#include "model/tokenizer_files.hpp"
#include "model/tokenizer_internal.hpp"
#include "model/utf8.hpp"

namespace quern {
namespace {

using internal::TokenizerAccess;
using internal::TokenizerData;
using internal::VocabularyDescription;
using Json = nlohmann::ordered_json;

// ordered_json looks keys up one by one when they are set by name; long objects are built directly instead.
void append_member(Json& object, const std::string& key, Json value) {
  object.get_ref<Json::object_t&>().push_back({key, std::move(value)});
}

Json byte_level(bool prefix, bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", prefix}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

Json added_token(const SpecialText& special, const std::string& content, bool normalized, bool control) {
  return {{"id", special.id},
          {"content", content},
          {"single_word", special.whole_word},
          {"lstrip", special.strip_left},
          {"rstrip", special.strip_right},
          {"normalized", normalized},
          {"special", control}};
}

// One thing as itself, several as a sequence, none as null.
Json in_sequence(Json list, const char* key) {
  if (list.empty()) return nullptr;
  if (list.size() == 1) return list[0];
  return {{"type", "Sequence"}, {key, std::move(list)}};
}

Json end_of_text_entry(std::int32_t id) { return added_token({.text = {}, .id = id}, std::string(kEndOfText), false, true); }

std::string own_to_huggingface(const Tokenizer& tokenizer, const TokenizerData& data) {
  const bool ascii = tokenizer.kind() != TokenizerKind::characters || data.code_points.back() < 128;
  Json vocab = Json::object();
  const auto spelled = [ascii](const std::string& bytes) { return ascii ? spell_bytes(bytes) : bytes; };
  for (std::size_t id = 0; id < data.tokens.size(); ++id) {
    const bool special = tokenizer.is_special(static_cast<std::int32_t>(id));
    append_member(vocab, special ? data.tokens[id] : spelled(data.tokens[id]), id);
  }
  Json merges = Json::array();
  for (const TokenPair& pair : data.merge_pairs) {
    merges.push_back(spelled(data.tokens[pair.left]) + " " + spelled(data.tokens[pair.right]));
  }
  Json json;
  json["version"] = "1.0";
  json["truncation"] = nullptr;
  json["padding"] = nullptr;
  json["added_tokens"] = Json::array();
  if (tokenizer.end_of_text()) {
    json["added_tokens"].push_back(end_of_text_entry(*tokenizer.end_of_text()));
  }
  json["normalizer"] = nullptr;
  const Json spelling = byte_level(false, tokenizer.kind() == TokenizerKind::bpe);
  json["pre_tokenizer"] = ascii ? spelling : Json(nullptr);
  json["post_processor"] = nullptr;
  json["decoder"] = ascii ? spelling : Json({{"type", "Fuse"}});
  json["model"] = {{"type", "BPE"},
                   {"dropout", nullptr},
                   {"unk_token", nullptr},
                   {"continuing_subword_prefix", nullptr},
                   {"end_of_word_suffix", nullptr},
                   {"fuse_unk", false},
                   {"byte_fallback", false},
                   {"ignore_merges", false},
                   {"vocab", std::move(vocab)},
                   {"merges", std::move(merges)}};
  return json.dump();
}

/// Writes one published vocabulary.
class Writer {
 public:
  explicit Writer(const TokenizerData& data)
      : description_(internal::describe_published(data)), kinds_(data.published->kinds) {}

  Result<std::string> write() {
    json_["version"] = "1.0";
    json_["truncation"] = json_["padding"] = nullptr;
    for (const auto step : {&Writer::write_added_tokens, &Writer::write_normalizer, &Writer::write_pretokenizer,
                            &Writer::write_postprocessor, &Writer::write_decoder, &Writer::write_model}) {
      if (auto done = (this->*step)(); !done) return tl::make_unexpected(done.error());
    }
    return json_.dump();
  }

  /// The added tokens by id, as tokenizer_config.json has them.
  [[nodiscard]] const Json& added_tokens() const { return json_.at("added_tokens"); }

 private:
  [[nodiscard]] bool byte_level_kind() const { return description_.kind == TokenizerKind::byte_level_bpe; }
  [[nodiscard]] bool control(std::int32_t id) const {
    const TokenKind kind = kinds_[static_cast<std::size_t>(id)];
    return kind == TokenKind::control || kind == TokenKind::unknown;
  }
  // How the vocabulary spells a token: SentencePiece's with U+2581 for spaces, also where a file has plain ones.
  [[nodiscard]] std::string spelled(std::size_t id) const {
    const std::string& text = description_.texts[id];
    const TokenKind kind = kinds_[id];
    const bool words = kind == TokenKind::normal || kind == TokenKind::unused || kind == TokenKind::user_defined;
    return !byte_level_kind() && description_.marks_spaces && words ? replace_all(text, " ", kSpaceMark) : text;
  }

  Result<void> write_added_tokens() {
    std::vector<std::pair<std::int32_t, Json>> entries;
    const bool prefix = std::any_of(description_.word_spelling.begin(), description_.word_spelling.end(),
                                    [](const NormalizerStep& step) { return step.kind == NormalizerStep::Kind::prepend; });
    for (const SpecialText& special : description_.special) {
      // Special tokens without a text of their own in the vocabulary (a space for U+2581) are looked for once spaces are
      // spelled; a space in front would be taken for a part of their text.
      const std::string text = spelled(static_cast<std::size_t>(special.id));
      const bool respelled = special.text != text;
      if (respelled && (prefix || replace_all(special.text, " ", kSpaceMark) != text)) {
        return bad_input(
            fmt::format("tokenizer.json cannot say that \"{}\" stands for the token \"{}\"", special.text, text));
      }
      entries.emplace_back(special.id, added_token(special, text, respelled, control(special.id)));
    }
    for (const SpecialText& special : description_.normalized) {
      const std::string text = spelled(static_cast<std::size_t>(special.id));
      entries.emplace_back(special.id, added_token(special, text, true, control(special.id)));
    }
    std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    Json list = Json::array();
    for (auto& [id, entry] : entries) list.push_back(std::move(entry));
    json_["added_tokens"] = std::move(list);
    return {};
  }

  Result<void> write_normalizer() {
    Json list = Json::array();
    std::vector<NormalizerStep> steps = description_.normalizer;
    std::vector<NormalizerStep>& words = description_.word_spelling;
    // GGUF's way to spell spaces, after special tokens are cut out: what the normalizer does in published files.
    const NormalizerStep spaces{.from = " ", .to = std::string(kSpaceMark)};
    const NormalizerStep space{.kind = NormalizerStep::Kind::prepend, .from = {}, .to = " "};
    if (description_.normalized.empty() && !words.empty() && words.back() == spaces &&
        (words.size() == 1 || (words.size() == 2 && words[0] == space))) {
      if (words.size() == 2)
        steps.push_back({.kind = NormalizerStep::Kind::prepend, .from = {}, .to = std::string(kSpaceMark)});
      steps.push_back(spaces);
      words.clear();
    }
    for (const NormalizerStep& step : steps) {
      if (step.unless_present || step.first_only)
        return bad_input("tokenizer.json has no normalizer that prepends only at times");
      switch (step.kind) {
        case NormalizerStep::Kind::nfc:
          list.push_back({{"type", "NFC"}});
          break;
        case NormalizerStep::Kind::prepend:
          list.push_back({{"type", "Prepend"}, {"prepend", step.to}});
          break;
        case NormalizerStep::Kind::replace:
          list.push_back({{"type", "Replace"}, {"pattern", {{"String", step.from}}}, {"content", step.to}});
          break;
      }
    }
    json_["normalizer"] = in_sequence(std::move(list), "normalizers");
    return {};
  }

  static const char* behavior_name(SplitBehavior behavior) {
    switch (behavior) {
      case SplitBehavior::isolated:
        return "Isolated";
      case SplitBehavior::removed:
        return "Removed";
      case SplitBehavior::merged_with_previous:
        return "MergedWithPrevious";
      case SplitBehavior::merged_with_next:
        return "MergedWithNext";
      case SplitBehavior::contiguous:
        return "Contiguous";
    }
    return "?";
  }

  static Json split(const SplitRule& rule) {
    return {{"type", "Split"},
            {"pattern", {{"Regex", from_pcre2(rule.pattern)}}},
            {"behavior", behavior_name(rule.behavior)},
            {"invert", rule.invert}};
  }

  Result<void> write_pretokenizer() {
    Json list = Json::array();
    auto done = byte_level_kind() ? write_byte_level(list) : write_metaspace(list);
    if (!done) return done;
    json_["pre_tokenizer"] = in_sequence(std::move(list), "pretokenizers");
    return {};
  }

  Result<void> write_byte_level(Json& list) {
    const auto& rules = description_.split_rules;
    const auto& words = description_.word_spelling;
    const bool prefix = !words.empty();
    if (prefix && (words.size() > 1 || words[0].to != " " || !words[0].unless_present)) {
      return bad_input("tokenizer.json has no pre-tokenizer that puts this in front of a text");
    }
    bool spelled = false;  // ByteLevel has been, and expressions see bytes
    for (const SplitRule& rule : rules) {
      const bool whole = rule.pattern == gpt2_pattern() && rule.behavior == SplitBehavior::isolated && !rule.invert;
      const auto bytes = std::count_if(rules.begin(), rules.end(), [](const SplitRule& other) { return other.over_bytes; });
      const bool last = &rule - rules.data() + bytes + 1 == static_cast<std::ptrdiff_t>(rules.size());
      if (!spelled && !rule.over_bytes && whole && (last || prefix)) {
        list.push_back(byte_level(prefix, true));
        spelled = true;
        continue;
      }
      if (!spelled && (rule.over_bytes || prefix)) {
        list.push_back(byte_level(prefix, false));
        spelled = true;
      }
      if (spelled && !rule.over_bytes)
        return bad_input("tokenizer.json has no expressions over characters after those over bytes");
      const std::string digit = R"([0-9\xB2\xB3\xB9\xBC-\xBE])";
      if (rule.over_bytes && (rule.pattern == digit || rule.pattern == digit + "+")) {
        list.push_back({{"type", "Digits"}, {"individual_digits", rule.pattern == digit}});
      } else {
        list.push_back(split(rule));
      }
    }
    if (!spelled) list.push_back(byte_level(prefix, false));
    return {};
  }

  Result<void> write_metaspace(Json& list) {
    const auto& words = description_.word_spelling;
    bool cuts = false;  // Metaspace's own rule
    if (!words.empty()) {
      const bool spells = words[0] == NormalizerStep{.from = " ", .to = std::string(kSpaceMark)};
      const bool prefix = words.size() == 2 && words[1].kind == NormalizerStep::Kind::prepend && words[1].to == kSpaceMark &&
                          words[1].unless_present;
      if (!spells || (words.size() != 1 && !prefix)) {
        return bad_input("tokenizer.json has no pre-tokenizer that spells spaces so");
      }
      cuts = !description_.split_rules.empty() && description_.split_rules[0].pattern == literal_pattern(kSpaceMark) &&
             description_.split_rules[0].behavior == SplitBehavior::merged_with_next;
      list.push_back({{"type", "Metaspace"},
                      {"replacement", std::string(kSpaceMark)},
                      {"prepend_scheme", !prefix               ? "never"
                                         : words[1].first_only ? "first"
                                                               : "always"},
                      {"split", cuts}});
    }
    for (std::size_t i = cuts ? 1 : 0; i < description_.split_rules.size(); ++i)
      list.push_back(split(description_.split_rules[i]));
    return {};
  }

  Result<void> write_postprocessor() {
    const SpecialTokens& roles = description_.roles;
    Json single = Json::array(), pair = Json::array(), names = Json::object();
    const auto add = [&](const std::optional<std::int32_t>& id, bool wanted) {
      if (!id || !wanted) return;
      const std::string text = spelled(static_cast<std::size_t>(*id));
      const Json entry = {{"SpecialToken", {{"id", text}, {"type_id", 0}}}};
      single.push_back(entry);
      pair.push_back(entry);
      names[text] = {{"id", text}, {"ids", {*id}}, {"tokens", {text}}};
    };
    add(roles.bos, roles.add_bos);
    single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
    pair.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
    pair.push_back({{"Sequence", {{"id", "B"}, {"type_id", 1}}}});
    add(roles.eos, roles.add_eos);
    if (single.size() == 1) {
      json_["post_processor"] = nullptr;
    } else {
      json_["post_processor"] = {{"type", "TemplateProcessing"},
                                 {"single", std::move(single)},
                                 {"pair", std::move(pair)},
                                 {"special_tokens", std::move(names)}};
    }
    return {};
  }

  Result<void> write_decoder() {
    if (byte_level_kind()) {
      json_["decoder"] = byte_level(true, true);
      return {};
    }
    Json list = Json::array();
    if (description_.marks_spaces) {
      list.push_back({{"type", "Replace"}, {"pattern", {{"String", std::string(kSpaceMark)}}}, {"content", " "}});
    }
    if (description_.byte_fallback) list.push_back({{"type", "ByteFallback"}});
    list.push_back({{"type", "Fuse"}});
    if (description_.strips_prefix) list.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
    json_["decoder"] = in_sequence(std::move(list), "decoders");
    return {};
  }

  Result<void> write_model() {
    Json vocab = Json::object();
    std::unordered_set<std::string> known;
    for (std::size_t id = 0; id < description_.texts.size(); ++id) {
      if (description_.texts[id].empty()) continue;  // a hole stays one
      std::string text = spelled(id);
      if (find_invalid_utf8(text) != std::string_view::npos) {
        return bad_input(fmt::format("tokenizer.json holds text in UTF-8, which token {} is not", id));
      }
      if (!known.insert(text).second)
        return bad_input(fmt::format("tokenizer.json has one token of a text, this has two: \"{}\"", text));
      append_member(vocab, text, id);
    }
    if (!description_.scores.empty()) description_.merges = internal::merges_of_scores(description_);
    const auto& merges = description_.merges;
    const bool spaces = std::any_of(merges.begin(), merges.end(), [](const auto& merge) {
      return merge.first.find(' ') != std::string::npos || merge.second.find(' ') != std::string::npos;
    });
    Json list = Json::array();
    for (const auto& [left, right] : merges) {
      for (const std::string& part : {left, right, left + right}) {
        if (!known.contains(part)) {
          return bad_input(fmt::format(
              "tokenizer.json merges tokens only: in the merge of \"{}\" and \"{}\", \"{}\" is none", left, right, part));
        }
      }
      list.push_back(spaces ? Json::array({left, right}) : Json(left + " " + right));
    }
    const auto& unknown = description_.roles.unknown;
    json_["model"] = {{"type", "BPE"},
                      {"dropout", nullptr},
                      {"unk_token", unknown ? Json(spelled(static_cast<std::size_t>(*unknown))) : Json(nullptr)},
                      {"continuing_subword_prefix", nullptr},
                      {"end_of_word_suffix", nullptr},
                      {"fuse_unk", description_.fuse_unknown},
                      {"byte_fallback", !byte_level_kind() && description_.byte_fallback},
                      {"ignore_merges", description_.ignore_merges},
                      {"vocab", std::move(vocab)},
                      {"merges", std::move(list)}};
    return {};
  }

  VocabularyDescription description_;
  const std::vector<TokenKind>& kinds_;
  Json json_;
};

Json token_config(const Tokenizer& tokenizer, const Json& added_tokens, const std::string& chat_template) {
  const SpecialTokens& roles = tokenizer.special_tokens();
  Json json;
  json["add_bos_token"] = roles.add_bos;
  json["add_eos_token"] = roles.add_eos;
  Json decoder = Json::object();
  for (const Json& token : added_tokens) {
    Json entry = token;
    entry.erase("id");
    append_member(decoder, std::to_string(token.at("id").get<std::int32_t>()), std::move(entry));
  }
  json["added_tokens_decoder"] = std::move(decoder);
  const std::pair<const char*, std::optional<std::int32_t>> names[] = {
      {"bos_token", roles.bos},     {"eos_token", roles.eos},       {"unk_token", roles.unknown},
      {"pad_token", roles.padding}, {"sep_token", roles.separator}, {"mask_token", roles.mask}};
  for (const auto& [key, id] : names) {
    if (id) json[key] = tokenizer.token_text(*id);
  }
  if (!chat_template.empty()) json["chat_template"] = chat_template;
  json["clean_up_tokenization_spaces"] = false;
  json["tokenizer_class"] = "PreTrainedTokenizerFast";
  return json;
}

Json generation_config(const Tokenizer& tokenizer) {
  const SpecialTokens& roles = tokenizer.special_tokens();
  Json json = Json::object();
  if (roles.bos) json["bos_token_id"] = *roles.bos;
  std::vector<std::int32_t> ends;  // the first is eos
  if (roles.eos) ends.push_back(*roles.eos);
  for (const std::int32_t id : tokenizer.end_of_generation()) {
    if (roles.eos != id) ends.push_back(id);
  }
  if (ends.size() == 1) json["eos_token_id"] = ends[0];
  if (ends.size() > 1) json["eos_token_id"] = ends;
  if (roles.padding) json["pad_token_id"] = *roles.padding;
  return json;
}

std::string as_text(const Json& json) { return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n"; }

}  // namespace

std::string Tokenizer::to_huggingface_json() const {
  if (data_->published == nullptr) return own_to_huggingface(*this, *data_);
  auto json = Writer(*data_).write();
  return json ? std::move(*json) : to_json();
}

Result<HuggingFaceTokenizerFiles> huggingface_tokenizer_files(const Tokenizer& tokenizer, const std::string& chat_template) {
  const TokenizerData& data = TokenizerAccess::data(tokenizer);
  HuggingFaceTokenizerFiles files;
  Json added = Json::array();
  if (data.published == nullptr) {
    files.tokenizer_json = own_to_huggingface(tokenizer, data);
    if (tokenizer.end_of_text()) added.push_back(end_of_text_entry(*tokenizer.end_of_text()));
  } else {
    Writer writer(data);
    auto json = writer.write();
    if (!json) return tl::make_unexpected(Error{json.error().code, fmt::format("tokenizer: {}", json.error().message)});
    files.tokenizer_json = std::move(*json);
    added = writer.added_tokens();
  }
  files.tokenizer_config_json = as_text(token_config(tokenizer, added, chat_template));
  files.generation_config_json = as_text(generation_config(tokenizer));
  return files;
}

}  // namespace quern
