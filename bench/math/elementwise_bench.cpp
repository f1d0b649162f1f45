// GB/s (bytes read and written once) and elements/s of the element-wise kernels on one thread, for every instruction set.
// The argument is the number of rows of 1024: 64 rows stay in the second-level cache, 16384 come from memory. `copy` is the
// plain copy of as many floats by memcpy, the rate to compare with. Run one with --benchmark_filter=avx512/gelu.
#include <benchmark/benchmark.h>

#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "math/dispatch.hpp"
#include "math/elementwise_kernels.hpp"
#include "math/number_formats.hpp"

namespace quern {
namespace {

constexpr std::int64_t kCols = 1024;

template <class T>
std::vector<T> values(std::int64_t count) {
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  std::vector<float> block(4096);
  for (float& x : block) x = normal(engine);
  std::vector<T> result(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < result.size(); ++i) {
    if constexpr (sizeof(T) == 2) {
      result[i] = bf16_from_float(block[i % block.size()]);
    } else {
      result[i] = block[i % block.size()];
    }
  }
  return result;
}

/// Buffers of one benchmark; x and y hold two values per element, as gated units need.
struct Data {
  explicit Data(std::int64_t row_count)
      : rows(row_count),
        x(values<float>(2 * rows * kCols)),
        y(values<float>(2 * rows * kCols)),
        z(values<float>(rows * kCols)),
        half_x(values<bf16>(2 * rows * kCols)),
        half_y(values<bf16>(2 * rows * kCols)),
        weight(values<float>(kCols)),
        bias(values<float>(kCols)),
        dweight(static_cast<std::size_t>(kCols)),
        dbias(static_cast<std::size_t>(kCols)),
        mean(static_cast<std::size_t>(rows), 0.01F),
        rstd(static_cast<std::size_t>(rows), 1.01F),
        scale(static_cast<std::size_t>(rows), 1e-3F),
        index(static_cast<std::size_t>(rows)) {
    for (std::size_t i = 0; i < index.size(); ++i) index[i] = static_cast<std::int32_t>(i * 37 % 1000);
  }

