// Bytes of weights per second that products of few rows with block-quantized and 16-bit weights reach, beside what this
// machine reads from memory. Arguments: rows of x, threads, MiB of weights. `memory` is the fraction of the read speed
// measured in the same run, with the same threads, on 1.5 GiB, right before and after. 1,536 MiB come from memory unless
// caches are larger, 1 MiB a thread from the second-level cache: what computing alone takes.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "math/aligned_buffer.hpp"
#include "math/block_formats.hpp"
#include "math/dispatch.hpp"
#include "math/matmul.hpp"
#include "math/thread_team.hpp"

namespace quern {
namespace {

constexpr std::int64_t kCols = 4096;
constexpr std::int64_t kWeightBytes = std::int64_t{1536} << 20;

AlignedBuffer buffer(std::size_t bytes) {
  AlignedBuffer made = AlignedBuffer::allocate(bytes).value();
  std::memset(made.data(), 0, bytes);
  return made;
}

/// Bytes that stand for blocks of any format: 0x2c to 0x2f, which are no subnormal scale or number anywhere. What the
/// integers are does not matter for the time.
const AlignedBuffer& weight_bytes() {
  static const AlignedBuffer bytes = [] {
    AlignedBuffer made = buffer(static_cast<std::size_t>(kWeightBytes));
    std::uint64_t state = 1;
    for (std::int64_t i = 0; i < kWeightBytes / 8; ++i) {
      state = state * 6364136223846793005ULL + 1442695040888963407ULL;
      made.as<std::uint64_t>()[i] = 0x2c2c2c2c2c2c2c2cULL | ((state >> 3) & 0x0303030303030303ULL);
    }
    return made;
  }();
  return bytes;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Best of three passes over all bytes, each thread adding up every cache line of its share.
double read_bytes_per_second(ThreadTeam& team) {
  const auto* data = weight_bytes().as<std::uint64_t>();
  double best = 0.0;
  for (int pass = 0; pass < 3; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    team.run([&](TeamMember& member) {
      member.for_each(kWeightBytes >> 20, [&](std::int64_t task) {
        std::uint64_t sums[8] = {};
        const std::uint64_t* from = data + (task << 17);
        for (std::int64_t i = 0; i < (1 << 17); i += 8) {
          for (std::int64_t j = 0; j < 8; ++j) sums[j] ^= from[i + j];
        }
        for (const std::uint64_t sum : sums) benchmark::DoNotOptimize(sum);
      });
    });
    best = std::max(best, static_cast<double>(kWeightBytes) / seconds_since(start));
  }
  return best;
}

void product(benchmark::State& state, const KernelTable* table, ElementType type, WeightPrecision precision,
             WeightLayout layout) {
  const std::int64_t m = state.range(0);
  const int threads = static_cast<int>(state.range(1));
  const Backend backend{.kernels = table, .eigen = false};
  const auto row_bytes = static_cast<std::int64_t>(bytes_of(type, kCols).value());
  const std::int64_t rows = (state.range(2) << 20) / row_bytes / kWeightRowUnit * kWeightRowUnit;
  const Weight weight{.type = type,
                      .layout = layout,
                      .rows = rows,
                      .cols = kCols,
                      .forward = weight_bytes().data(),
                      .backward = weight_bytes().data(),
                      .precision = precision};
  AlignedBuffer x = buffer(static_cast<std::size_t>(m * kCols * 4));
  AlignedBuffer y = buffer(static_cast<std::size_t>(m * rows * 4));
  for (std::int64_t i = 0; i < m * kCols; ++i) x.as<float>()[i] = static_cast<float>((i * 37) % 101 - 50) / 64.0F;
  std::vector<AlignedBuffer> scratch;
  const std::size_t scratch_bytes = matmul_scratch_bytes(backend, m, std::max(rows, kCols));
  for (int i = 0; i < threads; ++i) scratch.push_back(buffer(scratch_bytes));
  ThreadTeam team(threads);
  double memory = read_bytes_per_second(team);
  for (auto _ : state) {
    team.run([&](TeamMember& member) {
      Exec exec{.member = member,
                .backend = backend,
                .scratch = {scratch[static_cast<std::size_t>(member.index())].data(), scratch_bytes}};
      matmul_forward(exec, {x.data(), ElementType::f32, m, kCols, kCols}, weight,
                     {y.data(), ElementType::f32, m, rows, rows});
    });
  }
  memory = std::max(memory, read_bytes_per_second(team));
  const double bytes = static_cast<double>(rows * row_bytes) * static_cast<double>(state.iterations());
  state.counters["bytes/s"] = benchmark::Counter(bytes, benchmark::Counter::kIsRate);
  state.counters["memory"] = benchmark::Counter(bytes / memory, benchmark::Counter::kIsRate);
  state.counters["FLOP/s"] = benchmark::Counter(bytes / static_cast<double>(row_bytes) * static_cast<double>(2 * kCols * m),
                                                benchmark::Counter::kIsRate);
}

const bool registered = [] {
  for (const KernelTable* table : supported_kernels()) {
    if (table->isa == Isa::amx) continue;  // the block kernels of avx512_vnni
    for (const BlockFormat& format : block_formats()) {
      const bool is_float =
          format.type == ElementType::f32 || format.type == ElementType::f16 || format.type == ElementType::bf16;
      if (!is_float && !table->blocks->has_dot(format.type)) continue;
      for (const WeightLayout layout : {WeightLayout::plain, WeightLayout::interleaved}) {
        const bool interleaved = layout == WeightLayout::interleaved;
        if (interleaved && (is_float || table->blocks->interleave_rows == 0)) continue;
        const std::string name =
            std::string(isa_name(table->isa)) + "/" + std::string(format.name) + (interleaved ? "/interleaved" : "");
        benchmark::RegisterBenchmark(name.c_str(), product, table, format.type, WeightPrecision::fast, layout)
            ->ArgsProduct({{1, 4, 8, 32}, {1, 2}, {1, 1536}})
            ->UseRealTime()
            ->Unit(benchmark::kMillisecond);
      }
    }
  }
  const KernelTable* best = supported_kernels().front();
  for (const ElementType type : {ElementType::q4_k, ElementType::q8_0, ElementType::iq3_s, ElementType::bf16}) {
    const std::string name = "many/" + std::string(block_format(type).name);
    benchmark::RegisterBenchmark((name + "/fast").c_str(), product, best, type, WeightPrecision::fast, WeightLayout::plain)
        ->ArgsProduct({{256}, {1, 2}, {256}})
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
    benchmark::RegisterBenchmark((name + "/f32").c_str(), product, best, type, WeightPrecision::f32, WeightLayout::plain)
        ->ArgsProduct({{1, 256}, {1, 2}, {256}})
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
  }
  return true;
}();

}  // namespace
}  // namespace quern
