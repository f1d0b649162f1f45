// HDF5 files through small owning handles: groups, typed datasets, attributes; every failure is a Result.
//
// All HDF5 calls of the process go through this file: the library is not thread-safe as Debian builds it, and one lock in
// here lets a reader thread and a checkpoint run side by side. Files are written in HDF5's 1.10 format, whose metadata
// carry checksums, and without times: the same content gives the same bytes. Files that are read are not trusted: soft and
// external links, external storage, virtual datasets and sizes that overflow are refused.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "math/result.hpp"

namespace quern {

/// Element types of datasets, little-endian in the file. Bfloat16 and f16 are stored as u16.
enum class Hdf5Type : std::uint8_t { u8, i8, u16, i16, u32, i32, u64, i64, f32, f64 };
[[nodiscard]] std::string_view hdf5_type_name(Hdf5Type type);
[[nodiscard]] std::size_t hdf5_type_bytes(Hdf5Type type);

/// The Hdf5Type of a C++ type (integers of 1 to 8 bytes, float, double, std::byte).
template <class T>
[[nodiscard]] constexpr Hdf5Type hdf5_type_of() {
  if constexpr (std::is_same_v<T, std::byte>) {
    return Hdf5Type::u8;
  } else if constexpr (std::is_floating_point_v<T>) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8);
    return sizeof(T) == 4 ? Hdf5Type::f32 : Hdf5Type::f64;
  } else {
    static_assert(std::is_integral_v<T>);
    constexpr int kLog = sizeof(T) == 1 ? 0 : sizeof(T) == 2 ? 1 : sizeof(T) == 4 ? 2 : 3;
    return static_cast<Hdf5Type>(2 * kLog + (std::is_signed_v<T> ? 1 : 0));
  }
}

namespace internal {
/// Owns one HDF5 identifier (of any kind) and gives it back.
class Hdf5Handle {
 public:
  Hdf5Handle() = default;
  explicit Hdf5Handle(std::int64_t id) : id_(id) {}
  Hdf5Handle(Hdf5Handle&& other) noexcept : id_(std::exchange(other.id_, -1)) {}
  Hdf5Handle& operator=(Hdf5Handle&& other) noexcept {
    std::swap(id_, other.id_);
    return *this;
  }
  Hdf5Handle(const Hdf5Handle&) = delete;
  Hdf5Handle& operator=(const Hdf5Handle&) = delete;
  ~Hdf5Handle() { reset(); }
  void reset();
  /// Gives the identifier up without closing it.
  std::int64_t release() { return std::exchange(id_, -1); }
  [[nodiscard]] std::int64_t id() const { return id_; }
  [[nodiscard]] bool valid() const { return id_ >= 0; }

 private:
  std::int64_t id_ = -1;
};
}  // namespace internal

/// What groups and datasets share: a place to hang attributes. Errors name the file, the object and the attribute.
class Hdf5Object {
 public:
  /// For messages: "FILE: /group/name".
  [[nodiscard]] std::string where() const { return file_path_ + ": " + name_; }
  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] const std::string& file_path() const { return file_path_; }

  [[nodiscard]] bool has_attribute(const std::string& name) const;
  /// Creates or replaces a scalar attribute. Strings hold at most 60,000 bytes and no NUL; longer text goes to
  /// Hdf5Group::write_text.
  [[nodiscard]] Result<void> set_attribute(const std::string& name, std::int64_t value);
  [[nodiscard]] Result<void> set_attribute(const std::string& name, double value);
  [[nodiscard]] Result<void> set_attribute(const std::string& name, std::string_view value);
  /// Reads a scalar attribute of exactly that kind (an int64, a double, a string).
  [[nodiscard]] Result<std::int64_t> int64_attribute(const std::string& name) const;
  [[nodiscard]] Result<double> double_attribute(const std::string& name) const;
  [[nodiscard]] Result<std::string> string_attribute(const std::string& name) const;

 protected:
  Hdf5Object() = default;
  Hdf5Object(internal::Hdf5Handle handle, std::string file_path, std::string name)
      : handle_(std::move(handle)), file_path_(std::move(file_path)), name_(std::move(name)) {}
  [[nodiscard]] std::int64_t id() const { return handle_.id(); }
  internal::Hdf5Handle handle_;
  std::string file_path_;
  std::string name_;
};

/// A typed array of rank 1 to 4, outermost dimension first. "Rows" are slices of the outermost dimension.
class Hdf5Dataset : public Hdf5Object {
 public:
  Hdf5Dataset() = default;
  [[nodiscard]] Hdf5Type type() const { return type_; }
  [[nodiscard]] const std::vector<std::int64_t>& shape() const { return shape_; }
  [[nodiscard]] std::int64_t rows() const { return shape_[0]; }
  /// Elements in one row (1 for rank 1) and in all; their product with the type's size fits 63 bits.
  [[nodiscard]] std::int64_t row_elements() const { return row_elements_; }
  [[nodiscard]] std::int64_t elements() const { return shape_[0] * row_elements_; }
  /// Rows of one chunk, 0 where the dataset is not chunked.
  [[nodiscard]] std::int64_t chunk_rows() const { return chunk_rows_; }
  /// Bytes of one whole chunk (what a read of any element of it costs), 0 where not chunked.
  [[nodiscard]] std::int64_t chunk_bytes() const { return chunk_bytes_; }
  /// True when chunks pass through deflate.
  [[nodiscard]] bool compressed() const { return compressed_; }
  /// Bytes that elements take in the file: 0 for what was never written.
  [[nodiscard]] std::int64_t stored_bytes() const;

