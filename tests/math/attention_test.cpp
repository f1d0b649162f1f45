// Attention against a double-precision reference: every instruction set, shapes, masks, sinks, soft caps, dropout, pages.
//
// Error model. f32: a score is a sum of head_dim products and an output one of `keys` products, each rounded once, so errors
// stay below 2^-24 * (head_dim + keys + 64) of the tensor's largest row norm. bf16: inputs are exact; probabilities, score
// gradients and results are rounded to 8 bits (2^-9 each), and D = rowsum(dO O) inherits the rounding of O: 2^-7 in all, or
// 2^-6 where head_dim is below 8 and a row has too few terms for their errors to average out in dP - D.
#include "math/attention.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "math/aligned_buffer.hpp"
#include "support/attention_harness.hpp"

namespace quern {
namespace {

using testing_attention::attention_tables;

float from(float x) { return x; }
float from(bf16 x) { return std::bit_cast<float>(std::uint32_t{x.bits} << 16); }
void round_into(double x, float& out) { out = static_cast<float>(x); }
void round_into(double x, bf16& out) {
  const auto bits = std::bit_cast<std::uint32_t>(static_cast<float>(x));
  out.bits = static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

template <class T>
constexpr ElementType kType = std::is_same_v<T, float> ? ElementType::f32 : ElementType::bf16;

/// A batch of whole sequences with fresh keys and values, as in training. Rows are wider than they need to be.
template <class T>
struct Batch {
  AttentionShape shape;
  std::vector<std::int64_t> lengths;
  std::vector<float> sinks;
  DropoutMask dropout;

  std::int64_t rows = 0, q_stride = 0, kv_stride = 0;
  std::vector<T> q, k, v, out, dout, dq, dk, dv;
  std::vector<float> lse;
  std::vector<const void*> pages;
  std::vector<AttentionSequence> sequences;

  void fill(std::uint32_t seed) {
    for (const std::int64_t length : lengths) rows += length;
    q_stride = shape.heads * shape.head_dim + 3;
    kv_stride = shape.kv_heads * shape.head_dim + 5;
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    const auto make = [&](std::vector<T>& x, std::int64_t stride) {
      x.resize(static_cast<std::size_t>(rows * stride));
      for (T& value : x) round_into(normal(random), value);
    };
    make(q, q_stride);
    make(dout, q_stride);
    make(k, kv_stride);
    make(v, kv_stride);
    out.resize(q.size());
    dq.resize(q.size());
    dk.resize(k.size());
    dv.resize(v.size());
    lse.assign(static_cast<std::size_t>(rows * shape.heads), 0.0F);
    shape.sinks = sinks.empty() ? nullptr : sinks.data();
    std::int64_t first = 0;
    pages.clear();
    for (const std::int64_t length : lengths) {
      pages.push_back(k.data() + first * kv_stride);
      pages.push_back(v.data() + first * kv_stride);
      first += length;
    }
    first = 0;
    for (std::size_t i = 0; i < lengths.size(); ++i) {
      AttentionSequence sequence{first, lengths[i], 0, {}};
      sequence.kv = {&pages[2 * i], &pages[2 * i + 1], kType<T>, lengths[i], kv_stride, shape.head_dim, lengths[i]};
      sequences.push_back(sequence);
      first += lengths[i];
    }
  }

  AttentionRows<const T> view(const std::vector<T>& x, std::int64_t stride) const { return {x.data(), stride}; }

  void forward(Exec& exec) {
    attention_forward<T>(exec, shape, sequences, {q.data(), q_stride}, {out.data(), q_stride}, lse.data(), dropout);
  }
  void backward(Exec& exec) {
    attention_backward<T>(exec, shape, sequences, {q.data(), q_stride}, {out.data(), q_stride}, {dout.data(), q_stride},
                          lse.data(), {dq.data(), q_stride}, {dk.data(), kv_stride}, {dv.data(), kv_stride}, dropout);
  }
  void run(const KernelTable& table, ThreadTeam* team = nullptr) {
    const Backend backend{&table, false};
    const std::int64_t longest = *std::max_element(lengths.begin(), lengths.end());
    const std::size_t bytes = attention_scratch_bytes(backend, shape, kType<T>, longest);
    auto body = [&](TeamMember& member) {
      auto scratch = AlignedBuffer::allocate(bytes);
      // What scratch holds must not matter.
      std::memset(scratch->data(), 0xFF, bytes);
      Exec exec{member, backend, {scratch->data(), bytes}};
      forward(exec);
      backward(exec);
    };
    TeamMember alone;
    if (team == nullptr) {
      body(alone);
    } else {
      team->run(body);
    }
  }

  std::vector<double> rows_of(const std::vector<T>& x, std::int64_t stride, std::int64_t width, std::int64_t first,
                              std::int64_t count) const {
    std::vector<double> result;
    for (std::int64_t r = first; r < first + count; ++r) {
      for (std::int64_t c = 0; c < width; ++c) result.push_back(double{from(x[static_cast<std::size_t>(r * stride + c)])});
    }
    return result;
  }
};

/// Largest row error over largest row norm; rows of `width`.
double row_error(const std::vector<double>& actual, const std::vector<double>& expected, std::int64_t width) {
  double error = 0.0;
  double norm = 1e-30;
  for (std::size_t r = 0; r < expected.size(); r += static_cast<std::size_t>(width)) {
    double e = 0.0;
    double n = 0.0;
    for (std::size_t c = r; c < r + static_cast<std::size_t>(width); ++c) {
      e += (actual[c] - expected[c]) * (actual[c] - expected[c]);
      n += expected[c] * expected[c];
    }
    if (std::isnan(e)) return e;
    error = std::max(error, std::sqrt(e));
    norm = std::max(norm, std::sqrt(n));
  }
  return error / norm;
}

template <class T>
void expect_matches_reference(Batch<T> batch, const std::string& what) {
  batch.fill(7);
  const AttentionShape& shape = batch.shape;
  struct Expected {
    ReferenceAttentionOutput forward;
    ReferenceAttentionGradients gradients;
  };
  std::vector<Expected> expected;
  const std::int64_t q_width = shape.heads * shape.head_dim;
  const std::int64_t kv_width = shape.kv_heads * shape.head_dim;
  for (const AttentionSequence& s : batch.sequences) {
    ReferenceAttention problem{shape, batch.dropout, s.rows, 0, s.rows, s.first_row, {}, {}, {}};
    problem.q = batch.rows_of(batch.q, batch.q_stride, q_width, s.first_row, s.rows);
    problem.k = batch.rows_of(batch.k, batch.kv_stride, kv_width, s.first_row, s.rows);
    problem.v = batch.rows_of(batch.v, batch.kv_stride, kv_width, s.first_row, s.rows);
    expected.push_back(
        {reference_attention(problem),
         reference_attention_gradients(problem, batch.rows_of(batch.dout, batch.q_stride, q_width, s.first_row, s.rows))});
  }
  for (const KernelTable& table : attention_tables()) {
    batch.run(table);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const AttentionSequence& s = batch.sequences[i];
      SCOPED_TRACE(what + ", " + table.attention->name + ", rows " + std::to_string(s.rows));
      const double units = static_cast<double>(shape.head_dim + s.rows + 64);
      const double rounding = shape.head_dim < 8 ? 0x1p-6 : 0x1p-7;
      const double tolerance = kType<T> == ElementType::f32 ? units * 0x1p-24 : rounding;
      const auto check = [&](const std::vector<T>& x, std::int64_t stride, std::int64_t width, const std::vector<double>& y,
                             const char* name) {
        EXPECT_LE(row_error(batch.rows_of(x, stride, width, s.first_row, s.rows), y, shape.head_dim), tolerance) << name;
      };
      check(batch.out, batch.q_stride, q_width, expected[i].forward.out, "out");
      for (std::size_t j = 0; j < expected[i].forward.lse.size(); ++j) {
        const double lse = double{batch.lse[static_cast<std::size_t>(s.first_row * shape.heads) + j]};
        EXPECT_NEAR(lse, expected[i].forward.lse[j], units * 0x1p-22) << "lse " << j;
      }
      check(batch.dv, batch.kv_stride, kv_width, expected[i].gradients.dv, "dv");
      // One key alone gives no gradient through the softmax; its rounding has no scale to compare with.
      if ((s.rows == 1 || shape.window == 1) && shape.sinks == nullptr) continue;
      check(batch.dq, batch.q_stride, q_width, expected[i].gradients.dq, "dq");
      check(batch.dk, batch.kv_stride, kv_width, expected[i].gradients.dk, "dk");
    }
  }
}

AttentionShape shape_of(std::int64_t heads, std::int64_t kv_heads, std::int64_t head_dim) {
  AttentionShape shape;
  shape.heads = heads;
  shape.kv_heads = kv_heads;
  shape.head_dim = head_dim;
  shape.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim)));
  return shape;
}

