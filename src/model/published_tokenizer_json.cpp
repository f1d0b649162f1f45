// Published vocabularies in our own JSON, so that a corpus or checkpoint made with one carries it.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "model/byte_alphabet.hpp"
#include "model/tokenizer_internal.hpp"
#include "model/utf8.hpp"

namespace quern::internal {
namespace {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

// The roles by name, for writing and reading alike.
using Role = std::optional<std::int32_t> SpecialTokens::*;
constexpr std::pair<const char*, Role> kRoles[] = {{"bos", &SpecialTokens::bos},
                                                   {"eos", &SpecialTokens::eos},
                                                   {"eot", &SpecialTokens::eot},
                                                   {"eom", &SpecialTokens::eom},
                                                   {"unknown", &SpecialTokens::unknown},
                                                   {"padding", &SpecialTokens::padding},
                                                   {"separator", &SpecialTokens::separator},
                                                   {"mask", &SpecialTokens::mask},
                                                   {"fim_prefix", &SpecialTokens::fim_prefix},
                                                   {"fim_suffix", &SpecialTokens::fim_suffix},
                                                   {"fim_middle", &SpecialTokens::fim_middle}};
constexpr std::pair<const char*, bool SpecialTokens::*> kRoleFlags[] = {
    {"add_bos", &SpecialTokens::add_bos},
    {"add_eos", &SpecialTokens::add_eos},
    {"add_space_prefix", &SpecialTokens::add_space_prefix}};
constexpr std::pair<const char*, bool VocabularyDescription::*> kFlags[] = {
    {"ignore_merges", &VocabularyDescription::ignore_merges},
    {"byte_fallback", &VocabularyDescription::byte_fallback},
    {"fuse_unknown", &VocabularyDescription::fuse_unknown},
    {"marks_spaces", &VocabularyDescription::marks_spaces},
    {"strips_prefix", &VocabularyDescription::strips_prefix},
    {"strips_after_special", &VocabularyDescription::strips_after_special}};

// The flags that say what is done with a text beside its tokens.
constexpr const char* kHandlingFlags[] = {"fuse_unknown", "marks_spaces", "strips_prefix", "strips_after_special"};
bool VocabularyDescription::*flag_named(std::string_view name) {
  for (const auto& [key, member] : kFlags) {
    if (key == name) return member;
  }
  return nullptr;
}

// Text as a string; bytes that are not UTF-8, which JSON cannot hold, spelled in GPT-2's alphabet.
OrderedJson from_text(const std::string& text) {
  if (find_invalid_utf8(text) == std::string_view::npos) return text;
  return {{"bytes", spell_bytes(text)}};
}

OrderedJson from_texts(const std::vector<std::string>& texts) {
  OrderedJson list = OrderedJson::array();
  for (const std::string& text : texts) list.push_back(from_text(text));
  return list;
}

OrderedJson from_steps(const std::vector<NormalizerStep>& steps) {
  OrderedJson list = OrderedJson::array();
  for (const NormalizerStep& step : steps) {
    list.push_back({{"kind", static_cast<int>(step.kind)},
                    {"from", from_text(step.from)},
                    {"to", from_text(step.to)},
                    {"unless_present", step.unless_present},
                    {"first_only", step.first_only}});
  }
  return list;
}

OrderedJson from_specials(const std::vector<SpecialText>& specials) {
  OrderedJson list = OrderedJson::array();
  for (const SpecialText& special : specials) {
    list.push_back({{"text", from_text(special.text)},
                    {"id", special.id},
                    {"strip_left", special.strip_left},
                    {"strip_right", special.strip_right},
                    {"whole_word", special.whole_word}});
  }
  return list;
}

// Reads members of one object; remembers the first that is not what it must be.
class Members {
 public:
  Members(const Json& object, std::string& wrong) : object_(object), wrong_(wrong) {
    if (!object.is_object()) fail("an object");
  }

