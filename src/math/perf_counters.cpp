// Interface: perf_event_open(2), Linux include/uapi/linux/perf_event.h.
#include "math/perf_counters.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "math/system_files.hpp"

#if defined(__linux__)
#include <linux/perf_event.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace quern {
namespace {

struct Event {
  Counter counter;
  std::string_view name;
  std::uint32_t type;
  std::uint64_t config;
};

#if defined(__linux__)
constexpr std::uint64_t cache_event(std::uint64_t cache) {
  return cache | (std::uint64_t{PERF_COUNT_HW_CACHE_OP_READ} << 8) | (std::uint64_t{PERF_COUNT_HW_CACHE_RESULT_MISS} << 16);
}

constexpr std::array<Event, kCounters> kEvents{{
    {Counter::instructions, "instructions", PERF_TYPE_HARDWARE, PERF_COUNT_HW_INSTRUCTIONS},
    {Counter::cycles, "cycles", PERF_TYPE_HARDWARE, PERF_COUNT_HW_CPU_CYCLES},
    {Counter::cache_references, "cache references", PERF_TYPE_HARDWARE, PERF_COUNT_HW_CACHE_REFERENCES},
    {Counter::cache_misses, "cache misses", PERF_TYPE_HARDWARE, PERF_COUNT_HW_CACHE_MISSES},
    {Counter::l1d_misses, "L1 data misses", PERF_TYPE_HW_CACHE, cache_event(PERF_COUNT_HW_CACHE_L1D)},
    {Counter::dtlb_misses, "data TLB misses", PERF_TYPE_HW_CACHE, cache_event(PERF_COUNT_HW_CACHE_DTLB)},
    {Counter::stalled_frontend, "front-end stalls", PERF_TYPE_HARDWARE, PERF_COUNT_HW_STALLED_CYCLES_FRONTEND},
    {Counter::stalled_backend, "back-end stalls", PERF_TYPE_HARDWARE, PERF_COUNT_HW_STALLED_CYCLES_BACKEND},
    {Counter::page_faults, "page faults", PERF_TYPE_SOFTWARE, PERF_COUNT_SW_PAGE_FAULTS},
    {Counter::context_switches, "context switches", PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CONTEXT_SWITCHES},
    {Counter::migrations, "migrations", PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_MIGRATIONS},
}};

perf_event_attr attributes_of(const Event& event) {
  perf_event_attr attributes;
  std::memset(&attributes, 0, sizeof attributes);
  attributes.size = sizeof attributes;
  attributes.type = event.type;
  attributes.config = event.config;
  attributes.disabled = 1;
  // Software events happen in the kernel; what is asked of the processor is this program's own work. Unprivileged users may
  // count no more than that.
  attributes.exclude_kernel = event.type != PERF_TYPE_SOFTWARE;
  attributes.exclude_hv = 1;
  attributes.read_format = PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING;
  return attributes;
}
#else
constexpr std::array<Event, kCounters> kEvents{};
#endif

std::string obstacle_of(int error, std::optional<std::int64_t> paranoid) {
  switch (error) {
    case ENOENT:
    case ENODEV:
    case EOPNOTSUPP:
      return "this machine gives no hardware counters (most virtual machines have none)";
    case EACCES:
    case EPERM:
      return paranoid && *paranoid > 2
                 ? fmt::format(
                       "the kernel refuses hardware counters (kernel.perf_event_paranoid is {}; 2 or less allows them)",
                       *paranoid)
                 : std::string("the system refuses hardware counters (a container's rules, most likely)");
    case ENOSYS:
      return "this kernel has no perf_event";
    case EMFILE:
    case ENFILE:
      return "too many files are open for hardware counters";
    default:
      return fmt::format("hardware counters cannot be opened: {}", std::strerror(error));
  }
}

}  // namespace

std::string_view to_word(Counter counter) {
  for (const Event& event : kEvents) {
    if (event.counter == counter && !event.name.empty()) return event.name;
  }
  return "unknown";
}

