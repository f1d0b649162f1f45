#include "train/metrics_log.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string_view>
#include <system_error>

#include "model/atomic_file.hpp"

namespace quern {
namespace {

// The most a log may hold when a run resumes: ten million lines.
constexpr std::size_t kMostLogBytes = std::size_t{1} << 32;

std::string reason(int error) { return std::generic_category().message(error); }

void append_line(fmt::memory_buffer& out, const MetricsRecord& record) {
  const auto number = [&out](std::string_view key, double value) {
    if (std::isfinite(value)) {
      fmt::format_to(std::back_inserter(out), ", \"{}\": {}", key, value);
    } else {
      fmt::format_to(std::back_inserter(out), ", \"{}\": null", key);
    }
  };
  fmt::format_to(std::back_inserter(out), "{{\"step\": {}", record.step);
  number("train_loss", record.train_loss);
  if (record.evaluated) {
    number("val_loss", record.val_loss);
    number("val_bits_per_byte", record.val_bits_per_byte);
  }
  number("learning_rate", record.learning_rate);
  number("gradient_norm", record.gradient_norm);
  fmt::format_to(std::back_inserter(out), ", \"tokens\": {}", record.tokens);
  number("tokens_per_second", record.tokens_per_second);
  number("gflops", record.gflops);
  number("peak_fraction", record.peak_fraction);
  number("seconds", record.seconds);
  out.push_back('}');
}

// How many leading bytes of a log belong to steps up to `step`.
Result<std::int64_t> bytes_up_to_step(const std::string& path, std::string_view text, std::int64_t step) {
  std::size_t kept = 0;
  for (std::int64_t number = 1; kept < text.size(); ++number) {
    const std::size_t end = text.find('\n', kept);
    if (end == std::string_view::npos) break;  // torn by a killed writer
    const auto line = nlohmann::json::parse(text.substr(kept, end - kept), nullptr, /*allow_exceptions=*/false);
    const auto key = line.is_object() ? line.find("step") : line.end();
    if (key == line.end() || !key->is_number_integer()) {
      return bad_input(
          fmt::format("{}:{}: expected a JSON object with an integer `step`, found something else", path, number));
    }
    if (key->get<std::int64_t>() > step) break;
    kept = end + 1;
  }
  return static_cast<std::int64_t>(kept);
}

}  // namespace

std::string metrics_line(const MetricsRecord& record) {
  fmt::memory_buffer line;
  append_line(line, record);
  return fmt::to_string(line);
}

Result<std::unique_ptr<MetricsLog>> MetricsLog::open(const std::string& path, std::int64_t resumed_step) {
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor < 0) return io_error(fmt::format("{}: cannot open for writing: {}", path, reason(errno)));
  std::int64_t bytes = 0;
  if (resumed_step >= 0) {
    auto text = read_whole_file(path, kMostLogBytes);
    auto kept = text ? bytes_up_to_step(path, *text, resumed_step) : tl::make_unexpected(text.error());
    if (!kept) {
      ::close(descriptor);
      return tl::make_unexpected(kept.error());
    }
    bytes = *kept;
  }
  if (::ftruncate(descriptor, bytes) != 0 || ::lseek(descriptor, bytes, SEEK_SET) != bytes) {
    const int error = errno;
    ::close(descriptor);
    return io_error(fmt::format("{}: cannot cut the file to {} bytes: {}", path, bytes, reason(error)));
  }
  return std::unique_ptr<MetricsLog>(new MetricsLog(path, descriptor, bytes));
}

MetricsLog::MetricsLog(std::string path, int descriptor, std::int64_t bytes)
    : path_(std::move(path)), descriptor_(descriptor), file_bytes_(bytes), ring_(kRingRecords) {
  // Signals are for the threads that train: the writer's own mask, inherited at its birth, blocks them all.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  writer_ = std::thread([this] { write_records(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

MetricsLog::~MetricsLog() {
  static_cast<void>(close());
  ::close(descriptor_);
}

tl::unexpected<Error> MetricsLog::failure() const { return tl::make_unexpected(error_); }

Result<void> MetricsLog::push(const MetricsRecord& record) {
  std::unique_lock lock(mutex_);
  progress_.wait(lock, [this] { return pushed_ - taken_ < kRingRecords || failed_ || stop_; });
  if (failed_) return failure();
  if (stop_) return io_error(fmt::format("{}: cannot add a line: the log is closed", path_));
  ring_[pushed_ % kRingRecords] = record;
  ++pushed_;
  lock.unlock();
  work_.notify_one();
  return {};
}

Result<void> MetricsLog::flush() {
  {
    std::unique_lock lock(mutex_);
    const std::uint64_t goal = pushed_;
    progress_.wait(lock, [this, goal] { return written_ >= goal || failed_; });
    if (failed_) return failure();
  }
  if (::fdatasync(descriptor_) != 0 && errno != EINVAL) {
    return io_error(fmt::format("{}: cannot sync: {}", path_, reason(errno)));
  }
  return {};
}

Result<void> MetricsLog::close() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  work_.notify_one();
  progress_.notify_all();
  if (writer_.joinable()) writer_.join();
  return flush();
}

// The writer: takes whatever is in the ring, formats it outside the lock, and writes it with one call.
void MetricsLog::write_records() {
  pthread_setname_np(pthread_self(), "quern-metrics");
  std::vector<MetricsRecord> batch;
  batch.reserve(kRingRecords);
  std::unique_lock lock(mutex_);
  for (;;) {
    work_.wait(lock, [this] { return taken_ < pushed_ || stop_; });
    if (taken_ == pushed_) return;  // stopped, and nothing is left
    batch.clear();
    for (; taken_ < pushed_; ++taken_) batch.push_back(ring_[taken_ % kRingRecords]);
    const std::uint64_t taken = taken_;
    lock.unlock();
    progress_.notify_all();

    fmt::memory_buffer lines;
    for (const MetricsRecord& record : batch) {
      append_line(lines, record);
      lines.push_back('\n');
    }
    auto appended = append(fmt::to_string(lines));

    lock.lock();
    written_ = taken;
    if (!appended) {
      failed_ = true;
      error_ = appended.error();
    }
    progress_.notify_all();
    if (failed_) return;
  }
}

Result<void> MetricsLog::append(const std::string& lines) {
  std::size_t done = 0;
  while (done < lines.size()) {
    const ssize_t written = ::write(descriptor_, lines.data() + done, lines.size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      const int error = written < 0 ? errno : EIO;
      // Whole lines that made it stay; the torn one goes.
      const std::size_t newline = done == 0 ? std::string::npos : lines.rfind('\n', done - 1);
      const std::int64_t whole = newline == std::string::npos ? 0 : static_cast<std::int64_t>(newline) + 1;
      const bool cut = ::ftruncate(descriptor_, file_bytes_ + whole) == 0;
      return io_error(fmt::format("{}: cannot write a line: {}{}", path_, reason(error),
                                  cut ? "" : "; the last line of the file is incomplete"));
    }
    done += static_cast<std::size_t>(written);
  }
  file_bytes_ += static_cast<std::int64_t>(lines.size());
  return {};
}

}  // namespace quern
