// How fast rows of f32 are quantized on one thread, and how far the blocks are from them, for every format and instruction
// set. The numbers are normally distributed, and so are the square roots of the columns' importance. `elements` is elements
// per second; `error` is the relative RMS error, with importance in both sums where it is given.
// Run one format with --benchmark_filter=avx512/Q4_K/.
#include <benchmark/benchmark.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "math/block_decode.hpp"
#include "math/block_formats.hpp"
#include "math/block_quantize.hpp"
#include "math/cpu_features.hpp"

namespace quern {
namespace {

constexpr std::int64_t kRows = 8;
constexpr std::int64_t kCols = 4096;

std::vector<float> normal(std::int64_t count, std::uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> distribution(0.0F, 0.02F);
  std::vector<float> result(static_cast<std::size_t>(count));
  for (float& x : result) x = distribution(engine);
  return result;
}

void quantize_rows(benchmark::State& state, BlockQuantizer quantize, ElementType type, bool weighted) {
  const std::vector<float> x = normal(kRows * kCols, 1);
  std::vector<float> importance = normal(kCols, 2);
  for (float& w : importance) w *= w;
  std::vector<std::byte> blocks(bytes_of(type, kRows * kCols).value_or(0));
  const QuantizeRows rows{.type = type,
                          .x = x.data(),
                          .rows = kRows,
                          .cols = kCols,
                          .importance = weighted ? importance.data() : nullptr,
                          .out = blocks.data()};
  for (auto _ : state) {
    benchmark::DoNotOptimize(quantize(rows));
    benchmark::ClobberMemory();
  }
  std::vector<float> decoded(x.size());
  block_decoder_portable()(type, blocks.data(), kRows * kCols, decoded.data());
  double error = 0.0;
  double square = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double w = weighted ? static_cast<double>(importance[i % static_cast<std::size_t>(kCols)]) : 1.0;
    const double value = static_cast<double>(x[i]);
    const double difference = value - static_cast<double>(decoded[i]);
    error += w * difference * difference;
    square += w * value * value;
  }
  state.counters["elements"] = benchmark::Counter(
      static_cast<double>(state.iterations()) * static_cast<double>(kRows * kCols), benchmark::Counter::kIsRate);
  state.counters["error"] = std::sqrt(error / square);
}

void add(const std::string& name, BlockQuantizer quantize, std::initializer_list<ElementType> types) {
  for (const ElementType type : types) {
    for (const bool weighted : {false, true}) {
      const std::string label = name + "/" + std::string(block_format(type).name) + (weighted ? "/importance" : "/equal");
      benchmark::RegisterBenchmark(label.c_str(), [quantize, type, weighted](benchmark::State& state) {
        quantize_rows(state, quantize, type, weighted);
      })->Unit(benchmark::kMillisecond);
    }
  }
}

void add_all(const std::string& name, BlockQuantizer legacy, BlockQuantizer k) {
  if (k != nullptr) {
    add(name, k, {ElementType::q2_k, ElementType::q3_k, ElementType::q4_k, ElementType::q5_k, ElementType::q6_k});
  }
  if (legacy != nullptr) {
    add(name, legacy,
        {ElementType::q4_0, ElementType::q4_1, ElementType::q5_0, ElementType::q5_1, ElementType::q8_0, ElementType::iq4_nl,
         ElementType::iq4_xs, ElementType::mxfp4, ElementType::bf16, ElementType::f16});
  }
}

const bool kRegistered = [] {
  if (supports(cpu_features(), Isa::avx512)) {
    add_all("avx512", block_quantizer_legacy_avx512(), block_quantizer_k_avx512());
  }
  if (supports(cpu_features(), Isa::avx2)) {
    add_all("avx2", block_quantizer_legacy_avx2(), block_quantizer_k_avx2());
  }
  add_all("portable", block_quantizer_legacy_portable(), block_quantizer_k_portable());
  return true;
}();

}  // namespace
}  // namespace quern
