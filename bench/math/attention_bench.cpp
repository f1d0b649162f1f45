// Attention in training: forward and backward at the shapes of the models and over lengths of 64 to 4,096 tokens, beside its
// explicit form, where T x T scores exist and matrix products of this library's front make and use them. All four take turns
// in each iteration; columns are medians. The explicit form here is its products alone: no scale, mask or softmax.
//
// FLOPs are those of causal products: 4 T^2/2 head_dim per head forward, 10 T^2/2 head_dim backward (scores once more, dP,
// dV, dQ, dK). `share` divides forward and backward together by the peak measured at the start: tiles fed from L1 for bf16
// on AMX, registers otherwise. Decoding of one token over caches of every format comes last.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "math/aligned_buffer.hpp"
#include "math/attention.hpp"
#include "math/kv_rows.hpp"
#include "math/matmul.hpp"
#include "math/peak.hpp"

namespace quern {
namespace {

void store(float x, float& out) { out = x; }
void store(float x, bf16& out) { out.bits = static_cast<std::uint16_t>(__builtin_bit_cast(std::uint32_t, x) >> 16); }
float load(float x) { return x; }
float load(bf16 x) { return __builtin_bit_cast(float, static_cast<std::uint32_t>(x.bits) << 16); }

struct Setup {
  std::int64_t length = 0, head_dim = 0, heads = 0, batch = 0;
  int threads = 1;
  float dropout = 0.0F;
};

double peak_flops(ThreadTeam& team, const Backend& backend, bool is_bf16) {
  static std::map<std::pair<const void*, std::pair<bool, int>>, double> known;
  double& peak = known[{backend.kernels, {is_bf16, team.size()}}];
  if (peak == 0.0) {
    peak = is_bf16 && backend.kernels->isa == Isa::amx
               ? l1_tile_flops(team, backend, 0.2)
               : register_peak_flops(team, backend, is_bf16 ? ComputeType::bf16 : ComputeType::f32, 0.2);
  }
  return peak;
}

AlignedBuffer buffer(std::size_t bytes) { return std::move(*AlignedBuffer::allocate(bytes)); }

/// One layer's attention in a training step: q, k and v side by side in rows, as the projection writes them.
template <class T>
class Layer {
 public:
  Layer(const KernelTable& table, const Setup& setup)
      : setup_(setup), backend_{&table, false}, team_(setup.threads), width_(setup.heads * setup.head_dim) {
    shape_.heads = shape_.kv_heads = setup.heads;
    shape_.head_dim = setup.head_dim;
    shape_.scale = 1.0F / std::sqrt(static_cast<float>(setup.head_dim));
    dropout_ = {setup.dropout, 1, 2, 3, 0};
    const std::int64_t rows = setup.batch * setup.length;
    qkv_ = random_rows(rows * 3 * width_);
    dout_ = random_rows(rows * width_);
    out_ = random_rows(rows * width_);
    dqkv_ = random_rows(rows * 3 * width_);
    lse_.resize(static_cast<std::size_t>(rows * setup.heads));
    for (std::int64_t b = 0; b < setup.batch; ++b) {
      keys_.push_back(qkv_.as<T>() + b * setup.length * 3 * width_ + width_);
      values_.push_back(qkv_.as<T>() + b * setup.length * 3 * width_ + 2 * width_);
    }
    for (std::int64_t b = 0; b < setup.batch; ++b) {
      const auto i = static_cast<std::size_t>(b);
      const KvView view = {.key_pages = &keys_[i],
                           .value_pages = &values_[i],
                           .type = kType,
                           .page_tokens = setup.length,
                           .token_stride = 3 * width_,
                           .head_stride = setup.head_dim,
                           .length = setup.length};
      sequences_.push_back({b * setup.length, setup.length, 0, view});
    }
    const std::int64_t square = setup.length * setup.length;
    const std::int64_t head = setup.length * setup.head_dim;
    const PackedWeightBytes pack = packed_weight_bytes(backend_, kCompute, setup.length, setup.head_dim);
    for (int t = 0; t < setup.threads; ++t) {
      Thread& thread = threads_.emplace_back();
      thread.scratch = buffer(std::max(attention_scratch_bytes(backend_, shape_, kType, setup.length),
                                       matmul_scratch_bytes(backend_, setup.length, setup.length)));
      for (AlignedBuffer* x : {&thread.scores, &thread.dscores}) {
        *x = buffer(static_cast<std::size_t>(square) * sizeof(T));
        for (std::int64_t i = 0; i < square; ++i) store(0.01F, x->template as<T>()[i]);
      }
      thread.weight = buffer(static_cast<std::size_t>(head) * sizeof(float));
      thread.gradient = buffer(static_cast<std::size_t>(head) * sizeof(float));
      for (AlignedBuffer* x : {&thread.key_pack[0], &thread.value_pack[0]}) *x = buffer(pack.forward);
      for (AlignedBuffer* x : {&thread.key_pack[1], &thread.value_pack[1]}) *x = buffer(pack.backward);
    }
  }

