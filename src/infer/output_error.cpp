#include "infer/output_error.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "math/block_formats.hpp"
#include "math/block_kernels.hpp"
#include "math/matmul.hpp"
#include "math/quantize.hpp"
#include "model/gguf_values.hpp"

namespace quern {

namespace {

constexpr std::int64_t kPieceElements = std::int64_t{16} << 20;
/// Rows that one decoding task takes.
constexpr std::int64_t kTaskRows = 16;

Error not_finite(const GgufTensor& tensor) {
  return {ErrorCode::bad_input, fmt::format("tensor {} holds NaN or infinity", internal::shown(tensor.name))};
}

/// Sums of squares of x W^T, x [x_rows, cols], W [rows, cols], both f32.
class Products {
 public:
  Products(const Backend& backend, ThreadTeam& team) : backend_(backend), team_(team) {}

  Result<double> squares(const ActivationSampler::Rows& x, const std::vector<float>& w, std::int64_t rows) {
    const std::size_t bytes = matmul_scratch_bytes(backend_, x.rows, std::max(rows, x.cols));
    if (scratch_.bytes() < bytes * static_cast<std::size_t>(team_.size())) {
      auto scratch = AlignedBuffer::allocate(bytes * static_cast<std::size_t>(team_.size()));
      if (!scratch) return tl::make_unexpected(scratch.error());
      scratch_ = std::move(*scratch);
    }
    y_.resize(static_cast<std::size_t>(x.rows * rows));
    const Weight weight{ElementType::f32, WeightLayout::plain, rows, x.cols, w.data(), w.data(), WeightPrecision::f32};
    team_.run([&](TeamMember& member) {
      Exec exec{member, backend_, {scratch_.data() + static_cast<std::size_t>(member.index()) * bytes, bytes}};
      matmul_forward(exec, {x.data, ElementType::f32, x.rows, x.cols, x.cols}, weight,
                     {y_.data(), ElementType::f32, x.rows, rows, rows});
    });
    double sum = 0.0;
    for (const float y : y_) sum += static_cast<double>(y) * static_cast<double>(y);
    return sum;
  }

