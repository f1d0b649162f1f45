// Muon: which matrices it takes, its orthogonalization and its step against double precision, on every instruction set.
#define EIGEN_DONT_PARALLELIZE  // its threads would wait for each other by spinning
#include "train/muon.hpp"

#include <gtest/gtest.h>

#include <Eigen/Dense>
#include <cmath>
#include <random>

#include "math/aligned_buffer.hpp"
#include "support/model_harness.hpp"
#include "train/optimizer.hpp"
#include "train/training_memory.hpp"

namespace quern {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// The iteration as Jordan (2024) writes it, in double precision.
Matrix reference_newton_schulz(Matrix x, std::int64_t steps = 5) {
  const double norm = x.norm();
  if (norm == 0.0) return x;
  x /= norm;
  const bool transposed = x.rows() > x.cols();
  if (transposed) x.transposeInPlace();
  for (std::int64_t i = 0; i < steps; ++i) {
    const Matrix a = x * x.transpose();
    const Matrix b = -4.7750 * a + 2.0315 * a * a;
    x = 3.4445 * x + b * x;
  }
  if (transposed) x.transposeInPlace();
  return x;
}

std::vector<float> random_matrix(std::int64_t rows, std::int64_t cols, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, 0.01F);
  std::vector<float> x(static_cast<std::size_t>(rows * cols));
  for (float& value : x) value = normal(random);
  return x;
}

Matrix to_matrix(const float* x, std::int64_t rows, std::int64_t cols) {
  return Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>(x, rows, cols)
      .cast<double>();
}

std::vector<float> orthogonalized(const Backend& backend, ComputeType compute, std::vector<float> x, std::int64_t rows,
                                  std::int64_t cols, int threads = 1, std::int64_t steps = 5) {
  auto memory = AlignedBuffer::allocate(newton_schulz_bytes(backend, compute, rows, cols)).value();
  const std::size_t scratch_bytes =
      (newton_schulz_scratch_bytes(backend, rows, cols) + kBufferAlignment - 1) / kBufferAlignment * kBufferAlignment;
  auto scratch = AlignedBuffer::allocate(scratch_bytes * static_cast<std::size_t>(threads) + kBufferAlignment).value();
  ThreadTeam team(threads);
  team.run([&](TeamMember& member) {
    Exec exec{member, backend, {scratch.data() + scratch_bytes * static_cast<std::size_t>(member.index()), scratch_bytes}};
    newton_schulz(exec, compute, steps, x.data(), rows, cols, memory.data());
  });
  return x;
}

std::vector<Backend> backends() {
  std::vector<Backend> all;
  for (const KernelTable* table : supported_kernels()) all.push_back({table, false});
  all.push_back({supported_kernels().front(), true});
  return all;
}

constexpr std::pair<std::int64_t, std::int64_t> kShapes[] = {{1, 1},   {1, 7},   {5, 1},    {3, 2},    {16, 16}, {17, 33},
                                                             {33, 15}, {48, 64}, {65, 129}, {200, 40}, {40, 200}};

// Five steps multiply an error of the first by up to 3.4445^5 = 485 where singular values are small, and rounding adds a few
// units per product; f32 stays within 1e-3 of double. bf16 has 8 bits: its error is a part of the update, and what counts is
// that the singular values come out right (next test).
TEST(NewtonSchulz, F32FollowsTheDoublePrecisionIteration) {
  for (const Backend& backend : backends()) {
    for (const auto& [rows, cols] : kShapes) {
      const std::vector<float> x = random_matrix(rows, cols, 11);
      const std::vector<float> out = orthogonalized(backend, ComputeType::f32, x, rows, cols);
      const Matrix want = reference_newton_schulz(to_matrix(x.data(), rows, cols));
      const double error = (to_matrix(out.data(), rows, cols) - want).cwiseAbs().maxCoeff();
      EXPECT_LT(error, 1e-3) << isa_name(backend.kernels->isa) << (backend.eigen ? " eigen " : " ") << rows << " x " << cols;
    }
  }
}

TEST(NewtonSchulz, TakesAsManyStepsAsItIsTold) {
  const Backend backend{supported_kernels().front(), false};
  const std::vector<float> x = random_matrix(40, 24, 15);
  for (const std::int64_t steps : {1, 2, 3, 7}) {
    const std::vector<float> out = orthogonalized(backend, ComputeType::f32, x, 40, 24, 1, steps);
    const Matrix want = reference_newton_schulz(to_matrix(x.data(), 40, 24), steps);
    EXPECT_LT((to_matrix(out.data(), 40, 24) - want).cwiseAbs().maxCoeff(), 1e-3) << steps;
  }
}

