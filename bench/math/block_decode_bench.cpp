// How fast blocks decode to f32 on one thread, for every format and instruction set. The matrix product decodes rows into
// a buffer that stays in cache, so here rows of 4096 elements are decoded one after another into one such buffer.
// `blocks` is bytes of blocks read per second, `f32` bytes of f32 written per second. The argument is the number of rows: 8
// stay in the second-level cache, 16384 (19 MB of Q2_K to 268 MB of F32) come from memory or a large third-level cache.
// Run one format with --benchmark_filter=avx512/Q4_K/.
#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "math/block_decode.hpp"
#include "math/block_formats.hpp"
#include "math/cpu_features.hpp"

namespace quern {
namespace {

constexpr std::int64_t kRowElements = 4096;

void decode_rows(benchmark::State& state, BlockDecoder decode, const BlockFormat& format) {
  const std::int64_t rows = state.range(0);
  const std::size_t row_bytes = bytes_of(format.type, kRowElements).value_or(0);
  // Any bytes do; these make no scale subnormal, infinite or NaN, whose arithmetic could take another time.
  std::vector<std::byte> blocks(static_cast<std::size_t>(rows) * row_bytes, std::byte{0x35});
  std::vector<float> out(static_cast<std::size_t>(kRowElements));
  for (auto _ : state) {
    for (std::int64_t r = 0; r < rows; ++r) {
      decode(format.type, blocks.data() + static_cast<std::size_t>(r) * row_bytes, kRowElements, out.data());
      benchmark::ClobberMemory();
    }
  }
  const auto total = static_cast<double>(state.iterations()) * static_cast<double>(rows);
  state.counters["blocks"] = benchmark::Counter(total * static_cast<double>(row_bytes), benchmark::Counter::kIsRate);
  state.counters["f32"] = benchmark::Counter(total * static_cast<double>(kRowElements * 4), benchmark::Counter::kIsRate);
}

void add(const std::string& name, BlockDecoder decode) {
  for (const BlockFormat& format : block_formats()) {
    const ElementType type = format.type;
    if (type == ElementType::i8 || type == ElementType::i16 || type == ElementType::i32 || type == ElementType::i64)
      continue;
    benchmark::RegisterBenchmark((name + "/" + std::string(format.name)).c_str(),
                                 [decode, &format](benchmark::State& state) { decode_rows(state, decode, format); })
        ->Arg(8)
        ->Arg(16384)
        ->Unit(benchmark::kMicrosecond);
  }
}

const bool kRegistered = [] {
  if (block_decoder_avx512() != nullptr && supports(cpu_features(), Isa::avx512)) add("avx512", block_decoder_avx512());
  if (block_decoder_avx2() != nullptr && supports(cpu_features(), Isa::avx2)) add("avx2", block_decoder_avx2());
  add("portable", block_decoder_portable());
  return true;
}();

}  // namespace
}  // namespace quern
