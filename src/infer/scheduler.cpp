#include "infer/scheduler.hpp"

#include <algorithm>
#include <cassert>
#include <utility>

namespace quern {

std::int64_t Scheduler::pages(std::int64_t tokens) const { return (tokens + room_.page_tokens() - 1) / room_.page_tokens(); }

std::int64_t Scheduler::free_pages() const { return room_.free_tokens() / room_.page_tokens() - planned_pages_; }

std::int64_t Scheduler::room_for(const Entry& entry) const {
  return (pages(entry.cached) + std::max<std::int64_t>(0, free_pages())) * room_.page_tokens() - entry.cached;
}

Scheduler::Entry* Scheduler::find(Entries& entries, RequestId request) {
  const auto found = std::find_if(entries.begin(), entries.end(), [&](const Entry& e) { return e.request == request; });
  return found == entries.end() ? nullptr : &*found;
}

Scheduler::Entry& Scheduler::insert(Entries& entries, const Entry& entry) {
  const auto later = [](const Entry& a, const Entry& b) { return a.turn < b.turn; };
  return *entries.insert(std::upper_bound(entries.begin(), entries.end(), entry, later), entry);
}

void Scheduler::add(RequestId request, std::int64_t tokens) {
  assert(tokens >= 1 && "a text has at least one token");
  waiting_.push_back({.request = request, .turn = next_turn_++, .text = tokens, .waiting_since = step_});
}

void Scheduler::remove(RequestId request) {
  const auto is_it = [&](const Entry& entry) { return entry.request == request; };
  if (std::erase_if(running_, is_it) > 0) {
    room_.close(request);
  } else {
    std::erase_if(waiting_, is_it);
  }
}

void Scheduler::preempt(std::size_t index) {
  Entry entry = running_[index];
  running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(index));
  room_.close(entry.request);
  planned_pages_ -= pages(entry.cached + entry.planned) - pages(entry.cached);
  entry.cached = entry.drawn = entry.planned = entry.offered = 0;
  entry.decodes = false;
  entry.waiting_since = step_;
  insert(waiting_, entry);
  ++preemptions_;
}

bool Scheduler::may_run(const Entry& entry, std::int64_t shared) const {
  if (running() >= limits_.sequences) return false;
  if (running_.empty()) return true;
  std::int64_t needed = pages(entry.text + 1) - pages(shared);
  for (const Entry& other : running_) needed += pages(other.text) - pages(other.cached + other.planned);
  return needed <= free_pages();
}

void Scheduler::end_turns() {
  if (limits_.longest_turn <= 0) return;
  while (!waiting_.empty() && step_ - waiting_.front().waiting_since >= limits_.longest_turn) {
    const CacheRoom::Shareable shareable = room_.shareable(waiting_.front().request);
    if (shareable.soon > shareable.now || may_run(waiting_.front(), shareable.now)) return;
    const auto over = std::find_if(running_.begin(), running_.end(),
                                   [&](const Entry& entry) { return entry.drawn >= limits_.longest_turn; });
    if (over == running_.end()) return;
    over->turn = next_turn_++;
    preempt(static_cast<std::size_t>(over - running_.begin()));
  }
}

void Scheduler::plan_tokens(Entry& entry, std::int64_t wanted) {
  const std::int64_t count = std::min(wanted, room_for(entry));
  if (count <= 0) return;
  entry.planned = count;
  planned_pages_ += pages(entry.cached + count) - pages(entry.cached);
  if (!entry.decodes) prefill_left_ -= count;
  plan_.push_back({.request = entry.request,
                   .first = entry.cached,
                   .count = count,
                   .is_last = entry.cached + count == entry.text,
                   .is_decode = entry.decodes});
}

void Scheduler::plan_running() {
  for (std::size_t i = 0; i < running_.size(); ++i) {
    const auto wanted = [&] {
      const Entry& entry = running_[i];
      return entry.decodes ? 1 : std::min(entry.text - entry.cached, prefill_left_);
    };
    while (room_for(running_[i]) < wanted()) {
      if (room_.reclaim(0)) continue;
      if (i + 1 == running_.size()) break;
      preempt(running_.size() - 1);
      short_of_room_ = true;
    }
    // The last one makes way itself when it cannot go on; a prefill may also stay and wait.
    if (i > 0 && running_[i].decodes && room_for(running_[i]) == 0) {
      preempt(i);
      short_of_room_ = true;
      return;
    }
    plan_tokens(running_[i], wanted());
  }
}

