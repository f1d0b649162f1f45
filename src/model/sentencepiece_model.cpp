#include "model/sentencepiece_model.hpp"

#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <tuple>

namespace quern::internal {
namespace {

constexpr std::size_t kMaxPieces = std::size_t{1} << 24;

// Fields of sentencepiece_model.proto.
constexpr std::uint64_t kPieces = 1, kTrainer = 2, kNormalizer = 3;
constexpr std::uint64_t kPieceText = 1, kPieceScore = 2, kPieceType = 3;
constexpr std::uint64_t kModelType = 3, kSpaceSuffix = 24, kByteFallback = 35, kUnknownId = 40, kBosId = 41, kEosId = 42,
                        kPadId = 43;
constexpr std::uint64_t kTable = 2, kDummyPrefix = 3, kRemoveSpaces = 4, kEscapeSpaces = 5;
constexpr std::uint64_t kModelBpe = 2;

/// One field of a message: a number (also the bits of a fixed one), or bytes.
struct Field {
  std::uint64_t number = 0;
  std::uint64_t value = 0;
  std::string_view bytes;
  bool has_bytes = false;
};

/// Reads a message's fields one after another.
class Message {
 public:
  explicit Message(std::string_view bytes) : bytes_(bytes) {}

  /// The next field; false at the end, or (then damaged()) where the bytes are no message.
  bool next(Field& field) {
    field = {};
    if (bytes_.empty() || damaged_) return false;
    std::uint64_t tag = 0, length = 0;
    if (!varint(tag)) return fail();
    field.number = tag >> 3;
    switch (tag & 7U) {
      case 0:
        return varint(field.value) || fail();
      case 1:
        return fixed(8, field.value) || fail();
      case 5:
        return fixed(4, field.value) || fail();
      case 2:
        if (!varint(length) || length > bytes_.size()) return fail();
        field.bytes = bytes_.substr(0, static_cast<std::size_t>(length));
        field.has_bytes = true;
        bytes_.remove_prefix(static_cast<std::size_t>(length));
        return true;
      default:  // groups, which the format does not use
        return fail();
    }
  }
  [[nodiscard]] bool damaged() const { return damaged_; }

