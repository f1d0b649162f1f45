// metrics.jsonl: one JSON object per line, formatted and written by a thread of its own.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "math/result.hpp"

namespace quern {

/// One line of metrics.jsonl; the fields are its keys, in this order. Numbers that are not finite are written as null.
struct MetricsRecord {
  std::int64_t step = 0;  ///< optimizer steps done
  double train_loss = std::numeric_limits<double>::quiet_NaN();
  bool evaluated = false;  ///< whether the line has the keys val_loss and val_bits_per_byte
  double val_loss = 0.0;   ///< nats per token
  double val_bits_per_byte = 0.0;
  double learning_rate = 0.0;
  double gradient_norm = 0.0;  ///< before clipping
  std::int64_t tokens = 0;     ///< trained on so far
  double tokens_per_second = 0.0;
  double gflops = 0.0;
  double peak_fraction = 0.0;
  double seconds = 0.0;  ///< trained so far
};

/// The line of a record, without its newline.
[[nodiscard]] std::string metrics_line(const MetricsRecord& record);

/// Appends records to a file through a background thread (named "quern-metrics"). push() copies a record into a preallocated
/// ring: it allocates nothing and does not wait for the disk, unless the ring is full, in which case it waits for room:
/// nothing is dropped. push() and flush() may be called from any thread, close() from one.
///
/// The first failed write stops the writer: the file is cut back to its last whole line, and every later push(), flush() and
/// close() returns that error.
class MetricsLog {
 public:
  /// Records that wait at most; at one line per step of 1 ms this rides out a disk that stalls for a second.
  static constexpr std::size_t kRingRecords = 1024;

  /// Opens `path` for appending. Lines of a step above `resumed_step`, and a last line without a newline (its writer was
  /// killed), are cut off, so that the file of a resumed run goes on as if it had never stopped; -1 empties the file. Error
  /// bad_input names the line that is not one of ours, io what the system refused.
  [[nodiscard]] static Result<std::unique_ptr<MetricsLog>> open(const std::string& path, std::int64_t resumed_step = -1);

  MetricsLog(const MetricsLog&) = delete;
  MetricsLog& operator=(const MetricsLog&) = delete;
  /// Writes what is pending; use close() to learn of errors.
  ~MetricsLog();

  [[nodiscard]] Result<void> push(const MetricsRecord& record);

  /// Returns when everything pushed before is on the disk (written and synced). Call it before saving a checkpoint: a run
  /// resumed from that checkpoint then misses no line.
  [[nodiscard]] Result<void> flush();

  /// flush(), stops the thread and closes the file. Later pushes are errors; closing twice is not.
  [[nodiscard]] Result<void> close();

 private:
  MetricsLog(std::string path, int descriptor, std::int64_t bytes);
  void write_records();
  [[nodiscard]] Result<void> append(const std::string& lines);
  [[nodiscard]] tl::unexpected<Error> failure() const;

  const std::string path_;
  const int descriptor_;
  std::int64_t file_bytes_;  // whole lines in the file; the writer's own

  std::mutex mutex_;  // guards everything below
  std::condition_variable work_, progress_;
  std::vector<MetricsRecord> ring_;
  std::uint64_t pushed_ = 0;   // records ever put in; record i stands at ring_[i % kRingRecords]
  std::uint64_t taken_ = 0;    // ... taken out by the writer
  std::uint64_t written_ = 0;  // ... whose lines are in the file
  bool stop_ = false;
  bool failed_ = false;
  Error error_;
  std::thread writer_;
};

}  // namespace quern