void Scheduler::plan_waiting() {
  while (!short_of_room_ && !waiting_.empty() && prefill_left_ > 0) {
    Entry entry = waiting_.front();
    const CacheRoom::Shareable shareable = room_.shareable(entry.request);
    if (shareable.soon > shareable.now) return;
    while (!may_run(entry, shareable.now)) {
      if (running() >= limits_.sequences || !room_.reclaim(entry.request)) return;
    }
    const Result<std::int64_t> cached = room_.open(entry.request);
    if (!cached) return;
    assert(*cached >= 0 && *cached < entry.text && "a sequence never holds all of a text that waits");
    waiting_.erase(waiting_.begin());
    entry.cached = *cached;
    Entry& admitted = insert(running_, entry);
    const std::int64_t wanted = std::min(entry.text - entry.cached, prefill_left_);
    while (room_for(admitted) < wanted && room_.reclaim(0)) {
    }
    plan_tokens(admitted, wanted);
  }
}

void Scheduler::plan_drafts() {
  const bool all_decode =
      std::all_of(plan_.begin(), plan_.end(), [](const ScheduledTokens& part) { return part.is_decode; });
  std::int64_t left = limits_.batch_tokens - std::ssize(plan_);
  for (ScheduledTokens& part : plan_) {
    Entry& entry = *find(running_, part.request);
    const std::int64_t offered = std::exchange(entry.offered, 0);
    if (!all_decode || offered == 0) continue;
    const std::int64_t used = entry.cached + entry.planned;
    const std::int64_t room = (pages(used) + std::max<std::int64_t>(0, free_pages())) * room_.page_tokens() - used;
    part.drafted = std::min({offered, room, left});
    part.count += part.drafted;
    left -= part.drafted;
    planned_pages_ += pages(used + part.drafted) - pages(used);
  }
}

bool Scheduler::only_decodes() const {
  return !running_.empty() &&
         std::all_of(running_.begin(), running_.end(), [](const Entry& entry) { return entry.decodes; });
}

void Scheduler::offer(RequestId request, std::int64_t drafts) {
  if (Entry* entry = find(running_, request)) entry->offered = drafts;
}

std::span<const ScheduledTokens> Scheduler::plan() {
  plan_.clear();
  planned_pages_ = 0;
  for (Entry& entry : running_) entry.planned = 0;
  end_turns();
  const auto decoding = std::count_if(running_.begin(), running_.end(), [](const Entry& entry) { return entry.decodes; });
  prefill_left_ = limits_.batch_tokens - decoding;
  if (decoding > 0 && limits_.prefill_tokens > 0) prefill_left_ = std::min(prefill_left_, limits_.prefill_tokens);
  plan_running();
  plan_waiting();
  plan_drafts();
  return plan_;
}

void Scheduler::computed() {
  for (Entry& entry : running_) {
    entry.offered = 0;
    if (entry.planned == 0) continue;
    entry.cached += entry.planned;
    entry.planned = 0;
    entry.decodes = false;
  }
  short_of_room_ = false;
  ++step_;
}

bool Scheduler::make_room() {
  if (running_.size() <= 1) return false;
  preempt(running_.size() - 1);
  short_of_room_ = true;
  return true;
}

void Scheduler::drew(RequestId request) {
  Entry* entry = find(running_, request);
  assert(entry != nullptr && entry->cached == entry->text && "a token is drawn after the last one of a text");
  ++entry->text;
  ++entry->drawn;
  entry->decodes = true;
}

void Scheduler::draft_was_right(RequestId request) {
  Entry* entry = find(running_, request);
  assert(entry != nullptr && entry->cached + 1 == entry->text && "follows drew()");
  ++entry->cached;
}

void Scheduler::replaced(RequestId request, std::int64_t tokens, std::int64_t cached) {
  Entry* entry = find(running_, request);
  assert(entry != nullptr && cached >= 0 && cached < tokens && "something of the text is left to compute");
  entry->text = tokens;
  entry->cached = cached;
  entry->decodes = false;
  ++entry->drawn;
}

std::optional<RequestId> Scheduler::first() const {
  if (!running_.empty()) return running_.front().request;
  if (!waiting_.empty()) return waiting_.front().request;
  return std::nullopt;
}

}  // namespace quern