TEST(NewtonSchulz, SingularValuesComeNearOneInBothPrecisions) {
  for (const Backend& backend : backends()) {
    for (const ComputeType compute : {ComputeType::f32, ComputeType::bf16}) {
      for (const auto& [rows, cols] : kShapes) {
        if (std::min(rows, cols) > 40) continue;  // those of square random matrices go down to zero
        if (rows == cols && rows > 1) continue;
        const std::vector<float> x = random_matrix(rows, cols, 12);
        const std::vector<float> out = orthogonalized(backend, compute, x, rows, cols);
        const Matrix result = to_matrix(out.data(), rows, cols);
        const Eigen::JacobiSVD<Matrix> svd(result);
        EXPECT_LT(svd.singularValues().maxCoeff(), 1.25) << rows << " x " << cols;
        EXPECT_GT(svd.singularValues().minCoeff(), 0.6) << rows << " x " << cols;
        // The same singular vectors: the polar factor's product with x is symmetric and positive.
        const Matrix polar = result.transpose() * to_matrix(x.data(), rows, cols);
        EXPECT_GT(polar.trace(), 0.0);
        EXPECT_LT((polar - polar.transpose()).norm(), (compute == ComputeType::f32 ? 1e-3 : 0.1) * polar.norm());
      }
    }
  }
}

TEST(NewtonSchulz, IsTheSameAtAnyScaleAndZeroStaysZero) {
  const Backend backend{supported_kernels().front(), false};
  const std::vector<float> x = random_matrix(24, 40, 13);
  std::vector<float> large = x;
  for (float& value : large) value *= 0x1p60F;
  EXPECT_EQ(orthogonalized(backend, ComputeType::f32, x, 24, 40), orthogonalized(backend, ComputeType::f32, large, 24, 40));
  const std::vector<float> zero(24 * 40, 0.0F);
  for (const float value : orthogonalized(backend, ComputeType::f32, zero, 24, 40)) EXPECT_EQ(value, 0.0F);
}

TEST(NewtonSchulz, HasTheSameBitsOnAnyNumberOfThreads) {
  for (const ComputeType compute : {ComputeType::f32, ComputeType::bf16}) {
    const Backend backend{supported_kernels().front(), false};
    const std::vector<float> x = random_matrix(130, 70, 14);
    const std::vector<float> one = orthogonalized(backend, compute, x, 130, 70, 1);
    EXPECT_EQ(orthogonalized(backend, compute, x, 130, 70, 2), one);
    EXPECT_EQ(orthogonalized(backend, compute, x, 130, 70, 3), one);
  }
}

TEST(MuonMatrices, CoverEveryMatrixOfTheBlocksOnceAndNothingElse) {
  for (const NamedModel& model : tiny_models()) {
    SCOPED_TRACE(model.name);
    const ModelConfig& c = model.config;
    const ParameterLayout layout = parameter_layout(c);
    std::vector<int> covered(static_cast<std::size_t>(layout.elements), 0);
    for (const MuonMatrix& matrix : muon_matrices(c, layout)) {
      const Parameter& parameter = layout.parameters[static_cast<std::size_t>(matrix.parameter)];
      EXPECT_EQ(matrix.cols, parameter.cols);
      EXPECT_GE(matrix.offset, parameter.offset);
      EXPECT_LE(matrix.offset + matrix.rows * matrix.cols, parameter.offset + parameter.count());
      for (std::int64_t i = 0; i < matrix.rows * matrix.cols; ++i) ++covered[static_cast<std::size_t>(matrix.offset + i)];
    }
    for (std::size_t index = 0; index < layout.parameters.size(); ++index) {
      const Parameter& parameter = layout.parameters[index];
      const bool matrix = parameter.kind == ParameterKind::matrix || parameter.kind == ParameterKind::residual_matrix;
      const bool router = parameter.name.find("gate_inp") != std::string::npos;
      const int want = matrix && !router && static_cast<int>(index) != layout.head ? 1 : 0;
      for (std::int64_t i = 0; i < parameter.count(); ++i) {
        ASSERT_EQ(covered[static_cast<std::size_t>(parameter.offset + i)], want) << parameter.name << " " << i;
      }
    }
  }
}

