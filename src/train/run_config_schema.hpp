// The one table of run keys: it drives parsing, overrides, the resolved YAML, help and suggestions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "train/run_config.hpp"
#include "train/run_config_yaml.hpp"

namespace quern::internal {

struct IntegerKey {
  std::int64_t& (*member)(RunConfig&);
  std::int64_t low, high;
};
struct SeedKey {  ///< any 64-bit unsigned integer
  std::uint64_t& (*member)(RunConfig&);
};
struct NumberKey {
  float& (*member)(RunConfig&);
  float low, high;
  bool low_excluded = false, high_excluded = false;
};
struct BooleanKey {
  bool& (*member)(RunConfig&);
};
struct TextKey {
  std::string& (*member)(RunConfig&);
  bool may_be_empty = true;
};
struct ChoiceKey {
  std::vector<std::string_view> words;
  std::size_t (*get)(const RunConfig&);  ///< index into words
  void (*set)(RunConfig&, std::size_t);
};

/// One key of a run.
struct RunKey {
  std::string_view name;  ///< section.key
  std::variant<IntegerKey, SeedKey, NumberKey, BooleanKey, TextKey, ChoiceKey> type;
  std::string_view description;
  std::string_view computed_default;  ///< how an absent value comes about, where it is not a constant
  bool required = false;
};

/// Every key, section by section, in the order that to_yaml writes. Built once.
[[nodiscard]] const std::vector<RunKey>& run_schema();

/// The key of this name, or null.
[[nodiscard]] const RunKey* find_run_key(std::string_view name);

/// Stores a scalar's value. On failure returns what is allowed and what was found ("must be ..., found ...").
[[nodiscard]] tl::expected<void, std::string> set_run_key(const RunKey& key, const YamlNode& value, RunConfig& config);

/// The value as a YAML scalar that set_run_key reads back to the same value.
[[nodiscard]] std::string run_key_text(const RunKey& key, const RunConfig& config);

/// "integer", "number", "boolean", "text" or "word".
[[nodiscard]] std::string_view run_key_type(const RunKey& key);

/// What values are allowed, as the end of "must be ...".
[[nodiscard]] std::string run_key_allowed(const RunKey& key);

/// The known key nearest to an unknown one (edit distance; the same last part in another section counts as near).
[[nodiscard]] std::string_view nearest_run_key(std::string_view unknown);

}  // namespace quern::internal
