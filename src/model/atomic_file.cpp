#include "model/atomic_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>

namespace quern {
namespace {

// Appended bytes after which the system is told to begin storing them: far more than a request costs, far less than what it
// would otherwise gather (a tenth of the memory) and commit() would wait for.
constexpr std::size_t kStoreBytes = std::size_t{32} << 20;

std::string reason(int error) { return std::generic_category().message(error); }

// The folder of `path` as open(2) takes it.
std::string folder_of(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

// Makes a rename durable: the folder's entry is data of the folder.
Result<void> sync_folder(const std::string& folder) {
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return io_error(fmt::format("{}: cannot open the folder to sync it: {}", folder, reason(errno)));
  const int status = ::fsync(descriptor);
  const int error = errno;
  ::close(descriptor);
  // Some file systems cannot sync folders and say EINVAL; there is nothing more to do there.
  if (status != 0 && error != EINVAL) {
    return io_error(fmt::format("{}: cannot sync the folder: {}", folder, reason(error)));
  }
  return {};
}

}  // namespace

Result<AtomicFile> AtomicFile::create(const std::string& path) {
  std::error_code error;
  AtomicFile file;
  file.path_ = path;
  const auto status = std::filesystem::status(path, error);
  if (std::filesystem::is_directory(status))
    return bad_input(fmt::format("{}: expected a file to write, found a folder", path));
  if (std::filesystem::exists(status)) {
    if (!std::filesystem::is_regular_file(status)) {
      return bad_input(fmt::format("{}: expected a regular file to replace, found a device or pipe", path));
    }
    const auto target = std::filesystem::canonical(path, error);
    if (!error) file.path_ = target.string();
  }
  // The process's number and a counter make the name unique; O_EXCL notices a stale file of a dead process, and the next
  // number is tried.
  static std::atomic<unsigned> counter{0};
  for (int attempt = 0; attempt < 100; ++attempt) {
    file.temporary_path_ = fmt::format("{}.{}-{}.tmp", file.path_, ::getpid(), counter.fetch_add(1));
    file.descriptor_ = ::open(file.temporary_path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file.descriptor_ >= 0) return file;
    if (errno != EEXIST) break;
  }
  const int open_error = errno;
  file.temporary_path_.clear();
  return io_error(fmt::format("{}: cannot create a file in folder {}: {}", path, folder_of(path), reason(open_error)));
}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_path_(std::exchange(other.temporary_path_, {})),
      descriptor_(std::exchange(other.descriptor_, -1)),
      written_(other.written_),
      storing_(other.storing_) {}

AtomicFile& AtomicFile::operator=(AtomicFile&& other) noexcept {
  if (this != &other) {
    discard();
    path_ = std::move(other.path_);
    temporary_path_ = std::exchange(other.temporary_path_, {});
    descriptor_ = std::exchange(other.descriptor_, -1);
    written_ = other.written_;
    storing_ = other.storing_;
  }
  return *this;
}

AtomicFile::~AtomicFile() { discard(); }

void AtomicFile::discard() {
  if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
  if (!temporary_path_.empty()) ::unlink(temporary_path_.c_str());
  temporary_path_.clear();
}

Result<void> AtomicFile::write(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      return io_error(fmt::format("{}: cannot write: {}", temporary_path_, reason(errno)));
    }
    bytes.remove_prefix(static_cast<std::size_t>(written));
    written_ += static_cast<std::size_t>(written);
  }
#ifdef __linux__
  if (written_ - storing_ >= kStoreBytes) {
    // Advice: where the file system has no such call, commit() does all of it.
    (void)::sync_file_range(descriptor_, static_cast<off_t>(storing_), static_cast<off_t>(written_ - storing_),
                            SYNC_FILE_RANGE_WRITE);
    storing_ = written_;
  }
#endif
  return {};
}

Result<void> AtomicFile::write_at(std::size_t offset, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0) {
      if (errno == EINTR) continue;
      return io_error(fmt::format("{}: cannot write: {}", temporary_path_, reason(errno)));
    }
    bytes.remove_prefix(static_cast<std::size_t>(written));
    offset += static_cast<std::size_t>(written);
  }
  return {};
}

Result<void> AtomicFile::commit() {
  if (temporary_path_.empty()) return io_error(fmt::format("{}: already committed", path_));
  // fsync of any descriptor of the file also syncs what another library wrote to it by name.
  if (::fsync(descriptor_) != 0) return io_error(fmt::format("{}: cannot sync: {}", temporary_path_, reason(errno)));
  if (::close(std::exchange(descriptor_, -1)) != 0) {
    return io_error(fmt::format("{}: cannot close: {}", temporary_path_, reason(errno)));
  }
  if (::rename(temporary_path_.c_str(), path_.c_str()) != 0) {
    return io_error(fmt::format("{}: cannot rename to {}: {}", temporary_path_, path_, reason(errno)));
  }
  temporary_path_.clear();
  return sync_folder(folder_of(path_));
}

Result<void> write_file_atomically(const std::string& path, std::string_view bytes) {
  auto file = AtomicFile::create(path);
  if (!file) return tl::make_unexpected(file.error());
  if (auto written = file->write(bytes); !written) return written;
  return file->commit();
}

Result<std::string> read_whole_file(const std::string& path, std::size_t max_bytes) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return io_error(fmt::format("{}: cannot open: {}", path, reason(errno)));
  std::string text;
  char piece[1 << 16];
  for (;;) {
    const ssize_t got = ::read(descriptor, piece, sizeof piece);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      const int error = errno;
      ::close(descriptor);
      if (got < 0) return io_error(fmt::format("{}: cannot read: {}", path, reason(error)));
      return text;
    }
    text.append(piece, static_cast<std::size_t>(got));
    if (text.size() > max_bytes) {
      ::close(descriptor);
      return bad_input(fmt::format("{}: expected at most {} bytes, found more", path, max_bytes));
    }
  }
}

}  // namespace quern
