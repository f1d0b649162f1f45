#include "model/gguf_mapping.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <limits>
#include <string>
#include <system_error>
#include <utility>

namespace quern::internal {
namespace {

std::string reason(int error) { return std::generic_category().message(error); }

std::size_t page_bytes() {
  static const auto bytes = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  return bytes;
}

// A descriptor that is closed on every way out.
struct Descriptor {
  int number;
  ~Descriptor() {
    if (number >= 0) ::close(number);
  }
};

}  // namespace

Result<MappedFile> MappedFile::open(const std::filesystem::path& path) {
  const std::string name = path.string();
  // Without O_NONBLOCK, opening a pipe that nobody writes to would wait forever.
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.number < 0) {
    if (errno == ENOENT || errno == ENOTDIR) return bad_input(fmt::format("{}: no such file", name));
    return io_error(fmt::format("{}: cannot open: {}", name, reason(errno)));
  }
  struct stat status {};
  if (::fstat(file.number, &status) != 0) return io_error(fmt::format("{}: cannot read its size: {}", name, reason(errno)));
  if (S_ISDIR(status.st_mode)) return bad_input(fmt::format("{}: expected a file, found a folder", name));
  if (!S_ISREG(status.st_mode)) return bad_input(fmt::format("{}: expected a regular file, found a device or pipe", name));
  if (status.st_size == 0) return bad_input(fmt::format("{}: the file is empty", name));
  if (static_cast<std::uintmax_t>(status.st_size) > std::numeric_limits<std::size_t>::max()) {
    return bad_input(fmt::format("{}: {} bytes do not fit into the address space", name, status.st_size));
  }
  const auto size = static_cast<std::size_t>(status.st_size);
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.number, 0);
  if (data == MAP_FAILED) return io_error(fmt::format("{}: cannot map {} bytes: {}", name, size, reason(errno)));
  MappedFile mapped;
  mapped.data_ = static_cast<const std::byte*>(data);
  mapped.size_ = size;
  return mapped;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::will_need(std::span<const std::byte> part) const {
  if (part.empty()) return;
  const std::size_t page = page_bytes();
  const auto begin = static_cast<std::size_t>(part.data() - data_) / page * page;
  const auto end = static_cast<std::size_t>(part.data() - data_) + part.size();
  // Advice: where the system refuses it, pages are read when touched.
  (void)::madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_WILLNEED);
}

void MappedFile::release(std::span<const std::byte> part) const {
  const std::size_t page = page_bytes();
  const auto offset = static_cast<std::size_t>(part.data() - data_);
  const std::size_t begin = (offset + page - 1) / page * page;
  std::size_t end = (offset + part.size()) / page * page;
  if (offset + part.size() == size_) end = size_;  // the last page holds nothing else
  if (begin >= end) return;
  (void)::madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_DONTNEED);
}

}  // namespace quern::internal