template <class T>
class AttentionTest : public testing::Test {};
using Types = testing::Types<float, bf16>;
TYPED_TEST_SUITE(AttentionTest, Types);

TYPED_TEST(AttentionTest, EveryLength) {
  for (const std::int64_t length : {1, 2, 63, 64, 65, 127, 130, 200}) {
    Batch<TypeParam> batch;
    batch.shape = shape_of(2, 1, 32);
    batch.lengths = {length};
    expect_matches_reference(std::move(batch), "length " + std::to_string(length));
  }
}

TYPED_TEST(AttentionTest, EveryHeadLayoutAndSize) {
  const std::int64_t layouts[][2] = {{1, 1}, {4, 4}, {4, 2}, {6, 1}};
  for (const auto& [heads, kv_heads] : layouts) {
    for (const std::int64_t head_dim : {8, 32}) {
      Batch<TypeParam> batch;
      batch.shape = shape_of(heads, kv_heads, head_dim);
      batch.lengths = {70};
      expect_matches_reference(std::move(batch), std::to_string(heads) + "/" + std::to_string(kv_heads) + " heads of " +
                                                     std::to_string(head_dim));
    }
  }
  for (const std::int64_t head_dim : {1, 31, 33, 64, 80, 128, 256}) {
    Batch<TypeParam> batch;
    batch.shape = shape_of(1, 1, head_dim);
    batch.lengths = {66};
    expect_matches_reference(std::move(batch), "head_dim " + std::to_string(head_dim));
  }
}