  ThreadTeam& team() { return team_; }
  const Backend& backend() const { return backend_; }

  double forward() {
    return timed([&](Exec& exec) {
      attention_forward<T>(exec, shape_, sequences_, {qkv_.as<T>(), 3 * width_}, {out_.as<T>(), width_}, lse_.data(),
                           dropout_);
    });
  }
  double backward() {
    return timed([&](Exec& exec) {
      attention_backward<T>(exec, shape_, sequences_, {qkv_.as<T>(), 3 * width_}, {out_.as<T>(), width_},
                            {dout_.as<T>(), width_}, lse_.data(), {dqkv_.as<T>(), 3 * width_},
                            {dqkv_.as<T>() + width_, 3 * width_}, {dqkv_.as<T>() + 2 * width_, 3 * width_}, dropout_);
    });
  }

  /// S = Q K^T and O = P V, head by head.
  double explicit_forward() {
    return timed([&](Exec& exec) {
      each_head(exec, [&](Exec& one, Thread& thread, std::int64_t row, std::int64_t head) {
        const T* q = qkv_.as<T>() + row * 3 * width_ + head * setup_.head_dim;
        const Weight k = pack(one, thread, q + width_, thread.key_pack);
        const Weight v = pack(one, thread, q + 2 * width_, thread.value_pack);
        matmul_forward(one, rows_of(q, 3 * width_), k, square_out(thread.dscores));
        matmul_backward_input(one, square(thread.scores), v,
                              rows_out(out_.as<T>() + row * width_ + head * setup_.head_dim, width_));
      });
    });
  }
  /// dP = dO V^T, dQ = dS K, dV = P^T dO, dK = dS^T Q; P and dS are those of the forward pass.
  double explicit_backward() {
    return timed([&](Exec& exec) {
      each_head(exec, [&](Exec& one, Thread& thread, std::int64_t row, std::int64_t head) {
        const T* q = qkv_.as<T>() + row * 3 * width_ + head * setup_.head_dim;
        T* dq = dqkv_.as<T>() + row * 3 * width_ + head * setup_.head_dim;
        const ConstMatrix dout = rows_of(dout_.as<T>() + row * width_ + head * setup_.head_dim, width_);
        const Weight k = pack(one, thread, q + width_, thread.key_pack);
        const Weight v = pack(one, thread, q + 2 * width_, thread.value_pack);
        matmul_forward(one, dout, v, square_out(thread.dscores));
        matmul_backward_input(one, square(thread.scores), k, rows_out(dq, 3 * width_));
        matmul_backward_weight(one, square(thread.scores), dout, thread.gradient.template as<float>(), nullptr, false);
        matmul_backward_weight(one, square(thread.scores), rows_of(q, 3 * width_), thread.gradient.template as<float>(),
                               nullptr, false);
      });
    });
  }

 private:
  static constexpr ElementType kType = sizeof(T) == 4 ? ElementType::f32 : ElementType::bf16;
  static constexpr ComputeType kCompute = sizeof(T) == 4 ? ComputeType::f32 : ComputeType::bf16;

  struct Thread {
    AlignedBuffer scratch, scores, dscores, weight, gradient, key_pack[2], value_pack[2];
  };

  static AlignedBuffer random_rows(std::int64_t count) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> pool(65521);
    for (float& x : pool) x = normal(random);
    AlignedBuffer rows = buffer(static_cast<std::size_t>(count) * sizeof(T));
    for (std::int64_t i = 0; i < count; ++i) store(pool[static_cast<std::size_t>(i) % pool.size()], rows.as<T>()[i]);
    return rows;
  }

