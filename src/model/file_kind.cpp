#include "model/file_kind.hpp"

#include <fmt/format.h>

#include <filesystem>
#include <fstream>

#include "model/hdf5_user_block.hpp"

namespace quern {

namespace {

FileKind kind_of(const std::string& bytes) {
  if (bytes.starts_with("GGUF")) return FileKind::gguf;
  if (bytes == internal::kCheckpointBlock.magic) return FileKind::checkpoint;
  // Corpora of the first version were plain HDF5; the reader says what they lack.
  if (bytes == internal::kCorpusBlock.magic || bytes.starts_with("\x89HDF")) return FileKind::corpus;
  const std::size_t at = bytes.find_first_not_of(" \t\r\n");
  return at != std::string::npos && bytes[at] == '{' ? FileKind::json : FileKind::other;
}

}  // namespace

Result<FileStart> read_file_start(const std::string& path) {
  std::error_code code;
  const auto status = std::filesystem::status(path, code);
  if (!std::filesystem::exists(status)) return bad_input(fmt::format("{}: no such file or folder", path));
  if (std::filesystem::is_directory(status)) return FileStart{FileKind::folder, ""};
  if (!std::filesystem::is_regular_file(status)) {
    return bad_input(fmt::format("{}: expected a regular file, found a device or pipe", path));
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) return io_error(fmt::format("{}: cannot be opened", path));
  FileStart start;
  start.bytes.resize(8);
  file.read(start.bytes.data(), std::ssize(start.bytes));
  if (file.bad()) return io_error(fmt::format("{}: cannot be read", path));
  start.bytes.resize(static_cast<std::size_t>(file.gcount()));
  if (start.bytes.empty()) return bad_input(fmt::format("{}: the file is empty", path));
  start.kind = kind_of(start.bytes);
  return start;
}

}  // namespace quern
