// The kernels that are benchmarked, by kind. kernel_bench.hpp's kernel_cases() joins them.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "math/aligned_buffer.hpp"
#include "math/kernel_bench.hpp"

namespace quern::internal {

[[nodiscard]] std::vector<KernelCase> matmul_cases();
[[nodiscard]] std::vector<KernelCase> block_dot_cases(const Backend& backend);
[[nodiscard]] std::vector<KernelCase> attention_cases();
[[nodiscard]] std::vector<KernelCase> row_cases();

/// A buffer of values between -1 and 1 for operands that stay: f32 or bf16, or zeros for results. Error no_memory.
[[nodiscard]] Result<AlignedBuffer> value_buffer(ElementType type, std::int64_t count);

/// A kernel that is a function of the thread, the call's number and what it keeps.
template <class Kept, class Run>
class FunctionKernel final : public PreparedKernel {
 public:
  FunctionKernel(std::size_t scratch_bytes, Kept kept, Run run)
      : scratch_bytes_(scratch_bytes), kept_(std::move(kept)), run_(std::move(run)) {}
  [[nodiscard]] std::size_t scratch_bytes() const override { return scratch_bytes_; }
  void run(Exec& exec, std::int64_t call) override { run_(exec, kept_, call); }

 private:
  std::size_t scratch_bytes_;
  Kept kept_;
  Run run_;
};

/// `run(exec, kept, call)` with what it needs beside it.
template <class Kept, class Run>
[[nodiscard]] std::unique_ptr<PreparedKernel> kernel_of(std::size_t scratch_bytes, Kept kept, Run run) {
  return std::make_unique<FunctionKernel<Kept, Run>>(scratch_bytes, std::move(kept), std::move(run));
}

}  // namespace quern::internal