  const Json& get(const char* key) {
    static const Json nothing;
    if (!object_.is_object()) return nothing;
    const auto found = object_.find(key);
    return found == object_.end() ? nothing : *found;
  }
  void flag(const char* key, bool& out) {
    const Json& value = get(key);
    if (value.is_boolean()) {
      out = value.get<bool>();
    } else {
      fail(key);
    }
  }
  std::int64_t integer(const char* key, std::int64_t min, std::int64_t max) { return integer(get(key), key, min, max); }
  std::int64_t integer(const Json& value, const char* key, std::int64_t min, std::int64_t max) {
    const bool huge = value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX);
    if (value.is_number_integer() && !huge && value.get<std::int64_t>() >= min && value.get<std::int64_t>() <= max) {
      return value.get<std::int64_t>();
    }
    fail(key);
    return min;
  }
  std::string text(const char* key) { return text(get(key), key); }
  std::string text(const Json& value, const char* key) {
    if (value.is_string()) return value.get<std::string>();
    if (value.is_object() && value.contains("bytes") && value.at("bytes").is_string()) {
      if (auto bytes = unspell_bytes(value.at("bytes").get<std::string>())) return std::move(*bytes);
    }
    fail(key);
    return {};
  }
  const Json& list(const char* key) {
    static const Json empty = Json::array();
    const Json& value = get(key);
    if (value.is_array()) return value;
    fail(key);
    return empty;
  }
  void fail(const char* key) {
    if (wrong_.empty()) wrong_ = key;
  }

 private:
  const Json& object_;
  std::string& wrong_;
};

std::vector<std::string> to_texts(Members& members, const char* key) {
  std::vector<std::string> texts;
  for (const Json& value : members.list(key)) texts.push_back(members.text(value, key));
  return texts;
}

std::vector<NormalizerStep> to_steps(Members& members, const char* key, std::string& wrong) {
  std::vector<NormalizerStep> steps;
  for (const Json& value : members.list(key)) {
    Members entry(value, wrong);
    NormalizerStep step{.kind = static_cast<NormalizerStep::Kind>(entry.integer("kind", 0, 2)),
                        .from = entry.text("from"),
                        .to = entry.text("to")};
    entry.flag("unless_present", step.unless_present);
    entry.flag("first_only", step.first_only);
    steps.push_back(std::move(step));
  }
  return steps;
}

std::vector<SpecialText> to_specials(Members& members, const char* key, std::string& wrong) {
  std::vector<SpecialText> specials;
  for (const Json& value : members.list(key)) {
    Members entry(value, wrong);
    SpecialText special{.text = entry.text("text"), .id = static_cast<std::int32_t>(entry.integer("id", 0, INT32_MAX))};
    entry.flag("strip_left", special.strip_left);
    entry.flag("strip_right", special.strip_right);
    entry.flag("whole_word", special.whole_word);
    specials.push_back(std::move(special));
  }
  return specials;
}

}  // namespace

std::string text_handling_to_json(const VocabularyDescription& description) {
  OrderedJson json;
  for (const char* const key : kHandlingFlags) json[key] = description.*flag_named(key);
  json["normalizer"] = from_steps(description.normalizer);
  json["word_spelling"] = from_steps(description.word_spelling);
  json["special"] = from_specials(description.special);
  json["normalized"] = from_specials(description.normalized);
  return json.dump();
}

Result<void> text_handling_from_json(std::string_view text, VocabularyDescription& description) {
  const Json json = Json::parse(text, nullptr, false);
  std::string wrong;
  Members members(json, wrong);
  for (const char* const key : kHandlingFlags) members.flag(key, description.*flag_named(key));
  description.normalizer = to_steps(members, "normalizer", wrong);
  description.word_spelling = to_steps(members, "word_spelling", wrong);
  description.special = to_specials(members, "special", wrong);
  description.normalized = to_specials(members, "normalized", wrong);
  if (!wrong.empty()) return bad_input(fmt::format("`{}` is missing, or not what it must be", wrong));
  return {};
}

