// Attention over caches, for tests: sequences of random queries, keys and values, pages of any format, whole runs and
// chunks.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <type_traits>
#include <vector>

#include "math/aligned_buffer.hpp"
#include "math/attention.hpp"
#include "math/kv_rows.hpp"
#include "math/number_formats.hpp"
#include "support/attention_reference.hpp"

namespace quern::testing_attention {

inline void round_into(double x, float& out) { out = static_cast<float>(x); }
inline void round_into(double x, bf16& out) { out = bf16_from_float(static_cast<float>(x)); }
inline double value_of(float x) { return double{x}; }
inline double value_of(bf16 x) { return double{float_from_bf16(x)}; }

template <class T>
inline constexpr ElementType kTypeOf = std::is_same_v<T, float> ? ElementType::f32 : ElementType::bf16;

/// Attention's kernels of every path that this build holds and this machine runs.
inline const std::vector<KernelTable>& attention_tables() {
  static const std::vector<KernelTable> all = [] {
    std::vector<KernelTable> list;
    const auto add = [&](Isa isa, const AttentionKernels* kernels) {
      if (kernels == nullptr || !supports(cpu_features(), isa)) return;
      KernelTable table{};
      table.isa = isa;
      table.attention = kernels;
      list.push_back(table);
    };
    add(Isa::portable, attention_kernels_portable());
#if defined(__x86_64__)
    add(Isa::avx2, attention_kernels_avx2());
    add(Isa::avx512, attention_kernels_avx512());
    add(Isa::amx, attention_kernels_amx());
#endif
    return list;
  }();
  return all;
}

inline AttentionShape shape_of(std::int64_t heads, std::int64_t kv_heads, std::int64_t head_dim) {
  AttentionShape shape;
  shape.heads = heads;
  shape.kv_heads = kv_heads;
  shape.head_dim = head_dim;
  shape.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim)));
  return shape;
}

/// One sequence: q [length, heads, head_dim], k and v [length, kv_heads, head_dim], normal.
template <class T>
struct Problem {
  AttentionShape shape;
  std::int64_t length = 0;
  std::vector<T> q, k, v;

  Problem(const AttentionShape& shape_in, std::int64_t length_in, std::uint32_t seed) : shape(shape_in), length(length_in) {
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

  /// The same with the keys and values that a cache of `type` gives back, rounded to T.
  [[nodiscard]] Problem as_stored(ElementType type) const {
    Problem stored = *this;
    std::vector<std::byte> row(kv_row_bytes(type, kv_width()));
    for (std::vector<T>* x : {&stored.k, &stored.v}) {
      for (std::int64_t p = 0; p < length; ++p) {
        T* elements = x->data() + p * kv_width();
        write_kv_row(type, elements, kv_width(), row.data());
        const std::vector<double> read = reference_kv_row(type, row.data(), kv_width());
        for (std::size_t i = 0; i < read.size(); ++i) round_into(read[i], elements[i]);
      }
    }
    return stored;
  }

  /// What attention should make of rows first .. first + rows - 1.
  [[nodiscard]] ReferenceAttentionOutput reference(std::int64_t first, std::int64_t rows) const {
    ReferenceAttention problem{shape, {}, rows, first, first + rows, 0, {}, {}, {}};
    const auto doubles = [](const std::vector<T>& x, std::int64_t begin, std::int64_t end) {
      std::vector<double> values;
      for (std::int64_t i = begin; i < end; ++i) values.push_back(value_of(x[static_cast<std::size_t>(i)]));
      return values;
    };
    problem.q = doubles(q, first * q_width(), (first + rows) * q_width());
    problem.k = doubles(k, 0, (first + rows) * kv_width());
    problem.v = doubles(v, 0, (first + rows) * kv_width());
    return reference_attention(problem);
  }
};

/// Keys and values of one sequence in pages of `page_tokens` in format `type`, head by head inside a page, keys before
/// values. Unused slots hold NaN, pages before `first_page` are missing.
template <class T>
struct Pages {
  std::vector<std::vector<std::byte>> memory;
  std::vector<const void*> bases;
  KvView view;

