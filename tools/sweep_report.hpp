// What `quern bench sweep` prints: combinations of settings as rows of a table, JSON and CSV.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "math/sample_statistics.hpp"

namespace quern::tools {

/// One combination of settings at one piece of work. Rows of the same work are held against each other.
struct SweepRow {
  std::string kind;                                             ///< "prefill", "decode" or "train"
  std::string work{};                                           ///< what rows must share to be compared
  std::vector<std::pair<std::string, std::string>> settings{};  ///< the same names in every row; empty: does not apply
  std::size_t memory_bytes = 0;                                 ///< that the row takes in all; 0: not known
  std::size_t cache_bytes = 0;                                  ///< of which KV cache
  std::vector<double> rates{};                                  ///< tokens a second of each round that counts
};

enum class SweepVerdict : std::uint8_t {
  alone,              ///< nothing else did the same work
  no_word,            ///< too few rounds for an interval
  fastest,            ///< every other row's interval lies below this one's
  among_the_fastest,  ///< its interval overlaps that of the row with the highest median, or it is that row
  slower              ///< its interval lies below that of the row with the highest median
};
[[nodiscard]] std::string_view to_word(SweepVerdict verdict);

/// A row's figures beside those of the row with the highest median at the same work.
struct SweepFigure {
  Summary rate;
  Comparison comparison;
  SweepVerdict verdict = SweepVerdict::alone;
};

/// One for each row. Rows without rounds have no samples, are `alone` and beside no other.
[[nodiscard]] std::vector<SweepFigure> sweep_figures(const std::vector<SweepRow>& rows);

/// Markdown, after a line with the settings that all rows share; rows without rounds are left out, here and below.
[[nodiscard]] std::string sweep_table(const std::vector<SweepRow>& rows);
/// RFC 4180, with every setting.
[[nodiscard]] std::string sweep_csv(const std::vector<SweepRow>& rows);
/// An array of objects.
[[nodiscard]] nlohmann::ordered_json sweep_json(const std::vector<SweepRow>& rows);

}  // namespace quern::tools
