// Bits of attention: whatever the prompt's cutting, the pages, the neighbours and the chunk of queries, a row is the same.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "math/aligned_buffer.hpp"
#include "math/attention.hpp"
#include "support/attention_reference.hpp"

namespace quern {
namespace {

void round_into(double x, float& out) { out = static_cast<float>(x); }
void round_into(double x, bf16& out) {
  const auto bits = std::bit_cast<std::uint32_t>(static_cast<float>(x));
  out.bits = static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}
double value_of(float x) { return double{x}; }
double value_of(bf16 x) { return double{std::bit_cast<float>(std::uint32_t{x.bits} << 16)}; }

template <class T>
constexpr ElementType kType = std::is_same_v<T, float> ? ElementType::f32 : ElementType::bf16;

std::vector<KernelTable> tables() {
  std::vector<KernelTable> list;
  const auto add = [&](Isa isa, const AttentionKernels* kernels) {
    if (kernels != nullptr && supports(cpu_features(), isa)) list.push_back({isa, nullptr, nullptr, kernels});
  };
  add(Isa::portable, attention_kernels_portable());
#if defined(__x86_64__)
  add(Isa::avx2, attention_kernels_avx2());
  add(Isa::avx512, attention_kernels_avx512());
  add(Isa::amx, attention_kernels_amx());
#endif
  return list;
}

/// One sequence's queries, keys and values (contiguous), and what attention makes of them.
template <class T>
struct Sequence {
  AttentionShape shape;
  std::int64_t length = 0;
  std::vector<T> q, k, v;

  Sequence(const AttentionShape& shape_in, std::int64_t length_in, std::uint32_t seed) : shape(shape_in), length(length_in) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    const auto make = [&](std::vector<T>& x, std::int64_t heads) {
      x.resize(static_cast<std::size_t>(length * heads * shape.head_dim));
      for (T& value : x) round_into(normal(random), value);
    };
    make(q, shape.heads);
    make(k, shape.kv_heads);
    make(v, shape.kv_heads);
  }
  [[nodiscard]] std::int64_t q_width() const { return shape.heads * shape.head_dim; }
  [[nodiscard]] std::int64_t kv_width() const { return shape.kv_heads * shape.head_dim; }
};

/// Keys and values of one sequence in pages of `page_tokens`, head by head inside a page; unused slots hold NaN.
template <class T>
struct Pages {
  std::vector<std::vector<T>> memory;
  std::vector<const void*> keys, values;
  KvView view;

