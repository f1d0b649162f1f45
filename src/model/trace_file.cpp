#include "model/trace_file.hpp"

#include <fmt/format.h>

#include <iterator>
#include <utility>

namespace quern {

namespace {
// Written in pieces of about this size.
constexpr std::size_t kPieceBytes = std::size_t{1} << 20;
}  // namespace

TraceFile::TraceFile(AtomicFile file)
    : file_(std::move(file)),
      text_(
          "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n"
          "{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":1,\"args\":{\"name\":\"quern\"}}") {}

Result<TraceFile> TraceFile::create(const std::string& path) {
  auto file = AtomicFile::create(path);
  if (!file) return tl::make_unexpected(file.error());
  return TraceFile(std::move(*file));
}

void TraceFile::name_track(int track, std::string_view name) {
  fmt::format_to(std::back_inserter(text_),
                 ",\n{{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":1,\"tid\":{},\"args\":{{\"name\":\"{}\"}}}}", track,
                 name);
}

// Complete events ("ph": "X"); times are microseconds.
Result<void> TraceFile::add(const Event& event) {
  const auto out = std::back_inserter(text_);
  fmt::format_to(out, ",\n{{\"name\":\"{}\",\"cat\":\"{}\",\"ph\":\"X\",\"pid\":1,\"tid\":{},", event.name, event.category,
                 event.track);
  fmt::format_to(out, "\"ts\":{:.3f},\"dur\":{:.3f}", static_cast<double>(event.begin_ns) * 1e-3,
                 static_cast<double>(event.end_ns - event.begin_ns) * 1e-3);
  if (event.layer >= 0) fmt::format_to(out, ",\"args\":{{\"layer\":{}}}", event.layer);
  text_ += '}';
  if (text_.size() < kPieceBytes) return {};
  auto written = file_.write(text_);
  text_.clear();
  return written;
}

Result<void> TraceFile::commit(std::int64_t events_left_out) {
  fmt::format_to(std::back_inserter(text_), "\n],\"otherData\":{{\"events_left_out\":{}}}}}\n", events_left_out);
  if (auto written = file_.write(text_); !written) return written;
  return file_.commit();
}

}  // namespace quern
