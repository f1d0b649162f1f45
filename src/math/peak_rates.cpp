#include "math/peak_rates.hpp"

#include "math/int8_loop_kernels.hpp"

namespace quern {
namespace {

const Int8LoopKernels* int8_loop(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::amx:
      return int8_loop_kernels_amx();
    case Isa::avx512_vnni:
      return int8_loop_kernels_avx512_vnni();
    case Isa::avx512:
      return int8_loop_kernels_avx512();
    case Isa::avx2:
      return int8_loop_kernels_avx2();
#endif
    default:
      return nullptr;
  }
}

}  // namespace

std::string_view to_word(PeakType type) {
  switch (type) {
    case PeakType::f32:
      return "f32";
    case PeakType::bf16:
      return "bf16";
    case PeakType::int8:
      return "int8";
  }
  return "unknown";
}

std::string peak_method(const KernelTable& kernels, PeakType type) {
  const MatmulKernels& matmul = *kernels.matmul;
  switch (type) {
    case PeakType::f32:
      return matmul.f32.register_loop == nullptr ? "" : "multiply-adds of vectors";
    case PeakType::bf16:
      if (matmul.b16.register_loop == nullptr) return "";
      if (matmul.b16.l1_loop != nullptr) return "matrix tiles";
      return matmul.b16.operand == ElementType::bf16 ? "dot products of pairs" : "as f32: no instructions of its own";
    case PeakType::int8: {
      const Int8LoopKernels* const loop = int8_loop(kernels.isa);
      return loop == nullptr ? "" : loop->how;
    }
  }
  return "";
}

std::vector<double> peak_rates(ThreadTeam& team, const KernelTable& kernels, PeakType type, const Repeats& repeats) {
  const MatmulKernels& matmul = *kernels.matmul;
  double (*loop)(std::int64_t) = nullptr;
  if (type == PeakType::int8) {
    const Int8LoopKernels* const int8 = int8_loop(kernels.isa);
    if (int8 != nullptr) loop = int8->loop;
  } else {
    loop = type == PeakType::f32 ? matmul.f32.register_loop : matmul.b16.register_loop;
  }
  if (loop == nullptr) return {};
  return repeated_rates(team, repeats, [&](TeamMember&, std::int64_t iterations) {
    matmul.begin();
    const double operations = loop(iterations);
    matmul.end();
    return operations;
  });
}

}  // namespace quern
