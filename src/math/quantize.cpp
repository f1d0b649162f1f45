#include "math/quantize.hpp"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <vector>

#include "math/block_formats.hpp"

namespace quern {
namespace {

/// Elements of a task: enough to hide what starting it costs, few enough that its values stay in the second-level cache
/// between quantizing and decoding. Tasks are cut by shape alone, so that the order of the sums is.
constexpr std::int64_t kTaskElements = 65536;
/// Elements that are decoded at a time; a multiple of every format's block.
constexpr std::int64_t kDecodedElements = 4096;
/// Partial sums, so that the additions of one do not wait for each other.
constexpr std::int64_t kPartialSums = 8;

enum class Family { legacy, k, none };

Family family_of(ElementType type) {
  switch (type) {
    case ElementType::f32:
    case ElementType::f16:
    case ElementType::bf16:
    case ElementType::q4_0:
    case ElementType::q4_1:
    case ElementType::q5_0:
    case ElementType::q5_1:
    case ElementType::q8_0:
    case ElementType::iq4_nl:
    case ElementType::iq4_xs:
    case ElementType::mxfp4:
      return Family::legacy;
    case ElementType::q2_k:
    case ElementType::q3_k:
    case ElementType::q4_k:
    case ElementType::q5_k:
    case ElementType::q6_k:
      return Family::k;
    default:
      return Family::none;
  }
}

BlockQuantizer quantizer_of(const KernelTable& kernels, ElementType type) {
  switch (family_of(type)) {
    case Family::legacy:
      return kernels.quantize_legacy;
    case Family::k:
      return kernels.quantize_k;
    case Family::none:
      break;
  }
  return nullptr;
}

bool is_finite(float x) { return (std::bit_cast<std::uint32_t>(x) & 0x7F800000U) != 0x7F800000U; }

/// Sums over elements, element i in partial sum i % kPartialSums.
struct PartialSums {
  double squared_error[kPartialSums] = {};
  double squared_value[kPartialSums] = {};
  double weighted_squared_error[kPartialSums] = {};
  double weighted_squared_value[kPartialSums] = {};
  std::uint32_t infinite = 0;  ///< 1 once a value is not finite

  template <bool kWeighted>
  void add_one(std::int64_t lane, float x, float decoded, float importance) {
    const double value = static_cast<double>(x);
    const double error = value - static_cast<double>(decoded);
    squared_error[lane] += error * error;
    squared_value[lane] += value * value;
    infinite |= is_finite(x) ? 0U : 1U;
    if constexpr (kWeighted) {
      const double weight = static_cast<double>(importance);
      weighted_squared_error[lane] += weight * (error * error);
      weighted_squared_value[lane] += weight * (value * value);
    }
  }

  template <bool kWeighted>
  void add_all(const float* x, const float* decoded, const float* importance, std::int64_t elements) {
    std::int64_t i = 0;
    for (; i + kPartialSums <= elements; i += kPartialSums) {
      for (std::int64_t lane = 0; lane < kPartialSums; ++lane) {
        add_one<kWeighted>(lane, x[i + lane], decoded[i + lane], kWeighted ? importance[i + lane] : 1.0F);
      }
    }
    for (std::int64_t lane = 0; i + lane < elements; ++lane) {
      add_one<kWeighted>(lane, x[i + lane], decoded[i + lane], kWeighted ? importance[i + lane] : 1.0F);
    }
  }

  void add(const float* x, const float* decoded, const float* importance, std::int64_t elements) {
    if (importance == nullptr) {
      add_all<false>(x, decoded, importance, elements);
    } else {
      add_all<true>(x, decoded, importance, elements);
    }
  }