  Pages(const Problem<T>& s, ElementType type, std::int64_t page_tokens, std::int64_t first_page = 0) {
    const std::int64_t n = s.shape.head_dim;
    const std::size_t row_bytes = kv_row_bytes(type, n);
    const std::size_t half = static_cast<std::size_t>(page_tokens * s.shape.kv_heads) * row_bytes;
    for (std::int64_t first = 0; first < s.length; first += page_tokens) {
      if (first / page_tokens < first_page) {
        bases.push_back(nullptr);
        continue;
      }
      std::vector<std::byte> page(2 * half, std::byte{0xFF});
      for (std::int64_t p = first; p < std::min(s.length, first + page_tokens); ++p) {
        for (std::int64_t h = 0; h < s.shape.kv_heads; ++h) {
          std::byte* to = page.data() + static_cast<std::size_t>(h * page_tokens + p - first) * row_bytes;
          write_kv_row(type, s.k.data() + p * s.kv_width() + h * n, n, to);
          write_kv_row(type, s.v.data() + p * s.kv_width() + h * n, n, to + half);
        }
      }
      memory.push_back(std::move(page));
      bases.push_back(memory.back().data());
    }
    view = {.key_pages = bases.data(),
            .value_pages = bases.data(),
            .type = type,
            .page_tokens = page_tokens,
            .token_stride = n,
            .head_stride = page_tokens * n,
            .length = s.length,
            .key_offset = 0,
            .value_offset = static_cast<std::int64_t>(half)};
  }
  Pages(Pages&&) = default;
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  Pages& operator=(Pages&&) = delete;
  ~Pages() = default;
};

template <class T>
struct Output {
  std::vector<T> out;
  std::vector<float> lse;
  bool operator==(const Output& other) const {
    return out.size() == other.out.size() && std::memcmp(out.data(), other.out.data(), out.size() * sizeof(T)) == 0 &&
           lse == other.lse;
  }
  void append(const Output& other) {
    out.insert(out.end(), other.out.begin(), other.out.end());
    lse.insert(lse.end(), other.lse.begin(), other.lse.end());
  }
};

/// Attention of `sequences` whose rows lie one after the other in q. Scratch starts as NaN.
template <class T>
Output<T> run(const KernelTable& table, const AttentionShape& shape, const std::vector<AttentionSequence>& sequences,
              const std::vector<T>& q) {
  const Backend backend{&table, false};
  const std::size_t bytes = attention_scratch_bytes(backend, shape, kTypeOf<T>, 0);
  auto scratch = AlignedBuffer::allocate(bytes);
  std::memset(scratch->data(), 0xFF, bytes);
  TeamMember member;
  Exec exec{member, backend, {scratch->data(), bytes}};
  const std::int64_t width = shape.heads * shape.head_dim;
  Output<T> result;
  result.out.resize(q.size());
  result.lse.resize(q.size() / static_cast<std::size_t>(shape.head_dim));
  attention_forward<T>(exec, shape, sequences, {q.data(), width}, {result.out.data(), width}, result.lse.data(), {});
  return result;
}

/// The sequence in one piece from one contiguous buffer.
template <class T>
Output<T> run_whole(const KernelTable& table, const Problem<T>& s) {
  const void* keys = s.k.data();
  const void* values = s.v.data();
  AttentionSequence sequence{0, s.length, 0, {}};
  sequence.kv = {.key_pages = &keys,
                 .value_pages = &values,
                 .type = kTypeOf<T>,
                 .page_tokens = s.length,
                 .token_stride = s.kv_width(),
                 .head_stride = s.shape.head_dim,
                 .length = s.length};
  return run<T>(table, s.shape, {sequence}, s.q);
}

/// Rows first .. first + rows - 1 over the pages, seeing only the keys so far.
template <class T>
Output<T> run_rows(const KernelTable& table, const Problem<T>& s, const Pages<T>& pages, std::int64_t first,
                   std::int64_t rows) {
  AttentionSequence sequence{0, rows, first, pages.view};
  sequence.kv.length = first + rows;
  const std::vector<T> q(s.q.begin() + first * s.q_width(), s.q.begin() + (first + rows) * s.q_width());
  return run<T>(table, s.shape, {sequence}, q);
}

/// The sequence in chunks over pages of `type`, the first chunk `lead` rows shorter so that chunks start at odd positions.
template <class T>
Output<T> run_chunks(const KernelTable& table, const Problem<T>& s, ElementType type, std::int64_t chunk,
                     std::int64_t page_tokens, std::int64_t lead = 0) {
  const Pages<T> pages(s, type, page_tokens);
  Output<T> all;
  for (std::int64_t first = 0; first < s.length;) {
    const std::int64_t rows = std::min(first == 0 ? chunk - lead : chunk, s.length - first);
    all.append(run_rows(table, s, pages, first, rows));
    first += rows;
  }
  return all;
}

}  // namespace quern::testing_attention
