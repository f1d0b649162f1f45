// Formats: Linux Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst, scheduler/sched-bwc.rst, proc(5) mountinfo.
#include "math/container_limits.hpp"

#include <algorithm>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "math/system_files.hpp"

namespace quern {
namespace {

/// v1 writes "no limit" as the largest multiple of a page below 2^63; no machine has this much.
constexpr std::uint64_t kUnlimitedBytes = std::uint64_t{1} << 60;

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  while (true) {
    const std::size_t end = text.find(separator);
    parts.emplace_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

/// The first line of a file as words; empty where the file is absent.
std::vector<std::string> first_words(const std::filesystem::path& file) {
  std::istringstream words(first_line(file));
  std::vector<std::string> result;
  for (std::string word; words >> word;) result.push_back(std::move(word));
  return result;
}

template <class T>
void tighten(std::optional<T>& limit, T found) {
  limit = limit.has_value() ? std::min(*limit, found) : found;
}

void tighten_quota(ContainerLimits& limits, std::optional<std::int64_t> quota_us, std::optional<std::int64_t> period_us) {
  if (!quota_us || !period_us || *quota_us <= 0 || *period_us <= 0) return;
  tighten(limits.processors, static_cast<double>(*quota_us) / static_cast<double>(*period_us));
}

std::optional<std::uint64_t> memory_in(const std::filesystem::path& file) {
  const std::optional<std::int64_t> bytes = number_in(file);
  if (!bytes || *bytes <= 0 || static_cast<std::uint64_t>(*bytes) >= kUnlimitedBytes) return std::nullopt;
  return static_cast<std::uint64_t>(*bytes);
}

/// What a group has taken, without file pages that nobody has used lately.
std::optional<std::uint64_t> memory_used(const std::filesystem::path& folder, bool v2) {
  const std::optional<std::int64_t> used = number_in(folder / (v2 ? "memory.current" : "memory.usage_in_bytes"));
  if (!used || *used < 0) return std::nullopt;
  const std::string_view key = v2 ? "inactive_file " : "total_inactive_file ";
  std::int64_t droppable = 0;
  for (const std::string& line : lines_of(folder / "memory.stat")) {
    if (line.starts_with(key)) droppable = whole_number(std::string_view(line).substr(key.size())).value_or(0);
  }
  return static_cast<std::uint64_t>(*used - std::clamp<std::int64_t>(droppable, 0, *used));
}

void tighten_memory(ContainerLimits& limits, const std::filesystem::path& folder, bool v2) {
  if (const auto high = v2 ? memory_in(folder / "memory.high") : std::nullopt) tighten(limits.memory_high_bytes, *high);
  const auto limit = memory_in(folder / (v2 ? "memory.max" : "memory.limit_in_bytes"));
  if (!limit || (limits.memory_bytes && *limits.memory_bytes <= *limit)) return;
  limits.memory_bytes = limit;
  limits.memory_used_bytes = memory_used(folder, v2);
}

/// A mounted cgroup hierarchy.
struct Mount {
  bool v2 = false;
  std::filesystem::path group;             // the group that is visible at `point`
  std::filesystem::path point;             // where
  std::vector<std::string> super_options;  // v1: names its controllers
};

/// Fields of /proc/self/mountinfo: id parent device ROOT POINT options [optional...] - TYPE source SUPER_OPTIONS
std::vector<Mount> cgroup_mounts(const std::filesystem::path& root) {
  std::vector<Mount> mounts;
  for (const std::string& line : lines_of(root / "proc/self/mountinfo")) {
    const std::vector<std::string> fields = split(line, ' ');
    const auto dash = std::find(fields.begin(), fields.end(), "-");
    if (fields.size() < 6 || fields.end() - dash < 4) continue;
    const bool v2 = *(dash + 1) == "cgroup2";
    if (!v2 && *(dash + 1) != "cgroup") continue;
    mounts.push_back({v2, fields[3], root / std::filesystem::path(fields[4]).relative_path(), split(*(dash + 3), ',')});
  }
  return mounts;
}

/// Folders of `group` and of its ancestors inside a mount, innermost first. A group outside of what is mounted (a container
/// that sees the host's names) leaves only the mount point, which then is the container's own group.
std::vector<std::filesystem::path> folders_of(const Mount& mount, const std::filesystem::path& group) {
  std::vector<std::filesystem::path> folders;
  const std::filesystem::path relative = group.lexically_relative(mount.group);
  const bool inside = !relative.empty() && *relative.begin() != "..";
  std::filesystem::path folder = inside && relative != "." ? (mount.point / relative).lexically_normal() : mount.point;
  while (folder != mount.point && folder.has_relative_path()) {
    folders.push_back(folder);
    folder = folder.parent_path();
  }
  folders.push_back(mount.point);
  return folders;
}

bool contains(const std::vector<std::string>& words, std::string_view word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

}  // namespace

ContainerLimits read_container_limits(const std::filesystem::path& root) {
  ContainerLimits limits;
  const std::vector<Mount> mounts = cgroup_mounts(root);
  for (const std::string& line : lines_of(root / "proc/self/cgroup")) {  // ID:CONTROLLERS:GROUP; v2 is "0::GROUP"
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::vector<std::string> controllers = split(std::string_view(line).substr(first + 1, second - first - 1), ',');
    const std::filesystem::path group = std::filesystem::path(line.substr(second + 1)).lexically_normal();
    const bool v2 = controllers == std::vector<std::string>{""};
    const bool cpu = v2 || contains(controllers, "cpu");
    const bool memory = v2 || contains(controllers, "memory");
    for (const Mount& mount : mounts) {
      if (mount.v2 != v2 || (!v2 && !contains(mount.super_options, controllers[0]))) continue;
      for (const std::filesystem::path& folder : folders_of(mount, group)) {
        if (cpu && v2) {
          const std::vector<std::string> words = first_words(folder / "cpu.max");  // "max 100000" or "150000 100000"
          if (words.size() == 2) tighten_quota(limits, whole_number(words[0]), whole_number(words[1]));
        } else if (cpu) {
          tighten_quota(limits, number_in(folder / "cpu.cfs_quota_us"), number_in(folder / "cpu.cfs_period_us"));
        }
        if (memory) tighten_memory(limits, folder, v2);
      }
    }
  }
  return limits;
}

}  // namespace quern
