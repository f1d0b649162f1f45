#include "model/hdf5_user_block.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace quern::internal {
namespace {

constexpr std::size_t kVersionAt = 8, kLengthAt = 16, kHashAt = 24, kUsedBytes = 32;
// One read(2) of a file being hashed: long enough to amortize the call, short enough to stay in the L2 cache.
constexpr std::size_t kPieceBytes = std::size_t{1} << 19;

using Block = std::array<unsigned char, kUserBlockBytes>;

std::string reason(int error) { return std::generic_category().message(error); }

void put(Block& block, std::size_t at, std::uint64_t value, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; ++i) block[at + i] = static_cast<unsigned char>(value >> (8 * i));
}
std::uint64_t get(const Block& block, std::size_t at, std::size_t bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < bytes; ++i) value |= static_cast<std::uint64_t>(block[at + i]) << (8 * i);
  return value;
}

class Descriptor {
 public:
  Descriptor(const std::string& path, int flags) : fd_(::open(path.c_str(), flags | O_CLOEXEC)) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  [[nodiscard]] int get() const { return fd_; }

 private:
  int fd_;
};

// Reads until `bytes` are there or the file ends; returns how many there were, or -1 with errno.
std::int64_t read_at(int fd, void* out, std::size_t bytes, std::int64_t offset) {
  std::size_t done = 0;
  while (done < bytes) {
    const ssize_t got = ::pread(fd, static_cast<char*>(out) + done, bytes - done,
                                static_cast<off_t>(offset + static_cast<std::int64_t>(done)));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return -1;
    if (got == 0) break;
    done += static_cast<std::size_t>(got);
  }
  return static_cast<std::int64_t>(done);
}

struct Rest {
  std::uint64_t bytes = 0, hash = 0;
};

// Length and hash of everything after the user block.
Result<Rest> hash_rest(int fd, const std::string& path) {
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state(XXH3_createState(), XXH3_freeState);
  if (!state) return no_memory(fmt::format("{}: no memory to hash it", path));
  XXH3_64bits_reset(state.get());
  std::vector<char> piece(kPieceBytes);
  Rest rest;
  for (;;) {
    const std::int64_t got =
        read_at(fd, piece.data(), piece.size(), kUserBlockBytes + static_cast<std::int64_t>(rest.bytes));
    if (got < 0) return io_error(fmt::format("{}: cannot read: {}", path, reason(errno)));
    XXH3_64bits_update(state.get(), piece.data(), static_cast<std::size_t>(got));
    rest.bytes += static_cast<std::uint64_t>(got);
    if (got < static_cast<std::int64_t>(piece.size())) break;
  }
  rest.hash = XXH3_64bits_digest(state.get());
  return rest;
}

}  // namespace

Result<void> write_user_block(const std::string& path, const UserBlockKind& kind) {
  const Descriptor file(path, O_RDWR);
  if (file.get() < 0) return io_error(fmt::format("{}: cannot open: {}", path, reason(errno)));
  const auto rest = hash_rest(file.get(), path);
  if (!rest) return tl::make_unexpected(rest.error());
  Block block{};
  std::copy(kind.magic.begin(), kind.magic.end(), block.begin());
  put(block, kVersionAt, kind.version, 4);
  put(block, kLengthAt, rest->bytes, 8);
  put(block, kHashAt, rest->hash, 8);
  std::size_t done = 0;
  while (done < block.size()) {
    const ssize_t written = ::pwrite(file.get(), block.data() + done, block.size() - done, static_cast<off_t>(done));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return io_error(fmt::format("{}: cannot write its user block: {}", path, reason(errno)));
    done += static_cast<std::size_t>(written);
  }
  return {};
}

Result<void> check_user_block(const std::string& path, const UserBlockKind& kind) {
  const Descriptor file(path, O_RDONLY);
  if (file.get() < 0) return io_error(fmt::format("{}: cannot open the {}: {}", path, kind.word, reason(errno)));
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) return io_error(fmt::format("{}: {}", path, reason(errno)));
  if (!S_ISREG(status.st_mode))
    return bad_input(fmt::format("{}: expected a {} file, found a folder or device", path, kind.word));

  Block block{};
  const std::int64_t got = read_at(file.get(), block.data(), block.size(), 0);
  if (got < 0) return io_error(fmt::format("{}: cannot read: {}", path, reason(errno)));
  const auto begins_with = [&](std::string_view magic) {
    return got >= static_cast<std::int64_t>(magic.size()) && std::equal(magic.begin(), magic.end(), block.begin());
  };
  if (got >= static_cast<std::int64_t>(kind.magic.size()) && !begins_with(kind.magic)) {
    return bad_input(fmt::format("{}: not a Quern {}{}: expected the magic \"{}\" at its start", path, kind.word,
                                 begins_with("\x89HDF\r\n\x1a\n") ? " of this version" : "", kind.magic));
  }
  if (got < kUserBlockBytes) {
    return bad_input(fmt::format("{}: truncated or not a {}: expected a user block of {} bytes, found {} bytes", path,
                                 kind.word, kUserBlockBytes, got));
  }
  const std::uint64_t version = get(block, kVersionAt, 4);
  if (version != kind.version) {
    return bad_input(fmt::format("{}: expected {} format version {}, found {}", path, kind.word, kind.version, version));
  }
  const bool zeros = get(block, kVersionAt + 4, 4) == 0 &&
                     std::all_of(block.begin() + kUsedBytes, block.end(), [](unsigned char byte) { return byte == 0; });
  if (!zeros) return bad_input(fmt::format("{}: damaged: unused bytes of the user block are not zero", path));
  const std::uint64_t length = get(block, kLengthAt, 8);
  const auto present = static_cast<std::uint64_t>(status.st_size - kUserBlockBytes);
  if (length != present) {
    return bad_input(fmt::format("{}: {}: expected {} bytes after the user block, found {}", path,
                                 present < length ? "truncated" : "damaged", length, present));
  }
  const auto rest = hash_rest(file.get(), path);
  if (!rest) return tl::make_unexpected(rest.error());
  const std::uint64_t hash = get(block, kHashAt, 8);
  if (rest->bytes != length || rest->hash != hash) {
    return bad_input(fmt::format("{}: damaged: expected the XXH3 hash {:016x}, found {:016x}", path, hash, rest->hash));
  }
  return {};
}

}  // namespace quern::internal
