#include "train/run_folder.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "model/atomic_file.hpp"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSuffix = ".h5", kUnfinished = ".tmp";

std::string reason(int error) { return std::generic_category().message(error); }
std::string checkpoints_folder(const std::string& run) { return run + "/checkpoints"; }

// Removes the files of the checkpoints folder whose names `unwanted` picks.
template <class Unwanted>
Result<void> remove_checkpoints(const std::string& run, Unwanted unwanted) {
  const std::string folder = checkpoints_folder(run);
  const auto names = checkpoint_folder_names(run);
  if (!names) return tl::make_unexpected(names.error());
  for (const std::string& name : *names) {
    if (!unwanted(name)) continue;
    std::error_code error;
    fs::remove(folder + "/" + name, error);
    if (error) return io_error(fmt::format("{}/{}: cannot remove it: {}", folder, name, error.message()));
  }
  return {};
}

bool is_checkpoint(std::string_view name) { return step_of_checkpoint_name(name) || name == "last.h5" || name == "best.h5"; }

// step-00000250.h5.1234-0.tmp and the like: what AtomicFile and link_checkpoint leave when the process is killed.
bool is_unfinished(std::string_view name) {
  const std::size_t end = name.find(kSuffix);
  return end != std::string_view::npos && name.ends_with(kUnfinished) && is_checkpoint(name.substr(0, end + kSuffix.size()));
}

// What of a run is in the folder; empty where nothing is.
Result<std::string> first_sign_of_a_run(const std::string& run) {
  for (const char* name : {"run.yaml", "metrics.jsonl"}) {
    std::error_code error;
    if (fs::exists(run + "/" + name, error)) return name;
  }
  const auto names = checkpoint_folder_names(run);
  if (!names) return tl::make_unexpected(names.error());
  const auto found = std::find_if(names->begin(), names->end(), is_checkpoint);
  return found == names->end() ? "" : "checkpoints/" + *found;
}

Result<void> remove_run(const std::string& run) {
  for (const char* name : {"/run.yaml", "/metrics.jsonl"}) {
    std::error_code error;
    fs::remove(run + name, error);
    if (error) return io_error(fmt::format("{}{}: cannot remove it: {}", run, name, error.message()));
  }
  return remove_checkpoints(run, is_checkpoint);
}

Result<void> sync_folder(const std::string& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const bool synced = fd >= 0 && (::fsync(fd) == 0 || errno == EINVAL);  // EINVAL: a file system that cannot
  const int error = errno;
  if (fd >= 0) ::close(fd);
  if (!synced) return io_error(fmt::format("{}: cannot sync the folder: {}", folder, reason(error)));
  return {};
}

Result<void> copy_checkpoint(const std::string& from, const std::string& to) {
  std::ifstream source(from, std::ios::binary);
  auto target = AtomicFile::create(to);
  if (!target) return tl::make_unexpected(target.error());
  std::vector<char> piece(std::size_t{1} << 20);
  while (source) {
    source.read(piece.data(), static_cast<std::streamsize>(piece.size()));
    const std::string_view bytes(piece.data(), static_cast<std::size_t>(source.gcount()));
    if (auto written = target->write(bytes); !written) return written;
  }
  if (!source.eof()) return io_error(fmt::format("{}: cannot read it to copy it to {}", from, to));
  return target->commit();
}

}  // namespace

Result<void> link_checkpoint(const std::string& checkpoint, const std::string& alias) {
  const std::string beside = fmt::format("{}.{}{}", alias, ::getpid(), kUnfinished);
  ::unlink(beside.c_str());
  if (::link(checkpoint.c_str(), beside.c_str()) != 0) {
    const int error = errno;
    const bool no_links = error == EPERM || error == EOPNOTSUPP || error == ENOSYS || error == EMLINK || error == EXDEV;
    if (no_links) return copy_checkpoint(checkpoint, alias);
    return io_error(fmt::format("{}: cannot link it as {}: {}", checkpoint, alias, reason(error)));
  }
  const bool renamed = ::rename(beside.c_str(), alias.c_str()) == 0;
  const int error = errno;
  ::unlink(beside.c_str());  // rename leaves it where both already were names of one file
  if (!renamed) return io_error(fmt::format("{}: cannot rename to {}: {}", beside, alias, reason(error)));
  return sync_folder(fs::path(alias).parent_path().string());
}

Result<void> prune_checkpoints(const std::string& run, std::int64_t keep) {
  const auto steps = checkpoint_steps(run);
  if (!steps) return tl::make_unexpected(steps.error());
  const auto count = static_cast<std::int64_t>(steps->size());
  if (count <= keep) return {};
  const std::vector<std::int64_t> pruned(steps->begin(), steps->begin() + (count - std::max<std::int64_t>(keep, 0)));
  return remove_checkpoints(run, [&](std::string_view name) {
    const auto step = step_of_checkpoint_name(name);
    return step && std::binary_search(pruned.begin(), pruned.end(), *step);
  });
}

Result<RunFolder> RunFolder::open(const std::string& path, RunStart start) {
  std::error_code error;
  if (fs::exists(path, error) && !fs::is_directory(path, error)) {
    return bad_input(fmt::format("{}: expected a run folder, found a file", path));
  }
  if (start == RunStart::resume && !fs::exists(path, error)) {
    return bad_input(fmt::format("{}: nothing to resume: there is no such run folder", path));
  }
  fs::create_directories(checkpoints_folder(path), error);
  if (error) return io_error(fmt::format("{}: cannot create the run folder: {}", path, error.message()));

  RunFolder folder;
  folder.path_ = path;
  folder.lock_ = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder.lock_ < 0) return io_error(fmt::format("{}: cannot open the run folder: {}", path, reason(errno)));
  if (::flock(folder.lock_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    return bad_input(fmt::format("{}: another process is training in this run folder", path));
  }

  if (start == RunStart::fresh) {
    const auto sign = first_sign_of_a_run(path);
    if (!sign) return tl::make_unexpected(sign.error());
    if (!sign->empty()) {
      return bad_input(
          fmt::format("{}: holds a run already (found {}): continue it with --resume, replace it with --force, "
                      "or choose another run.dir",
                      path, *sign));
    }
  }
  if (start == RunStart::resume) {
    if (const auto newest = newest_checkpoint(path); !newest) {
      return bad_input(fmt::format("nothing to resume: {}", newest.error().message));
    }
  }
  if (start == RunStart::replace) {
    if (auto removed = remove_run(path); !removed) return tl::make_unexpected(removed.error());
  }
  if (auto removed = remove_checkpoints(path, is_unfinished); !removed) return tl::make_unexpected(removed.error());
  return folder;
}

RunFolder::RunFolder(RunFolder&& other) noexcept : path_(std::move(other.path_)), lock_(std::exchange(other.lock_, -1)) {}

RunFolder& RunFolder::operator=(RunFolder&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(lock_, other.lock_);
  return *this;
}

RunFolder::~RunFolder() {
  if (lock_ >= 0) ::close(lock_);
}

Result<void> RunFolder::save(const CheckpointInfo& info, const ParameterLayout& layout, const CheckpointTensors& tensors,
                             bool best, std::int64_t keep) {
  const std::string numbered = checkpoint_path(path_, info.step);
  if (auto saved = save_checkpoint(numbered, info, layout, tensors); !saved) return saved;
  if (best) {
    if (auto linked = link_checkpoint(numbered, best_checkpoint_path(path_)); !linked) return linked;
  }
  if (auto linked = link_checkpoint(numbered, last_checkpoint_path(path_)); !linked) return linked;
  return prune_checkpoints(path_, keep);
}

}  // namespace quern
