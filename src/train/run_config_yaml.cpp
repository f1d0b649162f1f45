#include "train/run_config_yaml.hpp"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <cstdint>
#include <optional>
#include <sstream>

namespace quern::internal {

namespace {

TextPosition position_of(const YAML::Mark& mark) { return {mark.line + 1, mark.column + 1}; }

/// Length of the valid UTF-8 sequence at text[i], or 0 (RFC 3629: no overlong forms, surrogates or values above 10FFFF).
std::size_t utf8_length(std::string_view text, std::size_t i) {
  const auto byte = [&](std::size_t k) { return i + k < text.size() ? static_cast<unsigned char>(text[i + k]) : 0U; };
  const auto tail = [&](std::size_t k) { return (byte(k) & 0xC0U) == 0x80U; };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return tail(1) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    if (!tail(1) || !tail(2)) return 0;
    if ((first == 0xE0 && byte(1) < 0xA0) || (first == 0xED && byte(1) > 0x9F)) return 0;
    return 3;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    if (!tail(1) || !tail(2) || !tail(3)) return 0;
    if ((first == 0xF0 && byte(1) < 0x90) || (first == 0xF4 && byte(1) > 0x8F)) return 0;
    return 4;
  }
  return 0;
}

/// Every byte is checked before the parser sees it: it would end quietly at a stray control character.
Result<void> check_text(std::string_view text, std::string_view name) {
  if (text.size() > kMaxYamlBytes) {
    return bad_input(fmt::format("{}: larger than {} bytes, which no run file needs", name, kMaxYamlBytes));
  }
  TextPosition at;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = utf8_length(text, i);
    const auto byte = static_cast<unsigned char>(text[i]);
    if (length == 0) {
      return bad_input(fmt::format("{}:{}:{}: byte 0x{:02x} is not UTF-8 text", name, at.line, at.column, byte));
    }
    const bool control = (byte < 0x20 && byte != '\t' && byte != '\n' && byte != '\r') || byte == 0x7F;
    if (control) {
      return bad_input(fmt::format("{}:{}:{}: control character 0x{:02x} in a text file", name, at.line, at.column, byte));
    }
    if (byte == '\n') {
      ++at.line;
      at.column = 1;
    } else {
      ++at.column;
    }
    i += length;
  }
  return {};
}

/// Builds the tree from the parser's events. Refuses by throwing the parser's own exception, which parse_yaml catches; the
/// parser recurses once per level, so the bound on depth also bounds its stack.
class TreeBuilder : public YAML::EventHandler {
 public:
  explicit TreeBuilder(std::string_view text) : text_(text) {}

