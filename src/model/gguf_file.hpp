// Reading GGUF model files (versions 2 and 3, little-endian, split files too): metadata and tensors, mapped and checked.
//
// Everything in the file is untrusted: counts, lengths, types, offsets, alignment and shapes are checked against the format
// and the file's size before they are used. Errors are bad_input and name the file, the key or tensor, what was expected and
// what was found.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "math/block_formats.hpp"
#include "math/result.hpp"

namespace quern {

/// Types of metadata values, with the format's ids.
enum class GgufType : std::uint32_t {
  u8 = 0,
  i8 = 1,
  u16 = 2,
  i16 = 3,
  u32 = 4,
  i32 = 5,
  f32 = 6,
  boolean = 7,
  string = 8,
  array = 9,
  u64 = 10,
  i64 = 11,
  f64 = 12
};
[[nodiscard]] std::string_view to_word(GgufType type);

/// An array value. Numbers stay in the file (unaligned, little-endian); strings are views into the mapping.
struct GgufArray {
  GgufType type = GgufType::u8;  ///< of the elements; never array
  std::int64_t count = 0;
  std::span<const std::byte> bytes;       ///< the elements of number and bool types
  std::vector<std::string_view> strings;  ///< the elements of type string
};

/// One metadata entry. Integers of any width are widened; u64 above the range of int64 stays unsigned.
struct GgufValue {
  std::string_view key;
  GgufType type = GgufType::u8;
  std::variant<std::int64_t, std::uint64_t, double, bool, std::string_view, GgufArray> value;
};

/// One tensor. `shape[0]` is the contiguous dimension (a weight [outputs, inputs] has shape {inputs, outputs}).
struct GgufTensor {
  std::string_view name;
  ElementType type = ElementType::f32;
  int dimensions = 1;                             ///< 0 (a scalar) to 4
  std::array<std::int64_t, 4> shape{1, 1, 1, 1};  ///< each >= 1
  const std::byte* data = nullptr;                ///< in the mapping; no alignment beyond the file's is promised
  std::size_t bytes = 0;
  int part = 0;  ///< which file of a split model, from 0
  [[nodiscard]] std::int64_t elements() const { return shape[0] * shape[1] * shape[2] * shape[3]; }
};

/// An open model: movable, keeps its files mapped read-only and private while it lives; views point into the mappings.
class GgufFile {
 public:
  /// Opens one file, or every part of a split model when given any `NAME-0000I-of-0000N.gguf`. Metadata are the first
  /// part's.
  [[nodiscard]] static Result<GgufFile> open(const std::filesystem::path& path);
  /// Reads a file image in memory (tests, fuzzing); `bytes` must outlive the result; `name` stands for the path in errors.
  [[nodiscard]] static Result<GgufFile> parse(std::span<const std::byte> bytes, std::string name);

  /// Tensors in memory as a file without metadata; their names, which differ, and data must outlive the result.
  [[nodiscard]] static GgufFile of_tensors(std::vector<GgufTensor> tensors, std::string name);

  GgufFile(GgufFile&&) noexcept;
  GgufFile& operator=(GgufFile&&) noexcept;
  ~GgufFile();

  [[nodiscard]] const std::string& name() const;  ///< the path as given
  [[nodiscard]] std::uint32_t version() const;
  [[nodiscard]] std::size_t alignment() const;
  [[nodiscard]] std::size_t file_bytes() const;  ///< of all parts
  [[nodiscard]] int parts() const;

  /// The first part's entries in the file's order; keys are unique. Where the vocabulary's arrays tokenizer.ggml.tokens,
  /// .scores, .token_type and .merges exist they have strings, f32, i32 (or u32) and strings, the first three as many.
  [[nodiscard]] std::span<const GgufValue> metadata() const;
  [[nodiscard]] const GgufValue* find(std::string_view key) const;

  // Typed access. `require_*` is an error where the key is missing; `*_or` gives the fallback then. Both are errors where
  // the value has another type or lies outside the range. Any integer type whose value fits is an integer; numbers may be
  // of integer or float type and must be finite; a bool is a bool.
  [[nodiscard]] Result<std::int64_t> require_integer(std::string_view key, std::int64_t min, std::int64_t max) const;
  [[nodiscard]] Result<std::int64_t> integer_or(std::string_view key, std::int64_t fallback, std::int64_t min,
                                                std::int64_t max) const;
  [[nodiscard]] Result<double> require_number(std::string_view key) const;
  [[nodiscard]] Result<double> number_or(std::string_view key, double fallback) const;
  [[nodiscard]] Result<bool> bool_or(std::string_view key, bool fallback) const;
  [[nodiscard]] Result<std::string_view> require_string(std::string_view key) const;
  [[nodiscard]] Result<std::string_view> string_or(std::string_view key, std::string_view fallback) const;
  /// Arrays; empty where the key is missing. A scalar counts as an array of one for integers() and bools(). floats() takes
  /// integers too; all must be finite in f32.
  [[nodiscard]] Result<std::span<const std::string_view>> strings(std::string_view key) const;
  [[nodiscard]] Result<std::vector<std::int64_t>> integers(std::string_view key) const;
  [[nodiscard]] Result<std::vector<float>> floats(std::string_view key) const;
  [[nodiscard]] Result<std::vector<bool>> bools(std::string_view key) const;

  [[nodiscard]] std::span<const GgufTensor> tensors() const;  ///< in the files' order
  [[nodiscard]] const GgufTensor* find_tensor(std::string_view name) const;

  /// Tells the system that a tensor's pages will be read soon, or are no longer needed (their weights were repacked).
  void will_need(const GgufTensor& tensor) const;
  void release(const GgufTensor& tensor) const;

 private:
  struct State;
  explicit GgufFile(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace quern