TYPED_TEST(AttentionTest, SequencesOfDifferentLengths) {
  Batch<TypeParam> batch;
  batch.shape = shape_of(4, 2, 32);
  batch.lengths = {3, 150, 64, 0, 1, 90};
  expect_matches_reference(std::move(batch), "mixed lengths");
}

TYPED_TEST(AttentionTest, ManyTasksPerSequence) {
  Batch<TypeParam> batch;
  batch.shape = shape_of(4, 1, 16);
  batch.lengths = {140};
  expect_matches_reference(std::move(batch), "3 chunks of 64 queries");
}

TYPED_TEST(AttentionTest, Windows) {
  for (const std::int64_t window : {1, 5, 64, 100}) {
    Batch<TypeParam> batch;
    batch.shape = shape_of(2, 1, 16);
    batch.shape.window = window;
    batch.lengths = {200};
    expect_matches_reference(std::move(batch), "window " + std::to_string(window));
  }
}

TYPED_TEST(AttentionTest, SoftCapSinksAndDropoutTogetherAndAlone) {
  for (int features = 1; features < 16; ++features) {
    Batch<TypeParam> batch;
    batch.shape = shape_of(4, 2, 24);
    batch.lengths = {5, 70};
    if ((features & 1) != 0) batch.shape.soft_cap = 1.5F;
    if ((features & 2) != 0) batch.sinks = {0.5F, -1.0F, 3.0F, -40.0F};
    if ((features & 4) != 0) batch.dropout = {0.2F, 0x123456789ABCDEFULL, 5, 8, 17};
    if ((features & 8) != 0) batch.shape.window = 30;
    expect_matches_reference(std::move(batch), "features " + std::to_string(features));
  }
}