  YamlNode take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark& /*mark*/) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t /*anchor*/) override {
    YamlNode node;
    node.position = position_of(mark);
    add(mark, std::move(node));
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t /*anchor*/) override {
    throw YAML::ParserException(mark, "aliases are not accepted in run files");
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t /*anchor*/,
                const std::string& value) override {
    YamlNode node;
    node.kind = YamlNode::Kind::scalar;
    node.position = position_of(mark);
    node.text = value;
    node.plain = tag.empty() || tag == "?";
    if (!node.plain) check_closed(mark);
    add(mark, std::move(node));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& /*tag*/, YAML::anchor_t /*anchor*/,
                       YAML::EmitterStyle::value /*style*/) override {
    open(mark, YamlNode::Kind::sequence);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& /*tag*/, YAML::anchor_t /*anchor*/,
                  YAML::EmitterStyle::value /*style*/) override {
    open(mark, YamlNode::Kind::mapping);
  }
  void OnMapEnd() override { close(); }

 private:
  /// A collection that is being filled, and in a mapping the key whose value comes next.
  struct Frame {
    YamlNode node;
    YAML::Mark mark;
    std::optional<YamlEntry> key;
  };

  /// The parser takes a quote that the text's last line end closes; this does not.
  void check_closed(const YAML::Mark& mark) const {
    auto i = static_cast<std::size_t>(mark.pos);
    if (mark.pos < 0 || i >= text_.size() || (text_[i] != '"' && text_[i] != '\'')) return;
    const char quote = text_[i];
    for (++i; i < text_.size() && text_[i] != quote; ++i) {
      if (quote == '"' && text_[i] == '\\') ++i;
    }
    if (i >= text_.size()) throw YAML::ParserException(mark, "the quote is never closed");
  }

  void open(const YAML::Mark& mark, YamlNode::Kind kind) {
    if (stack_.size() >= kMaxYamlDepth) {
      throw YAML::ParserException(mark, fmt::format("nested more than {} levels deep", kMaxYamlDepth));
    }
    Frame frame;
    frame.node.kind = kind;
    frame.node.position = position_of(mark);
    frame.mark = mark;
    stack_.push_back(std::move(frame));
  }

  void close() {
    Frame frame = std::move(stack_.back());
    stack_.pop_back();
    add(frame.mark, std::move(frame.node));
  }

  void add(const YAML::Mark& mark, YamlNode node) {
    if (stack_.empty()) {
      root_ = std::move(node);
      return;
    }
    Frame& parent = stack_.back();
    if (parent.node.kind == YamlNode::Kind::sequence) return;
    if (!parent.key) {
      if (node.kind != YamlNode::Kind::scalar)
        throw YAML::ParserException(mark, "a key must be a word, found " + describe(node));
      parent.key = YamlEntry{std::move(node.text), node.position, {}};
      return;
    }
    parent.key->value = std::move(node);
    parent.node.entries.push_back(std::move(*parent.key));
    parent.key.reset();
  }

  std::string_view text_;
  YamlNode root_;
  std::vector<Frame> stack_;
};

}  // namespace

Result<YamlNode> parse_yaml(std::string_view text, std::string_view name) {
  if (auto checked = check_text(text, name); !checked) return tl::make_unexpected(checked.error());
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    TreeBuilder builder(text);
    if (!parser.HandleNextDocument(builder)) return YamlNode{};
    YamlNode root = builder.take();
    TreeBuilder second(text);
    if (parser.HandleNextDocument(second)) {
      const TextPosition at = second.take().position;
      return bad_input(fmt::format("{}:{}:{}: a second YAML document; a run is one", name, at.line, at.column));
    }
    return root;
  } catch (const YAML::Exception& error) {
    if (error.mark.is_null()) return bad_input(fmt::format("{}: malformed YAML: {}", name, error.msg));
    const TextPosition at = position_of(error.mark);
    return bad_input(fmt::format("{}:{}:{}: malformed YAML: {}", name, at.line, at.column, error.msg));
  } catch (const std::exception& error) {
    return bad_input(fmt::format("{}: malformed YAML: {}", name, error.what()));
  }
}

std::string describe(const YamlNode& node) {
  switch (node.kind) {
    case YamlNode::Kind::null:
      return "nothing";
    case YamlNode::Kind::sequence:
      return "a list";
    case YamlNode::Kind::mapping:
      return "a mapping";
    case YamlNode::Kind::scalar:
      break;
  }
  std::size_t shown = 0;
  while (shown < node.text.size() && shown < 60) {
    const std::size_t length = utf8_length(node.text, shown);
    shown += length == 0 ? 1 : length;
  }
  const std::string cut = quote_yaml(std::string_view(node.text).substr(0, shown));
  const std::string_view more = shown < node.text.size() ? "..." : "";
  return node.plain ? fmt::format("{}{}", std::string_view(cut).substr(1, cut.size() - 2), more)
                    : fmt::format("the text {}{}", cut, more);
}

std::string quote_yaml(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c == '\r') {
      out += "\\r";
    } else if (byte < 0x20 || byte == 0x7F) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  return out + '"';
}

}  // namespace quern::internal