 private:
  const Backend& backend_;
  ThreadTeam& team_;
  AlignedBuffer scratch_;
  std::vector<float> y_;
};

std::vector<std::int64_t> spread(std::int64_t all, std::int64_t wanted) {
  wanted = std::clamp<std::int64_t>(wanted, 1, all);
  std::vector<std::int64_t> rows(static_cast<std::size_t>(wanted));
  for (std::int64_t i = 0; i < wanted; ++i) rows[static_cast<std::size_t>(i)] = i * all / wanted;
  return rows;
}

std::vector<double> relative(const std::vector<double>& errors, double reference) {
  std::vector<double> result(errors.size(), 0.0);
  for (std::size_t i = 0; i < errors.size(); ++i) result[i] = reference > 0.0 ? errors[i] / reference : 0.0;
  return result;
}

}  // namespace

std::vector<float> TensorQuantizer::decode(const GgufTensor& tensor, std::int64_t expert,
                                           std::span<const std::int64_t> rows) const {
  const std::int64_t cols = tensor.shape[0];
  const std::size_t row_bytes = *bytes_of(tensor.type, cols);
  std::vector<float> values(rows.size() * static_cast<std::size_t>(cols));
  const std::int64_t tasks = (std::ssize(rows) + kTaskRows - 1) / kTaskRows;
  team_.run([&](TeamMember& member) {
    member.for_each(tasks, [&](std::int64_t task) {
      const std::int64_t end = std::min((task + 1) * kTaskRows, std::int64_t{std::ssize(rows)});
      for (std::int64_t i = task * kTaskRows; i < end; ++i) {
        const std::int64_t row = expert * tensor.shape[1] + rows[static_cast<std::size_t>(i)];
        kernels_.blocks->decode(tensor.type, tensor.data + static_cast<std::size_t>(row) * row_bytes, cols,
                                values.data() + i * cols);
      }
    });
  });
  return values;
}

Result<std::vector<float>> TensorQuantizer::rounded(const GgufTensor& tensor, std::int64_t expert, ElementType type,
                                                    const std::vector<float>& values) const {
  const std::int64_t cols = tensor.shape[0];
  const std::int64_t rows = std::ssize(values) / cols;
  const std::size_t row_bytes = *bytes_of(type, cols);
  std::vector<std::byte> blocks(row_bytes * static_cast<std::size_t>(rows));
  const std::vector<float> weights =
      importance_ == nullptr ? std::vector<float>() : importance_->importance(tensor.name, expert);
  const QuantizationError error = quern::quantize(
      kernels_, team_, {type, values.data(), rows, cols, weights.empty() ? nullptr : weights.data(), blocks.data()});
  if (!error.finite) return tl::make_unexpected(not_finite(tensor));
  std::vector<float> out(values.size());
  team_.run([&](TeamMember& member) {
    member.for_each(rows, [&](std::int64_t row) {
      kernels_.blocks->decode(type, blocks.data() + static_cast<std::size_t>(row) * row_bytes, cols,
                              out.data() + row * cols);
    });
  });
  return out;
}

Result<AlignedBuffer> TensorQuantizer::quantize(const GgufTensor& tensor, ElementType type) const {
  const std::int64_t cols = tensor.shape[0];
  const std::size_t row_bytes = *bytes_of(type, cols);
  auto out = AlignedBuffer::allocate(*bytes_of(type, tensor.elements()));
  if (!out) return out;
  const std::int64_t piece_rows = std::max<std::int64_t>(1, kPieceElements / cols);
  std::byte* at = out->data();
  std::vector<std::int64_t> rows;
  for (std::int64_t expert = 0; expert < tensor.shape[2] * tensor.shape[3]; ++expert) {
    const std::vector<float> weights =
        importance_ == nullptr ? std::vector<float>() : importance_->importance(tensor.name, expert);
    for (std::int64_t first = 0; first < tensor.shape[1]; first += piece_rows) {
      const std::int64_t count = std::min(piece_rows, tensor.shape[1] - first);
      rows.clear();
      for (std::int64_t i = 0; i < count; ++i) rows.push_back(first + i);
      const std::vector<float> values = decode(tensor, expert, rows);
      const QuantizationError error = quern::quantize(
          kernels_, team_, {type, values.data(), count, cols, weights.empty() ? nullptr : weights.data(), at});
      if (!error.finite) return tl::make_unexpected(not_finite(tensor));
      at += row_bytes * static_cast<std::size_t>(count);
    }
  }
  return out;
}

Result<std::vector<double>> output_errors(const Backend& backend, ThreadTeam& team, const TensorQuantizer& quantizer,
                                          const GgufTensor& tensor, std::span<const ElementType> types,
                                          std::span<const ActivationSampler::Rows> inputs, std::int64_t elements) {
  Products products(backend, team);
  double reference = 0.0;
  std::vector<double> errors(types.size(), 0.0);
  const std::int64_t wanted = elements / std::max<std::int64_t>(1, std::ssize(inputs) * tensor.shape[0]);
  const std::vector<std::int64_t> rows = spread(tensor.shape[1], wanted);
  for (const ActivationSampler::Rows& input : inputs) {
    const std::vector<float> values = quantizer.decode(tensor, input.expert, rows);
    const auto exact = products.squares(input, values, std::ssize(rows));
    if (!exact) return tl::make_unexpected(exact.error());
    reference += *exact;
    for (std::size_t i = 0; i < types.size(); ++i) {
      if (types[i] == tensor.type) continue;
      auto difference = quantizer.rounded(tensor, input.expert, types[i], values);
      if (!difference) return tl::make_unexpected(difference.error());
      for (std::size_t k = 0; k < values.size(); ++k) (*difference)[k] = values[k] - (*difference)[k];
      const auto error = products.squares(input, *difference, std::ssize(rows));
      if (!error) return tl::make_unexpected(error.error());
      errors[i] += *error;
    }
  }
  return relative(errors, reference);
}

Result<std::vector<double>> lookup_errors(const TensorQuantizer& quantizer, const GgufTensor& tensor,
                                          std::span<const ElementType> types, std::span<const std::int64_t> rows) {
  const std::vector<float> values = quantizer.decode(tensor, 0, rows);
  double reference = 0.0;
  for (const float value : values) reference += static_cast<double>(value) * static_cast<double>(value);
  std::vector<double> errors(types.size(), 0.0);
  for (std::size_t i = 0; i < types.size(); ++i) {
    if (types[i] == tensor.type) continue;
    const auto read = quantizer.rounded(tensor, 0, types[i], values);
    if (!read) return tl::make_unexpected(read.error());
    for (std::size_t k = 0; k < values.size(); ++k) {
      const double difference = static_cast<double>(values[k]) - static_cast<double>((*read)[k]);
      errors[i] += difference * difference;
    }
  }
  return relative(errors, reference);
}

}  // namespace quern
