// Matrix products of training and prefill, with packed weights, and decode's products with a file's blocks.
#include <fmt/format.h>

#include <algorithm>

#include "math/block_formats.hpp"
#include "math/kernel_cases_internal.hpp"
#include "math/matmul.hpp"

namespace quern::internal {
namespace {

struct Shape {
  std::int64_t tokens, outputs, inputs;
};

enum class Product : std::uint8_t { forward, input_gradient, weight_gradient };

struct Operands {
  AlignedBuffer x, dy, w, forward_pack, backward_pack;
  Weight weight;
};

ElementType element_of(ComputeType compute) { return compute == ComputeType::bf16 ? ElementType::bf16 : ElementType::f32; }

Result<std::unique_ptr<PreparedKernel>> prepare(const Backend& backend, Product product, ComputeType compute,
                                                const Shape& shape) {
  const ElementType type = element_of(compute);
  const std::int64_t m = shape.tokens, n = shape.outputs, k = shape.inputs;
  const PackedWeightBytes pack = packed_weight_bytes(backend, compute, n, k);
  auto x = value_buffer(type, m * k), dy = value_buffer(type, m * n), w = value_buffer(ElementType::f32, n * k);
  auto forward = AlignedBuffer::allocate(pack.forward), backward = AlignedBuffer::allocate(pack.backward);
  for (const auto* buffer : {&x, &dy, &w, &forward, &backward}) {
    if (!*buffer) return tl::make_unexpected(buffer->error());
  }
  Operands kept{std::move(*x), std::move(*dy), std::move(*w), std::move(*forward), std::move(*backward), {}};
  TeamMember alone;
  const std::size_t scratch_bytes = matmul_scratch_bytes(backend, m, std::max(n, k));
  auto scratch = AlignedBuffer::allocate(scratch_bytes);
  if (!scratch) return tl::make_unexpected(scratch.error());
  Exec exec{alone, backend, {scratch->data(), scratch->bytes()}};
  kept.weight = pack_weight(exec, compute, kept.w.as<float>(), n, k, kept.forward_pack.data(), kept.backward_pack.data());
  return kernel_of(scratch_bytes, std::move(kept), [=](Exec& one, Operands& o, std::int64_t) {
    switch (product) {
      case Product::forward:
        matmul_forward(one, {o.x.data(), type, m, k, k}, o.weight, {o.dy.data(), type, m, n, n});
        break;
      case Product::input_gradient:
        matmul_backward_input(one, {o.dy.data(), type, m, n, n}, o.weight, {o.x.data(), type, m, k, k});
        break;
      case Product::weight_gradient:
        matmul_backward_weight(one, {o.dy.data(), type, m, n, n}, {o.x.data(), type, m, k, k}, o.w.as<float>(), nullptr,
                               false);
        break;
    }
  });
}

KernelCase matmul_case(const char* name, Product product, ComputeType compute, const Shape& shape) {
  const auto real = [](std::int64_t value) { return static_cast<double>(value); };
  const double element = compute == ComputeType::bf16 ? 2.0 : 4.0;
  const double weight = product == Product::weight_gradient ? 4.0 : element;  // dW is f32
  KernelCase one;
  one.name = fmt::format("matmul/{}/{}/{}x{}x{}", compute == ComputeType::bf16 ? "bf16" : "f32", name, shape.tokens,
                         shape.outputs, shape.inputs);
  one.arithmetic = compute == ComputeType::bf16 ? PeakType::bf16 : PeakType::f32;
  one.flops = 2.0 * real(shape.tokens) * real(shape.outputs) * real(shape.inputs);
  one.bytes =
      element * real(shape.tokens) * real(shape.outputs + shape.inputs) + weight * real(shape.outputs * shape.inputs);
  one.prepare = [=](const Backend& backend, const BenchMemory&) { return prepare(backend, product, compute, shape); };
  return one;
}

/// Of a call of block_dot: long enough to time, few enough that several calls go through the memory.
constexpr std::int64_t kBlockBytes = std::int64_t{48} << 20;
constexpr std::int64_t kBlockCols = 4096;

KernelCase block_case(ElementType type, std::int64_t tokens) {
  const auto row_bytes = static_cast<std::int64_t>(bytes_of(type, kBlockCols).value_or(0));
  const std::int64_t rows = kBlockBytes / row_bytes / kWeightRowUnit * kWeightRowUnit;
  KernelCase one;
  one.name = fmt::format("block_dot/{}/{}x{}x{}", block_format(type).name, tokens, rows, kBlockCols);
  one.arithmetic = block_format(type).quantized ? PeakType::int8 : PeakType::f32;
  one.flops = 2.0 * static_cast<double>(tokens * rows) * static_cast<double>(kBlockCols);
  one.bytes = static_cast<double>(rows * row_bytes) + 4.0 * static_cast<double>(tokens * (rows + kBlockCols));
  one.from_memory = true;
  one.prepare = [=](const Backend& backend, const BenchMemory& memory) -> Result<std::unique_ptr<PreparedKernel>> {
    // A memory that is smaller than that (tests) holds fewer rows; then figures are of no use, but the kernel runs.
    const std::int64_t fit = std::min(rows, std::ssize(memory.bytes) / row_bytes / kWeightRowUnit * kWeightRowUnit);
    auto x = value_buffer(ElementType::f32, tokens * kBlockCols), y = value_buffer(ElementType::f32, tokens * rows);
    if (!x) return tl::make_unexpected(x.error());
    if (!y) return tl::make_unexpected(y.error());
    auto kept = std::pair(std::move(*x), std::move(*y));
    return kernel_of(matmul_scratch_bytes(backend, tokens, std::max(rows, kBlockCols)), std::move(kept),
                     [=](Exec& exec, std::pair<AlignedBuffer, AlignedBuffer>& o, std::int64_t call) {
                       const std::byte* const data = memory.window(call, static_cast<std::size_t>(fit * row_bytes));
                       const Weight weight{.type = type,
                                           .layout = WeightLayout::plain,
                                           .rows = fit,
                                           .cols = kBlockCols,
                                           .forward = data,
                                           .backward = data,
                                           .precision = WeightPrecision::fast};
                       matmul_forward(exec, {o.first.data(), ElementType::f32, tokens, kBlockCols, kBlockCols}, weight,
                                      {o.second.data(), ElementType::f32, tokens, fit, fit});
                     });
  };
  return one;
}

}  // namespace

std::vector<KernelCase> matmul_cases() {
  std::vector<KernelCase> cases;
  constexpr Shape kMany{512, 2048, 2048}, kFew{32, 2048, 2048};
  for (const ComputeType compute : {ComputeType::f32, ComputeType::bf16}) {
    cases.push_back(matmul_case("forward", Product::forward, compute, kMany));
    cases.push_back(matmul_case("forward", Product::forward, compute, kFew));
    cases.push_back(matmul_case("input_gradient", Product::input_gradient, compute, kMany));
    cases.push_back(matmul_case("weight_gradient", Product::weight_gradient, compute, kMany));
  }
  return cases;
}

std::vector<KernelCase> block_dot_cases(const Backend& backend) {
  std::vector<KernelCase> cases;
  for (const ElementType type : {ElementType::q4_0, ElementType::q4_k, ElementType::q5_k, ElementType::q6_k,
                                 ElementType::q8_0, ElementType::mxfp4, ElementType::bf16}) {
    if (block_format(type).quantized && !backend.kernels->blocks->has_dot(type)) continue;
    for (const std::int64_t tokens : {std::int64_t{1}, std::int64_t{8}}) cases.push_back(block_case(type, tokens));
  }
  return cases;
}

}  // namespace quern::internal