  std::int64_t rows;
  std::vector<float> x, y, z;
  std::vector<bf16> half_x, half_y;
  std::vector<float> weight, bias, dweight, dbias, mean, rstd, scale;
  std::vector<std::int32_t> index;
};

using Run = std::function<void(const ElementwiseKernels&, Data&)>;

/// Registers `name` for every table; `bytes` per element.
void add(const std::string& name, double bytes, const Run& run) {
  std::vector<const ElementwiseKernels*> known;
  for (const KernelTable* path : supported_kernels()) {
    const ElementwiseKernels* table = path->elementwise;
    if (!known.empty() && known.back() == table) continue;
    known.push_back(table);
    const std::string full = std::string(table->name) + "/" + name;
    benchmark::RegisterBenchmark(
        full.c_str(),
        [=](benchmark::State& state) {
          Data data(state.range(0));
          for (auto _ : state) {
            run(*table, data);
            benchmark::ClobberMemory();
          }
          const double elements = static_cast<double>(state.iterations()) * static_cast<double>(state.range(0) * kCols);
          state.counters["bytes/s"] = benchmark::Counter(elements * bytes, benchmark::Counter::kIsRate);
          state.counters["elements/s"] = benchmark::Counter(elements, benchmark::Counter::kIsRate);
        })
        ->Arg(64)
        ->Arg(16384)
        ->Unit(benchmark::kMicrosecond);
  }
}

void add_activation(const std::string& name, Activation activation) {
  add(name + "_forward/bf16", 4, [=](const ElementwiseKernels& k, Data& d) {
    k.b16.activation_forward(activation, d.half_x.data(), kCols, d.half_y.data(), kCols, d.rows, kCols);
  });
  add(name + "_backward/bf16", 8, [=](const ElementwiseKernels& k, Data& d) {
    k.b16.activation_backward({.activation = activation,
                               .dout = d.x.data(),
                               .dout_stride = kCols,
                               .pre = d.half_x.data(),
                               .pre_stride = kCols,
                               .dpre = d.half_y.data(),
                               .dpre_stride = kCols,
                               .rows = d.rows,
                               .cols = kCols});
  });
}

void add_norms() {
  add("rms_norm_forward/bf16", 6, [](const ElementwiseKernels& k, Data& d) {
    k.b16.rms_norm_forward(d.x.data(), kCols, d.weight.data(), 1e-5F, d.half_y.data(), kCols, d.rstd.data(), d.rows, kCols);
  });
  add("rms_norm_backward", 16, [](const ElementwiseKernels& k, Data& d) {
    k.rms_norm_backward(d.x.data(), kCols, d.y.data(), kCols, d.weight.data(), d.rstd.data(), d.z.data(), kCols,
                        d.dweight.data(), d.rows, kCols);
  });
  add("layer_norm_forward/bf16", 6, [](const ElementwiseKernels& k, Data& d) {
    k.b16.layer_norm_forward(d.x.data(), kCols, d.weight.data(), d.bias.data(), 1e-5F, d.half_y.data(), kCols, d.mean.data(),
                             d.rstd.data(), d.rows, kCols);
  });
  add("layer_norm_backward", 16, [](const ElementwiseKernels& k, Data& d) {
    k.layer_norm_backward(d.x.data(), kCols, d.y.data(), kCols, d.weight.data(), d.mean.data(), d.rstd.data(), d.z.data(),
                          kCols, d.dweight.data(), d.dbias.data(), d.rows, kCols);
  });
  // Heads of 64, as QK norm sees them.
  add("head_norm_forward/bf16", 4, [](const ElementwiseKernels& k, Data& d) {
    k.b16.head_norm_forward(d.half_x.data(), 64, d.weight.data(), 1e-5F, d.half_y.data(), 64, nullptr, d.rows * kCols / 64,
                            64);
  });
}

void add_losses() {
  for (const float cap : {0.0F, 30.0F}) {
    const std::string name = cap == 0.0F ? "cross_entropy" : "cross_entropy_capped";
    add(name + "/bf16", 6, [=](const ElementwiseKernels& k, Data& d) {
      std::vector<CrossEntropyRow> rows(static_cast<std::size_t>(d.rows));
      k.b16.cross_entropy_columns({.logits = d.x.data(),
                                   .logits_stride = kCols,
                                   .rows = d.rows,
                                   .cols = kCols,
                                   .target = d.index.data(),
                                   .row_scale = d.scale.data(),
                                   .soft_cap = cap,
                                   .row = rows.data(),
                                   .exponentials = d.half_y.data(),
                                   .exponentials_stride = kCols});
      k.b16.cross_entropy_targets(rows.data(), d.index.data(), d.scale.data(), d.half_y.data(), kCols, d.mean.data(), d.rows,
                                  kCols);
    });
  }
  add("cross_entropy_loss_only", 4, [](const ElementwiseKernels& k, Data& d) {
    std::vector<CrossEntropyRow> rows(static_cast<std::size_t>(d.rows));
    k.f32.cross_entropy_columns({.logits = d.x.data(),
                                 .logits_stride = kCols,
                                 .rows = d.rows,
                                 .cols = kCols,
                                 .target = d.index.data(),
                                 .row_scale = d.scale.data(),
                                 .row = rows.data()});
    benchmark::DoNotOptimize(rows.data());
  });
  add("softmax", 8, [](const ElementwiseKernels& k, Data& d) { k.softmax(d.z.data(), kCols, 1.0F, d.rows, kCols); });
}

void add_others() {
  constexpr DropoutMask kDropout = {.probability = 0.2F, .seed = 3, .step = 4, .site = 5, .first_row = 0};
  add("dropout_add", 12, [=](const ElementwiseKernels& k, Data& d) {
    k.dropout_add(d.x.data(), kCols, d.y.data(), kCols, d.z.data(), kCols, d.rows, kCols, kDropout);
  });
  add("dropout_add/none", 12, [](const ElementwiseKernels& k, Data& d) {
    k.dropout_add(d.x.data(), kCols, d.y.data(), kCols, d.z.data(), kCols, d.rows, kCols, DropoutMask{});
  });
  add("dropout_backward/bf16", 6, [=](const ElementwiseKernels& k, Data& d) {
    k.b16.dropout_backward(d.x.data(), kCols, d.half_y.data(), kCols, d.rows, kCols, kDropout);
  });
  add("from_f32/bf16", 6, [](const ElementwiseKernels& k, Data& d) {
    k.b16.from_f32(d.x.data(), kCols, d.half_y.data(), kCols, d.rows, kCols);
  });
  // 16 heads of 64, turned by 45 degrees and back in turn, so that repetition leaves the numbers' size alone.
  for (const RopePairing pairing : {RopePairing::halves, RopePairing::adjacent}) {
    add(pairing == RopePairing::halves ? "rope_halves/bf16" : "rope_adjacent/bf16", 4,
        [=, inverse = false](const ElementwiseKernels& k, Data& d) mutable {
          static const std::vector<float> cos_sin(1000 * 64, 0.70710678F);
          k.b16.rope(d.half_x.data(), kCols, 64, d.rows, 16, 64, pairing, cos_sin.data(), d.index.data(), inverse);
          inverse = !inverse;
        });
  }
  add("adamw", 28, [](const ElementwiseKernels& k, Data& d) {
    const std::int64_t half = d.rows * kCols;
    k.adamw(d.x.data(), d.z.data(), d.x.data() + half, d.y.data() + half, half, AdamWStep{.learning_rate = 1e-6F});
  });
  add("add", 12, [](const ElementwiseKernels& k, Data& d) { k.add(d.x.data(), d.y.data(), d.rows * kCols); });
  add("sum_of_squares", 4,
      [](const ElementwiseKernels& k, Data& d) { benchmark::DoNotOptimize(k.sum_of_squares(d.x.data(), d.rows * kCols)); });
  add("copy", 8, [](const ElementwiseKernels&, Data& d) {
    std::memcpy(d.y.data(), d.x.data(), static_cast<std::size_t>(d.rows * kCols) * sizeof(float));
  });
}

void add_gated() {
  add("swiglu_forward/bf16", 6, [](const ElementwiseKernels& k, Data& d) {
    k.b16.gated_forward(Activation::silu, d.half_x.data(), 2 * kCols, d.half_y.data(), kCols, d.rows, kCols);
  });
  add("swiglu_backward/bf16", 12, [](const ElementwiseKernels& k, Data& d) {
    k.b16.gated_backward({.activation = Activation::silu,
                          .dout = d.x.data(),
                          .dout_stride = kCols,
                          .pre = d.half_x.data(),
                          .pre_stride = 2 * kCols,
                          .dpre = d.half_y.data(),
                          .dpre_stride = 2 * kCols,
                          .rows = d.rows,
                          .cols = kCols});
  });
}

const bool kRegistered = [] {
  add_norms();
  add_activation("gelu_tanh", Activation::gelu_tanh);
  add_activation("gelu_erf", Activation::gelu_erf);
  add_activation("silu", Activation::silu);
  add_gated();
  add_losses();
  add_others();
  return true;
}();

}  // namespace
}  // namespace quern
