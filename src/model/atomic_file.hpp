// Files that appear whole or not at all: written beside their target, synced, renamed over it.
#pragma once

#include <string>
#include <string_view>

#include "math/result.hpp"

namespace quern {

/// A file being written under a temporary name in its target's folder. commit() makes it the target; without it the
/// destructor removes it, so that a half-written file never replaces a good one. Write either with write(), or through any
/// other library given temporary_path(). Move-only, not thread-safe.
class AtomicFile {
 public:
  /// Creates the (empty) temporary file. Where `path` is a symbolic link, the file it points to is the target. Error io
  /// when the folder does not exist or refuses, bad_input when `path` is a folder or a device.
  [[nodiscard]] static Result<AtomicFile> create(const std::string& path);

  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&& other) noexcept;
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  /// The file to write, in the same folder as the target; valid until commit().
  [[nodiscard]] const std::string& temporary_path() const { return temporary_path_; }
  [[nodiscard]] const std::string& path() const { return path_; }

  /// Appends bytes. The system is asked to store them in the background, so that commit() waits for little.
  [[nodiscard]] Result<void> write(std::string_view bytes);
  /// Replaces bytes that were written, from `offset` on.
  [[nodiscard]] Result<void> write_at(std::size_t offset, std::string_view bytes);

  /// Syncs the file, renames it over the target, and syncs the folder. Afterwards the object is empty. On an error the
  /// target is as it was, except where only the last step, syncing the folder, failed.
  [[nodiscard]] Result<void> commit();

 private:
  AtomicFile() = default;
  void discard();
  std::string path_;
  std::string temporary_path_;  // empty: nothing to remove
  int descriptor_ = -1;
  std::size_t written_ = 0, storing_ = 0;  // bytes appended, and those of them that are being stored
};

/// Writes `bytes` to `path` through an AtomicFile.
[[nodiscard]] Result<void> write_file_atomically(const std::string& path, std::string_view bytes);

/// The whole of a file. Error io when it cannot be read, bad_input when it holds more than `max_bytes`.
[[nodiscard]] Result<std::string> read_whole_file(const std::string& path, std::size_t max_bytes);

}  // namespace quern