  Pages(const Sequence<T>& s, std::int64_t page_tokens) {
    const std::int64_t n = s.shape.head_dim;
    T nan;
    round_into(std::nan(""), nan);
    for (std::int64_t first = 0; first < s.length; first += page_tokens) {
      for (const std::vector<T>* source : {&s.k, &s.v}) {
        std::vector<T> page(static_cast<std::size_t>(page_tokens * s.kv_width()), nan);
        for (std::int64_t p = first; p < std::min(s.length, first + page_tokens); ++p) {
          for (std::int64_t h = 0; h < s.shape.kv_heads; ++h) {
            std::memcpy(page.data() + ((h * page_tokens) + p - first) * n, source->data() + p * s.kv_width() + h * n,
                        static_cast<std::size_t>(n) * sizeof(T));
          }
        }
        memory.push_back(std::move(page));
        (source == &s.k ? keys : values).push_back(memory.back().data());
      }
    }
    view = {keys.data(), values.data(), kType<T>, page_tokens, n, page_tokens * n, s.length};
  }
};

template <class T>
struct Result {
  std::vector<T> out;
  std::vector<float> lse;
  bool operator==(const Result& other) const {
    return std::memcmp(out.data(), other.out.data(), out.size() * sizeof(T)) == 0 && lse == other.lse;
  }
};

/// Attention of `sequences` whose rows lie one after the other in q.
template <class T>
Result<T> run(const KernelTable& table, const AttentionShape& shape, const std::vector<AttentionSequence>& sequences,
              const std::vector<T>& q) {
  const Backend backend{&table, false};
  const std::size_t bytes = attention_scratch_bytes(backend, shape, kType<T>, 0);
  auto scratch = AlignedBuffer::allocate(bytes);
  std::memset(scratch->data(), 0xFF, bytes);
  TeamMember member;
  Exec exec{member, backend, {scratch->data(), bytes}};
  const std::int64_t width = shape.heads * shape.head_dim;
  Result<T> result;
  result.out.resize(q.size());
  result.lse.resize(q.size() / static_cast<std::size_t>(shape.head_dim));
  attention_forward<T>(exec, shape, sequences, {q.data(), width}, {result.out.data(), width}, result.lse.data(), {});
  return result;
}

/// The sequence in one piece from one contiguous buffer.
template <class T>
Result<T> run_whole(const KernelTable& table, const Sequence<T>& s) {
  const void* keys = s.k.data();
  const void* values = s.v.data();
  AttentionSequence sequence{0, s.length, 0, {&keys, &values, kType<T>, s.length, s.kv_width(), s.shape.head_dim, s.length}};
  return run<T>(table, s.shape, {sequence}, s.q);
}

/// The sequence in chunks, each seeing only the keys so far.
template <class T>
Result<T> run_chunks(const KernelTable& table, const Sequence<T>& s, std::int64_t chunk, std::int64_t page_tokens) {
  const Pages<T> pages(s, page_tokens);
  Result<T> all;
  for (std::int64_t first = 0; first < s.length; first += chunk) {
    const std::int64_t rows = std::min(chunk, s.length - first);
    AttentionSequence sequence{0, rows, first, pages.view};
    sequence.kv.length = first + rows;
    const std::vector<T> q(s.q.begin() + first * s.q_width(), s.q.begin() + (first + rows) * s.q_width());
    const Result<T> part = run<T>(table, s.shape, {sequence}, q);
    all.out.insert(all.out.end(), part.out.begin(), part.out.end());
    all.lse.insert(all.lse.end(), part.lse.begin(), part.lse.end());
  }
  return all;
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
class AttentionCacheTest : public testing::Test {};
using Types = testing::Types<float, bf16>;
TYPED_TEST_SUITE(AttentionCacheTest, Types);

TYPED_TEST(AttentionCacheTest, ChunksAndPagesEqualOnePiece) {
  const float sinks[] = {0.5F, 1.0F, -2.0F, 0.0F};
  struct Variant {
    const char* name;
    std::int64_t kv_heads;
    std::int64_t window;
    float soft_cap;
    const float* sinks;
    float scale;
  };
  const Variant variants[] = {{"plain", 4, 0, 0.0F, nullptr, 0.25F},
                              {"grouped", 2, 0, 0.0F, nullptr, 0.25F},
                              {"window", 1, 50, 0.0F, nullptr, 0.25F},
                              {"soft cap and sinks", 2, 0, 5.0F, sinks, 0.25F},
                              {"steep", 4, 0, 0.0F, nullptr, 8.0F}};
  for (const KernelTable& table : tables()) {
    for (const Variant& variant : variants) {
      AttentionShape shape = shape_of(4, variant.kv_heads, 12);
      shape.window = variant.window;
      shape.soft_cap = variant.soft_cap;
      shape.sinks = variant.sinks;
      shape.scale = variant.scale;
      const Sequence<TypeParam> s(shape, 100, 5);
      const Result<TypeParam> whole = run_whole(table, s);
      for (const std::int64_t chunk : {1, 7, 32, 100}) {
        EXPECT_TRUE(whole == run_chunks(table, s, chunk, 64))
            << table.attention->name << ", " << variant.name << ", chunks of " << chunk;
      }
      EXPECT_TRUE(whole == run_chunks(table, s, 33, 192))
          << table.attention->name << ", " << variant.name << ", larger pages";
    }
  }
}

// Prefill chunks, decodes and whole prompts of different sequences in one call, in any order.
TYPED_TEST(AttentionCacheTest, NeighboursDoNotChangeBits) {
  const AttentionShape shape = shape_of(6, 2, 16);
  const std::int64_t lengths[] = {100, 1, 65, 200};
  const std::int64_t firsts[] = {60, 0, 64, 0};
  std::vector<Sequence<TypeParam>> sequences;
  std::vector<Pages<TypeParam>> pages;
  for (std::uint32_t i = 0; i < 4; ++i) sequences.emplace_back(shape, lengths[i], i);
  for (const auto& s : sequences) pages.emplace_back(s, 64);
  for (const KernelTable& table : tables()) {
    for (const std::vector<std::size_t>& order : {std::vector<std::size_t>{0, 1, 2, 3}, {3, 1, 0, 2}}) {
      std::vector<TypeParam> q;
      std::vector<AttentionSequence> batch;
      std::int64_t row = 0;
      for (const std::size_t i : order) {
        const Sequence<TypeParam>& s = sequences[i];
        batch.push_back({row, s.length - firsts[i], firsts[i], pages[i].view});
        q.insert(q.end(), s.q.begin() + firsts[i] * s.q_width(), s.q.end());
        row += s.length - firsts[i];
      }
      const Result<TypeParam> together = run<TypeParam>(table, shape, batch, q);
      for (std::size_t place = 0; place < order.size(); ++place) {
        const Sequence<TypeParam>& s = sequences[order[place]];
        const Result<TypeParam> alone = run_whole(table, s);
        const std::int64_t first = firsts[order[place]];
        EXPECT_EQ(0, std::memcmp(alone.out.data() + first * s.q_width(),
                                 together.out.data() + batch[place].first_row * s.q_width(),
                                 static_cast<std::size_t>((s.length - first) * s.q_width()) * sizeof(TypeParam)))
            << table.attention->name << ", sequence " << order[place];
      }
    }
  }
}

// One query far into a cache, against the reference.
TYPED_TEST(AttentionCacheTest, DecodeMatchesReference) {
  const AttentionShape shape = shape_of(8, 2, 64);
  const Sequence<TypeParam> s(shape, 333, 9);
  const Pages<TypeParam> pages(s, 128);
  const auto doubles = [](auto first, auto last) {
    std::vector<double> values;
    for (; first != last; ++first) values.push_back(value_of(*first));
    return values;
  };
  ReferenceAttention problem{shape, {}, 1, 332, 333, 0, {}, {}, {}};
  problem.q = doubles(s.q.end() - s.q_width(), s.q.end());
  problem.k = doubles(s.k.begin(), s.k.end());
  problem.v = doubles(s.v.begin(), s.v.end());
  const ReferenceAttentionOutput expected = reference_attention(problem);
  const std::vector<TypeParam> q(s.q.end() - s.q_width(), s.q.end());
  for (const KernelTable& table : tables()) {
    const Result<TypeParam> actual = run<TypeParam>(table, shape, {{0, 1, 332, pages.view}}, q);
    for (std::size_t i = 0; i < expected.out.size(); ++i) {
      // f32: 400 roundings; bf16: two of 2^-9, of values below 1.
      EXPECT_NEAR(value_of(actual.out[i]), expected.out[i], kType<TypeParam> == ElementType::f32 ? 400 * 0x1p-24 : 0x1p-8)
          << table.attention->name << ", element " << i;
    }
  }
}

// Keys of the cache that a row must not see, beyond its position or outside its window, may hold anything finite.
TYPED_TEST(AttentionCacheTest, HiddenKeysDoNotMatter) {
  AttentionShape shape = shape_of(2, 1, 16);
  shape.window = 40;
  Sequence<TypeParam> s(shape, 140, 2);
  for (const KernelTable& table : tables()) {
    const Pages<TypeParam> pages(s, 192);
    const std::vector<TypeParam> q(s.q.begin() + 100 * s.q_width(), s.q.begin() + 101 * s.q_width());
    const Result<TypeParam> before = run<TypeParam>(table, shape, {{0, 1, 100, pages.view}}, q);
    Sequence<TypeParam> changed = s;
    for (std::int64_t p = 0; p < s.length; ++p) {
      if (p > 60 && p <= 100) continue;
      for (std::int64_t d = 0; d < 16; ++d) {
        round_into(1e4, changed.k[static_cast<std::size_t>(p * 16 + d)]);
        round_into(-1e4, changed.v[static_cast<std::size_t>(p * 16 + d)]);
      }
    }
    const Pages<TypeParam> other(changed, 192);
    EXPECT_TRUE(before == run<TypeParam>(table, shape, {{0, 1, 100, other.view}}, q)) << table.attention->name;
  }
}

}  // namespace
}  // namespace quern