std::string published_to_json(const TokenizerData& data, bool with_name) {
  const VocabularyDescription description = describe_published(data);
  OrderedJson json;
  json["format"] = "quern-tokenizer";
  json["version"] = 1;
  json["kind"] = tokenizer_kind_name(data.kind);
  json["vocab_size"] = description.texts.size();
  for (const auto& [key, member] : kFlags) json[key] = description.*member;
  OrderedJson roles = OrderedJson::object();
  for (const auto& [key, member] : kRoles) {
    if (const auto& id = description.roles.*member) roles[key] = *id;
  }
  for (const auto& [key, member] : kRoleFlags) roles[key] = description.roles.*member;
  json["roles"] = std::move(roles);
  OrderedJson rules = OrderedJson::array();
  for (const SplitRule& rule : description.split_rules) {
    rules.push_back({{"pattern", from_text(rule.pattern)},
                     {"behavior", static_cast<int>(rule.behavior)},
                     {"invert", rule.invert},
                     {"empty_cuts", rule.empty_cuts},
                     {"line_anchors", rule.line_anchors},
                     {"over_bytes", rule.over_bytes}});
  }
  json["split_rules"] = std::move(rules);
  if (with_name && !description.pretokenizer_name.empty())
    json["pretokenizer_name"] = from_text(description.pretokenizer_name);
  json["normalizer"] = from_steps(description.normalizer);
  json["word_spelling"] = from_steps(description.word_spelling);
  json["special"] = from_specials(description.special);
  json["normalized"] = from_specials(description.normalized);
  json["texts"] = from_texts(description.texts);
  OrderedJson kinds = OrderedJson::array();
  for (const TokenKind kind : description.kinds) kinds.push_back(static_cast<int>(kind));
  json["kinds"] = std::move(kinds);
  json["scores"] = description.scores;
  OrderedJson merges = OrderedJson::array();
  for (const auto& [left, right] : description.merges) {
    merges.push_back(from_text(left));
    merges.push_back(from_text(right));
  }
  json["merges"] = std::move(merges);
  return json.dump();
}

Result<VocabularyDescription> published_from_json(std::string_view text) {
  const Json json = Json::parse(text, nullptr, false);
  VocabularyDescription description;
  std::string wrong;
  Members members(json, wrong);
  description.kind = members.get("kind") == tokenizer_kind_name(TokenizerKind::sentencepiece)
                         ? TokenizerKind::sentencepiece
                         : TokenizerKind::byte_level_bpe;
  for (const auto& [key, member] : kFlags) members.flag(key, description.*member);
  Members roles(members.get("roles"), wrong);
  for (const auto& [key, member] : kRoles) {
    if (!roles.get(key).is_null()) description.roles.*member = static_cast<std::int32_t>(roles.integer(key, 0, INT32_MAX));
  }
  for (const auto& [key, member] : kRoleFlags) roles.flag(key, description.roles.*member);
  for (const Json& value : members.list("split_rules")) {
    Members entry(value, wrong);
    SplitRule rule{.pattern = entry.text("pattern"),
                   .behavior = static_cast<SplitBehavior>(entry.integer("behavior", 0, 4))};
    entry.flag("invert", rule.invert);
    entry.flag("empty_cuts", rule.empty_cuts);
    entry.flag("line_anchors", rule.line_anchors);
    entry.flag("over_bytes", rule.over_bytes);
    description.split_rules.push_back(std::move(rule));
  }
  if (!members.get("pretokenizer_name").is_null()) description.pretokenizer_name = members.text("pretokenizer_name");
  description.normalizer = to_steps(members, "normalizer", wrong);
  description.word_spelling = to_steps(members, "word_spelling", wrong);
  description.special = to_specials(members, "special", wrong);
  description.normalized = to_specials(members, "normalized", wrong);
  description.texts = to_texts(members, "texts");
  for (const Json& value : members.list("kinds")) {
    description.kinds.push_back(static_cast<TokenKind>(members.integer(value, "kinds", 1, 6)));
  }
  for (const Json& value : members.list("scores")) {
    if (!value.is_number()) members.fail("scores");
    description.scores.push_back(value.is_number() ? value.get<float>() : 0.0F);
  }
  std::vector<std::string> parts = to_texts(members, "merges");
  if (parts.size() % 2 != 0) members.fail("merges");
  for (std::size_t i = 0; i + 1 < parts.size(); i += 2) {
    description.merges.emplace_back(std::move(parts[i]), std::move(parts[i + 1]));
  }
  if (!wrong.empty()) return bad_input(fmt::format("key `{}`: missing, or not what it must be", wrong));
  return description;
}

}  // namespace quern::internal
