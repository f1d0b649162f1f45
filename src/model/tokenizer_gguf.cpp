// The tokenizers of GGUF models: metadata keys tokenizer.ggml.*.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "model/gguf_file.hpp"
#include "model/pretokenizer_names.hpp"
#include "model/tokenizer_internal.hpp"

namespace quern {
namespace {

using internal::VocabularyDescription;

constexpr std::string_view kPrefix = "tokenizer.ggml.";

std::string key(std::string_view name) { return std::string(kPrefix) + std::string(name); }

// Reads one file's vocabulary; every step is an error that names the key.
class Reader {
 public:
  explicit Reader(const GgufFile& file) : file_(file) {}

  Result<VocabularyDescription> read() {
    const auto model = file_.require_string(key("model"));
    if (!model) return tl::make_unexpected(model.error());
    if (auto done = read_tokens(); !done) return tl::make_unexpected(done.error());
    if (*model == "gpt2") {
      description_.kind = TokenizerKind::byte_level_bpe;
      if (auto done = read_byte_level(); !done) return tl::make_unexpected(done.error());
    } else if (*model == "llama") {
      description_.kind = TokenizerKind::sentencepiece;
      if (auto done = read_scores(); !done) return tl::make_unexpected(done.error());
    } else if (*model == "gemma4") {
      description_.kind = TokenizerKind::sentencepiece;
      if (auto done = read_gemma4(); !done) return tl::make_unexpected(done.error());
    } else {
      return tl::make_unexpected(wrong("model", fmt::format("expected llama, gpt2 or gemma4, found \"{}\"", *model)));
    }
    if (auto done = read_roles(); !done) return tl::make_unexpected(done.error());
    if (auto done = read_text_handling(); !done) return tl::make_unexpected(done.error());
    return std::move(description_);
  }

 private:
  [[nodiscard]] Error wrong(std::string_view name, const std::string& what) const {
    return Error{ErrorCode::bad_input, fmt::format("{}: key `{}`: {}", file_.name(), key(name), what)};
  }

  Result<void> read_tokens() {
    const auto tokens = file_.strings(key("tokens"));
    if (!tokens) return tl::make_unexpected(tokens.error());
    if (tokens->empty()) return tl::make_unexpected(wrong("tokens", "expected a list of tokens, found none"));
    description_.texts.assign(tokens->begin(), tokens->end());
    const auto kinds = file_.integers(key("token_type"));
    if (!kinds) return tl::make_unexpected(kinds.error());
    if (!kinds->empty() && kinds->size() != tokens->size()) {
      return tl::make_unexpected(wrong(
          "token_type", fmt::format("expected one for each of the {} tokens, found {}", tokens->size(), kinds->size())));
    }
    description_.kinds.assign(tokens->size(), TokenKind::normal);
    for (std::size_t id = 0; id < kinds->size(); ++id) {
      const std::int64_t kind = (*kinds)[id];
      if (kind < 0 || kind > 6) {
        return tl::make_unexpected(wrong("token_type", fmt::format("expected 1 to 6, found {} for token {}", kind, id)));
      }
      description_.kinds[id] = kind == 0 ? TokenKind::normal : static_cast<TokenKind>(kind);
    }
    typed_ = !kinds->empty();
    return {};
  }

  Result<void> read_merges(std::vector<std::pair<std::string, std::string>>& merges) {
    const auto lines = file_.strings(key("merges"));
    if (!lines) return tl::make_unexpected(lines.error());
    merges.reserve(lines->size());
    for (const std::string_view line : *lines) {
      const std::size_t space = line.find(' ', 1);  // the left part may begin with one
      if (space == std::string_view::npos || space + 1 == line.size()) {
        return tl::make_unexpected(
            wrong("merges", fmt::format("expected two parts, found \"{}\" at {}", line.substr(0, 100), merges.size())));
      }
      merges.emplace_back(line.substr(0, space), line.substr(space + 1));
    }
    return {};
  }

  Result<void> read_byte_level() {
    const auto pre = file_.string_or(key("pre"), "default");
    if (!pre) return tl::make_unexpected(pre.error());
    auto named = named_pretokenizer(*pre);
    if (!named) return tl::make_unexpected(wrong("pre", fmt::format("the pre-tokenizer \"{}\" is not known", *pre)));
    description_.split_rules = std::move(named->rules);
    description_.pretokenizer_name = *pre;
    description_.ignore_merges = named->ignore_merges;
    description_.roles.add_bos = named->add_bos;
    return read_merges(description_.merges);
  }

  Result<void> read_scores() {
    auto scores = file_.floats(key("scores"));
    if (!scores) return tl::make_unexpected(scores.error());
    if (scores->size() != description_.texts.size()) {
      return tl::make_unexpected(wrong("scores", fmt::format("expected one for each of the {} tokens, found {}",
                                                             description_.texts.size(), scores->size())));
    }
    description_.scores = std::move(*scores);
    description_.byte_fallback = true;
    description_.roles.add_bos = true;
    description_.roles.add_space_prefix = true;
    const auto count = static_cast<std::int32_t>(description_.texts.size());
    if (count > 2) {  // SentencePiece's own order, where the file does not say
      description_.roles.unknown = 0;
      description_.roles.bos = 1;
      description_.roles.eos = 2;
    }
    return {};
  }

  // Merges over characters, each line of text alone.
  Result<void> read_gemma4() {
    description_.byte_fallback = true;
    description_.split_rules = {{.pattern = std::string(kGemma4Pattern)}};
    return read_merges(description_.merges);
  }