  [[nodiscard]] QuantizationError total(bool weighted) const {
    QuantizationError error;
    for (std::int64_t lane = 0; lane < kPartialSums; ++lane) {
      error.squared_error += squared_error[lane];
      error.squared_value += squared_value[lane];
      error.weighted_squared_error += weighted ? weighted_squared_error[lane] : squared_error[lane];
      error.weighted_squared_value += weighted ? weighted_squared_value[lane] : squared_value[lane];
    }
    error.finite = infinite == 0;
    return error;
  }
};

/// One task: consecutive rows, or a part of one.
QuantizationError quantize_part(const KernelTable& kernels, BlockQuantizer quantizer, const QuantizeRows& part) {
  [[maybe_unused]] const bool known = quantizer(part);
  assert(known && "the quantizer of a type's family knows the type");
  const std::size_t row_bytes = *bytes_of(part.type, part.cols);
  PartialSums sums;
  alignas(64) float decoded[kDecodedElements];
  for (std::int64_t row = 0; row < part.rows; ++row) {
    const std::byte* const blocks = part.out + static_cast<std::size_t>(row) * row_bytes;
    for (std::int64_t begin = 0; begin < part.cols; begin += kDecodedElements) {
      const std::int64_t elements = std::min(kDecodedElements, part.cols - begin);
      kernels.blocks->decode(part.type, blocks + *bytes_of(part.type, begin), elements, decoded);
      sums.add(part.x + row * part.cols + begin, decoded, part.importance == nullptr ? nullptr : part.importance + begin,
               elements);
    }
  }
  return sums.total(part.importance != nullptr);
}

double relative(double error, double value) { return value > 0.0 ? std::sqrt(error / value) : 0.0; }

}  // namespace

bool can_quantize(ElementType type) { return quantizer_of(*supported_kernels().back(), type) != nullptr; }

double QuantizationError::relative_rms() const { return relative(squared_error, squared_value); }
double QuantizationError::weighted_relative_rms() const { return relative(weighted_squared_error, weighted_squared_value); }

QuantizationError& QuantizationError::operator+=(const QuantizationError& other) {
  squared_error += other.squared_error;
  squared_value += other.squared_value;
  weighted_squared_error += other.weighted_squared_error;
  weighted_squared_value += other.weighted_squared_value;
  finite = finite && other.finite;
  return *this;
}

QuantizationError quantize(const KernelTable& kernels, ThreadTeam& team, const QuantizeRows& rows) {
  QuantizationError total;
  if (rows.rows <= 0 || rows.cols <= 0) return total;
  const BlockQuantizer quantizer = quantizer_of(kernels, rows.type);
  assert(quantizer != nullptr && "a type that can_quantize() allows");
  assert(bytes_of(rows.type, rows.cols) && "rows of whole blocks");
  if (quantizer == nullptr) return total;

  // Whole rows, as many as make a task, or parts of long rows.
  const std::int64_t task_rows = std::max<std::int64_t>(1, kTaskElements / rows.cols);
  const std::int64_t task_cols = std::min(rows.cols, kTaskElements);
  const std::int64_t row_tasks = (rows.rows + task_rows - 1) / task_rows;
  const std::int64_t col_tasks = (rows.cols + task_cols - 1) / task_cols;
  const std::size_t row_bytes = *bytes_of(rows.type, rows.cols);
  std::vector<QuantizationError> parts(static_cast<std::size_t>(row_tasks * col_tasks));
  team.run([&](TeamMember& member) {
    member.for_each(row_tasks * col_tasks, [&](std::int64_t task) {
      const std::int64_t first_row = task / col_tasks * task_rows;
      const std::int64_t first_col = task % col_tasks * task_cols;
      QuantizeRows part = rows;
      part.rows = std::min(task_rows, rows.rows - first_row);
      part.cols = std::min(task_cols, rows.cols - first_col);
      part.x += first_row * rows.cols + first_col;
      if (part.importance != nullptr) part.importance += first_col;
      part.out += static_cast<std::size_t>(first_row) * row_bytes + *bytes_of(rows.type, first_col);
      parts[static_cast<std::size_t>(task)] = quantize_part(kernels, quantizer, part);
    });
  });
  for (const QuantizationError& part : parts) total += part;
  return total;
}

}  // namespace quern
