// The tokenizer of a Hugging Face folder: tokenizer.json, tokenizer.model or vocab.json with merges.txt, and what the files
// beside it say.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <tuple>
#include <unordered_map>

#include "model/atomic_file.hpp"
#include "model/sentencepiece_model.hpp"
#include "model/tokenizer_files.hpp"
#include "model/tokenizer_internal.hpp"

namespace quern {
namespace {

using Json = nlohmann::json;
using internal::VocabularyDescription;

constexpr std::size_t kMaxFileBytes = std::size_t{1} << 28;
constexpr std::size_t kMaxHoles = 65'536;  // ids that files may leave out

const Json& member(const Json& object, std::string_view key) {
  static const Json nothing;
  if (!object.is_object()) return nothing;
  const auto found = object.find(key);
  return found == object.end() ? nothing : *found;
}

// A token's text: a string, or the `content` of an object.
std::string token_text(const Json& value) {
  const Json& text = value.is_object() ? member(value, "content") : value;
  return text.is_string() ? text.get<std::string>() : std::string();
}

/// Reads one folder.
class Folder {
 public:
  explicit Folder(std::string path) : path_(std::move(path)) {}

  Result<Tokenizer> read() {
    for (const auto& [name, json] :
         std::initializer_list<std::pair<const char*, Json*>>{{"tokenizer_config.json", &tokenizer_config_},
                                                              {"special_tokens_map.json", &special_tokens_},
                                                              {"config.json", &config_},
                                                              {"generation_config.json", &generation_config_}}) {
      if (auto done = read_json(name, *json); !done) return tl::make_unexpected(done.error());
    }
    auto done = exists("tokenizer.json")                       ? read_tokenizer_json()
                : exists("tokenizer.model")                    ? read_sentencepiece()
                : exists("vocab.json") && exists("merges.txt") ? read_merges()
                                                               : nothing_there();
    if (!done) return tl::make_unexpected(done.error());
    for (const auto step : {&Folder::read_names, &Folder::read_ids, &Folder::read_ends, &Folder::read_flags}) {
      if (auto right = (this->*step)(); !right) return tl::make_unexpected(right.error());
    }
    auto data = internal::build_published(std::move(description_));
    if (!data) return wrong(source_, data.error().message);
    return internal::TokenizerAccess::make(std::move(*data));
  }

 private:
  [[nodiscard]] std::string file(std::string_view name) const { return (std::filesystem::path(path_) / name).string(); }
  [[nodiscard]] bool exists(std::string_view name) const {
    std::error_code error;
    return std::filesystem::is_regular_file(file(name), error);
  }
  [[nodiscard]] tl::unexpected<Error> wrong(std::string_view name, const std::string& what) const {
    return bad_input(fmt::format("{}: {}", file(name), what));
  }
  Result<void> nothing_there() {
    return bad_input(fmt::format(
        "{}: expected tokenizer.json, tokenizer.model, or vocab.json and merges.txt, found none of them", path_));
  }

  Result<void> read_json(const char* name, Json& json) {
    if (!exists(name)) return {};
    const auto text = read_whole_file(file(name), kMaxFileBytes);
    if (!text) return tl::make_unexpected(text.error());
    json = Json::parse(*text, nullptr, false);
    if (!json.is_object()) return wrong(name, "expected a JSON object");
    return {};
  }

  // ---- The vocabulary

  Result<void> describe(std::string_view json) {
    auto description = internal::describe_huggingface(json);
    if (!description) return wrong(source_, "tokenizer: " + description.error().message);
    description_ = std::move(*description);
    return {};
  }

  Result<void> read_tokenizer_json() {
    source_ = "tokenizer.json";
    const auto text = read_whole_file(file(source_), kMaxFileBytes);
    if (!text) return tl::make_unexpected(text.error());
    return describe(*text);
  }

  // Tokens that were added to a vocabulary, by id: the texts, and whether they are special.
  Result<std::vector<std::pair<std::size_t, std::pair<std::string, bool>>>> added_tokens(std::size_t limit) {
    std::vector<std::pair<std::size_t, std::pair<std::string, bool>>> list;
    const Json& decoder = member(tokenizer_config_, "added_tokens_decoder");
    if (decoder.is_object()) {
      for (const auto& [key, value] : decoder.items()) {
        const bool digits = !key.empty() && key.size() < 10 && key.find_first_not_of("0123456789") == std::string::npos;
        const std::size_t id = digits ? std::stoul(key) : limit;
        if (id >= limit || token_text(value).empty()) {
          return wrong("tokenizer_config.json",
                       fmt::format("key `added_tokens_decoder`: \"{}\": expected an id below {} and a "
                                   "`content`",
                                   key.substr(0, 100), limit));
        }
        list.push_back({id, {token_text(value), member(value, "special") == true}});
      }
      return list;
    }
    Json added;
    if (auto done = read_json("added_tokens.json", added); !done) return tl::make_unexpected(done.error());
    if (!added.is_object()) return list;
    for (const auto& [text, value] : added.items()) {
      const bool right = value.is_number_unsigned() && value.get<std::uint64_t>() < limit && !text.empty();
      if (!right) {
        return wrong("added_tokens.json", fmt::format("\"{}\": expected an id below {}", text.substr(0, 100), limit));
      }
      list.push_back(
          {static_cast<std::size_t>(value.get<std::uint64_t>()), {text, text.starts_with('<') && text.ends_with('>')}});
    }
    return list;
  }

