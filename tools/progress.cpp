#include "progress.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace quern::tools {

namespace {

constexpr auto kRedraw = std::chrono::milliseconds(100);  // smooth to the eye, nothing to the processor
constexpr auto kPlainLine = std::chrono::seconds(5);      // of a log that someone may read
constexpr auto kWorthALine = std::chrono::seconds(1);     // shorter stages leave no line in a log
constexpr std::size_t kMinBar = 10, kMaxBar = 30;

std::string amount(double value, std::string_view unit) {
  constexpr std::string_view kPrefixes[] = {"", "k", "M", "G", "T", "P"};
  std::size_t prefix = 0;
  while (value >= 1000.0 && prefix + 1 < std::size(kPrefixes)) {
    value /= 1000.0;
    ++prefix;
  }
  const std::string number = prefix == 0 ? fmt::format("{:.0f}", value) : fmt::format("{:.1f}", value);
  if (unit == "B") return fmt::format("{} {}B", number, kPrefixes[prefix]);
  return fmt::format("{}{} {}", number, kPrefixes[prefix], unit);
}

std::string clock_text(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::clamp(std::ceil(seconds), 0.0, 359999.0));
  if (whole >= 3600) return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

bool colour_wanted() {
  const char* no_color = std::getenv("NO_COLOR");  // https://no-color.org: set and not empty
  return no_color == nullptr || *no_color == '\0';
}

}  // namespace

std::size_t terminal_columns(int descriptor) {
  winsize size{};
  return ioctl(descriptor, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

bool is_live_terminal(int descriptor) {
  const char* term = std::getenv("TERM");
  return isatty(descriptor) == 1 && (term == nullptr || std::string_view(term) != "dumb");
}

std::string progress_line(const ProgressState& state, std::size_t columns, bool colour) {
  const auto done = static_cast<double>(std::max<std::int64_t>(state.done, 0));
  const bool known = state.total > 0;
  const double fraction = known ? std::clamp(done / static_cast<double>(state.total), 0.0, 1.0) : 0.0;
  const double rate = state.seconds > 0.0 ? done / state.seconds : 0.0;

  std::string left = fmt::format("{:<10}", state.stage);
  std::string right = amount(done, state.unit);
  if (known) right = fmt::format("{:3.0f} %  {}", std::floor(fraction * 100.0), right);
  if (rate > 0.0) right += fmt::format("  {}/s", amount(rate, state.unit));
  if (known && rate > 0.0 && fraction < 1.0) {
    right += fmt::format("  {} left", clock_text((static_cast<double>(state.total) - done) / rate));
  }

  const std::size_t around = left.size() + right.size() + 6;  // spaces and brackets
  if (!known || columns < around + kMinBar) return fmt::format("{}  {}", left, right).substr(0, columns);
  const std::size_t cells = std::min(kMaxBar, columns - around);
  const auto filled = static_cast<std::size_t>(fraction * static_cast<double>(cells));
  const std::string_view start = colour ? "\x1b[32m" : "", stop = colour ? "\x1b[0m" : "";
  return fmt::format("{}  [{}{}{}{}]  {}", left, start, std::string(filled, '#'), stop, std::string(cells - filled, '.'),
                     right);
}

Progress::Progress(std::FILE* out) : out_(out), live_(is_live_terminal(fileno(out))), colour_(live_ && colour_wanted()) {}

Progress::~Progress() { finish(); }

void Progress::update(std::string_view stage, std::int64_t done, std::int64_t total, std::string_view unit) {
  const auto now = Clock::now();
  if (!open_ || stage != stage_) {
    done_ = std::max(done_, total_);  // the next stage has begun, so the one before is complete
    finish();
    stage_ = stage;
    unit_ = unit;
    stage_start_ = last_drawn_ = now;
    open_ = true;
  }
  done_ = done;
  total_ = total;
  if (now - last_drawn_ < (live_ ? Clock::duration(kRedraw) : Clock::duration(kPlainLine))) return;
  draw(now);
}

void Progress::draw(Clock::time_point now) {
  last_drawn_ = now;
  const ProgressState state{stage_, done_, total_, unit_, std::chrono::duration<double>(now - stage_start_).count()};
  const std::size_t columns = live_ ? terminal_columns(fileno(out_)) - 1 : 100;  // a full line would wrap
  const std::string line = progress_line(state, columns, colour_);
  fmt::print(out_, "{}{}{}", live_ ? "\r\x1b[K" : "", line, live_ ? "" : "\n");
  std::fflush(out_);
}

void Progress::finish() {
  if (!open_) return;
  open_ = false;
  const auto now = Clock::now();
  if (!live_ && now - stage_start_ < kWorthALine) return;
  draw(now);
  if (live_) std::fputs("\n", out_);
  std::fflush(out_);
}

}  // namespace quern::tools
