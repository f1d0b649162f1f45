// Block kernels for AVX-512 without VNNI: dot products 256 bits at a time as in AVX2 (with more registers), floats 512.
// False alarms inside GCC 12's intrinsics.
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#pragma GCC diagnostic ignored "-Wuninitialized"

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "math/block_kernels.hpp"

// In this order: each is written over those before.
#include "math/block_ahead-inl.hpp"
#include "math/block_scales_avx2-inl.hpp"
//
#include "math/block_activations_avx2-inl.hpp"
#include "math/block_lanes_avx512-inl.hpp"
//
#include "math/block_row_groups-inl.hpp"
//
#include "math/block_products_avx512-inl.hpp"
//
#include "math/block_unpack-inl.hpp"
//
#include "math/block_rows-inl.hpp"
//
#include "math/block_panels-inl.hpp"
//
#include "math/block_table-inl.hpp"
//
#include "math/block_float_avx512-inl.hpp"
//
#include "math/block_float-inl.hpp"

namespace quern {

const BlockKernels* block_kernels_avx512() {
  static constexpr BlockKernels kKernels = {.name = "avx512",
                                            .decode = nullptr,
                                            .quantize_activations = quantize_activations,
                                            .has_dot = has_dot,
                                            .dot = dot,
                                            .interleave_rows = kRows,
                                            .decode_floats = decode_floats,
                                            .float_dot = float_dot};
  return &kKernels;
}

}  // namespace quern
