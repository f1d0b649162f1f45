#include "support/attention_reference.hpp"

#include <array>
#include <cmath>
#include <cstring>
#include <limits>

namespace quern {
namespace {

/// Philox4x32-10 (Salmon et al. 2011), one block.
std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53U} * counter[0];
    const std::uint64_t b = std::uint64_t{0xCD9E8D57U} * counter[2];
    counter = {static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(b),
               static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(a)};
    key[0] += 0x9E3779B9U;
    key[1] += 0xBB67AE85U;
  }
  return counter;
}

double dot(const double* a, const double* b, std::int64_t n) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

unsigned byte_at(const std::byte* from, std::int64_t i) { return std::to_integer<unsigned>(from[i]); }

/// An IEEE binary16 number, little-endian.
double half_at(const std::byte* from) {
  const unsigned bits = byte_at(from, 0) | (byte_at(from, 1) << 8);
  const int exponent = static_cast<int>((bits >> 10) & 31U);
  const double fraction = static_cast<double>(bits & 1023U) / 1024.0;
  double magnitude = exponent == 0 ? std::ldexp(fraction, -14) : std::ldexp(1.0 + fraction, exponent - 15);
  if (exponent == 31) {
    magnitude = fraction == 0.0 ? std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
  }
  return (bits & 0x8000U) != 0 ? -magnitude : magnitude;
}

/// One query head of one row: probabilities of its keys, and what else the gradients need.
struct Row {
  std::int64_t first_key = 0;
  std::int64_t last_key = 0;
  std::vector<double> p;           ///< before dropout
  std::vector<double> mask;        ///< dropout factors
  std::vector<double> derivative;  ///< d score / d (scale * q . k): 1, or that of the soft cap
  double lse = 0.0;
};

Row probabilities(const ReferenceAttention& problem, std::int64_t row, std::int64_t head) {
  const AttentionShape& shape = problem.shape;
  const std::int64_t kv_head = head / (shape.heads / shape.kv_heads);
  const std::int64_t position = problem.first_position + row;
  Row result;
  result.last_key = position;
  if (shape.window > 0 && position - shape.window + 1 > 0) result.first_key = position - shape.window + 1;
  const double* q = problem.q.data() + (row * shape.heads + head) * shape.head_dim;
  double top = shape.sinks != nullptr ? shape.sinks[head] : -std::numeric_limits<double>::infinity();
  std::vector<double> scores;
  for (std::int64_t key = result.first_key; key <= result.last_key; ++key) {
    const double* k = problem.k.data() + (key * shape.kv_heads + kv_head) * shape.head_dim;
    double score = double{shape.scale} * dot(q, k, shape.head_dim);
    double derivative = 1.0;
    if (shape.soft_cap > 0.0F) {
      const double tanh = std::tanh(score / double{shape.soft_cap});
      score = double{shape.soft_cap} * tanh;
      derivative = 1.0 - tanh * tanh;
    }
    top = std::max(top, score);
    scores.push_back(score);
    result.derivative.push_back(derivative);
    const auto mask_row =
        static_cast<std::uint32_t>((problem.dropout.first_row + problem.batch_row + row) * shape.heads + head);
    result.mask.push_back(reference_dropout_factor(problem.dropout, mask_row, static_cast<std::uint32_t>(key)));
  }
  double sum = shape.sinks != nullptr ? std::exp(double{shape.sinks[head]} - top) : 0.0;
  for (const double score : scores) sum += std::exp(score - top);
  for (const double score : scores) result.p.push_back(std::exp(score - top) / sum);
  result.lse = top + std::log(sum);
  return result;
}

}  // namespace

double reference_dropout_factor(const DropoutMask& mask, std::uint32_t row, std::uint32_t col) {
  if (mask.probability <= 0.0F) return 1.0;
  const double threshold = std::round(double{mask.probability} * 65536.0);
  const auto block = philox({col / 8, row, mask.site, mask.step},
                            {static_cast<std::uint32_t>(mask.seed), static_cast<std::uint32_t>(mask.seed >> 32)});
  const std::uint32_t word = block[col % 8 / 2];
  const std::uint32_t half = col % 2 != 0 ? word >> 16 : word & 0xFFFFU;
  return half < threshold ? 0.0 : 65536.0 / (65536.0 - threshold);
}

