#include "math/kv_rows.hpp"

#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "math/kv_rows-inl.hpp"
#include "math/number_formats.hpp"

namespace quern {
namespace {

constexpr std::array kTypes{ElementType::f32, ElementType::f16, ElementType::bf16, ElementType::q8_0, ElementType::q4_0};
constexpr std::uint16_t kNanBits = 0x7E00;

float to_float(float x) { return x; }
float to_float(bf16 x) { return float_from_bf16(x); }

std::uint32_t magnitude_bits(float x) { return std::bit_cast<std::uint32_t>(x) & 0x7FFFFFFFU; }

/// Largest magnitude of a block; NaN or infinite where an element is. (Magnitudes order like their bits, NaN on top.)
float largest_magnitude(const float* x) {
  std::uint32_t top = 0;
  for (std::int64_t i = 0; i < kKvBlock; ++i) top = magnitude_bits(x[i]) > top ? magnitude_bits(x[i]) : top;
  return std::bit_cast<float>(top);
}

/// Writes the scale; false where all codes are to be zero because the scale is zero or not a number.
bool write_scale(float scale, std::byte* to) {
  const std::uint16_t bits = std::isfinite(scale) ? f16_from_float(scale) : kNanBits;
  std::memcpy(to, &bits, sizeof bits);
  return std::isfinite(scale) && (bits & 0x7FFFU) != 0;
}

void write_q8_0(const float* x, std::byte* to) {
  const float scale = largest_magnitude(x) / 127.0F;
  const float inverse = write_scale(scale, to) ? 1.0F / scale : 0.0F;
  std::array<std::int8_t, kKvBlock> codes{};
  if (inverse != 0.0F) {
    for (std::size_t i = 0; i < codes.size(); ++i) {
      const float code = x[i] * inverse;
      codes[i] = static_cast<std::int8_t>(static_cast<std::int32_t>(code + std::copysign(0.5F, code)));
    }
  }
  std::memcpy(to + 2, codes.data(), codes.size());
}

void write_q4_0(const float* x, std::byte* to) {
  const float top = largest_magnitude(x);
  float extreme = top;
  for (std::int64_t i = kKvBlock - 1; i >= 0; --i) {
    if (magnitude_bits(x[i]) == magnitude_bits(top)) extreme = x[i];  // the first of several
  }
  const float scale = extreme / -8.0F;
  const float inverse = write_scale(scale, to) ? 1.0F / scale : 0.0F;
  const auto code = [&](float value) -> std::uint32_t {
    if (inverse == 0.0F) return 8;
    const auto q = static_cast<std::int32_t>(value * inverse + 8.5F);
    return static_cast<std::uint32_t>(q > 15 ? 15 : q);
  };
  for (std::int64_t i = 0; i < kKvBlock / 2; ++i) {
    to[2 + i] = static_cast<std::byte>(code(x[i]) | (code(x[i + kKvBlock / 2]) << 4));
  }
}

template <class T>
void write_blocks(const T* from, std::int64_t elements, std::int64_t block_bytes, void (*write)(const float*, std::byte*),
                  std::byte* to) {
  std::array<float, kKvBlock> block{};
  for (std::int64_t first = 0; first < elements; first += kKvBlock, to += block_bytes) {
    for (std::int64_t i = 0; i < kKvBlock; ++i) block[static_cast<std::size_t>(i)] = to_float(from[first + i]);
    write(block.data(), to);
  }
}

}  // namespace

std::span<const ElementType> kv_types() { return kTypes; }

std::string_view kv_type_name(ElementType type) {
  switch (type) {
    case ElementType::f32:
      return "f32";
    case ElementType::f16:
      return "f16";
    case ElementType::bf16:
      return "bf16";
    case ElementType::q8_0:
      return "q8_0";
    case ElementType::q4_0:
      return "q4_0";
    default:
      return {};
  }
}

std::optional<ElementType> kv_type_named(std::string_view name) {
  for (const ElementType type : kTypes) {
    if (kv_type_name(type) == name) return type;
  }
  return std::nullopt;
}

std::int64_t kv_block_elements(ElementType type) { return kv_format(type).block_elements; }

std::size_t kv_row_bytes(ElementType type, std::int64_t elements) {
  const KvFormat format = kv_format(type);
  assert(format.block_elements > 0 && elements % format.block_elements == 0 && "KV rows are whole blocks of a KV type");
  return static_cast<std::size_t>(elements / format.block_elements * format.block_bytes);
}

template <class T>
void write_kv_row(ElementType type, const T* from, std::int64_t elements, std::byte* to) {
  const auto each = [&](auto convert) {
    using To = decltype(convert(from[0]));
    for (std::int64_t i = 0; i < elements; ++i) {
      const To x = convert(from[i]);
      std::memcpy(to + i * static_cast<std::int64_t>(sizeof x), &x, sizeof x);
    }
  };
  if (type == (std::is_same_v<T, float> ? ElementType::f32 : ElementType::bf16)) {
    std::memcpy(to, from, static_cast<std::size_t>(elements) * sizeof(T));
    return;
  }
  switch (type) {
    case ElementType::f32:
      return each([](T x) { return to_float(x); });
    case ElementType::f16:
      return each([](T x) { return f16_from_float(to_float(x)); });
    case ElementType::bf16:
      return each([](T x) { return bf16_from_float(to_float(x)); });
    case ElementType::q8_0:
      return write_blocks(from, elements, kv_format(type).block_bytes, write_q8_0, to);
    case ElementType::q4_0:
      return write_blocks(from, elements, kv_format(type).block_bytes, write_q4_0, to);
    default:
      assert(false && "not a format of KV caches");
  }
}

template void write_kv_row<float>(ElementType, const float*, std::int64_t, std::byte*);
template void write_kv_row<bf16>(ElementType, const bf16*, std::int64_t, std::byte*);

}  // namespace quern
