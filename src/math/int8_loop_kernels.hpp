// Loops of 8-bit multiply-adds on registers: what the int8 peak is measured with. Plain data only: instruction-set files
// include this header.
#pragma once

#include <cstdint>

namespace quern {

struct Int8LoopKernels {
  const char* how = nullptr;  ///< the instructions
  /// Runs unsigned by signed multiply-adds into 32-bit sums at full throughput; returns the operations done, of which a
  /// multiply-add is two.
  double (*loop)(std::int64_t iterations) = nullptr;
};

/// Tables by instruction set; null where this build lacks it. That of AMX runs between MatmulKernels::begin() and end().
const Int8LoopKernels* int8_loop_kernels_avx2();
const Int8LoopKernels* int8_loop_kernels_avx512();
const Int8LoopKernels* int8_loop_kernels_avx512_vnni();
const Int8LoopKernels* int8_loop_kernels_amx();

}  // namespace quern