// Steep, negative and zero scales: scores far apart, and none at all.
TYPED_TEST(AttentionTest, Scales) {
  for (const float scale : {1.0F, -0.2F, 0.0F}) {
    Batch<TypeParam> batch;
    batch.shape = shape_of(2, 2, 16);
    batch.shape.scale = scale;
    batch.lengths = {90};
    if (scale == 0.0F) {
      batch.fill(7);
      for (const KernelTable& table : attention_tables()) {
        batch.run(table);
        for (std::int64_t r = 0; r < batch.rows; ++r) {
          EXPECT_NEAR(batch.lse[static_cast<std::size_t>(2 * r)], std::log(static_cast<double>(r + 1)), 1e-6);
        }
      }
      continue;
    }
    expect_matches_reference(std::move(batch), "scale " + std::to_string(scale));
  }
}

// A score of 1000 or -1000 must not overflow, and rows whose scores are far below their sink must give 0, not NaN.
TYPED_TEST(AttentionTest, ExtremeScoresStayFinite) {
  Batch<TypeParam> batch;
  batch.shape = shape_of(1, 1, 32);
  batch.shape.scale = 60.0F;
  batch.lengths = {130};
  batch.sinks = {200.0F};
  batch.fill(3);
  for (const KernelTable& table : attention_tables()) {
    batch.run(table);
    for (const auto* x : {&batch.out, &batch.dq, &batch.dk, &batch.dv}) {
      for (const auto value : *x) ASSERT_TRUE(std::isfinite(from(value))) << table.attention->name;
    }
  }
}

TYPED_TEST(AttentionTest, ThreadsDoNotChangeBits) {
  const auto make = [] {
    Batch<TypeParam> batch;
    batch.shape = shape_of(4, 2, 32);
    batch.lengths = {100, 7, 64, 70};
    batch.dropout = {0.1F, 42, 1, 4, 0};
    batch.fill(11);
    return batch;
  };
  for (const KernelTable& table : attention_tables()) {
    Batch<TypeParam> alone = make();
    alone.run(table);
    for (const int threads : {2, 4}) {
      ThreadTeam team(threads);
      Batch<TypeParam> shared = make();
      shared.run(table, &team);
      const auto same = [](const auto& a, const auto& b) {
        return std::memcmp(a.data(), b.data(), a.size() * sizeof a[0]) == 0;
      };
      EXPECT_TRUE(same(alone.out, shared.out) && same(alone.lse, shared.lse) && same(alone.dq, shared.dq) &&
                  same(alone.dk, shared.dk) && same(alone.dv, shared.dv))
          << table.attention->name << ", " << threads << " threads";
    }
  }
}

// The reference itself: its gradients against central differences of its forward pass, every feature on.
TEST(AttentionReference, GradientsMatchFiniteDifferences) {
  const float sinks[] = {0.3F, -0.5F};
  ReferenceAttention problem;
  problem.shape = shape_of(2, 1, 3);
  problem.shape.soft_cap = 2.0F;
  problem.shape.window = 4;
  problem.shape.sinks = sinks;
  problem.dropout = {0.3F, 99, 1, 2, 3};
  problem.rows = 6;
  problem.keys = 6;
  std::mt19937 random(1);
  std::normal_distribution<double> normal;
  const auto make = [&](std::vector<double>& x, std::size_t n) {
    x.resize(n);
    for (double& value : x) value = normal(random);
  };
  make(problem.q, 36);
  make(problem.k, 18);
  make(problem.v, 18);
  std::vector<double> dout;
  make(dout, 36);
  const ReferenceAttentionGradients gradients = reference_attention_gradients(problem, dout);
  const auto loss = [&] {
    const auto out = reference_attention(problem).out;
    double sum = 0.0;
    for (std::size_t i = 0; i < out.size(); ++i) sum += out[i] * dout[i];
    return sum;
  };
  const auto check = [&](std::vector<double>& x, const std::vector<double>& gradient) {
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double kept = x[i];
      x[i] = kept + 1e-5;
      const double above = loss();
      x[i] = kept - 1e-5;
      const double below = loss();
      x[i] = kept;
      EXPECT_NEAR((above - below) / 2e-5, gradient[i], 1e-8) << i;
    }
  };
  check(problem.q, gradients.dq);
  check(problem.k, gradients.dk);
  check(problem.v, gradients.dv);
}

}  // namespace
}  // namespace quern
