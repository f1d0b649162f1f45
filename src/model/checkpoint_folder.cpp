#include "model/checkpoint_folder.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <system_error>

#include "model/checkpoint.hpp"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "step-", kSuffix = ".h5";
constexpr std::size_t kDigits = 8;  // at least; longer step numbers take what they need

std::string checkpoints_folder(const std::string& run) { return run + "/checkpoints"; }

}  // namespace

std::optional<std::int64_t> step_of_checkpoint_name(std::string_view name) {
  if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix)) return std::nullopt;
  const std::string_view digits = name.substr(kPrefix.size(), name.size() - kPrefix.size() - kSuffix.size());
  std::int64_t step = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), step);
  const bool ours = error == std::errc() && end == digits.data() + digits.size() && digits.size() >= kDigits && step >= 0;
  return ours ? std::optional(step) : std::nullopt;
}

Result<std::vector<std::string>> checkpoint_folder_names(const std::string& run) {
  const std::string folder = checkpoints_folder(run);
  std::vector<std::string> names;
  std::error_code error;
  if (!fs::exists(folder, error)) return names;
  fs::directory_iterator entry(folder, error);
  while (!error && entry != fs::directory_iterator()) {
    names.push_back(entry->path().filename().string());
    entry.increment(error);
  }
  if (error) return io_error(fmt::format("{}: cannot list the folder: {}", folder, error.message()));
  return names;
}

std::string checkpoint_path(const std::string& run, std::int64_t step) {
  return fmt::format("{}/{}{:0{}}{}", checkpoints_folder(run), kPrefix, step, kDigits, kSuffix);
}
std::string last_checkpoint_path(const std::string& run) { return checkpoints_folder(run) + "/last.h5"; }
std::string best_checkpoint_path(const std::string& run) { return checkpoints_folder(run) + "/best.h5"; }

Result<std::vector<std::int64_t>> checkpoint_steps(const std::string& run) {
  const auto names = checkpoint_folder_names(run);
  if (!names) return tl::make_unexpected(names.error());
  std::vector<std::int64_t> steps;
  for (const std::string& name : *names) {
    if (const auto step = step_of_checkpoint_name(name)) steps.push_back(*step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

Result<std::string> newest_checkpoint(const std::string& run) {
  const auto steps = checkpoint_steps(run);
  if (!steps) return tl::make_unexpected(steps.error());
  const std::string last = last_checkpoint_path(run);
  std::error_code error;
  if (!fs::exists(last, error)) {
    if (steps->empty()) {
      return bad_input(fmt::format("{}: expected a checkpoint in it, found none", checkpoints_folder(run)));
    }
    return checkpoint_path(run, steps->back());
  }
  if (steps->empty() || fs::equivalent(last, checkpoint_path(run, steps->back()), error)) return last;
  const auto info = read_checkpoint_info(last);
  if (!info) return tl::make_unexpected(info.error());
  return info->step >= steps->back() ? last : checkpoint_path(run, steps->back());
}

Result<std::string> best_checkpoint(const std::string& run) {
  const std::string best = best_checkpoint_path(run);
  std::error_code error;
  return fs::exists(best, error) ? best : newest_checkpoint(run);
}

}  // namespace quern
