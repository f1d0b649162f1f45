// A file mapped into memory for reading only.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

#include "math/result.hpp"

namespace quern::internal {

/// Owns a read-only, private mapping of a whole regular file; move-only. The bytes stay where they are when the object is
/// moved, and are valid while it lives. A process that truncates the file meanwhile makes reads fail (SIGBUS), as with any
/// mapping; nobody can write through it.
class MappedFile {
 public:
  /// Error bad_input when there is no such file, or it is a folder, device or empty; io when the system refuses.
  [[nodiscard]] static Result<MappedFile> open(const std::filesystem::path& path);

  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  [[nodiscard]] std::span<const std::byte> bytes() const { return {data_, size_}; }

  /// Asks the system to read the pages of `part`, which lies in bytes(), ahead of use.
  void will_need(std::span<const std::byte> part) const;
  /// Takes the pages that lie wholly in `part` out of the process's memory. Reading them again reads the file again.
  void release(std::span<const std::byte> part) const;

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace quern::internal
