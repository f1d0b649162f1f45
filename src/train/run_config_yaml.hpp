// YAML text as a small tree with positions: the part of YAML that run files use, bounded against hostile input.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "math/result.hpp"

namespace quern::internal {

/// A place in a text, counted from 1.
struct TextPosition {
  int line = 1;
  int column = 1;
};

struct YamlEntry;

/// One YAML node. Sequences keep no children: no key of a run takes one.
struct YamlNode {
  enum class Kind { null, scalar, sequence, mapping };
  Kind kind = Kind::null;
  TextPosition position;
  std::string text;                ///< of a scalar
  bool plain = false;              ///< scalar without quotes (and without a !!str tag): may be a number or boolean
  std::vector<YamlEntry> entries;  ///< of a mapping, in order, repeated keys included
};

struct YamlEntry {
  std::string key;
  TextPosition position;
  YamlNode value;
};

/// Largest text and deepest nesting that are read.
inline constexpr std::size_t kMaxYamlBytes = std::size_t{1} << 20;
inline constexpr std::size_t kMaxYamlDepth = 16;

/// Parses one document. Errors are "NAME:LINE:COLUMN: ...": text that is not UTF-8 or holds control characters, malformed
/// YAML, nesting beyond kMaxYamlDepth, aliases, keys that are not scalars, a second document. An empty document is `null`.
[[nodiscard]] Result<YamlNode> parse_yaml(std::string_view text, std::string_view name);

/// What a node is, for messages: `the text "abc"`, `a mapping`, ... Long texts are cut.
[[nodiscard]] std::string describe(const YamlNode& node);

/// `text` as a double-quoted YAML scalar.
[[nodiscard]] std::string quote_yaml(std::string_view text);

}  // namespace quern::internal
