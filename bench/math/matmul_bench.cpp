// FLOP/s of the three products at training shapes, beside the register peak and (AMX) the peak of tiles fed from L1.
// Arguments of each benchmark: M, N, K, threads. `peak` is the fraction of the register peak at that thread count
// (Google Benchmark prints it as a rate, with "/s").
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "math/aligned_buffer.hpp"
#include "math/dispatch.hpp"
#include "math/matmul.hpp"
#include "math/peak.hpp"
#include "math/thread_team.hpp"

namespace quern {
namespace {

enum class Product { forward, backward_input, backward_weight };

const Backend& chosen_backend() {
  static const Backend backend{.kernels = chosen_kernels().value(), .eigen = false};
  return backend;
}

double peak_flops(ComputeType compute, int threads) {
  static std::map<std::pair<ComputeType, int>, double> known;
  double& peak = known[{compute, threads}];
  if (peak == 0.0) {
    ThreadTeam team(threads);
    peak = register_peak_flops(team, chosen_backend(), compute, 0.2);
  }
  return peak;
}

AlignedBuffer buffer(std::int64_t bytes) {
  AlignedBuffer made = AlignedBuffer::allocate(static_cast<std::size_t>(bytes)).value();
  std::memset(made.data(), 0, made.bytes());
  return made;
}

void fill(AlignedBuffer& b, ElementType type, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float v = static_cast<float>((i * 37) % 101 - 50) / 64.0F;
    if (type == ElementType::bf16) {
      std::uint32_t bits = 0;
      std::memcpy(&bits, &v, 4);
      b.as<bf16>()[i].bits = static_cast<std::uint16_t>(bits >> 16);
    } else {
      b.as<float>()[i] = v;
    }
  }
}

void run(benchmark::State& state, Product product, ComputeType compute, bool fused) {
  const std::int64_t m = state.range(0);
  const std::int64_t n = state.range(1);
  const std::int64_t k = state.range(2);
  const int threads = static_cast<int>(state.range(3));
  const Backend& backend = chosen_backend();
  const ElementType type = compute == ComputeType::bf16 ? ElementType::bf16 : ElementType::f32;
  const std::int64_t bytes = compute == ComputeType::bf16 ? 2 : 4;
  ThreadTeam team(threads);
  AlignedBuffer w = buffer(n * k * 4), x = buffer(m * k * bytes), dy = buffer(m * n * bytes);
  AlignedBuffer y = buffer(m * n * 4), dx = buffer(m * k * 4), bias = buffer(n * 4), pre = buffer(m * n * 4);
  fill(w, ElementType::f32, n * k);
  fill(x, type, m * k);
  fill(dy, type, m * n);
  const PackedWeightBytes sizes = packed_weight_bytes(backend, compute, n, k);
  AlignedBuffer forward = buffer(static_cast<std::int64_t>(sizes.forward));
  AlignedBuffer backward = buffer(static_cast<std::int64_t>(sizes.backward));
  std::vector<AlignedBuffer> scratch;
  const std::size_t scratch_bytes = matmul_scratch_bytes(backend, m, std::max(n, k));
  for (int i = 0; i < threads; ++i) scratch.push_back(buffer(static_cast<std::int64_t>(scratch_bytes)));
  Weight weight;
  const auto on_team = [&](const auto& body) {
    team.run([&](TeamMember& member) {
      Exec exec{.member = member,
                .backend = backend,
                .scratch = {scratch[static_cast<std::size_t>(member.index())].data(), scratch_bytes}};
      body(exec);
    });
  };
  on_team([&](Exec& exec) {
    const Weight made = pack_weight(exec, compute, w.as<float>(), n, k, forward.data(), backward.data());
    if (exec.member.index() == 0) weight = made;
  });
  const ConstMatrix x_view{x.data(), type, m, k, k};
  const ConstMatrix dy_view{dy.data(), type, m, n, n};
  Epilogue epilogue;
  if (fused) {
    epilogue.bias = bias.as<float>();
    epilogue.activation = Activation::gelu_tanh;
    epilogue.pre_activation = pre.data();
    epilogue.pre_activation_stride = n;
  }
  for (auto _ : state) {
    on_team([&](Exec& exec) {
      switch (product) {
        case Product::forward:
          matmul_forward(exec, x_view, weight, {y.data(), type, m, n, n}, epilogue);
          break;
        case Product::backward_input:
          matmul_backward_input(exec, dy_view, weight, {dx.data(), type, m, k, k});
          break;
        case Product::backward_weight:
          matmul_backward_weight(exec, dy_view, x_view, w.as<float>(), bias.as<float>(), false);
          break;
      }
    });
  }
  const double flops = 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  state.counters["FLOP/s"] =
      benchmark::Counter(flops * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
  state.counters["peak"] = benchmark::Counter(flops * static_cast<double>(state.iterations()) / peak_flops(compute, threads),
                                              benchmark::Counter::kIsRate);
}

void pack(benchmark::State& state, ComputeType compute) {
  const std::int64_t n = state.range(0);
  const std::int64_t k = state.range(1);
  const Backend& backend = chosen_backend();
  AlignedBuffer w = buffer(n * k * 4);
  const PackedWeightBytes sizes = packed_weight_bytes(backend, compute, n, k);
  AlignedBuffer forward = buffer(static_cast<std::int64_t>(sizes.forward));
  AlignedBuffer backward = buffer(static_cast<std::int64_t>(sizes.backward));
  TeamMember member;
  Exec exec{.member = member, .backend = backend, .scratch = {}};
  for (auto _ : state) pack_weight(exec, compute, w.as<float>(), n, k, forward.data(), backward.data());
  state.SetItemsProcessed(state.iterations() * n * k);
}

void peak(benchmark::State& state, ComputeType compute, bool from_l1) {
  ThreadTeam team(static_cast<int>(state.range(0)));
  double best = 0.0;
  for (auto _ : state) {
    best = std::max(best, from_l1 ? l1_tile_flops(team, chosen_backend(), 0.1)
                                  : register_peak_flops(team, chosen_backend(), compute, 0.1));
  }
  state.counters["FLOP/s"] = best;
}

void shapes(benchmark::internal::Benchmark* b) {
  for (const int threads : {1, 2}) {
    for (const auto& s : std::vector<std::vector<std::int64_t>>{{16384, 384, 384},
                                                                {16384, 1536, 384},
                                                                {16384, 384, 1536},
                                                                {4096, 10000, 256},
                                                                {1024, 3072, 768},
                                                                {768, 512, 128},
                                                                {1, 3072, 768}}) {
      b->Args({s[0], s[1], s[2], threads});
    }
  }
  b->ArgNames({"M", "N", "K", "threads"})->UseRealTime()->MinTime(0.2)->Unit(benchmark::kMicrosecond);
}

BENCHMARK_CAPTURE(peak, f32, ComputeType::f32, false)->Arg(1)->Arg(2)->Iterations(1);
BENCHMARK_CAPTURE(peak, bf16, ComputeType::bf16, false)->Arg(1)->Arg(2)->Iterations(1);
BENCHMARK_CAPTURE(peak, bf16_tiles_from_l1, ComputeType::bf16, true)->Arg(1)->Arg(2)->Iterations(1);
BENCHMARK_CAPTURE(run, bf16_forward, Product::forward, ComputeType::bf16, false)->Apply(shapes);
BENCHMARK_CAPTURE(run, bf16_forward_bias_gelu, Product::forward, ComputeType::bf16, true)->Apply(shapes);
BENCHMARK_CAPTURE(run, bf16_backward_input, Product::backward_input, ComputeType::bf16, false)->Apply(shapes);
BENCHMARK_CAPTURE(run, bf16_backward_weight, Product::backward_weight, ComputeType::bf16, false)->Apply(shapes);
BENCHMARK_CAPTURE(run, f32_forward, Product::forward, ComputeType::f32, false)->Apply(shapes);
BENCHMARK_CAPTURE(run, f32_backward_input, Product::backward_input, ComputeType::f32, false)->Apply(shapes);
BENCHMARK_CAPTURE(run, f32_backward_weight, Product::backward_weight, ComputeType::f32, false)->Apply(shapes);
BENCHMARK_CAPTURE(pack, bf16, ComputeType::bf16)->Args({1536, 384})->Args({10000, 256})->ArgNames({"rows", "cols"});
BENCHMARK_CAPTURE(pack, f32, ComputeType::f32)->Args({1536, 384})->Args({10000, 256})->ArgNames({"rows", "cols"});

}  // namespace
}  // namespace quern