  /// Error unless type and shape are these; -1 in `shape` stands for any extent.
  [[nodiscard]] Result<void> expect(Hdf5Type type, std::span<const std::int64_t> shape) const;

  /// Reads or writes rows first .. first+rows-1, densely packed; the span's size must be rows * row_elements(), its type the
  /// dataset's. Allocates nothing that grows with the data apart from HDF5's chunk cache.
  template <class T>
  [[nodiscard]] Result<void> read_rows(std::int64_t first, std::int64_t rows, std::span<T> out) const {
    return transfer_rows(first, rows, hdf5_type_of<T>(), out.data(), out.size(), false);
  }
  template <class T>
  [[nodiscard]] Result<void> write_rows(std::int64_t first, std::int64_t rows, std::span<const T> values) {
    return transfer_rows(first, rows, hdf5_type_of<T>(), const_cast<T*>(values.data()), values.size(), true);
  }
  /// The whole dataset.
  template <class T>
  [[nodiscard]] Result<void> read(std::span<T> out) const {
    return read_rows<T>(0, rows(), out);
  }
  template <class T>
  [[nodiscard]] Result<void> write(std::span<const T> values) {
    return write_rows<T>(0, rows(), values);
  }
  /// The same with the type at run time; `bytes` must be rows * row_elements() * hdf5_type_bytes(type()).
  [[nodiscard]] Result<void> read_row_bytes(std::int64_t first, std::int64_t rows, std::span<std::byte> out) const;
  [[nodiscard]] Result<void> write_row_bytes(std::int64_t first, std::int64_t rows, std::span<const std::byte> values);

  /// Sets the number of rows; only for datasets created with `growable`.
  [[nodiscard]] Result<void> resize_rows(std::int64_t rows);

 private:
  friend class Hdf5Group;
  using Hdf5Object::Hdf5Object;
  [[nodiscard]] Result<void> load();
  [[nodiscard]] Result<void> transfer_rows(std::int64_t first, std::int64_t rows, Hdf5Type type, void* memory,
                                           std::size_t memory_elements, bool write) const;
  Hdf5Type type_ = Hdf5Type::u8;
  std::vector<std::int64_t> shape_;
  std::int64_t row_elements_ = 1;
  std::int64_t chunk_rows_ = 0;
  std::int64_t chunk_bytes_ = 0;
  bool compressed_ = false;
};

/// How to create a dataset.
struct Hdf5DatasetOptions {
  Hdf5Type type = Hdf5Type::f32;
  std::vector<std::int64_t> shape;  ///< rank 1 to 4
  std::int64_t chunk_rows = 0;      ///< rows per chunk; 0: contiguous
  bool growable = false;            ///< rows may be resized later; needs chunks
  bool checksum = false;            ///< Fletcher-32 of each chunk, verified when read; needs chunks
  int deflate = 0;                  ///< zlib level 1 to 9, 0 for none; needs chunks
};

/// A group. Names may be paths ("train/tokens"); every part must be a plain (hard) link.
class Hdf5Group : public Hdf5Object {
 public:
  Hdf5Group() = default;
  [[nodiscard]] bool has(const std::string& name) const;
  /// Names of the members, sorted.
  [[nodiscard]] Result<std::vector<std::string>> names() const;
  [[nodiscard]] Result<Hdf5Group> create_group(const std::string& name);
  [[nodiscard]] Result<Hdf5Group> open_group(const std::string& name) const;
  [[nodiscard]] Result<Hdf5Dataset> create_dataset(const std::string& name, const Hdf5DatasetOptions& options);
  [[nodiscard]] Result<Hdf5Dataset> open_dataset(const std::string& name) const;

  /// A text of any length as a u8 dataset (attributes are for short values).
  [[nodiscard]] Result<void> write_text(const std::string& name, std::string_view text);
  /// Error when it is not one-dimensional u8 or longer than `max_bytes`.
  [[nodiscard]] Result<std::string> read_text(const std::string& name, std::size_t max_bytes) const;

 private:
  friend class Hdf5File;
  using Hdf5Object::Hdf5Object;
  [[nodiscard]] Result<void> check_links(const std::string& name) const;
  [[nodiscard]] Result<void> make_parents(const std::string& name);
  [[nodiscard]] std::string child_name(const std::string& name) const;
};

/// An open file. Objects opened from it may outlive it (the file stays open until the last is gone).
class Hdf5File {
 public:
  Hdf5File() = default;
  /// Creates or empties `path`. `user_block_bytes` (0, or a power of two from 512) leaves that much room at the file's start
  /// for the caller, who writes it after close().
  [[nodiscard]] static Result<Hdf5File> create(const std::string& path, std::int64_t user_block_bytes = 0);
  /// Opens an existing file for reading. Error io when it cannot be opened at all, bad_input when it is not HDF5, truncated
  /// or damaged.
  [[nodiscard]] static Result<Hdf5File> open(const std::string& path);

  [[nodiscard]] Hdf5Group& root() { return root_; }
  [[nodiscard]] const Hdf5Group& root() const { return root_; }

  /// Writes everything out and closes; reports what the destructor could not.
  [[nodiscard]] Result<void> close();

 private:
  internal::Hdf5Handle file_;
  Hdf5Group root_;
};

}  // namespace quern