ReferenceAttentionOutput reference_attention(const ReferenceAttention& problem) {
  const AttentionShape& shape = problem.shape;
  const std::int64_t n = shape.head_dim;
  ReferenceAttentionOutput result;
  result.out.resize(problem.q.size());
  for (std::int64_t row = 0; row < problem.rows; ++row) {
    for (std::int64_t head = 0; head < shape.heads; ++head) {
      const Row weights = probabilities(problem, row, head);
      double* out = result.out.data() + (row * shape.heads + head) * n;
      for (std::size_t i = 0; i < weights.p.size(); ++i) {
        const std::int64_t key = weights.first_key + static_cast<std::int64_t>(i);
        const double* v = problem.v.data() + (key * shape.kv_heads + head / (shape.heads / shape.kv_heads)) * n;
        for (std::int64_t d = 0; d < n; ++d) out[d] += weights.p[i] * weights.mask[i] * v[d];
      }
      result.lse.push_back(weights.lse);
    }
  }
  return result;
}

ReferenceAttentionGradients reference_attention_gradients(const ReferenceAttention& problem,
                                                          const std::vector<double>& dout) {
  const AttentionShape& shape = problem.shape;
  const std::int64_t n = shape.head_dim;
  ReferenceAttentionGradients result{std::vector<double>(problem.q.size()), std::vector<double>(problem.k.size()),
                                     std::vector<double>(problem.v.size())};
  for (std::int64_t row = 0; row < problem.rows; ++row) {
    for (std::int64_t head = 0; head < shape.heads; ++head) {
      const Row weights = probabilities(problem, row, head);
      const std::int64_t at = (row * shape.heads + head) * n;
      const auto kv_at = [&](std::size_t i) {
        const std::int64_t key = weights.first_key + static_cast<std::int64_t>(i);
        return (key * shape.kv_heads + head / (shape.heads / shape.kv_heads)) * n;
      };
      std::vector<double> dp;  // gradient of the undropped probabilities
      double mean = 0.0;       // sum_j p_j dp_j: the softmax's Jacobian is diag(p) - p p^T
      for (std::size_t i = 0; i < weights.p.size(); ++i) {
        dp.push_back(weights.mask[i] * dot(dout.data() + at, problem.v.data() + kv_at(i), n));
        mean += weights.p[i] * dp.back();
      }
      for (std::size_t i = 0; i < weights.p.size(); ++i) {
        const double ds = weights.p[i] * (dp[i] - mean) * weights.derivative[i] * double{shape.scale};
        for (std::int64_t d = 0; d < n; ++d) {
          result.dq[at + d] += ds * problem.k[kv_at(i) + d];
          result.dk[kv_at(i) + d] += ds * problem.q[at + d];
          result.dv[kv_at(i) + d] += weights.p[i] * weights.mask[i] * dout[at + d];
        }
      }
    }
  }
  return result;
}

std::vector<double> reference_kv_row(ElementType type, const std::byte* row, std::int64_t elements) {
  std::vector<double> values;
  for (std::int64_t i = 0; i < elements; ++i) {
    if (type == ElementType::f32) {
      float x = 0.0F;
      std::memcpy(&x, row + 4 * i, 4);
      values.push_back(double{x});
    } else if (type == ElementType::bf16) {
      const std::uint32_t bits = (byte_at(row, 2 * i) << 16) | (byte_at(row, 2 * i + 1) << 24);
      float x = 0.0F;
      std::memcpy(&x, &bits, 4);
      values.push_back(double{x});
    } else if (type == ElementType::f16) {
      values.push_back(half_at(row + 2 * i));
    } else if (type == ElementType::q8_0) {
      const std::byte* block = row + i / 32 * 34;
      values.push_back(half_at(block) * static_cast<double>(static_cast<std::int8_t>(byte_at(block, 2 + i % 32))));
    } else {  // q4_0: element j of 0 .. 15 in the low half of byte j, element j + 16 in the high half
      const std::byte* block = row + i / 32 * 18;
      const unsigned both = byte_at(block, 2 + i % 16);
      const unsigned code = i % 32 < 16 ? both & 15U : both >> 4;
      values.push_back(half_at(block) * (static_cast<double>(code) - 8.0));
    }
  }
  return values;
}

}  // namespace quern
