// Files of what ran when, in Trace Event Format JSON: Perfetto (ui.perfetto.dev) and chrome://tracing open them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "math/result.hpp"
#include "model/atomic_file.hpp"

namespace quern {

/// Written beside its place and renamed there by commit(). Names must need no escaping in JSON.
class TraceFile {
 public:
  [[nodiscard]] static Result<TraceFile> create(const std::string& path);

  /// Before the first event: what track `track` is called.
  void name_track(int track, std::string_view name);

  struct Event {
    std::string_view name;
    std::string_view category;
    int track = 0;
    std::int64_t begin_ns = 0;
    std::int64_t end_ns = 0;
    std::int64_t layer = -1;  ///< -1: none
  };
  [[nodiscard]] Result<void> add(const Event& event);

  /// `events_left_out`: how many the collector could not keep; the file says so.
  [[nodiscard]] Result<void> commit(std::int64_t events_left_out);

 private:
  explicit TraceFile(AtomicFile file);
  AtomicFile file_;
  std::string text_;  // not yet written
};

}  // namespace quern