 private:
  bool fail() {
    damaged_ = true;
    return false;
  }
  bool varint(std::uint64_t& value) {
    value = 0;
    for (unsigned shift = 0; shift < 64 && !bytes_.empty(); shift += 7) {
      const auto byte = static_cast<unsigned char>(bytes_[0]);
      bytes_.remove_prefix(1);
      value |= std::uint64_t{byte & 0x7FU} << shift;
      if (byte < 0x80) return true;
    }
    return false;
  }
  bool fixed(std::size_t count, std::uint64_t& value) {
    if (bytes_.size() < count) return false;
    for (std::size_t i = 0; i < count; ++i) value |= std::uint64_t{static_cast<unsigned char>(bytes_[i])} << (8 * i);
    bytes_.remove_prefix(count);
    return true;
  }
  std::string_view bytes_;
  bool damaged_ = false;
};

Result<void> read_piece(std::string_view bytes, VocabularyDescription& description) {
  const std::size_t id = description.texts.size();
  std::string text;
  float score = 0;
  std::uint64_t type = 1;
  Message message(bytes);
  for (Field field; message.next(field);) {
    if (field.number == kPieceText && field.has_bytes) text = field.bytes;
    if (field.number == kPieceScore && !field.has_bytes)
      score = std::bit_cast<float>(static_cast<std::uint32_t>(field.value));
    if (field.number == kPieceType && !field.has_bytes) type = field.value;
  }
  if (message.damaged()) return bad_input(fmt::format("piece {} is damaged", id));
  if (text.empty()) return bad_input(fmt::format("piece {} has no text", id));
  if (type < 1 || type > 6) return bad_input(fmt::format("piece {}: expected a type from 1 to 6, found {}", id, type));
  if (!std::isfinite(score)) return bad_input(fmt::format("piece {}: its score is not a number", id));
  if (id == kMaxPieces) return bad_input(fmt::format("expected at most {} pieces", kMaxPieces));
  description.texts.push_back(std::move(text));
  description.scores.push_back(score);
  description.kinds.push_back(static_cast<TokenKind>(type));  // the same numbers as GGUF's
  return {};
}

struct Ids {
  std::int64_t unknown = 0, bos = 1, eos = 2, pad = -1;  // the format's defaults
};

Result<void> read_trainer(std::string_view bytes, VocabularyDescription& description, Ids& ids) {
  std::uint64_t model = 1;
  bool suffix = false;
  Message message(bytes);
  for (Field field; message.next(field);) {
    if (field.has_bytes) continue;
    const auto id = static_cast<std::int64_t>(field.value);
    if (field.number == kModelType) model = field.value;
    if (field.number == kSpaceSuffix) suffix = field.value != 0;
    if (field.number == kByteFallback) description.byte_fallback = field.value != 0;
    if (field.number == kUnknownId) ids.unknown = id;
    if (field.number == kBosId) ids.bos = id;
    if (field.number == kEosId) ids.eos = id;
    if (field.number == kPadId) ids.pad = id;
  }
  if (message.damaged()) return bad_input("the trainer's part is damaged");
  if (model != kModelBpe) {
    return bad_input(fmt::format("expected a BPE model (type 2), found type {}{}", model, model == 1 ? " (unigram)" : ""));
  }
  if (suffix) return bad_input("a vocabulary with spaces at the ends of words is not supported");
  return {};
}

Result<void> read_normalizer(std::string_view bytes, VocabularyDescription& description) {
  bool prefix = true, remove = true, escape = true, table = false;
  Message message(bytes);
  for (Field field; message.next(field);) {
    if (field.number == kTable && field.has_bytes) table = !field.bytes.empty();
    if (field.has_bytes) continue;
    if (field.number == kDummyPrefix) prefix = field.value != 0;
    if (field.number == kRemoveSpaces) remove = field.value != 0;
    if (field.number == kEscapeSpaces) escape = field.value != 0;
  }
  if (message.damaged()) return bad_input("the normalizer's part is damaged");
  if (table) return bad_input("a normalizer with a table of characters is not supported");
  if (remove) return bad_input("a normalizer that removes repeated spaces is not supported");
  if (!escape) return bad_input("a vocabulary that does not spell spaces as U+2581 is not supported");
  description.roles.add_space_prefix = prefix;
  return {};
}

}  // namespace

Result<VocabularyDescription> parse_sentencepiece_model(std::string_view bytes) {
  VocabularyDescription description;
  description.kind = TokenizerKind::sentencepiece;
  Ids ids;
  bool trained = false, normalized = false;
  Message message(bytes);
  for (Field field; message.next(field);) {
    if (!field.has_bytes) continue;
    Result<void> done;
    if (field.number == kPieces) done = read_piece(field.bytes, description);
    if (field.number == kTrainer) trained = true, done = read_trainer(field.bytes, description, ids);
    if (field.number == kNormalizer) normalized = true, done = read_normalizer(field.bytes, description);
    if (!done) return tl::make_unexpected(done.error());
  }
  if (message.damaged()) return bad_input("expected a protocol buffer, found something else, or one that is cut short");
  if (description.texts.empty()) return bad_input("expected pieces, found none");
  if (!trained || !normalized) return bad_input("the trainer's or the normalizer's part is missing");
  const auto role = [&](const char* name, std::int64_t id, std::optional<std::int32_t>& out) -> Result<void> {
    if (id < 0) return {};
    if (static_cast<std::uint64_t>(id) >= description.texts.size()) {
      return bad_input(fmt::format("{}: expected an id below the {} pieces, found {}", name, description.texts.size(), id));
    }
    out = static_cast<std::int32_t>(id);
    return {};
  };
  SpecialTokens& roles = description.roles;
  const std::tuple<const char*, std::int64_t, std::optional<std::int32_t>*> named[] = {
      {"unk_id", ids.unknown, &roles.unknown},
      {"bos_id", ids.bos, &roles.bos},
      {"eos_id", ids.eos, &roles.eos},
      {"pad_id", ids.pad, &roles.padding}};
  for (const auto& [name, id, out] : named) {
    if (auto done = role(name, id, *out); !done) return tl::make_unexpected(done.error());
  }
  roles.add_bos = roles.bos.has_value();
  return description;
}

}  // namespace quern::internal
