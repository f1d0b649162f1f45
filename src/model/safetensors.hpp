// Safetensors: named tensors in one file, or in several with an index.
//
// A file is a little-endian u64 (the header's length), the header (a JSON object: name -> dtype, shape, data_offsets; and
// `__metadata__`), and the data, which the tensors cover without holes or overlaps. Format: the README of
// github.com/huggingface/safetensors. Nothing in a file is trusted: each fault is one sentence that names file and tensor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "math/result.hpp"
#include "model/atomic_file.hpp"
#include "model/gguf_mapping.hpp"

namespace quern {

/// Bytes of one element of a dtype ("F32", "BF16", "U8", ...); nothing where the word is unknown.
[[nodiscard]] std::optional<std::int64_t> safetensors_dtype_bytes(std::string_view dtype);

/// One tensor of a file; `data` is valid as long as the file (or the image it was parsed from).
struct SafetensorsTensor {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;  ///< outermost first; empty: one element
  std::span<const std::byte> data;
};

/// A file that is mapped into memory for reading. Move-only; its tensors' data stay where they are.
class SafetensorsFile {
 public:
  [[nodiscard]] static Result<SafetensorsFile> open(const std::string& path);
  /// The same for bytes in memory, which must outlive the object; `name` stands for the path in errors.
  [[nodiscard]] static Result<SafetensorsFile> parse(std::span<const std::byte> image, std::string name);

  [[nodiscard]] const std::string& name() const { return name_; }
  /// In the order of their data.
  [[nodiscard]] const std::vector<SafetensorsTensor>& tensors() const { return tensors_; }
  [[nodiscard]] const SafetensorsTensor* find(std::string_view tensor) const;
  [[nodiscard]] const std::vector<std::pair<std::string, std::string>>& metadata() const { return metadata_; }
  /// Takes mapped pages that lie wholly in `part` of a tensor's data out of memory.
  void release(std::span<const std::byte> part) const;

 private:
  SafetensorsFile() = default;
  std::string name_;
  internal::MappedFile mapping_;
  std::vector<SafetensorsTensor> tensors_;
  std::vector<std::pair<std::string, std::string>> metadata_;
  std::unordered_map<std::string, std::size_t> index_;
};

/// The tensors of a folder: model.safetensors, or the shards that model.safetensors.index.json lists.
class SafetensorsFolder {
 public:
  /// Errors: neither is there; the index names a file that is not in the folder itself, or missing; a tensor is in another
  /// shard than the index says, in two, in none, or not in the index.
  [[nodiscard]] static Result<SafetensorsFolder> open(const std::string& folder);

  struct Entry {
    const SafetensorsFile* file = nullptr;
    const SafetensorsTensor* tensor = nullptr;
  };
  /// Null pointers where there is no such tensor. Valid as long as the folder object, also after it was moved.
  [[nodiscard]] Entry find(std::string_view tensor) const;
  [[nodiscard]] const std::vector<std::unique_ptr<SafetensorsFile>>& files() const { return files_; }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  SafetensorsFolder() = default;
  std::string path_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
};

/// What a file that is written will hold.
struct SafetensorsDeclaration {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
};

/// Writes a file tensor by tensor, beside its target; finish() puts it in place and without it nothing is left.
class SafetensorsWriter {
 public:
  /// Writes the header. Errors: AtomicFile's; bad_input for a dtype that is not known, a name that is there twice, or
  /// sizes that overflow.
  [[nodiscard]] static Result<SafetensorsWriter> create(const std::string& path,
                                                        const std::vector<SafetensorsDeclaration>& tensors);
  /// Appends bytes of the tensors' data, one after another in the declared order, in pieces of any size.
  [[nodiscard]] Result<void> write(std::span<const std::byte> data);
  /// Syncs and renames. Error bad_input where data are missing.
  [[nodiscard]] Result<void> finish();

 private:
  SafetensorsWriter(AtomicFile file, std::size_t bytes) : file_(std::move(file)), missing_(bytes) {}
  AtomicFile file_;
  std::size_t missing_ = 0;  // bytes of data still to come
};

}  // namespace quern
