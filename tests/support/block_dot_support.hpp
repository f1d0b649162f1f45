// Weights as a file holds them, with random blocks, and the error model of int8 dot products.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "math/block_formats.hpp"
#include "math/block_interleave.hpp"
#include "math/block_kernels.hpp"
#include "math/dispatch.hpp"
#include "math/number_formats.hpp"
#include "support/matmul_reference.hpp"

namespace quern::test {

/// The formats that int8 dot products exist for.
inline constexpr ElementType kDotTypes[] = {ElementType::q4_0, ElementType::q4_1, ElementType::q5_0,   ElementType::q5_1,
                                            ElementType::q8_0, ElementType::q2_k, ElementType::q3_k,   ElementType::q4_k,
                                            ElementType::q5_k, ElementType::q6_k, ElementType::iq4_nl, ElementType::iq4_xs,
                                            ElementType::mxfp4};

inline std::vector<float> random_floats(std::int64_t count, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> all(static_cast<std::size_t>(count));
  for (float& x : all) x = normal(random);
  return all;
}

/// A plain weight of random bytes whose scales are sensible numbers. The data end where the allocation ends, for the address
/// sanitizer.
struct FileWeight {
  ElementType type;
  std::int64_t rows, cols;
  std::size_t row_bytes;
  std::vector<std::byte> bytes;

  FileWeight(ElementType t, std::int64_t r, std::int64_t c, std::mt19937& random)
      : type(t), rows(r), cols(c), row_bytes(bytes_of(t, c).value()), bytes(row_bytes * static_cast<std::size_t>(r)) {
    if (!block_format(type).quantized) {
      fill_floats(random);
      return;
    }
    for (std::byte& b : bytes) b = static_cast<std::byte>(random());
    set_scales(random);
  }

  /// Overwrites each block's floating-point scales with numbers between 1/64 and 1/16, of both signs, or exponents near one.
  void set_scales(std::mt19937& random) {
    const auto block_bytes = static_cast<std::size_t>(block_format(type).block_bytes);
    for (std::size_t b = 0; b < bytes.size(); b += block_bytes) {
      if (type == ElementType::mxfp4) {
        bytes[b] = static_cast<std::byte>(120 + random() % 8);
        continue;
      }
      for (const std::size_t at : half_offsets()) {
        std::uniform_real_distribution<float> uniform(0x1p-6F, 0x1p-4F);
        const std::uint16_t half = f16_from_float(random() % 2 == 0 ? uniform(random) : -uniform(random));
        std::memcpy(bytes.data() + b + at, &half, 2);
      }
      // The super-scale of IQ1_M is spread over the top bits of four words.
      if (type == ElementType::iq1_m) {
        for (std::size_t i = 0; i < 4; ++i) {
          const unsigned nibble = (0x2c00U >> (4 * i)) & 15U;
          std::byte& high = bytes[b + 48 + 2 * i + 1];
          high = static_cast<std::byte>((static_cast<unsigned>(high) & 15U) | (nibble << 4));
        }
      }
    }
  }

  /// Element (r, c), from the portable decoder.
  [[nodiscard]] float at(std::int64_t r, std::int64_t c) const {
    if (decoded_.empty()) {
      decoded_.resize(static_cast<std::size_t>(rows * cols));
      for (std::int64_t i = 0; i < rows; ++i) {
        supported_kernels().back()->blocks->decode(type, bytes.data() + static_cast<std::size_t>(i) * row_bytes, cols,
                                                   decoded_.data() + i * cols);
      }
    }
    return decoded_[static_cast<std::size_t>(r * cols + c)];
  }

  [[nodiscard]] Weight view(WeightPrecision precision) const {
    return {.type = type,
            .layout = WeightLayout::plain,
            .rows = rows,
            .cols = cols,
            .forward = bytes.data(),
            .backward = bytes.data(),
            .precision = precision};
  }

 private:
  mutable std::vector<float> decoded_;

  void fill_floats(std::mt19937& random) {
    for (std::int64_t i = 0; i < rows * cols; ++i) {
      const float x = random_floats(1, random)[0];
      if (type == ElementType::f32) {
        std::memcpy(bytes.data() + 4 * i, &x, 4);
      } else {
        const std::uint16_t bits = type == ElementType::f16 ? f16_from_float(x) : bf16_from_float(x).bits;
        std::memcpy(bytes.data() + 2 * i, &bits, 2);
      }
    }
  }

  /// Where a block holds binary16 scales.
  [[nodiscard]] std::vector<std::size_t> half_offsets() const {
    switch (type) {
      case ElementType::q4_1:
      case ElementType::q5_1:
      case ElementType::q4_k:
      case ElementType::q5_k:
        return {0, 2};
      case ElementType::q2_k:
        return {80, 82};
      case ElementType::q3_k:
        return {108};
      case ElementType::q6_k:
        return {208};
      case ElementType::tq1_0:
        return {52};
      case ElementType::tq2_0:
        return {64};
      case ElementType::iq1_m:
        return {};
      default:
        return {0};
    }
  }
};

struct Expected {
  double value = 0.0;
  double tolerance = 0.0;
};

/// Row r of w times quantized activations, in double. A block of 32 contributes scale * sum - min * sum, whose f32 errors
/// are a few 2^-24 of each term's size; |min| and |scale * q| are at most the block's largest weight plus its spread. Adding
/// up K / 32 blocks (in fewer, longer chains: at most K / 32 + 8 additions) costs that many more.
inline Expected expected_dot(const FileWeight& w, std::int64_t r, const ActivationRow& x) {
  Expected expected;
  double magnitude = 0.0;
  for (std::int64_t b = 0; b < w.cols; b += 32) {
    double largest = 0.0;
    double activations = 0.0;
    for (std::int64_t i = b; i < b + 32; ++i) {
      const double xv = double{x.scales[b / 32]} * x.values[i];
      expected.value += w.at(r, i) * xv;
      largest = std::max(largest, std::abs(double{w.at(r, i)}));
      activations += std::abs(xv);
    }
    magnitude += 2.0 * largest * activations;
  }
  expected.tolerance = (static_cast<double>(w.cols) / 32.0 + 16.0) * 0x1p-24 * magnitude + 1e-30;
  return expected;
}

/// The same weight with its rows interleaved for `kernels`; rows must be whole groups.
inline std::vector<std::byte> interleaved_rows(const BlockKernels& kernels, const FileWeight& w) {
  std::vector<std::byte> out(w.bytes.size());
  const auto unit = static_cast<std::size_t>(kernels.interleave_rows);
  for (std::size_t at = 0; at < out.size(); at += unit * w.row_bytes) {
    interleave_rows(w.type, kernels.interleave_rows, w.bytes.data() + at, w.cols, out.data() + at);
  }
  return out;
}

}  // namespace quern::test
