// A progress bar for work of known or unknown size: redrawn in place on a terminal, a plain line now and then elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

namespace quern::tools {

/// How far a stage has come.
struct ProgressState {
  std::string_view stage;  ///< "encoding"
  std::int64_t done = 0;
  std::int64_t total = 0;  ///< 0: not known
  std::string_view unit;   ///< "B" is shown as kB, MB, ...; others as k, M, ... and the word
  double seconds = 0.0;    ///< since the stage began
};

/// One line without a line end, at most `columns` wide: stage, bar, percentage, amount, rate, time left. `colour` puts the
/// bar into colour. Pure.
[[nodiscard]] std::string progress_line(const ProgressState& state, std::size_t columns, bool colour);

/// Columns of the terminal behind `descriptor`, or 80.
[[nodiscard]] std::size_t terminal_columns(int descriptor);

/// Whether `descriptor` is a terminal on which lines can be redrawn (TERM is not "dumb").
[[nodiscard]] bool is_live_terminal(int descriptor);

/// Shows stages one after another. Not thread-safe. The destructor ends the line.
class Progress {
 public:
  explicit Progress(std::FILE* out);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Says where the work stands; cheap enough to call thousands of times a second. A new stage name ends the line before.
  void update(std::string_view stage, std::int64_t done, std::int64_t total, std::string_view unit);
  /// Ends the current stage's line.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  void draw(Clock::time_point now);

  std::FILE* out_;
  bool live_;
  bool colour_;
  std::string stage_, unit_;
  std::int64_t done_ = 0, total_ = 0;
  Clock::time_point stage_start_, last_drawn_;
  bool open_ = false;  ///< a stage is shown that has not ended
};

}  // namespace quern::tools