  template <class Work>
  double timed(const Work& work) {
    const auto start = std::chrono::steady_clock::now();
    team_.run([&](TeamMember& member) {
      AlignedBuffer& scratch = threads_[static_cast<std::size_t>(member.index())].scratch;
      Exec exec{member, backend_, {scratch.data(), scratch.bytes()}};
      work(exec);
    });
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  template <class Work>
  void each_head(Exec& exec, const Work& work) {
    exec.member.for_each(setup_.batch * setup_.heads, [&](std::int64_t i) {
      TeamMember alone = exec.member.alone();
      Exec one{alone, exec.backend, exec.scratch};
      work(one, threads_[static_cast<std::size_t>(exec.member.index())], i / setup_.heads * setup_.length, i % setup_.heads);
    });
  }
  Weight pack(Exec& one, Thread& thread, const T* rows, AlignedBuffer* packs) {
    float* w = thread.weight.template as<float>();
    for (std::int64_t r = 0; r < setup_.length; ++r) {
      for (std::int64_t c = 0; c < setup_.head_dim; ++c) w[r * setup_.head_dim + c] = load(rows[r * 3 * width_ + c]);
    }
    return pack_weight(one, kCompute, w, setup_.length, setup_.head_dim, packs[0].data(), packs[1].data());
  }
  ConstMatrix rows_of(const T* data, std::int64_t stride) const {
    return {data, kType, setup_.length, setup_.head_dim, stride};
  }
  MutableMatrix rows_out(T* data, std::int64_t stride) const {
    return {data, kType, setup_.length, setup_.head_dim, stride};
  }
  ConstMatrix square(const AlignedBuffer& x) const { return {x.data(), kType, setup_.length, setup_.length, setup_.length}; }
  MutableMatrix square_out(AlignedBuffer& x) const { return {x.data(), kType, setup_.length, setup_.length, setup_.length}; }

  Setup setup_;
  Backend backend_;
  ThreadTeam team_;
  std::int64_t width_;
  AttentionShape shape_;
  DropoutMask dropout_;
  AlignedBuffer qkv_, dout_, out_, dqkv_;
  std::vector<float> lse_;
  std::vector<const void*> keys_, values_;
  std::vector<AttentionSequence> sequences_;
  std::vector<Thread> threads_;
};

double median(std::vector<double>& seconds) {
  std::nth_element(seconds.begin(), seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2), seconds.end());
  return seconds[seconds.size() / 2];
}

template <class T>
void attention(benchmark::State& state, const KernelTable& table, const Setup& setup) {
  Layer<T> layer(table, setup);
  const double peak = peak_flops(layer.team(), layer.backend(), sizeof(T) == 2);
  layer.forward();
  std::vector<double> seconds[4];
  for (auto _ : state) {
    seconds[0].push_back(layer.forward());
    seconds[1].push_back(layer.backward());
    seconds[2].push_back(layer.explicit_forward());
    seconds[3].push_back(layer.explicit_backward());
    state.SetIterationTime(seconds[0].back() + seconds[1].back());
  }
  const double forward = median(seconds[0]);
  const double backward = median(seconds[1]);
  const double products = median(seconds[2]) + median(seconds[3]);
  const double pairs = 0.5 * static_cast<double>(setup.length) * static_cast<double>(setup.length);
  const double head_flops = pairs * static_cast<double>(setup.head_dim * setup.heads * setup.batch);
  state.counters["forward_ms"] = forward * 1e3;
  state.counters["backward_ms"] = backward * 1e3;
  state.counters["forward_gflops"] = 4e-9 * head_flops / forward;
  state.counters["backward_gflops"] = 1e-8 * head_flops / backward;
  state.counters["share"] = 14.0 * head_flops / (forward + backward) / peak;
  state.counters["explicit_ms"] = products * 1e3;
  state.counters["times_explicit"] = products / (forward + backward);
}

void add(const KernelTable& table, bool f32, const std::string& what, const Setup& setup) {
  const std::string name = std::string("attention/") + table.attention->name + "/" + (f32 ? "f32" : "bf16") + "/" + what +
                           "/T:" + std::to_string(setup.length) + "/hd:" + std::to_string(setup.head_dim) +
                           "/heads:" + std::to_string(setup.heads) + "/batch:" + std::to_string(setup.batch) +
                           (setup.dropout > 0.0F ? "/dropout" : "") + "/threads:" + std::to_string(setup.threads);
  benchmark::RegisterBenchmark(name.c_str(),
                               [&table, setup, f32](benchmark::State& state) {
                                 f32 ? attention<float>(state, table, setup) : attention<bf16>(state, table, setup);
                               })
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond);
}

