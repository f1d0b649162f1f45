// Matrices, paths and the error model for the tests of matrix products.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "math/aligned_buffer.hpp"
#include "math/dispatch.hpp"
#include "math/matmul.hpp"
#include "math/thread_team.hpp"

namespace quern::test {

inline float widen(bf16 x) { return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16); }
inline bf16 narrow(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  return {static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16)};
}

/// A matrix whose rows are `pad` elements longer than needed. The storage ends with the last element of the last row, so
/// that the address sanitizer sees a read or write past it; padding inside holds `kCanary`.
struct Matrix {
  static constexpr float kCanary = 12345.0F;
  ElementType type;
  std::int64_t rows, cols, stride;
  std::vector<float> f32;
  std::vector<bf16> b16;

  Matrix(ElementType t, std::int64_t r, std::int64_t c, std::int64_t pad) : type(t), rows(r), cols(c), stride(c + pad) {
    const auto size = static_cast<std::size_t>(r == 0 ? 0 : (r - 1) * stride + c);
    if (type == ElementType::bf16) {
      b16.assign(size, narrow(kCanary));
    } else {
      f32.assign(size, kCanary);
    }
  }
  void fill(std::mt19937& random) {
    std::uniform_real_distribution<float> uniform(-1.0F, 1.0F);
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t j = 0; j < cols; ++j) set(i, j, uniform(random));
    }
  }
  void set(std::int64_t i, std::int64_t j, float v) {
    const auto at = static_cast<std::size_t>(i * stride + j);
    if (type == ElementType::bf16) {
      b16[at] = narrow(v);
    } else {
      f32[at] = v;
    }
  }
  [[nodiscard]] float get(std::int64_t i, std::int64_t j) const {
    const auto at = static_cast<std::size_t>(i * stride + j);
    return type == ElementType::bf16 ? widen(b16[at]) : f32[at];
  }
  void* data() { return type == ElementType::bf16 ? static_cast<void*>(b16.data()) : static_cast<void*>(f32.data()); }
  [[nodiscard]] const void* data() const {
    return type == ElementType::bf16 ? static_cast<const void*>(b16.data()) : static_cast<const void*>(f32.data());
  }
  [[nodiscard]] ConstMatrix view() const { return {data(), type, rows, cols, stride}; }
  [[nodiscard]] ConstMatrix row_view(std::int64_t row) const { return rows_view(row, 1); }
  [[nodiscard]] ConstMatrix rows_view(std::int64_t row, std::int64_t count) const {
    const std::int64_t bytes = type == ElementType::bf16 ? 2 : 4;
    return {static_cast<const char*>(data()) + row * stride * bytes, type, count, cols, stride};
  }
  MutableMatrix out() { return {data(), type, rows, cols, stride}; }
  void expect_padding_untouched() const {
    for (std::int64_t i = 0; i + 1 < rows; ++i) {
      for (std::int64_t j = cols; j < stride; ++j) {
        ASSERT_EQ(get(i, j), type == ElementType::bf16 ? widen(narrow(kCanary)) : kCanary) << "row " << i;
      }
    }
  }
};

/// A path under test: an instruction set's kernels, or Eigen.
struct Path {
  Backend backend;
  [[nodiscard]] std::string name() const { return backend.eigen ? "eigen" : std::string(isa_name(backend.kernels->isa)); }
};

inline std::vector<Path> paths(bool with_eigen = true) {
  std::vector<Path> all;
  for (const KernelTable* table : supported_kernels()) all.push_back({{.kernels = table, .eigen = false}});
  if (with_eigen) all.push_back({{.kernels = supported_kernels().back(), .eigen = true}});
  return all;
}

inline ElementType element_type(ComputeType compute) {
  return compute == ComputeType::bf16 ? ElementType::bf16 : ElementType::f32;
}

inline AlignedBuffer buffer(std::size_t bytes) { return AlignedBuffer::allocate(std::max<std::size_t>(bytes, 1)).value(); }

struct PackedWeight {
  AlignedBuffer forward, backward;
  Weight weight;
};

/// Runs `body(Exec&)` on a team, each member with exactly the scratch that products with dimensions <= n may ask for.
template <class Body>
void run(int threads, const Backend& backend, std::int64_t n, const Body& body) {
  ThreadTeam team(threads);
  std::vector<AlignedBuffer> scratch;
  const std::size_t bytes = matmul_scratch_bytes(backend, n, n);
  for (int i = 0; i < threads; ++i) scratch.push_back(buffer(bytes));
  team.run([&](TeamMember& member) {
    AlignedBuffer& mine = scratch[static_cast<std::size_t>(member.index())];
    std::memset(mine.data(), 0x7f, bytes);  // no product may rely on zeroed scratch
    Exec exec{.member = member, .backend = backend, .scratch = {mine.data(), bytes}};
    body(exec);
  });
}

inline PackedWeight pack(const Backend& backend, ComputeType compute, const Matrix& w, int threads = 1) {
  const PackedWeightBytes bytes = packed_weight_bytes(backend, compute, w.rows, w.cols);
  PackedWeight packed{buffer(bytes.forward), buffer(bytes.backward), {}};
  run(threads, backend, 1, [&](Exec& exec) {
    const Weight made =
        pack_weight(exec, compute, w.f32.data(), w.rows, w.cols, packed.forward.data(), packed.backward.data());
    if (exec.member.index() == 0) packed.weight = made;
  });
  return packed;
}

/// |computed - exact| <= kSumError * k * 2^-24 * sum |a||b|: the bound of a chain of k rounded additions (Higham 2002, 3.5)
/// with room for the two roundings of a pair step; plus, for bf16 outputs, half a unit in the last of 8 bits.
inline constexpr double kSumError = 2.0;
inline double tolerance(std::int64_t k, double magnitude, ElementType out, double value) {
  const double sum = kSumError * static_cast<double>(k + 2) * 0x1p-24 * magnitude + 1e-30;
  return out == ElementType::bf16 ? sum * 1.01 + std::abs(value) * 0x1p-8 : sum;
}

}  // namespace quern::test
