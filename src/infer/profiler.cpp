#include "infer/profiler.hpp"

#include "model/trace_file.hpp"

namespace quern {

namespace {

// 32 bytes each: 64 MB at most, and a trace that a browser still opens.
constexpr std::size_t kMostEvents = 2'000'000;

std::int64_t nanoseconds(Profiler::Clock::duration time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time).count();
}

}  // namespace

std::string_view to_word(WorkKind kind) {
  switch (kind) {
    case WorkKind::embedding:
      return "embedding";
    case WorkKind::attention_input:
      return "attention input";
    case WorkKind::attention:
      return "attention";
    case WorkKind::attention_output:
      return "attention output";
    case WorkKind::feed_forward:
      return "feed-forward";
    case WorkKind::head:
      return "head";
  }
  return "";
}

std::string_view to_word(WorkPhase phase) { return phase == WorkPhase::prefill ? "prefill" : "decode"; }

void Profiler::begin(WorkPhase phase, std::int64_t tokens, std::int64_t /*sequences*/) {
  phase_ = phase;
  tokens_[static_cast<std::size_t>(phase)] += tokens;
  pass_begin_ = last_ = Clock::now();
}

void Profiler::mark(WorkKind kind, std::int64_t layer) {
  const Clock::time_point now = Clock::now();
  Total& total = totals_[static_cast<std::size_t>(phase_)][static_cast<std::size_t>(kind)];
  total.seconds += std::chrono::duration<double>(now - last_).count();
  ++total.count;
  if (events_.size() < kMostEvents) {
    events_.push_back(
        {nanoseconds(last_ - start_), nanoseconds(now - start_), static_cast<std::int32_t>(layer), kind, phase_});
  } else {
    ++events_left_out_;
  }
  last_ = now;
}

void Profiler::end() {
  Total& total = passes_[static_cast<std::size_t>(phase_)];
  total.seconds += std::chrono::duration<double>(Clock::now() - pass_begin_).count();
  ++total.count;
}

Profiler::Total Profiler::total(WorkPhase phase, WorkKind kind) const {
  return totals_[static_cast<std::size_t>(phase)][static_cast<std::size_t>(kind)];
}

Profiler::Total Profiler::passes(WorkPhase phase) const { return passes_[static_cast<std::size_t>(phase)]; }

std::int64_t Profiler::tokens(WorkPhase phase) const { return tokens_[static_cast<std::size_t>(phase)]; }

Result<void> Profiler::write_trace(const std::string& path) const {
  auto file = TraceFile::create(path);
  if (!file) return tl::make_unexpected(file.error());
  for (const WorkPhase phase : {WorkPhase::prefill, WorkPhase::decode})
    file->name_track(static_cast<int>(phase), to_word(phase));
  for (const Event& event : events_) {
    auto added = file->add({.name = to_word(event.kind),
                            .category = to_word(event.phase),
                            .track = static_cast<int>(event.phase),
                            .begin_ns = event.begin_ns,
                            .end_ns = event.end_ns,
                            .layer = event.layer});
    if (!added) return added;
  }
  return file->commit(events_left_out_);
}

}  // namespace quern
