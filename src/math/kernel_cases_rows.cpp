// Norms, activations, RoPE, the loss and the optimizer: what works element by element, from memory.
#include <fmt/format.h>

#include <algorithm>

#include "math/kernel_cases_internal.hpp"

namespace quern::internal {
namespace {

constexpr std::int64_t kCols = 1024;
/// Of a call: 24 MiB of f32, long enough to time; calls go through the memory.
constexpr std::int64_t kRows = 6144;
/// That a thread takes at once.
constexpr std::int64_t kTaskRows = 64;

/// What does not grow with the rows, and one window of each operand for the call at hand.
struct Rows {
  AlignedBuffer weight, gradient, row_values, angles, positions;
};

/// Operands of a task: rows of windows of the memory.
struct Task {
  const ElementwiseKernels& kernels;
  Rows& kept;
  std::byte* data;         ///< of the whole call
  std::int64_t call_rows;  ///< of the whole call
  std::int64_t first, rows, member;

  /// Operand after `before` bytes a row of other operands, with elements of type T and `width` of them a row.
  template <class T>
  [[nodiscard]] T* operand(std::int64_t before, std::int64_t width) const {
    return reinterpret_cast<T*>(data + before * call_rows) + first * width;
  }
  [[nodiscard]] float* weight() const { return kept.weight.as<float>(); }
  /// A gradient of each thread's own.
  [[nodiscard]] float* gradient() const { return kept.gradient.as<float>() + member * 2 * kCols; }
  [[nodiscard]] float* row_values() const { return kept.row_values.as<float>() + first; }
};

constexpr std::int64_t kMostThreads = 1024;

/// A kernel over rows of `read` bytes of operands that are only read, and `written` bytes of those that are written; the
/// lines of these are read first, whether the kernel asks for what is there or not.
template <class Run>
KernelCase row_case(std::string name, double flops_per_element, std::int64_t read, std::int64_t written, Run run) {
  const std::int64_t row_bytes = read + written;
  KernelCase one;
  one.name = fmt::format("{}/{}x{}", name, kRows, kCols);
  one.arithmetic = PeakType::f32;
  one.flops = flops_per_element * static_cast<double>(kRows * kCols);
  one.bytes = static_cast<double>(kRows * (read + 2 * written));
  one.updated_bytes = static_cast<double>(kRows * 2 * written);
  one.from_memory = true;
  one.prepare = [=](const Backend&, const BenchMemory& memory) -> Result<std::unique_ptr<PreparedKernel>> {
    auto weight = value_buffer(ElementType::f32, kCols),
         gradient = AlignedBuffer::allocate(sizeof(float) * kMostThreads * 2 * kCols),
         row_values = value_buffer(ElementType::f32, kRows), angles = value_buffer(ElementType::f32, kRows * 64),
         positions = AlignedBuffer::allocate(kRows * sizeof(std::int32_t));
    for (const auto* buffer : {&weight, &gradient, &row_values, &angles, &positions}) {
      if (!*buffer) return tl::make_unexpected(buffer->error());
    }
    for (std::int64_t i = 0; i < kRows; ++i) positions->as<std::int32_t>()[i] = static_cast<std::int32_t>(i);
    for (std::int64_t i = 0; i < kRows; ++i) row_values->as<float>()[i] = 1.0F;
    Rows kept{std::move(*weight), std::move(*gradient), std::move(*row_values), std::move(*angles), std::move(*positions)};
    // A memory that is smaller than a call's operands (tests) holds fewer rows.
    const std::int64_t call_rows = std::min(kRows, std::ssize(memory.bytes) / row_bytes / kTaskRows * kTaskRows);
    return kernel_of(0, std::move(kept), [=](Exec& exec, Rows& o, std::int64_t call) {
      std::byte* const data = memory.window(call, static_cast<std::size_t>(call_rows * row_bytes));
      exec.member.for_each(call_rows / kTaskRows, [&](std::int64_t task) {
        run(Task{*exec.backend.kernels->elementwise, o, data, call_rows, task * kTaskRows, kTaskRows,
                 exec.member.index() % kMostThreads});
      });
    });
  };
  return one;
}

/// Bytes of a row of kCols elements.
constexpr std::int64_t kF32 = 4 * kCols, kB16 = 2 * kCols;

}  // namespace

std::vector<KernelCase> row_cases() {
  std::vector<KernelCase> cases;
  cases.push_back(row_case("rms_norm/forward", 4.0, kF32, kB16, [](const Task& t) {
    t.kernels.b16.rms_norm_forward(t.operand<float>(0, kCols), kCols, t.weight(), 1e-5F, t.operand<bf16>(kF32, kCols), kCols,
                                   nullptr, t.rows, kCols);
  }));
  cases.push_back(row_case("rms_norm/backward", 8.0, 2 * kF32, kF32, [](const Task& t) {
    t.kernels.rms_norm_backward(t.operand<float>(0, kCols), kCols, t.operand<float>(kF32, kCols), kCols, t.weight(),
                                t.row_values(), t.operand<float>(2 * kF32, kCols), kCols, t.gradient(), t.rows, kCols);
  }));
  cases.push_back(row_case("layer_norm/forward", 7.0, kF32, kB16, [](const Task& t) {
    t.kernels.b16.layer_norm_forward(t.operand<float>(0, kCols), kCols, t.weight(), t.weight(), 1e-5F,
                                     t.operand<bf16>(kF32, kCols), kCols, nullptr, nullptr, t.rows, kCols);
  }));
  cases.push_back(row_case("softmax", 5.0, 0, kF32, [](const Task& t) {
    t.kernels.softmax(t.operand<float>(0, kCols), kCols, 1.0F, t.rows, kCols);
  }));
  cases.push_back(row_case("swiglu/forward", 8.0, 2 * kB16, kB16, [](const Task& t) {
    t.kernels.b16.gated_forward(Activation::silu, t.operand<bf16>(0, 2 * kCols), 2 * kCols, t.operand<bf16>(2 * kB16, kCols),
                                kCols, t.rows, kCols);
  }));
  cases.push_back(row_case("gelu/forward", 12.0, kB16, kB16, [](const Task& t) {
    t.kernels.b16.activation_forward(Activation::gelu_tanh, t.operand<bf16>(0, kCols), kCols, t.operand<bf16>(kB16, kCols),
                                     kCols, t.rows, kCols);
  }));
  cases.push_back(row_case("rope", 3.0, 0, kB16, [](const Task& t) {
    t.kernels.b16.rope(t.operand<bf16>(0, kCols), kCols, 64, t.rows, kCols / 64, 64, RopePairing::halves,
                       t.kept.angles.as<float>(), t.kept.positions.as<std::int32_t>() + t.first, false);
  }));
  cases.push_back(row_case("adamw", 12.0, kF32, 3 * kF32, [](const Task& t) {
    t.kernels.adamw(t.operand<float>(0, kCols), t.operand<float>(kF32, kCols), t.operand<float>(2 * kF32, kCols),
                    t.operand<float>(3 * kF32, kCols), t.rows * kCols, AdamWStep{.learning_rate = 1e-6F});
  }));
  return cases;
}

}  // namespace quern::internal
