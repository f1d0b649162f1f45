#include <immintrin.h>

#include "math/int8_loop_kernels.hpp"

namespace quern {
namespace {

constexpr int kTileBytes = 1024;

/// Varied numbers: multiplying zeros or constants takes less power, and runs at a clock that real products never see.
double loop(std::int64_t iterations) {
  alignas(64) std::uint8_t operands[4 * kTileBytes];
  std::uint32_t state = 1;
  for (std::uint8_t& byte : operands) {
    state = state * 1664525U + 1013904223U;
    byte = static_cast<std::uint8_t>(state >> 24);
  }
  __asm__ volatile("" : : "r"(operands) : "memory");  // tile loads are no reads of memory to the compiler
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, operands, 64);
  _tile_loadd(5, operands + kTileBytes, 64);
  _tile_loadd(6, operands + 2 * kTileBytes, 64);
  _tile_loadd(7, operands + 3 * kTileBytes, 64);
  for (std::int64_t n = 0; n < iterations; ++n) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      _tile_dpbusd(0, 4, 6);
      _tile_dpbusd(1, 4, 7);
      _tile_dpbusd(2, 5, 6);
      _tile_dpbusd(3, 5, 7);
    }
  }
  constexpr double kTileOps = 2.0 * 16.0 * 16.0 * 64.0;  // 16 rows by 16 columns by 64 bytes
  return static_cast<double>(iterations) * 32.0 * kTileOps;
}

}  // namespace

const Int8LoopKernels* int8_loop_kernels_amx() {
  static constexpr Int8LoopKernels kernels{"TDPBUSD, tiles in registers", loop};
  return &kernels;
}

}  // namespace quern