/// One query after `length` - 1 positions, in as many layers as make 1 GiB of keys and values, which caches do not hold;
/// bytes/s are those of the keys and values read.
void decode(benchmark::State& state, const KernelTable& table, ElementType type) {
  AttentionShape shape;
  shape.heads = 32;
  shape.kv_heads = state.range(0);
  shape.head_dim = 128;
  shape.scale = 0.088F;
  const std::int64_t length = state.range(1);
  const int threads = static_cast<int>(state.range(2));
  const std::int64_t kv_width = shape.kv_heads * shape.head_dim;
  const std::size_t row_bytes = kv_row_bytes(type, kv_width);
  const std::size_t page_bytes = static_cast<std::size_t>(2 * kKeyBlock) * row_bytes;
  const std::int64_t pages = (length + kKeyBlock - 1) / kKeyBlock;
  const std::size_t layer_bytes = static_cast<std::size_t>(pages) * page_bytes;
  const auto layers = static_cast<std::int64_t>((std::size_t{1} << 30) / layer_bytes);
  AlignedBuffer cache = std::move(*AlignedBuffer::allocate(static_cast<std::size_t>(layers) * layer_bytes));
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> row(static_cast<std::size_t>(kv_width));
  for (float& x : row) x = normal(random);
  std::vector<std::byte> page(page_bytes);
  for (std::int64_t p = 0; p < 2 * kKeyBlock; ++p) {
    write_kv_row(type, row.data(), kv_width, page.data() + static_cast<std::size_t>(p) * row_bytes);
  }
  std::vector<const void*> bases;
  for (std::int64_t p = 0; p < layers * pages; ++p) {
    std::byte* base = cache.data() + static_cast<std::size_t>(p) * page_bytes;
    std::copy(page.begin(), page.end(), base);
    bases.push_back(base);
  }
  const std::int64_t q_width = shape.heads * shape.head_dim;
  std::vector<float> q(static_cast<std::size_t>(q_width));
  std::vector<float> out(q.size());
  for (float& x : q) x = normal(random);
  std::vector<AttentionSequence> sequences;
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    const void* const* first = bases.data() + layer * pages;
    sequences.push_back({.first_row = 0,
                         .rows = 1,
                         .first_position = length - 1,
                         .kv = {.key_pages = first,
                                .value_pages = first,
                                .type = type,
                                .page_tokens = kKeyBlock,
                                .token_stride = shape.head_dim,
                                .head_stride = kKeyBlock * shape.head_dim,
                                .length = length,
                                .value_offset = static_cast<std::int64_t>(page_bytes / 2)}});
  }
  const Backend backend{&table, false};
  const std::size_t scratch_bytes = attention_scratch_bytes(backend, shape, ElementType::f32, 0);
  std::vector<AlignedBuffer> scratch;
  for (int i = 0; i < threads; ++i) scratch.push_back(std::move(*AlignedBuffer::allocate(scratch_bytes)));
  ThreadTeam team(threads);
  for (auto _ : state) {
    team.run([&](TeamMember& member) {
      Exec exec{member, backend, {scratch[static_cast<std::size_t>(member.index())].data(), scratch_bytes}};
      for (const AttentionSequence& sequence : sequences) {
        attention_forward<float>(exec, shape, {&sequence, 1}, {q.data(), q_width}, {out.data(), q_width}, nullptr, {});
      }
    });
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * layers * static_cast<std::int64_t>(layer_bytes));
}

const bool kRegistered = [] {
  for (const KernelTable* table : supported_kernels()) {
    for (const bool f32 : {false, true}) {
      // Only AMX multiplies bf16 faster than f32; the other paths widen it. AVX-512's two tables share their kernels.
      if ((!f32 && table->isa != Isa::amx) || (f32 && table->isa == Isa::amx)) continue;
      for (const int threads : {1, 2}) {
        add(*table, f32, "shakespeare_char_cpu", {64, 32, 4, 12, threads});
        add(*table, f32, "loop_small", {128, 32, 8, 32, threads});
        add(*table, f32, "loop_base", {256, 64, 6, 16, threads});
        add(*table, f32, "shakespeare_char", {256, 64, 6, 64, threads});
        add(*table, f32, "shakespeare_char", {256, 64, 6, 64, threads, 0.2F});
        add(*table, f32, "gpt2_124m", {256, 64, 12, 4, threads});
      }
      for (const std::int64_t length : {64, 128, 256, 512, 1024, 2048, 4096}) {
        add(*table, f32, "length", {length, 64, 4, 4096 / length, 2});
      }
    }
    for (const ElementType type : kv_types()) {
      const std::string name = std::string("decode/") + table->attention->name + "/" + std::string(kv_type_name(type));
      benchmark::RegisterBenchmark(name.c_str(), [table, type](benchmark::State& state) { decode(state, *table, type); })
          ->ArgNames({"kv_heads", "T", "threads"})
          ->ArgsProduct({{8, 32}, {4096, 16384}, {1, 2}})
          ->UseRealTime()
          ->Unit(benchmark::kMillisecond);
    }
  }
  return true;
}();

}  // namespace
}  // namespace quern
