// A linear layer with Quern's math library: y = gelu(x W^T + b), on the fastest kernels that this machine has.
#include <cstdio>
#include <vector>

#include "math/aligned_buffer.hpp"
#include "math/dispatch.hpp"
#include "math/matmul.hpp"

int main() {
  using namespace quern;
  const Result<const KernelTable*> kernels = chosen_kernels();
  if (!kernels) return std::fprintf(stderr, "%s\n", kernels.error().message.c_str()), 1;
  const Backend backend{.kernels = *kernels};

  constexpr std::int64_t kRows = 3, kInputs = 64, kOutputs = 8;
  std::vector<float> x(kRows * kInputs), w(kOutputs * kInputs), bias(kOutputs, 0.5F), y(kRows * kOutputs);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = 0.01F * static_cast<float>(i % 17);
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = 0.1F * static_cast<float>(i % 5) - 0.2F;

  // Memory is the caller's: the weight's pack, and scratch for each thread.
  ThreadTeam team(default_thread_count());
  const std::size_t scratch_bytes = matmul_scratch_bytes(backend, kRows, kInputs);
  auto pack = AlignedBuffer::allocate(packed_weight_bytes(backend, ComputeType::f32, kOutputs, kInputs).forward);
  auto scratch = AlignedBuffer::allocate(scratch_bytes * static_cast<std::size_t>(team.size()));
  if (!pack || !scratch) return std::fprintf(stderr, "out of memory\n"), 1;

  team.run([&](TeamMember& member) {  // on every thread, which share the work
    const auto own = static_cast<std::size_t>(member.index());
    Exec exec{member, backend, {scratch->data() + own * scratch_bytes, scratch_bytes}};
    const Weight weight =
        pack_weight(exec, ComputeType::f32, w.data(), kOutputs, kInputs, pack->data(), /*backward=*/nullptr);
    matmul_forward(exec, {x.data(), ElementType::f32, kRows, kInputs, kInputs}, weight,
                   {y.data(), ElementType::f32, kRows, kOutputs, kOutputs},
                   {.bias = bias.data(), .activation = Activation::gelu_tanh});
  });

  std::printf("%s on %d threads:", isa_name((*kernels)->isa).data(), team.size());
  for (std::int64_t c = 0; c < kOutputs; ++c) std::printf(" %.4f", static_cast<double>(y[c]));
  std::printf("\n");
}
