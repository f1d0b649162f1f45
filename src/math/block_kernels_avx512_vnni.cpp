// Block kernels for AVX-512 with VNNI and VBMI.

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
#include "math/block_products_vnni-inl.hpp"
//
#include "math/block_unpack-inl.hpp"
//
#include "math/block_rows-inl.hpp"
//
#include "math/block_panels-inl.hpp"
//
#include "math/block_table-inl.hpp"
//
#include "math/block_panels_bf16-inl.hpp"
//
#include "math/block_float_avx512-inl.hpp"
//
#include "math/block_float-inl.hpp"

namespace quern {

namespace {
void decode_pairs(const BlockPanel& d) {
  visit_format(d.type, [&]<class Format>() { decode_panel<Format, PairPanel>(d); });
}
}  // namespace

const BlockKernels* block_kernels_avx512_vnni() {
  static constexpr BlockKernels kKernels = {.name = "avx512_vnni",
                                            .decode = nullptr,
                                            .quantize_activations = quantize_activations,
                                            .has_dot = has_dot,
                                            .dot = dot,
                                            .interleave_rows = kRows,
                                            .decode_floats = decode_floats,
                                            .decode_pairs = decode_pairs,
                                            .float_dot = float_dot};
  return &kKernels;
}

}  // namespace quern