  Result<void> read_role(std::string_view name, std::optional<std::int32_t>& role) {
    const std::string full = key(name);
    if (file_.find(full) == nullptr) return {};
    const auto id = file_.require_integer(full, -1, UINT32_MAX);
    if (!id) return tl::make_unexpected(id.error());
    role.reset();
    if (*id == -1 || *id == UINT32_MAX) return {};  // "none", as some writers put it
    if (*id >= static_cast<std::int64_t>(description_.texts.size())) {
      return tl::make_unexpected(
          wrong(name, fmt::format("expected an id below the {} tokens, found {}", description_.texts.size(), *id)));
    }
    role = static_cast<std::int32_t>(*id);
    return {};
  }

  Result<void> read_roles() {
    SpecialTokens& roles = description_.roles;
    const std::pair<std::string_view, std::optional<std::int32_t>*> ids[] = {{"bos_token_id", &roles.bos},
                                                                             {"eos_token_id", &roles.eos},
                                                                             {"eot_token_id", &roles.eot},
                                                                             {"eom_token_id", &roles.eom},
                                                                             {"unknown_token_id", &roles.unknown},
                                                                             {"padding_token_id", &roles.padding},
                                                                             {"seperator_token_id", &roles.separator},
                                                                             {"mask_token_id", &roles.mask},
                                                                             {"fim_pre_token_id", &roles.fim_prefix},
                                                                             {"fim_suf_token_id", &roles.fim_suffix},
                                                                             {"fim_mid_token_id", &roles.fim_middle}};
    for (const auto& [name, role] : ids) {
      if (auto done = read_role(name, *role); !done) return done;
    }
    const std::pair<std::string_view, bool*> flags[] = {
        {"add_bos_token", &roles.add_bos}, {"add_eos_token", &roles.add_eos}, {"add_space_prefix", &roles.add_space_prefix}};
    for (const auto& [name, flag] : flags) {
      const auto value = file_.bool_or(key(name), *flag);
      if (!value) return tl::make_unexpected(value.error());
      *flag = *value;
    }
    internal::reserve_ends_of_generation(description_);
    if (!roles.eot) roles.eot = named_end_of_turn();
    if (description_.kind == TokenizerKind::byte_level_bpe) roles.add_space_prefix = false;  // they put nothing in front
    if (!typed_) {
      // Without types, what has a role is control, and what is spelled as a byte is one.
      for (const auto& id : {roles.bos, roles.eos, roles.eot, roles.eom, roles.padding}) {
        if (id) description_.kinds[static_cast<std::size_t>(*id)] = TokenKind::control;
      }
      if (roles.unknown) description_.kinds[static_cast<std::size_t>(*roles.unknown)] = TokenKind::unknown;
    }
    return {};
  }

  [[nodiscard]] std::optional<std::int32_t> named_end_of_turn() const {
    for (const std::string_view name : {"<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<EOT>"}) {
      for (std::size_t id = 0; id < description_.texts.size(); ++id) {
        if (description_.texts[id] == name && description_.kinds[id] == TokenKind::control)
          return static_cast<std::int32_t>(id);
      }
    }
    return std::nullopt;
  }

  Result<void> read_text_handling() {
    const auto own = file_.string_or(internal::kTextHandlingKey, "");
    if (!own) return tl::make_unexpected(own.error());
    if (!own->empty()) {
      auto done = internal::text_handling_from_json(*own, description_);
      if (done) return {};
      return bad_input(fmt::format("{}: key `{}`: {}", file_.name(), internal::kTextHandlingKey, done.error().message));
    }
    // Phi-3's tokens take the white space after them, which the file does not say; its name does.
    std::string name(file_.string_or("general.name", "").value_or(""));
    std::transform(name.begin(), name.end(), name.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    internal::add_gguf_text_handling(description_,
                                     name.find("phi-3") != std::string::npos || name.find("phi3") != std::string::npos);
    return {};
  }

  const GgufFile& file_;
  VocabularyDescription description_;
  bool typed_ = false;
};

}  // namespace

void internal::add_gguf_text_handling(VocabularyDescription& description, bool phi3) {
  const bool sentencepiece = description.kind == TokenizerKind::sentencepiece;
  if (sentencepiece) {
    const bool prefix = description.roles.add_space_prefix;
    if (prefix) description.word_spelling.push_back({.kind = NormalizerStep::Kind::prepend, .from = {}, .to = " "});
    description.word_spelling.push_back({.from = " ", .to = std::string(kSpaceMark)});
    description.strips_prefix = description.strips_after_special = prefix;
  }
  for (std::size_t id = 0; id < description.texts.size(); ++id) {
    const TokenKind kind = description.kinds[id];
    if (kind != TokenKind::control && kind != TokenKind::unknown && kind != TokenKind::user_defined) continue;
    SpecialText special{.text = description.texts[id], .id = static_cast<std::int32_t>(id)};
    special.strip_right = phi3 && special.text != "<unk>" && special.text != "<s>" && special.text != "<|endoftext|>";
    if (kind == TokenKind::user_defined && sentencepiece) {
      // Some writers spell the spaces of such tokens as the vocabulary does; the text has plain ones.
      special.text = replace_all(special.text, kSpaceMark, " ");
    }
    description.special.push_back(std::move(special));
  }
}

Result<Tokenizer> Tokenizer::from_gguf(const GgufFile& file) {
  auto description = Reader(file).read();
  if (!description) return tl::make_unexpected(description.error());
  auto data = internal::build_published(std::move(*description));
  if (!data) {
    return tl::make_unexpected(
        Error{data.error().code, fmt::format("{}: tokenizer: {}", file.name(), data.error().message)});
  }
  return Tokenizer(std::move(*data));
}

}  // namespace quern