TEST(MuonMatrices, PartsOfFusedMatricesAreApart) {
  ModelConfig c;
  c.vocab = 11;
  c.layers = 1;
  c.width = 48;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 12;
  c.mlp_width = 80;
  const ParameterLayout layout = parameter_layout(c);
  std::vector<std::pair<std::int64_t, std::int64_t>> shapes;
  for (const MuonMatrix& matrix : muon_matrices(c, layout)) shapes.emplace_back(matrix.rows, matrix.cols);
  const std::vector<std::pair<std::int64_t, std::int64_t>> want = {{48, 48}, {24, 48}, {24, 48}, {48, 48},
                                                                   {80, 48}, {80, 48}, {48, 80}};
  EXPECT_EQ(shapes, want);
  EXPECT_EQ(muon_scale(80, 20), 2.0F);
  EXPECT_EQ(muon_scale(20, 80), 1.0F);
}

/// Both optimizers in double precision, written from the papers. What is not Muon's goes through AdamW.
struct Reference {
  std::vector<double> w, m, v;

  void step(const ModelConfig& config, const ParameterLayout& layout, const std::vector<float>& gradients,
            const OptimizerConfig& o, double rate, int t) {
    const auto f = [](float x) { return static_cast<double>(x); };
    double square = 0.0;
    for (const Parameter& p : layout.parameters) {
      for (std::int64_t i = p.offset; i < p.offset + p.count(); ++i) {
        const double g = f(gradients[static_cast<std::size_t>(i)]);
        square += g * g;
      }
    }
    const double clip = std::min(1.0, f(o.clip_norm) / std::sqrt(square));
    std::vector<bool> done(w.size(), false);
    for (const MuonMatrix& matrix : muon_matrices(config, layout)) {
      Matrix direction(matrix.rows, matrix.cols);
      for (std::int64_t i = 0; i < matrix.rows * matrix.cols; ++i) {
        const auto at = static_cast<std::size_t>(matrix.offset + i);
        const double g = clip * f(gradients[at]);
        m[at] = f(o.muon_momentum) * m[at] + g;
        direction.data()[i] = g + f(o.muon_momentum) * m[at];
        done[at] = true;
      }
      const Matrix update = reference_newton_schulz(direction, o.newton_schulz_steps);
      const double muon_rate = rate / f(o.learning_rate) * f(o.muon_learning_rate);
      const double scale = std::sqrt(std::max(1.0, static_cast<double>(matrix.rows) / static_cast<double>(matrix.cols)));
      for (std::int64_t i = 0; i < matrix.rows * matrix.cols; ++i) {
        const auto at = static_cast<std::size_t>(matrix.offset + i);
        w[at] -= muon_rate * (f(o.weight_decay) * w[at] + scale * update.data()[i]);
      }
    }
    for (const Parameter& p : layout.parameters) {
      for (std::int64_t i = p.offset; i < p.offset + p.count(); ++i) {
        const auto at = static_cast<std::size_t>(i);
        if (done[at]) continue;
        const double g = clip * f(gradients[at]);
        m[at] = f(o.beta1) * m[at] + (1.0 - f(o.beta1)) * g;
        v[at] = f(o.beta2) * v[at] + (1.0 - f(o.beta2)) * g * g;
        if (p.decays()) w[at] -= rate * f(o.weight_decay) * w[at];
        w[at] -= rate * (m[at] / (1.0 - std::pow(f(o.beta1), t))) /
                 (std::sqrt(v[at] / (1.0 - std::pow(f(o.beta2), t))) + f(o.eps));
      }
    }
  }
};

// Two steps of the whole optimizer on random gradients.
TEST(Muon, StepsFollowTheDoublePrecisionReference) {
  OptimizerConfig settings;
  settings.kind = OptimizerKind::muon;
  settings.learning_rate = 0.01F;
  settings.muon_learning_rate = 0.05F;
  settings.newton_schulz_steps = 4;
  settings.weight_decay = 0.2F;
  settings.clip_norm = 0.5F;
  for (const KernelTable* table : supported_kernels()) {
    for (const NamedModel& model : tiny_models()) {
      SCOPED_TRACE(std::string(isa_name(table->isa)) + " " + model.name);
      const Backend backend{table, false};
      const PassShape shape{.rows = 8, .max_length = 8, .max_sequences = 1};
      auto memory = TrainingMemory::plan(backend, ComputeType::f32, model.config, shape, OptimizerKind::muon, 2).value();
      ASSERT_TRUE(memory.allocate());
      const ParameterLayout& layout = memory.layout();
      const auto elements = static_cast<std::size_t>(layout.elements);
      const std::vector<float> start = tiny_parameters(model.config, layout, 5);
      std::copy(start.begin(), start.end(), memory.parameters());
      Reference reference;
      reference.w.assign(start.begin(), start.end());
      reference.m.assign(elements, 0.0);
      reference.v.assign(elements, 0.0);
      Optimizer optimizer(model.config, layout, memory.packs(), ComputeType::f32, memory.muon(), settings);
      ThreadTeam team(2);
      for (int t = 1; t <= 2; ++t) {
        const std::vector<float> gradients = random_matrix(1, layout.elements, static_cast<unsigned>(t));
        std::copy(gradients.begin(), gradients.end(), memory.gradients());
        const float rate = t == 2 ? 0.005F : 0.01F;
        team.run([&](TeamMember& member) {
          Exec exec = memory.exec(member, backend);
          optimizer.step(exec,
                         {memory.parameters(), memory.gradients(), memory.first_moments(), memory.second_moments(),
                          memory.muon_workspace()},
                         1.0, rate, t);
        });
        reference.step(model.config, layout, gradients, settings, static_cast<double>(rate), t);
      }
      for (const Parameter& p : layout.parameters) {
        for (std::int64_t i = p.offset; i < p.offset + p.count(); ++i) {
          const auto at = static_cast<std::size_t>(i);
          // Two updates of at most 0.05 * sqrt(rows / cols) * 1.2, each within 1e-3 of the reference's.
          ASSERT_NEAR(memory.parameters()[at], reference.w[at], 3e-4) << p.name << " " << i - p.offset;
        }
      }
    }
  }
}

