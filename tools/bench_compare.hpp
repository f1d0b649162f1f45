// Two benchmark results beside each other: which figures differ, judged by intervals of what was measured against the
// machine in the same run.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "math/result.hpp"
#include "math/sample_statistics.hpp"

namespace quern::tools {

/// One figure of a benchmark.
struct BenchFigure {
  std::string name;
  Summary rate;   ///< per second; more is better
  Summary share;  ///< the rate over what the machine did in the same repeats
};

struct BenchFile {
  std::string path;
  std::string bench;  ///< "kernels", "infer" or "train"
  std::string instruction_set;
  std::int64_t threads = 0;
  std::vector<std::pair<std::string, std::string>> settings;  ///< others, by name: "KV type", "fused operations"
  std::vector<BenchFigure> figures;
};

/// Reads what `quern bench kernels`, `infer` or `train` printed with --json. Errors: bad_input naming the file and the place
/// in it.
[[nodiscard]] Result<BenchFile> read_bench(const std::string& path);

enum class Verdict : std::uint8_t {
  not_told_apart,
  faster,
  slower,     ///< but within the margin
  regression  ///< slower by more than the margin
};
[[nodiscard]] std::string_view to_word(Verdict verdict);

/// What a verdict is about.
enum class JudgeBy : std::uint8_t {
  shares,  ///< of what the machine did at the time: the same work at other times
  rates    ///< plain: settings that change the share's measure too, such as threads and the instruction set
};

struct FigureComparison {
  std::string name;
  Comparison rate;      ///< of the plain rates: says how fast the machine was, too
  Comparison share;     ///< of the shares
  bool enough = false;  ///< whether both have repeats enough for an interval
  Verdict verdict = Verdict::not_told_apart;
};

struct BenchComparison {
  std::vector<FigureComparison> figures;  ///< in the first file's order
  std::vector<std::string> missing;       ///< in the second file
  std::vector<std::string> added;         ///< there only
  std::vector<std::string> remarks;       ///< what sets the two runs apart, in sentences
  JudgeBy judged_by = JudgeBy::shares;

  [[nodiscard]] std::int64_t count(Verdict verdict) const;
};

/// Compares figures of the same name. `margin`: the share by which a figure may be slower, with certainty, before it is a
/// regression. Error bad_input: files of different benchmarks.
[[nodiscard]] Result<BenchComparison> compare_benches(const BenchFile& before, const BenchFile& after, double margin,
                                                      JudgeBy judge_by = JudgeBy::shares);

/// Sentences and a table (Markdown).
[[nodiscard]] std::string comparison_text(const BenchFile& before, const BenchFile& after, const BenchComparison& comparison,
                                          double margin);
[[nodiscard]] nlohmann::ordered_json comparison_json(const BenchFile& before, const BenchFile& after,
                                                     const BenchComparison& comparison, double margin);

}  // namespace quern::tools
