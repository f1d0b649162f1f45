// Builds small GGUF images in memory for tests, good ones and bad ones. Shares no code with the writer or the reader.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quern {

/// Type ids of the format, as tests write them (and wrong ones, as any number).
namespace gguf {
inline constexpr std::uint32_t kU8 = 0, kI8 = 1, kU16 = 2, kI16 = 3, kU32 = 4, kI32 = 5, kF32 = 6, kBool = 7, kString = 8,
                               kArray = 9, kU64 = 10, kI64 = 11, kF64 = 12;
}  // namespace gguf

/// Collects entries and tensors, then gives the bytes of a file. Every field can be set to what it should not be.
///
///     const auto image = GgufBuilder().text("general.architecture", "llama").u32("llama.block_count", 2)
///                            .f32_tensor("token_embd.weight", {4, 3}, values).build();
///     const auto file = GgufFile::parse(image, "image");
class GgufBuilder {
 public:
  // Metadata, in order of the calls.
  GgufBuilder& u32(std::string_view key, std::uint32_t value);
  GgufBuilder& f32(std::string_view key, float value);
  GgufBuilder& boolean(std::string_view key, bool value);
  GgufBuilder& text(std::string_view key, std::string_view value);
  GgufBuilder& texts(std::string_view key, const std::vector<std::string>& values);
  GgufBuilder& i32s(std::string_view key, const std::vector<std::int32_t>& values);
  GgufBuilder& f32s(std::string_view key, const std::vector<float>& values);
  GgufBuilder& bools(std::string_view key, const std::vector<bool>& values);
  /// An entry whose value is of any type id, with the value's bytes as given.
  GgufBuilder& raw(std::string_view key, std::uint32_t type, std::string_view value_bytes);

  // Tensors, in order of the calls. Each lies at the next aligned offset unless one is given.
  GgufBuilder& tensor(std::string_view name, std::uint32_t type, std::vector<std::int64_t> shape, std::string data,
                      std::optional<std::uint64_t> offset = {});
  GgufBuilder& f32_tensor(std::string_view name, std::vector<std::int64_t> shape, std::span<const float> values);

  // The header, where it is to be other than 3, the default 32 and the true numbers.
  GgufBuilder& magic(std::string_view four_bytes);
  GgufBuilder& version(std::uint32_t version);
  /// Where data are placed; says nothing in the metadata (u32("general.alignment", ...) does).
  GgufBuilder& place_at(std::size_t alignment);
  GgufBuilder& tensor_count(std::uint64_t count);
  GgufBuilder& entry_count(std::uint64_t count);

  [[nodiscard]] std::vector<std::byte> build() const;
  [[nodiscard]] std::string build_text() const;

  /// Bytes of a number as the format has them: little-endian.
  template <class T>
  [[nodiscard]] static std::string bytes_of_number(T value) {
    return {reinterpret_cast<const char*>(&value), sizeof value};
  }
  /// Bytes of a string value: length, then text.
  [[nodiscard]] static std::string bytes_of_text(std::string_view text);
  /// Bytes in front of an array's elements.
  [[nodiscard]] static std::string array_head(std::uint32_t element_type, std::uint64_t count);

 private:
  struct Tensor {
    std::string name;
    std::uint32_t type;
    std::vector<std::int64_t> shape;
    std::string data;
    std::uint64_t offset;
  };
  std::string magic_ = "GGUF";
  std::uint32_t version_ = 3;
  std::size_t alignment_ = 32;
  std::string entries_;
  std::uint64_t entry_count_ = 0, next_offset_ = 0;
  std::optional<std::uint64_t> said_entries_, said_tensors_;
  std::vector<Tensor> tensors_;
};

}  // namespace quern
