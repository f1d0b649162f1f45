// Attention forward and backward on one thread, and decoding of one token over a cache of every format. FLOPs are those of
// causal products: 4 T^2/2 head_dim per head forward, 10 T^2/2 head_dim backward (scores once more, dP, dV, dQ, dK);
// exponentials and what masks cut in half blocks are not counted.
#include <benchmark/benchmark.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "math/aligned_buffer.hpp"
#include "math/attention.hpp"
#include "math/kv_rows.hpp"

namespace quern {
namespace {

void store(float x, float& out) { out = x; }
void store(float x, bf16& out) { out.bits = static_cast<std::uint16_t>(__builtin_bit_cast(std::uint32_t, x) >> 16); }

struct Setup {
  std::int64_t length = 0, head_dim = 0, heads = 0, kv_heads = 0, batch = 0;
  float dropout = 0.0F;
};

template <class T>
void attention(benchmark::State& state, const KernelTable& table, const Setup& setup, bool backward) {
  AttentionShape shape;
  shape.heads = setup.heads;
  shape.kv_heads = setup.kv_heads;
  shape.head_dim = setup.head_dim;
  shape.scale = 1.0F / std::sqrt(static_cast<float>(setup.head_dim));
  const std::int64_t rows = setup.batch * setup.length;
  const std::int64_t q_width = setup.heads * setup.head_dim;
  const std::int64_t kv_width = setup.kv_heads * setup.head_dim;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const auto make = [&](std::int64_t width) {
    // A buffer like a training step's: large enough for huge pages.
    AlignedBuffer buffer = std::move(*AlignedBuffer::allocate(static_cast<std::size_t>(rows * width) * sizeof(T)));
    for (std::int64_t i = 0; i < rows * width; ++i) store(normal(random), buffer.as<T>()[i]);
    return buffer;
  };
  AlignedBuffer q = make(q_width), k = make(kv_width), v = make(kv_width), dout = make(q_width);
  AlignedBuffer out = make(q_width), dq = make(q_width), dk = make(kv_width), dv = make(kv_width);
  std::vector<float> lse(static_cast<std::size_t>(rows * setup.heads));
  std::vector<const void*> keys, values;
  for (std::int64_t b = 0; b < setup.batch; ++b) {
    keys.push_back(k.as<T>() + b * setup.length * kv_width);
    values.push_back(v.as<T>() + b * setup.length * kv_width);
  }
  std::vector<AttentionSequence> sequences;
  constexpr ElementType kType = sizeof(T) == 4 ? ElementType::f32 : ElementType::bf16;
  for (std::int64_t b = 0; b < setup.batch; ++b) {
    sequences.push_back({b * setup.length,
                         setup.length,
                         0,
                         {&keys[static_cast<std::size_t>(b)], &values[static_cast<std::size_t>(b)], kType, setup.length,
                          kv_width, setup.head_dim, setup.length}});
  }
  const Backend backend{&table, false};
  const std::size_t bytes = attention_scratch_bytes(backend, shape, kType, setup.length);
  auto scratch = AlignedBuffer::allocate(bytes);
  TeamMember member;
  Exec exec{member, backend, {scratch->data(), bytes}};
  const DropoutMask dropout{setup.dropout, 1, 2, 3, 0};
  const auto forward = [&] {
    attention_forward<T>(exec, shape, sequences, {q.as<T>(), q_width}, {out.as<T>(), q_width}, lse.data(), dropout);
  };
  forward();
  for (auto _ : state) {
    if (backward) {
      attention_backward<T>(exec, shape, sequences, {q.as<T>(), q_width}, {out.as<T>(), q_width}, {dout.as<T>(), q_width},
                            lse.data(), {dq.as<T>(), q_width}, {dk.as<T>(), kv_width}, {dv.as<T>(), kv_width}, dropout);
    } else {
      forward();
    }
    benchmark::ClobberMemory();
  }
  const double pairs = 0.5 * static_cast<double>(setup.length) * static_cast<double>(setup.length);
  const double flops = (backward ? 10.0 : 4.0) * pairs * static_cast<double>(setup.head_dim * setup.heads * setup.batch);
  state.counters["GFLOP/s"] =
      benchmark::Counter(flops * 1e-9 * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}

void add(const KernelTable& table, const char* type, const Setup& setup) {
  for (const bool backward : {false, true}) {
    const std::string name = std::string(backward ? "backward/" : "forward/") + table.attention->name + "/" + type +
                             "/T:" + std::to_string(setup.length) + "/hd:" + std::to_string(setup.head_dim) +
                             "/heads:" + std::to_string(setup.heads) + "x" + std::to_string(setup.kv_heads) +
                             "/batch:" + std::to_string(setup.batch) + (setup.dropout > 0.0F ? "/dropout" : "");
    const bool f32 = std::string(type) == "f32";
    benchmark::RegisterBenchmark(name.c_str(), [table, setup, backward, f32](benchmark::State& state) {
      f32 ? attention<float>(state, table, setup, backward) : attention<bf16>(state, table, setup, backward);
    });
  }
}

/// One query after `length` - 1 positions; bytes/s are those of the keys and values read.
void decode(benchmark::State& state, const KernelTable& table, ElementType type, std::int64_t length) {
  AttentionShape shape;
  shape.heads = 32;
  shape.kv_heads = 8;
  shape.head_dim = 128;
  shape.scale = 0.088F;
  const std::int64_t kv_width = shape.kv_heads * shape.head_dim;
  const std::size_t row_bytes = kv_row_bytes(type, kv_width);
  const std::size_t page_bytes = static_cast<std::size_t>(2 * kKeyBlock) * row_bytes;
  const std::int64_t pages = (length + kKeyBlock - 1) / kKeyBlock;
  AlignedBuffer cache = std::move(*AlignedBuffer::allocate(static_cast<std::size_t>(pages) * page_bytes));
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> row(static_cast<std::size_t>(kv_width));
  std::vector<const void*> bases;
  for (std::int64_t page = 0; page < pages; ++page) {
    std::byte* base = cache.data() + static_cast<std::size_t>(page) * page_bytes;
    bases.push_back(base);
    for (float& x : row) x = normal(random);
    for (std::int64_t p = 0; p < 2 * kKeyBlock; ++p) {
      write_kv_row(type, row.data(), kv_width, base + static_cast<std::size_t>(p) * row_bytes);
    }
  }
  const std::int64_t q_width = shape.heads * shape.head_dim;
  std::vector<float> q(static_cast<std::size_t>(q_width));
  std::vector<float> out(q.size());
  for (float& x : q) x = normal(random);
  std::vector<AttentionSequence> sequences(1);
  sequences[0].rows = 1;
  sequences[0].first_position = length - 1;
  sequences[0].kv = {.key_pages = bases.data(),
                     .value_pages = bases.data(),
                     .type = type,
                     .page_tokens = kKeyBlock,
                     .token_stride = kv_width,
                     .head_stride = shape.head_dim,
                     .length = length,
                     .value_offset = static_cast<std::int64_t>(page_bytes / 2)};
  const Backend backend{&table, false};
  auto scratch = AlignedBuffer::allocate(attention_scratch_bytes(backend, shape, type, 0));
  TeamMember member;
  Exec exec{member, backend, {scratch->data(), scratch->bytes()}};
  for (auto _ : state) {
    attention_forward<float>(exec, shape, sequences, {q.data(), q_width}, {out.data(), q_width}, nullptr, {});
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * 2 * length * static_cast<std::int64_t>(row_bytes));
}

const bool kRegistered = [] {
  // Names hold pointers to static tables; attention needs no other kernels.
  const auto each = [](Isa isa, const AttentionKernels* kernels) {
    if (kernels == nullptr || !supports(cpu_features(), isa)) return;
    KernelTable table{};
    table.isa = isa;
    table.attention = kernels;
    for (const ElementType type : kv_types()) {
      const std::string name = std::string("decode/") + kernels->name + "/" + std::string(kv_type_name(type)) + "/T:4096";
      benchmark::RegisterBenchmark(name.c_str(),
                                   [table, type](benchmark::State& state) { decode(state, table, type, 4096); });
    }
    for (const char* type : {"f32", "bf16"}) {
      add(table, type, {256, 64, 6, 6, 64});
      add(table, type, {256, 64, 6, 6, 64, 0.2F});
      add(table, type, {128, 32, 8, 8, 32});
    }
  };
#if defined(__x86_64__)
  each(Isa::amx, attention_kernels_amx());
  each(Isa::avx512, attention_kernels_avx512());
  each(Isa::avx2, attention_kernels_avx2());
  if (supports(cpu_features(), Isa::amx)) {
    KernelTable table{};
    table.isa = Isa::amx;
    table.attention = attention_kernels_amx();
    for (const std::int64_t length : {64, 512, 1024, 4096}) add(table, "bf16", {length, 64, 4, 4, 1});
    add(table, "bf16", {1024, 128, 8, 2, 1});
  }
#endif
  each(Isa::portable, attention_kernels_portable());
  return true;
}();

}  // namespace
}  // namespace quern