  Result<void> read_sentencepiece() {
    source_ = "tokenizer.model";
    const auto bytes = read_whole_file(file(source_), kMaxFileBytes);
    if (!bytes) return tl::make_unexpected(bytes.error());
    auto description = internal::parse_sentencepiece_model(*bytes);
    if (!description) return wrong(source_, description.error().message);
    description_ = std::move(*description);
    const auto added = added_tokens(description_.texts.size() + kMaxHoles);
    if (!added) return tl::make_unexpected(added.error());
    for (const auto& [id, token] : *added) {
      if (id >= description_.texts.size()) {
        description_.texts.resize(id + 1);
        description_.kinds.resize(id + 1, TokenKind::unused);
        description_.scores.resize(id + 1, 0.0F);
      }
      TokenKind& kind = description_.kinds[id];
      if (description_.texts[id] == token.first && kind != TokenKind::normal && kind != TokenKind::unused) continue;
      description_.texts[id] = token.first;
      kind = token.second ? TokenKind::control : TokenKind::user_defined;
    }
    internal::reserve_ends_of_generation(description_);
    internal::add_gguf_text_handling(description_, false);
    return {};
  }

  // GPT-2's own two files.
  Result<void> read_merges() {
    source_ = "vocab.json";
    const Json& name = member(tokenizer_config_, "tokenizer_class");
    if (name.is_string() && !name.get<std::string>().starts_with("GPT2Tokenizer")) {
      return wrong("tokenizer_config.json",
                   fmt::format("key `tokenizer_class`: without a tokenizer.json only GPT2Tokenizer is "
                               "known, found {}",
                               name.get<std::string>()));
    }
    Json vocab;
    if (auto done = read_json("vocab.json", vocab); !done) return done;
    const auto text = read_whole_file(file("merges.txt"), kMaxFileBytes);
    if (!text) return tl::make_unexpected(text.error());
    Json merges = Json::array();
    for (std::size_t begin = 0; begin < text->size();) {
      const std::size_t end = std::min(text->find('\n', begin), text->size());
      std::string line = text->substr(begin, end - begin);
      if (line.ends_with('\r')) line.pop_back();
      if (!line.empty() && !(begin == 0 && line.starts_with("#version"))) merges.push_back(std::move(line));
      begin = end + 1;
    }
    Json specials = Json::array();
    const auto add = [&](std::size_t id, const std::string& token, bool special) {
      specials.push_back({{"id", id}, {"content", token}, {"special", special}, {"normalized", false}});
    };
    const auto added = added_tokens(vocab.size() + kMaxHoles);
    if (!added) return tl::make_unexpected(added.error());
    for (const auto& [id, token] : *added) add(id, token.first, token.second);
    const Json& end_of_text = member(vocab, kEndOfText);
    if (added->empty() && end_of_text.is_number_unsigned())
      add(end_of_text.get<std::size_t>(), std::string(kEndOfText), true);
    const bool prefix = member(tokenizer_config_, "add_prefix_space") == true;
    const Json json = {{"added_tokens", std::move(specials)},
                       {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", prefix}}},
                       {"decoder", {{"type", "ByteLevel"}}},
                       {"model", {{"type", "BPE"}, {"vocab", std::move(vocab)}, {"merges", std::move(merges)}}}};
    return describe(json.dump(-1, ' ', false, Json::error_handler_t::replace));
  }

  // ---- What has a role

  // tokenizer_config.json's (or special_tokens_map.json's) bos_token and the like.
  Result<void> read_names() {
    SpecialTokens& roles = description_.roles;
    std::unordered_map<std::string_view, std::size_t> ids;
    const auto special = [this](std::size_t id) { return description_.kinds[id] != TokenKind::normal; };
    for (std::size_t id = 0; id < description_.texts.size(); ++id) {
      const auto [at, fresh] = ids.emplace(description_.texts[id], id);
      if (!fresh && special(id) && !special(at->second)) at->second = id;
    }
    for (const auto& [key, role] :
         std::initializer_list<std::pair<const char*, std::optional<std::int32_t>*>>{{"bos_token", &roles.bos},
                                                                                     {"eos_token", &roles.eos},
                                                                                     {"pad_token", &roles.padding},
                                                                                     {"sep_token", &roles.separator},
                                                                                     {"mask_token", &roles.mask}}) {
      const bool configured = tokenizer_config_.is_object() && tokenizer_config_.contains(key);
      const std::string text = token_text(member(configured ? tokenizer_config_ : special_tokens_, key));
      if (text.empty()) continue;
      const auto found = ids.find(text);
      if (found == ids.end()) {
        return wrong(configured ? "tokenizer_config.json" : "special_tokens_map.json",
                     fmt::format("key `{}`: expected a token of the vocabulary, found \"{}\"", key, text.substr(0, 100)));
      }
      *role = static_cast<std::int32_t>(found->second);
      named_ |= std::string_view(key) == "bos_token" ? 1U : std::string_view(key) == "eos_token" ? 2U : 0U;
      TokenKind& kind = description_.kinds[found->second];
      if (kind == TokenKind::user_defined) kind = TokenKind::control;
    }
    return {};
  }

  // A token id, or several, of a configuration.
  Result<std::vector<std::int32_t>> ids_of(const char* name, const Json& config, const char* key) {
    const Json& value = member(config, key);
    std::vector<std::int32_t> ids;
    if (value.is_null()) return ids;
    for (const Json& entry : value.is_array() ? value : Json::array({value})) {
      const bool right = entry.is_number_unsigned() && entry.get<std::uint64_t>() < description_.texts.size();
      if (!right) {
        // Rows of the embedding beyond the tokenizer's ids, and -1 for none, stand in configurations of real models.
        if (entry.is_number_integer()) continue;
        return wrong(name, fmt::format("key `{}`: expected token ids, found {}", key,
                                       entry.dump(-1, ' ', true, Json::error_handler_t::replace).substr(0, 100)));
      }
      ids.push_back(entry.get<std::int32_t>());
    }
    return ids;
  }

  // config.json's and generation_config.json's ids, where no file named the token.
  Result<void> read_ids() {
    SpecialTokens& roles = description_.roles;
    for (const auto& [name, config] : std::initializer_list<std::pair<const char*, const Json*>>{
             {"config.json", &config_}, {"generation_config.json", &generation_config_}}) {
      for (const auto& [key, role, bit] :
           std::initializer_list<std::tuple<const char*, std::optional<std::int32_t>*, unsigned>>{
               {"bos_token_id", &roles.bos, 1U}, {"eos_token_id", &roles.eos, 2U}}) {
        const auto ids = ids_of(name, *config, key);
        if (!ids) return tl::make_unexpected(ids.error());
        if (!ids->empty() && (named_ & bit) == 0) *role = ids->front();
      }
      const auto padding = ids_of(name, *config, "pad_token_id");
      if (!padding) return tl::make_unexpected(padding.error());
      if (!padding->empty() && !roles.padding) roles.padding = padding->front();
    }
    return {};
  }

  // Further tokens that end generation go where there is room: end of turn, end of message. Those with a known name need
  // none.
  Result<void> read_ends() {
    SpecialTokens& roles = description_.roles;
    for (const auto& [name, config] : std::initializer_list<std::pair<const char*, const Json*>>{
             {"generation_config.json", &generation_config_}, {"config.json", &config_}}) {
      const auto ids = ids_of(name, *config, "eos_token_id");
      if (!ids) return tl::make_unexpected(ids.error());
      for (const std::int32_t id : *ids) {
        const auto known = internal::find_ends_of_generation(description_.texts, description_.kinds, roles);
        if (std::binary_search(known.begin(), known.end(), id)) continue;
        if (!roles.eot) {
          roles.eot = id;
        } else if (!roles.eom) {
          roles.eom = id;
        }
      }
    }
    return {};
  }

  Result<void> read_flags() {
    SpecialTokens& roles = description_.roles;
    for (const auto& [key, flag] : std::initializer_list<std::pair<const char*, bool*>>{{"add_bos_token", &roles.add_bos},
                                                                                        {"add_eos_token", &roles.add_eos}}) {
      const Json& value = member(tokenizer_config_, key);
      if (value.is_boolean()) *flag = value.get<bool>();
      if (!value.is_boolean() && !value.is_null()) {
        return wrong("tokenizer_config.json", fmt::format("key `{}`: expected true or false", key));
      }
    }
    roles.add_bos = roles.add_bos && roles.bos.has_value();
    roles.add_eos = roles.add_eos && roles.eos.has_value();
    return {};
  }

  std::string path_;
  const char* source_ = "";
  Json tokenizer_config_, special_tokens_, config_, generation_config_;
  VocabularyDescription description_;
  unsigned named_ = 0;  // 1: bos, 2: eos
};

}  // namespace

Result<Tokenizer> load_huggingface_tokenizer(const std::string& folder) { return Folder(folder).read(); }

}  // namespace quern
