// Attention of a training step, forward and backward, and of decode over a cache.
#include <fmt/format.h>

#include <cmath>

#include "math/attention.hpp"
#include "math/kernel_cases_internal.hpp"
#include "math/kv_rows.hpp"

namespace quern::internal {
namespace {

constexpr std::int64_t kTokens = 1024, kHeads = 8, kHeadDim = 64;

/// One sequence whose rows hold q, k and v side by side, as the projection writes them.
template <class T>
struct Layer {
  AlignedBuffer qkv, dout, out, dqkv, lse;
  const void* keys = nullptr;
  const void* values = nullptr;
};

AttentionShape shape_of(std::int64_t heads, std::int64_t kv_heads, std::int64_t head_dim) {
  AttentionShape shape;
  shape.heads = heads;
  shape.kv_heads = kv_heads;
  shape.head_dim = head_dim;
  shape.scale = 1.0F / std::sqrt(static_cast<float>(head_dim));
  return shape;
}

template <class T>
KernelCase training_case(bool backward) {
  constexpr ElementType kType = sizeof(T) == 2 ? ElementType::bf16 : ElementType::f32;
  constexpr std::int64_t kWidth = kHeads * kHeadDim;
  KernelCase one;
  one.name = fmt::format("attention/{}/{}/{}x{}x{}", sizeof(T) == 2 ? "bf16" : "f32", backward ? "backward" : "forward",
                         kHeads, kTokens, kHeadDim);
  one.arithmetic = sizeof(T) == 2 ? PeakType::bf16 : PeakType::f32;
  // Causal products: two of T^2/2 head_dim forward, five backward.
  one.flops = (backward ? 5.0 : 2.0) * static_cast<double>(kTokens * kTokens) * static_cast<double>(kWidth);
  one.bytes = static_cast<double>(sizeof(T)) * static_cast<double>(kTokens * kWidth) * (backward ? 8.0 : 4.0);
  one.prepare = [=](const Backend& backend, const BenchMemory&) -> Result<std::unique_ptr<PreparedKernel>> {
    auto qkv = value_buffer(kType, 3 * kTokens * kWidth), dout = value_buffer(kType, kTokens * kWidth),
         out = value_buffer(kType, kTokens * kWidth), dqkv = value_buffer(kType, 3 * kTokens * kWidth),
         lse = value_buffer(ElementType::f32, kTokens * kHeads);
    for (const auto* buffer : {&qkv, &dout, &out, &dqkv, &lse}) {
      if (!*buffer) return tl::make_unexpected(buffer->error());
    }
    Layer<T> kept{std::move(*qkv), std::move(*dout), std::move(*out), std::move(*dqkv), std::move(*lse)};
    kept.keys = kept.qkv.template as<T>() + kWidth;
    kept.values = kept.qkv.template as<T>() + 2 * kWidth;
    const AttentionShape shape = shape_of(kHeads, kHeads, kHeadDim);
    return kernel_of(
        attention_scratch_bytes(backend, shape, kType, kTokens), std::move(kept),
        [=](Exec& exec, Layer<T>& o, std::int64_t) {
          const KvView view{.key_pages = &o.keys,
                            .value_pages = &o.values,
                            .type = kType,
                            .page_tokens = kTokens,
                            .token_stride = 3 * kWidth,
                            .head_stride = kHeadDim,
                            .length = kTokens};
          const AttentionSequence sequence{0, kTokens, 0, view};
          T* const q = o.qkv.template as<T>();
          T* const dq = o.dqkv.template as<T>();
          float* const sums = o.lse.template as<float>();
          if (!backward) {
            attention_forward<T>(exec, shape, {&sequence, 1}, {q, 3 * kWidth}, {o.out.template as<T>(), kWidth}, sums, {});
          } else {
            attention_backward<T>(exec, shape, {&sequence, 1}, {q, 3 * kWidth}, {o.out.template as<T>(), kWidth},
                                  {o.dout.template as<T>(), kWidth}, sums, {dq, 3 * kWidth}, {dq + kWidth, 3 * kWidth},
                                  {dq + 2 * kWidth, 3 * kWidth}, {});
          }
        });
  };
  return one;
}

struct Cache {
  AlignedBuffer q, out;
  std::vector<const void*> pages;
};

/// One token of one sequence over 4,096 positions of a cache: 32 query heads on 8 key-value heads of 128.
KernelCase decode_case(ElementType type) {
  constexpr std::int64_t kDepth = 4096, kQueryHeads = 32, kKvHeads = 8, kDim = 128;
  constexpr std::int64_t kPageTokens = kKeyBlock;
  const std::size_t half_page = kv_row_bytes(type, kPageTokens * kKvHeads * kDim);
  KernelCase one;
  one.name = fmt::format("attention/decode/{}/{}on{}x{}x{}", kv_type_name(type), kQueryHeads, kKvHeads, kDepth, kDim);
  one.arithmetic = PeakType::f32;
  one.flops = 4.0 * static_cast<double>(kDepth * kQueryHeads * kDim);
  constexpr std::int64_t kPages = kDepth / kPageTokens;
  one.bytes = 2.0 * static_cast<double>(half_page) * static_cast<double>(kPages);
  one.from_memory = true;
  one.prepare = [=](const Backend& backend, const BenchMemory& memory) -> Result<std::unique_ptr<PreparedKernel>> {
    auto q = value_buffer(ElementType::f32, kQueryHeads * kDim), out = value_buffer(ElementType::f32, kQueryHeads * kDim);
    if (!q) return tl::make_unexpected(q.error());
    if (!out) return tl::make_unexpected(out.error());
    const AttentionShape shape = shape_of(kQueryHeads, kKvHeads, kDim);
    Cache kept{std::move(*q), std::move(*out), std::vector<const void*>(static_cast<std::size_t>(kPages))};
    return kernel_of(attention_scratch_bytes(backend, shape, ElementType::f32, 0), std::move(kept),
                     [=](Exec& exec, Cache& o, std::int64_t call) {
                       exec.member.barrier();  // nobody reads the table of pages any more
                       const auto pages = static_cast<std::int64_t>(o.pages.size());
                       if (exec.member.index() == 0) {
                         for (std::int64_t i = 0; i < pages; ++i) {
                           o.pages[static_cast<std::size_t>(i)] = memory.window(call * pages + i, 2 * half_page);
                         }
                       }
                       exec.member.barrier();
                       const KvView view{.key_pages = o.pages.data(),
                                         .value_pages = o.pages.data(),
                                         .type = type,
                                         .page_tokens = kPageTokens,
                                         .token_stride = kDim,
                                         .head_stride = kPageTokens * kDim,
                                         .length = kDepth,
                                         .key_offset = 0,
                                         .value_offset = static_cast<std::int64_t>(half_page)};
                       const AttentionSequence sequence{0, 1, kDepth - 1, view};
                       attention_forward<float>(exec, shape, {&sequence, 1}, {o.q.as<float>(), kQueryHeads * kDim},
                                                {o.out.as<float>(), kQueryHeads * kDim}, nullptr, {});
                     });
  };
  return one;
}

}  // namespace

std::vector<KernelCase> attention_cases() {
  return {training_case<float>(false),   training_case<float>(true),    training_case<bf16>(false),
          training_case<bf16>(true),     decode_case(ElementType::f32), decode_case(ElementType::f16),
          decode_case(ElementType::q8_0)};
}

}  // namespace quern::internal
