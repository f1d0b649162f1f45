// Writing GGUF model files (version 3, little-endian): metadata, then tensors whose data are given piece by piece.
//
// In this order: create(); metadata and declare_tensor() in any mixture; begin_data(); write() with the data of every tensor
// in the order of declaration; finish(). Memory does not grow with the data. The file appears at its path when finish()
// succeeds; before, a file that was there is as it was.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "math/element_type.hpp"
#include "math/result.hpp"
#include "model/gguf_file.hpp"

namespace quern {

/// Writes one file. Move-only, not thread-safe. What a caller gets wrong (a key or tensor twice, a shape that its type does
/// not divide, text that is too long) is remembered and returned by begin_data(), so that a row of add_*() needs no checks.
class GgufWriter {
 public:
  struct Options {
    std::size_t alignment = 32;  ///< of tensor data; a power of two from 8 to 2^20. Others than 32 are said in the metadata
    /// Hashes each tensor's data and says the hashes in the metadata (tensor_checksums.hpp).
    bool checksums = false;
  };

  /// Creates a temporary file beside `path`. Errors: AtomicFile's; bad_input for the alignment.
  [[nodiscard]] static Result<GgufWriter> create(const std::string& path, const Options& options);
  [[nodiscard]] static Result<GgufWriter> create(const std::string& path) { return create(path, Options()); }

  GgufWriter(GgufWriter&&) noexcept;
  GgufWriter& operator=(GgufWriter&&) noexcept;
  ~GgufWriter();

  // Metadata, in the order of the file. Keys are unique, of 1 to 65,535 bytes; `general.alignment` is the writer's.
  /// An integer of the given type (u8 .. u64), which must hold it.
  void add_integer(std::string_view key, GgufType type, std::int64_t value);
  void add_u32(std::string_view key, std::uint32_t value) { add_integer(key, GgufType::u32, value); }
  void add_f32(std::string_view key, float value);
  void add_bool(std::string_view key, bool value);
  void add_string(std::string_view key, std::string_view value);
  void add_strings(std::string_view key, std::span<const std::string_view> values);
  void add_strings(std::string_view key, std::span<const std::string> values);
  void add_u32s(std::string_view key, std::span<const std::uint32_t> values);
  void add_i32s(std::string_view key, std::span<const std::int32_t> values);
  void add_f32s(std::string_view key, std::span<const float> values);
  void add_bools(std::string_view key, const std::vector<bool>& values);
  /// An entry of another file, as it is there. Left out are those that were true of that file only: general.alignment,
  /// split.* and checksums.
  void add(const GgufValue& entry);

  /// Announces a tensor. shape: 1 to 4 sizes of at least 1, the contiguous one first. Names are unique, of 1 to 63 bytes.
  void declare_tensor(std::string_view name, ElementType type, std::span<const std::int64_t> shape);

  /// Writes all that comes before the data.
  [[nodiscard]] Result<void> begin_data();
  /// Appends bytes of the tensors' data, in pieces of any size: a piece may end inside a tensor, but not reach into the next
  /// one. Padding is written by itself. Error bad_input where a piece reaches beyond its tensor or all data are there.
  [[nodiscard]] Result<void> write(std::span<const std::byte> data);
  /// Bytes that the tensor which is being written still lacks; 0 when all data are there.
  [[nodiscard]] std::size_t left_in_tensor() const;

  /// Syncs and puts the file in place. Error bad_input where data are missing.
  [[nodiscard]] Result<void> finish();

 private:
  struct State;
  explicit GgufWriter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace quern
