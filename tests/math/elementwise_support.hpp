// Shared by the tests of element-wise kernels: the tables to test, rows with guarded gaps, and the error bounds of storage.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "math/dispatch.hpp"
#include "math/elementwise_kernels.hpp"
#include "math/number_formats.hpp"

namespace quern::test {

/// Every distinct table that this machine can run.
inline std::vector<const ElementwiseKernels*> elementwise_tables() {
  std::vector<const ElementwiseKernels*> tables;
  for (const KernelTable* path : supported_kernels()) {
    bool known = false;
    for (const ElementwiseKernels* table : tables) known = known || table == path->elementwise;
    if (!known) tables.push_back(path->elementwise);
  }
  return tables;
}

template <class T>
const ElementwiseKernelsFor<T>& kernels_for(const ElementwiseKernels& table);
template <>
inline const ElementwiseKernelsFor<float>& kernels_for<float>(const ElementwiseKernels& table) {
  return table.f32;
}
template <>
inline const ElementwiseKernelsFor<bf16>& kernels_for<bf16>(const ElementwiseKernels& table) {
  return table.b16;
}

/// Around every vector width (1, 4, 8, 16 lanes, four of them), the dropout chunk (128) and the sum block (1024).
inline constexpr std::int64_t kSizes[] = {1, 2, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 1000, 2500};

inline double value_of(float x) { return static_cast<double>(x); }
inline double value_of(bf16 x) { return static_cast<double>(float_from_bf16(x)); }
inline float as_float(float x) { return x; }
inline float as_float(bf16 x) { return float_from_bf16(x); }

template <class T>
T from_double(double x);
template <>
inline float from_double<float>(double x) {
  return static_cast<float>(x);
}
template <>
inline bf16 from_double<bf16>(double x) {
  return bf16_from_float(static_cast<float>(x));
}

/// Largest relative error of rounding to T, 2^-p with p significant bits.
template <class T>
inline constexpr double kStorageError = 0x1p-24;
template <>
inline constexpr double kStorageError<bf16> = 0x1p-8;

/// Rows of T that start `offset` elements into their allocation, with a stride wider than the row. The last row ends where
/// the allocation ends, so that the address sanitizer sees a read or write past it; the gaps hold a value that must stay.
template <class T>
class Rows {
 public:
  Rows(std::int64_t rows, std::int64_t cols, std::int64_t gap = 3, std::int64_t offset = 1)
      : rows_(rows), cols_(cols), stride_(cols + gap), offset_(offset) {
    const std::int64_t size = rows == 0 ? offset : offset + (rows - 1) * stride_ + cols;
    data_.assign(static_cast<std::size_t>(size), from_double<T>(kGuard));
  }

  T* data() { return data_.data() + offset_; }
  const T* data() const { return data_.data() + offset_; }
  std::int64_t stride() const { return stride_; }
  std::int64_t rows() const { return rows_; }
  std::int64_t cols() const { return cols_; }
  T& at(std::int64_t r, std::int64_t c) { return data()[r * stride_ + c]; }
  const T& at(std::int64_t r, std::int64_t c) const { return data()[r * stride_ + c]; }
  double value(std::int64_t r, std::int64_t c) const { return value_of(at(r, c)); }
  std::vector<double> row(std::int64_t r) const {
    std::vector<double> values;
    for (std::int64_t c = 0; c < cols_; ++c) values.push_back(value(r, c));
    return values;
  }

  template <class Generator>
  Rows& fill(Generator&& next) {
    for (std::int64_t r = 0; r < rows_; ++r) {
      for (std::int64_t c = 0; c < cols_; ++c) at(r, c) = from_double<T>(next());
    }
    return *this;
  }

  bool gaps_untouched() const {
    const T guard = from_double<T>(kGuard);
    for (std::int64_t i = 0; i < static_cast<std::int64_t>(data_.size()); ++i) {
      const std::int64_t at_row = i - offset_;
      const bool inside = at_row >= 0 && at_row % stride_ < cols_;
      if (!inside && std::memcmp(&data_[static_cast<std::size_t>(i)], &guard, sizeof(T)) != 0) return false;
    }
    return true;
  }

  /// Whether row r holds the same bits as row `other_row` of `other`.
  bool same_bits(std::int64_t r, const Rows& other, std::int64_t other_row) const {
    return cols_ == 0 || std::memcmp(&at(r, 0), &other.at(other_row, 0), static_cast<std::size_t>(cols_) * sizeof(T)) == 0;
  }

 private:
  static constexpr double kGuard = -77.0;
  std::int64_t rows_, cols_, stride_, offset_;
  std::vector<T> data_;
};

/// Reproducible normal numbers.
class Normal {
 public:
  explicit Normal(unsigned seed, double deviation = 1.0, double mean = 0.0) : engine_(seed), normal_(mean, deviation) {}
  double operator()() { return normal_(engine_); }

 private:
  std::mt19937_64 engine_;
  std::normal_distribution<double> normal_;
};

/// df/dx[i] by central differences; f reads x.
template <class F>
double central_difference(std::vector<double>& x, std::size_t i, const F& f, double h = 1e-5) {
  const double middle = x[i];
  x[i] = middle + h;
  const double above = f();
  x[i] = middle - h;
  const double below = f();
  x[i] = middle;
  return (above - below) / (2.0 * h);
}

}  // namespace quern::test
