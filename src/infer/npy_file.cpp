#include "infer/npy_file.hpp"

#include <fmt/format.h>

#include <bit>
#include <limits>
#include <string_view>

namespace quern {

Result<NpyWriter> NpyWriter::create(const std::string& path, std::int64_t rows, std::int64_t columns) {
  static_assert(std::endian::native == std::endian::little);
  constexpr std::int64_t kMostValues = std::numeric_limits<std::int64_t>::max() / static_cast<std::int64_t>(sizeof(float));
  if (rows < 0 || columns < 1 || rows > kMostValues / columns) {
    return bad_input(fmt::format("{}: an array of {} x {} values cannot be written", path, rows, columns));
  }
  // The header (magic, version, length, dictionary) is padded with spaces to a multiple of 64 bytes and ends in a newline.
  std::string dictionary = fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", rows, columns);
  constexpr std::size_t kPrefix = 10;
  dictionary.append(63 - (kPrefix + dictionary.size()) % 64, ' ');
  dictionary += '\n';
  std::string header("\x93NUMPY\x01\x00", 8);
  header += static_cast<char>(dictionary.size() & 0xFFU);
  header += static_cast<char>(dictionary.size() >> 8);
  auto file = AtomicFile::create(path);
  if (!file) return tl::make_unexpected(file.error());
  if (auto written = file->write(header + dictionary); !written) return tl::make_unexpected(written.error());
  return NpyWriter(std::move(*file), rows, columns);
}

Result<void> NpyWriter::append(std::span<const float> values) {
  if (std::ssize(values) % columns_ != 0 || std::ssize(values) > missing_) {
    return bad_input(fmt::format("{}: {} values where rows of {} and at most {} values are due", file_.path(), values.size(),
                                 columns_, missing_));
  }
  missing_ -= std::ssize(values);
  return file_.write({reinterpret_cast<const char*>(values.data()), values.size_bytes()});
}

Result<void> NpyWriter::commit() {
  if (missing_ != 0) return bad_input(fmt::format("{}: {} values are missing", file_.path(), missing_));
  return file_.commit();
}

}  // namespace quern