TEST(Muon, KeepsNoSecondMomentOfItsMatrices) {
  for (const NamedModel& model : tiny_models()) {
    const ParameterLayout layout = parameter_layout(model.config);
    const ParameterLayout moments = second_moment_layout(model.config, layout, OptimizerKind::muon);
    std::int64_t of_muon = 0;
    for (const MuonMatrix& matrix : muon_matrices(model.config, layout)) of_muon += matrix.rows * matrix.cols;
    EXPECT_EQ(moments.parameter_count(), layout.parameter_count() - of_muon) << model.name;
    EXPECT_EQ(second_moment_layout(model.config, layout, OptimizerKind::adamw).elements, layout.elements);
    const Backend backend{supported_kernels().front(), false};
    const PassShape shape{.rows = 8, .max_length = 8, .max_sequences = 1};
    const auto plan = [&](OptimizerKind kind) {
      return TrainingMemory::plan(backend, ComputeType::f32, model.config, shape, kind, 2).value().report();
    };
    const std::size_t less =
        plan(OptimizerKind::adamw)[MemoryCategory::optimizer] - plan(OptimizerKind::muon)[MemoryCategory::optimizer];
    EXPECT_EQ(less, static_cast<std::size_t>(layout.elements - moments.elements) * sizeof(float)) << model.name;
  }
}

// A matrix above MuonMemory::kMaxAloneElements is updated by all threads together: as by one, bit for bit.
TEST(Muon, LargeMatricesHaveTheSameBitsOnAnyNumberOfThreads) {
  ModelConfig c;
  c.vocab = 8;
  c.context = 8;
  c.layers = 1;
  c.width = 128;
  c.heads = c.kv_heads = 2;
  c.head_dim = 64;
  c.mlp = MlpKind::gelu;
  c.mlp_width = MuonMemory::kMaxAloneElements / 128 + 32;
  OptimizerConfig settings;
  settings.kind = OptimizerKind::muon;
  const Backend backend{supported_kernels().front(), false};
  std::vector<std::vector<float>> results;
  for (const int threads : {1, 3}) {
    const PassShape shape{.rows = 8, .max_length = 8, .max_sequences = 1};
    auto memory = TrainingMemory::plan(backend, ComputeType::bf16, c, shape, OptimizerKind::muon, threads).value();
    ASSERT_TRUE(memory.allocate());
    const auto elements = static_cast<std::size_t>(memory.layout().elements);
    initialize_parameters(c, memory.layout(), {}, 3, memory.parameters());
    const std::vector<float> gradients = random_matrix(1, memory.layout().elements, 4);
    std::copy(gradients.begin(), gradients.end(), memory.gradients());
    Optimizer optimizer(c, memory.layout(), memory.packs(), ComputeType::bf16, memory.muon(), settings);
    ThreadTeam team(threads);
    team.run([&](TeamMember& member) {
      Exec exec = memory.exec(member, backend);
      optimizer.step(exec,
                     {memory.parameters(), memory.gradients(), memory.first_moments(), memory.second_moments(),
                      memory.muon_workspace()},
                     1.0, 1e-3F, 1);
    });
    results.emplace_back(memory.parameters(), memory.parameters() + elements);
  }
  EXPECT_EQ(results[0], results[1]);
}

}  // namespace
}  // namespace quern
