// Tokenizers as JSON, in our own form.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "model/tokenizer_internal.hpp"

namespace quern {
namespace {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

constexpr std::string_view kFormat = "quern-tokenizer";
constexpr std::int64_t kVersion = 1;
constexpr std::string_view kGpt2Name = "gpt-2";

// A member of `object` that is an int32, or an error that names it.
bool read_int32(const Json& value, std::int32_t& out) {
  if (!value.is_number_integer()) return false;
  if (value.is_number_unsigned() ? value.get<std::uint64_t>() > INT32_MAX
                                 : (value.get<std::int64_t>() < INT32_MIN || value.get<std::int64_t>() > INT32_MAX)) {
    return false;
  }
  out = value.get<std::int32_t>();
  return true;
}

}  // namespace

std::string Tokenizer::to_json() const {
  if (data_->published != nullptr) return internal::published_to_json(*data_);
  OrderedJson json;
  json["format"] = kFormat;
  json["version"] = kVersion;
  json["kind"] = tokenizer_kind_name(kind());
  json["vocab_size"] = vocab_size();
  if (kind() == TokenizerKind::characters) json["code_points"] = data_->code_points;
  if (kind() == TokenizerKind::bpe) {
    json["pretokenizer"] = kGpt2Name;
    OrderedJson merges = OrderedJson::array();
    for (const TokenPair& pair : data_->merge_pairs) {
      merges.push_back(pair.left);
      merges.push_back(pair.right);
    }
    json["merges"] = std::move(merges);
  }
  json["special_tokens"] = OrderedJson::array();
  if (end_of_text())
    json["special_tokens"].push_back({{"id", *end_of_text()}, {"text", kEndOfText}, {"role", "end_of_text"}});
  return json.dump();
}

Result<Tokenizer> Tokenizer::from_json(std::string_view text, std::string_view where) {
  const auto wrong = [&where](const std::string& what) { return bad_input(fmt::format("{}: tokenizer: {}", where, what)); };
  const Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded()) return wrong("expected JSON, found a syntax error");
  if (!json.is_object() || json.value("format", Json()) != kFormat) {
    return wrong(fmt::format("key `format`: expected \"{}\"", kFormat));
  }
  if (json.value("version", Json()) != kVersion) {
    return wrong(fmt::format("key `version`: expected {}, found {}", kVersion, json.value("version", Json()).dump()));
  }
  const Json& made_for = json.contains("kind") ? json.at("kind") : json;
  if (made_for == tokenizer_kind_name(TokenizerKind::byte_level_bpe) ||
      made_for == tokenizer_kind_name(TokenizerKind::sentencepiece)) {
    auto description = internal::published_from_json(text);
    if (!description) return wrong(description.error().message);
    auto data = internal::build_published(std::move(*description));
    if (!data) return wrong(data.error().message);
    return Tokenizer(std::move(*data));
  }
  const auto member = [&json](const char* key) { return json.contains(key) ? json.at(key) : Json(); };
  const Json special = member("special_tokens");
  if (!special.is_array() || special.size() > 1) return wrong("key `special_tokens`: expected a list of at most one");
  bool has_end = false;
  std::int32_t end_id = -1;
  if (special.size() == 1) {
    const Json& entry = special[0];
    has_end = entry.is_object() && entry.contains("text") && entry.at("text") == kEndOfText && entry.contains("id") &&
              read_int32(entry.at("id"), end_id);
    if (!has_end) return wrong(fmt::format("key `special_tokens`: expected an id and the text {}", kEndOfText));
  }
  const auto integers = [&](const char* key, std::vector<std::int32_t>& out) {
    const Json list = member(key);
    if (!list.is_array()) return false;
    out.reserve(list.size());
    for (const Json& value : list) {
      std::int32_t number = 0;
      if (!read_int32(value, number)) return false;
      out.push_back(number);
    }
    return true;
  };
  const Json kind = member("kind");
  Result<Tokenizer> made = bad_input("");
  std::vector<std::int32_t> numbers;
  if (kind == tokenizer_kind_name(TokenizerKind::bytes)) {
    made = bytes(has_end);
  } else if (kind == tokenizer_kind_name(TokenizerKind::characters)) {
    if (!integers("code_points", numbers)) return wrong("key `code_points`: expected a list of integers");
    made = characters(numbers, has_end);
  } else if (kind == tokenizer_kind_name(TokenizerKind::bpe)) {
    if (member("pretokenizer") != kGpt2Name) {
      return wrong(fmt::format("key `pretokenizer`: expected \"{}\", found {}", kGpt2Name,
                               member("pretokenizer").dump(-1, ' ', true, Json::error_handler_t::replace)));
    }
    if (!integers("merges", numbers) || numbers.size() % 2 != 0) {
      return wrong("key `merges`: expected a list of pairs of integers, flattened");
    }
    std::vector<TokenPair> pairs;
    for (std::size_t i = 0; i < numbers.size(); i += 2) pairs.push_back({numbers[i], numbers[i + 1]});
    made = bpe(pairs, has_end);
  } else {
    return wrong("key `kind`: expected bytes, characters, bpe, byte_level_bpe or sentencepiece");
  }
  if (!made) return wrong(made.error().message);
  if (member("vocab_size") != made->vocab_size()) {
    return wrong(fmt::format("key `vocab_size`: expected {}, found {}", made->vocab_size(), member("vocab_size").dump()));
  }
  if (has_end && end_id != *made->end_of_text()) {
    return wrong(fmt::format("key `special_tokens`: expected id {}, found {}", *made->end_of_text(), end_id));
  }
  return made;
}

}  // namespace quern