const PerfSystem& linux_perf() {
#if defined(__linux__)
  static const PerfSystem system{
      .open =
          [](const perf_event_attr& attributes) {
            const long descriptor = syscall(SYS_perf_event_open, &attributes, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
            return descriptor < 0 ? -errno : static_cast<int>(descriptor);
          },
      .control =
          [](int descriptor, bool on) {
            if (on && ioctl(descriptor, PERF_EVENT_IOC_RESET, 0) != 0) return -errno;
            return ioctl(descriptor, on ? PERF_EVENT_IOC_ENABLE : PERF_EVENT_IOC_DISABLE, 0) == 0 ? 0 : -errno;
          },
      .read =
          [](int descriptor, std::uint64_t(&values)[3]) {
            return read(descriptor, values, sizeof values) == static_cast<ssize_t>(sizeof values) ? 0 : -EIO;
          },
      .close = [](int descriptor) { static_cast<void>(close(descriptor)); },
      .paranoid = [] { return number_in("/proc/sys/kernel/perf_event_paranoid"); }};
#else
  static const PerfSystem system{.open = [](const perf_event_attr&) { return -ENOSYS; },
                                 .control = [](int, bool) { return -ENOSYS; },
                                 .read = [](int, std::uint64_t(&)[3]) { return -ENOSYS; },
                                 .close = [](int) {},
                                 .paranoid = []() -> std::optional<std::int64_t> { return {}; }};
#endif
  return system;
}

struct PerfCounters::State {
  PerfSystem system;
  /// Per thread and event: the descriptor, or a negative errno. Times at start(): enabled and running, which reset leaves.
  struct Slot {
    int descriptor = -ENOENT;
    std::uint64_t enabled_before = 0, running_before = 0;
  };
  std::vector<std::array<Slot, kCounters>> threads;
  std::string obstacle;
};

PerfCounters::PerfCounters(std::unique_ptr<State> state) : state_(std::move(state)) {}
PerfCounters::PerfCounters(PerfCounters&&) noexcept = default;

PerfCounters& PerfCounters::operator=(PerfCounters&& other) noexcept {
  std::swap(state_, other.state_);
  return *this;
}

PerfCounters::~PerfCounters() {
  if (state_ == nullptr) return;
  for (const auto& thread : state_->threads) {
    for (const State::Slot& slot : thread) {
      if (slot.descriptor >= 0) state_->system.close(slot.descriptor);
    }
  }
}

PerfCounters PerfCounters::open(ThreadTeam& team, const PerfSystem& system) {
  auto state = std::make_unique<State>();
  state->system = system;
  state->threads.resize(static_cast<std::size_t>(team.size()));
#if defined(__linux__)
  team.run([&](TeamMember& member) {
    auto& slots = state->threads[static_cast<std::size_t>(member.index())];
    for (std::size_t i = 0; i < kEvents.size(); ++i) slots[i].descriptor = system.open(attributes_of(kEvents[i]));
  });
#endif
  for (const Counter counter : {Counter::instructions, Counter::cycles}) {
    for (const auto& thread : state->threads) {
      const int descriptor = thread[static_cast<std::size_t>(counter)].descriptor;
      if (descriptor < 0 && state->obstacle.empty()) state->obstacle = obstacle_of(-descriptor, system.paranoid());
    }
  }
  return PerfCounters(std::move(state));
}

void PerfCounters::start() {
  for (auto& thread : state_->threads) {
    for (State::Slot& slot : thread) {
      if (slot.descriptor < 0) continue;
      std::uint64_t values[3] = {};
      if (state_->system.read(slot.descriptor, values) == 0) {
        slot.enabled_before = values[1];
        slot.running_before = values[2];
      }
      static_cast<void>(state_->system.control(slot.descriptor, true));
    }
  }
}

std::vector<CounterReading> PerfCounters::stop() {
  for (const auto& thread : state_->threads) {
    for (const State::Slot& slot : thread) {
      if (slot.descriptor >= 0) static_cast<void>(state_->system.control(slot.descriptor, false));
    }
  }
  std::vector<CounterReading> readings;
  for (std::size_t i = 0; i < kEvents.size(); ++i) {
    CounterReading reading{.counter = kEvents[i].counter, .count = 0.0, .running = 1.0};
    bool whole = !state_->threads.empty();
    for (const auto& thread : state_->threads) {
      const State::Slot& slot = thread[i];
      std::uint64_t values[3] = {};
      whole = whole && slot.descriptor >= 0 && state_->system.read(slot.descriptor, values) == 0;
      if (!whole) break;
      const double enabled = static_cast<double>(values[1] - slot.enabled_before);
      const double running = static_cast<double>(values[2] - slot.running_before);
      whole = enabled > 0.0 && running > 0.0;
      if (!whole) break;
      reading.count += static_cast<double>(values[0]) * enabled / running;
      reading.running = std::min(reading.running, running / enabled);
    }
    if (whole) readings.push_back(reading);
  }
  return readings;
}

bool PerfCounters::has(Counter counter) const {
  return !state_->threads.empty() && std::all_of(state_->threads.begin(), state_->threads.end(), [&](const auto& thread) {
    return thread[static_cast<std::size_t>(counter)].descriptor >= 0;
  });
}

const std::string& PerfCounters::obstacle() const { return state_->obstacle; }

}  // namespace quern
